//! Nodes that talk: N servers in one process on 127.0.0.1, with real TLS and real sockets, over scripted tokens.
//!
//! A test binary that uses this declares `mod kit;` and `mod net;`. Nodes are named `node-0`, `node-1`, ..; node i holds member
//! i + 1. The roster has a client for each role, named after it, one named `nobody` that is known and has no role, and one named
//! `operator` that is coordinator, admin and observer.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support: each test binary uses a part of it"
)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frostkeep::engine::{Engine, Role};
use frostkeep::hsm::scripted::ScriptedHandle;
use frostkeep::identity::IdentityKey;
use frostkeep::ids::{AttemptPolicy, KeyGroupId, Member};
use frostkeep::keygen::ConfirmedKeyGroup;
use frostkeep::node::{Node, NodeConfig, init};
use frostkeep::policy::SigningPolicy;
use frostkeep::roster::{ClientLine, NodeLine, Pin, Roster};
use frostkeep::server::{SERVING_KEY, Server, ServerConfig};
use frostkeep::store::{Position, Status, Tuning};
use frostkeep::tls::{SERVER_NAME, TlsKey, client_config};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::kit::{Token, any_message, eventually, generate, member};

/// How a network is made.
pub struct NetPlan {
    /// Nodes.
    pub nodes: usize,
    /// What each node may ask of the others.
    pub node_roles: Vec<Role>,
    /// Whether the nodes coordinate.
    pub coordination: bool,
    /// More lines of every node's configuration, after the token: tables such as `[limits]`.
    pub settings: String,
    /// The users of the Unix sockets; none for the default.
    pub admin_uids: Option<Vec<u32>>,
    /// Whether the tokens are real ones, SoftHSM behind the token agent.
    pub soft: bool,
}

impl NetPlan {
    /// `nodes` nodes that may coordinate, as an operator would have them.
    pub fn of(nodes: usize) -> Self {
        Self {
            nodes,
            node_roles: vec![Role::Coordinator, Role::Peer],
            coordination: true,
            settings: String::new(),
            admin_uids: None,
            soft: false,
        }
    }
}

/// One node, running or not.
pub struct NetNode {
    pub name: String,
    pub token: ScriptedHandle,
    /// The real token in its place.
    pub real: Option<Token>,
    pub config: ServerConfig,
    pub node_config: NodeConfig,
    pub line: NodeLine,
    /// Its key of calls to others. A test may call as the node does.
    pub client_key: Arc<TlsKey>,
    pub server: Option<Server>,
    /// Keeps the address until the first start.
    listener: Option<TcpListener>,
}

/// The nodes, their roster and its clients.
pub struct Net {
    pub nodes: Vec<NetNode>,
    pub clients: BTreeMap<&'static str, Arc<TlsKey>>,
    pub client_lines: Vec<ClientLine>,
    pub roster: PathBuf,
    directory: tempfile::TempDir,
}

/// The clients of every roster.
pub const CLIENTS: [(&str, &[Role]); 6] = [
    ("coordinator", &[Role::Coordinator]),
    ("peer", &[Role::Peer]),
    ("admin", &[Role::Admin]),
    ("observer", &[Role::Observer]),
    ("nobody", &[]),
    ("operator", &[Role::Coordinator, Role::Admin, Role::Observer]),
];

impl Net {
    /// Makes the nodes and the roster; nothing serves yet.
    pub async fn new(plan: NetPlan) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let roster = directory.path().join("roster.toml");
        let mut nodes = Vec::new();
        for index in 0..plan.nodes {
            nodes.push(NetNode::new(directory.path(), &plan, index).await);
        }
        let mut clients = BTreeMap::new();
        let mut client_lines = Vec::new();
        for (name, roles) in CLIENTS {
            let key = Arc::new(TlsKey::generate().unwrap());
            client_lines.push(ClientLine { name: name.to_owned(), pin: key.pin(), roles: roles.to_vec() });
            clients.insert(name, key);
        }
        let net = Self { nodes, clients, client_lines, roster, directory };
        net.write_roster(|_, _| {});
        net
    }

    /// Makes the nodes, starts them all, and waits until they take work.
    pub async fn started(plan: NetPlan) -> Self {
        let mut net = Self::new(plan).await;
        for index in 0..net.nodes.len() {
            net.nodes[index].start_ready().await;
        }
        net
    }

    /// Writes the roster, changed by `edit`. Nodes that run have it after a reload.
    pub fn write_roster(&self, edit: impl FnOnce(&mut Vec<NodeLine>, &mut Vec<ClientLine>)) {
        let mut nodes: Vec<NodeLine> = self.nodes.iter().map(|node| node.line.clone()).collect();
        let mut clients = self.client_lines.clone();
        edit(&mut nodes, &mut clients);
        let nodes = nodes.iter().map(NodeLine::to_toml);
        let text: String = nodes.chain(clients.iter().map(ClientLine::to_toml)).collect();
        std::fs::write(&self.roster, text).unwrap();
    }

    /// The roster as it is written.
    pub fn read_roster(&self) -> Arc<Roster> {
        Arc::new(Roster::read(&self.roster).unwrap())
    }

    /// Where tests may leave files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A key generation over the engines of all nodes, a seat each.
    pub async fn generate_key(&self, threshold: u16, attempts: AttemptPolicy) -> ConfirmedKeyGroup {
        self.generate_key_with(threshold, attempts, any_message()).await
    }

    pub async fn generate_key_with(
        &self,
        threshold: u16,
        attempts: AttemptPolicy,
        policy: SigningPolicy,
    ) -> ConfirmedKeyGroup {
        let engines: Vec<Engine> = self.nodes.iter().map(NetNode::engine).collect();
        generate(&engines, self.seats(), threshold, attempts, policy).await
    }

    /// Who holds which member.
    pub fn seats(&self) -> BTreeMap<Member, IdentityKey> {
        let seat =
            |node: &NetNode| node.line.members.iter().map(|member| (*member, node.line.identity)).collect::<Vec<_>>();
        self.nodes.iter().flat_map(seat).collect()
    }

    /// A channel to node `index` with the key of one of the [`CLIENTS`].
    pub async fn channel(&self, index: usize, client: &str) -> Channel {
        self.nodes[index].channel(&self.clients[client]).await.unwrap()
    }

    /// Waits until every node holds the key group as active.
    pub async fn knows(&self, id: &KeyGroupId) {
        for node in &self.nodes {
            let engine = node.engine();
            eventually("the key group is active", || {
                engine.key_group(id).is_ok_and(|group| group.certificate.is_some())
            })
            .await;
        }
    }
}

impl NetNode {
    async fn new(directory: &Path, plan: &NetPlan, index: usize) -> Self {
        let name = format!("node-{index}");
        let home = directory.join(&name);
        std::fs::create_dir(&home).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let uids = plan.admin_uids.as_ref().map_or_else(String::new, |uids| format!("admin_uids = {uids:?}\n"));
        let text = format!(
            "name = {name:?}\nstate = \"state\"\nroster = \"../roster.toml\"\nlisten = \"{address}\"\naddress = \"{address}\"\n\
             coordination = {}\n{uids}\n[[token]]\n\
             uri = \"pkcs11:token=scripted;object=scripted?module-path=/scripted&pin-source=file:/scripted\"\n\
             latch_directory = \"latch\"\n\n{}",
            plan.coordination, plan.settings
        );
        let path = home.join("node.toml");
        std::fs::write(&path, text).unwrap();
        let config = ServerConfig::read(&path).unwrap();
        let mut node_config = config.node();
        node_config.tuning = Tuning { disk_reserve_bytes: 0, ..Tuning::default() };

        let Token::Scripted(token) = Token::scripted(&name) else { panic!("a scripted token is scripted") };
        let scripted = Token::Scripted(token.clone());
        let real = plan.soft.then(|| Token::soft(&home, &name));
        let used = real.as_ref().unwrap_or(&scripted);
        init(&node_config, used.provider().as_mut()).unwrap();
        // The first start makes identity and client key.
        let provider = used.provider_on(Arc::clone(&node_config.clock));
        let node = Node::start(node_config.clone(), provider).unwrap();
        let engine = node.opened().await.unwrap();
        eventually("identity and client key are durable", || {
            engine.node_identity().is_ok() && engine.client_key().is_ok()
        })
        .await;
        let identity = engine.node_identity().unwrap();
        let client_key = Arc::new(TlsKey::from_pkcs8(engine.client_key().unwrap()).unwrap());
        node.stop();

        let serving = TlsKey::generate().unwrap();
        serving.write(&config.state.join(SERVING_KEY)).unwrap();
        let line = NodeLine {
            name: name.clone(),
            address: address.to_string(),
            identity,
            serving_pin: serving.pin(),
            client_pin: client_key.pin(),
            members: vec![member(u16::try_from(index + 1).unwrap())],
            roles: plan.node_roles.clone(),
        };
        Self { name, token, real, config, node_config, line, client_key, server: None, listener: Some(listener) }
    }

    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Starts the server; the node may be sealed.
    pub async fn start(&mut self) {
        let scripted = Token::Scripted(self.token.clone());
        let provider = self.real.as_ref().unwrap_or(&scripted).provider_on(Arc::clone(&self.node_config.clock));
        let server = Server::start(&self.config, self.node_config.clone(), provider, self.listener.take()).await;
        self.server = Some(server.unwrap());
    }

    /// Starts the server and waits until the node takes work.
    pub async fn start_ready(&mut self) {
        self.start().await;
        self.ready().await;
    }

    pub async fn ready(&self) {
        let server = self.server();
        eventually("the node takes work", || server.is_ready()).await;
        let engine = self.engine();
        eventually("the opening is durable", || engine.status().durable >= Position::new(2)).await;
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn engine(&self) -> Engine {
        self.server().node().engine().unwrap()
    }

    /// Stops the server, well.
    pub async fn stop(&mut self) -> Option<Status> {
        self.server.take().unwrap().stop().await
    }

    /// A TLS connection to the node, with nothing said on it.
    pub async fn tls(&self, key: &TlsKey) -> std::io::Result<TlsStream<TcpStream>> {
        dial(self.address(), key, self.line.serving_pin).await
    }

    /// A channel to the node with this key. Connected at once, and not again when it breaks.
    pub async fn channel(&self, key: &Arc<TlsKey>) -> Result<Channel, tonic::transport::Error> {
        let (address, key, pin) = (self.address(), Arc::clone(key), self.line.serving_pin);
        let connect = tower::service_fn(move |_| {
            let key = Arc::clone(&key);
            async move { dial(address, &key, pin).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://frostkeep").connect_with_connector(connect).await
    }

    /// A channel over the node's Unix socket.
    pub async fn socket(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.config.socket.clone();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://frostkeep").connect_with_connector(connect).await
    }
}

/// A TLS connection to the holder of `pin`.
pub async fn dial(address: SocketAddr, key: &TlsKey, pin: Pin) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(key, pin).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}
