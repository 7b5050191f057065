//! The server of one node: gRPC over TLS for the network, the same over a Unix socket for administration.
//!
//! ```text
//!  TCP --> TLS: a pin of the roster --.
//!                                     +--> HTTP/2 with limits --> gate: who, may they, room, open? --> services --> engine
//!  Unix socket: a user of the list ---'
//! ```
//!
//! Who calls is decided by the connection and the roster in force, at every call, and put beside the request by the gate alone.
//! A refused caller costs no seal, no disk, and no more memory than its connection.
//!
//! - [`config`], [`settings`]: the node's TOML file, and the limits in it
//! - `listener`, `socket`: the two ways in; `connection`: HTTP/2 on either; `paced`: how long its peer may take; `call`: what one call may hold and how long
//! - `gate`, `methods`: who may call what, and when
//! - `services`: the way to `signer`, `keygen`, `node`, `admin`, `coordination`, `health`, a service each
//! - `drill`: when an outage drill may begin
//! - `rosters`: the roster in force; [`counters`]: what was let in and what was not
//!
//! Reflection is left out: the proto file is in the repository, and an interface that describes itself is one more to guard.

mod admin;
mod call;
pub mod config;
mod connection;
mod coordination;
pub mod counters;
mod drill;
mod gate;
mod health;
mod keygen;
mod listener;
mod methods;
mod node;
mod paced;
mod rosters;
mod services;
pub mod settings;
mod shared;
mod signer;
mod socket;
mod whole;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::provider::KeyProvider;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub use config::{ConfigError, ServerConfig};
pub use counters::{Cause, CountersView};
pub use settings::Limits;
pub use shared::Reloaded;
pub use socket::SocketError;

use self::call::Streams;
use self::listener::Door;
use self::rosters::Rosters;
use self::services::Routes;
use self::shared::{Parts, Shared, Stage};
use self::socket::SocketDoor;
use crate::limits::DRIVES_MAX;
use crate::node::{Node, NodeConfig};
use crate::reasons::Reason;
use crate::roster::{Pin, RosterError};
use crate::store::{OpenError, Status, files};
use crate::tls::{TlsError, TlsKey, server_config};

/// The serving key's file in the state directory; its certificate is beside it.
pub const SERVING_KEY: &str = "serving.key";

/// The longest that connections may take to say goodbye, and that tasks may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory was never made ready.
    #[error("there is no serving key at {0}")]
    NotInitialised(PathBuf),
    /// The serving key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The state.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address.
    #[error("the node cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Our bug.
    #[error("the start ended early: {0}")]
    Internal(String),
}

impl StartError {
    /// The stable reason; none when what is wrong is in a file that people write, or on the machine.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::NotInitialised(_) => Some(Reason::StateMissing),
            Self::Open(error) => Some(error.reason()),
            Self::Socket(SocketError::Live(_)) => Some(Reason::Busy),
            Self::Internal(_) => Some(Reason::Internal),
            Self::Tls(_) | Self::Roster(_) | Self::Listen { .. } | Self::Socket(_) => None,
        }
    }
}

/// A running server. Dropped, its connections end at once, and its node when the last task has let go of it, which on a sealed
/// node is when its token answers; [`Server::stop`] ends it well.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    socket: PathBuf,
    /// Closed when every task is over.
    alive: mpsc::Receiver<()>,
}

impl Server {
    /// Starts the node of `node`, and serves it as `config` says. The provider has to count on the clock of `node`. `listener`
    /// is taken in place of the configured address, when it is given. The node may be sealed: then it is served as such.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        config: &ServerConfig,
        node: NodeConfig,
        provider: Box<dyn KeyProvider>,
        listener: Option<std::net::TcpListener>,
    ) -> Result<Self, StartError> {
        let key = serving_key(&config.state)?;
        let rosters = Rosters::read(&config.roster)?;
        let (tcp, address) = bound(config.listen, listener)?;
        let clock = Arc::clone(&node.clock);
        let drills = provider.drills();
        let node = tokio::task::spawn_blocking(move || Node::start(node, provider)).await;
        let node = node.map_err(|error| StartError::Internal(error.to_string()))??;
        // The state's lock is ours now: a socket in its directory that still answers is somebody else's.
        let unix = socket::listen(&config.socket).await?;
        let unix =
            UnixListener::from_std(unix).map_err(|source| SocketError::Io { path: config.socket.clone(), source })?;

        let shared = Shared::new(Parts {
            name: config.name.clone(),
            node,
            clock,
            rosters,
            serving_pin: key.pin(),
            limits: config.limits.clone(),
            coordination: config.coordination,
            drills,
        });
        let roster = Arc::clone(&shared);
        let known = Arc::new(move |pin: &Pin| roster.rosters.current().caller(pin).is_some());
        let tls = server_config(&key, known)?;
        let (alive, ended) = mpsc::channel(1);
        let streams = Streams { alive, shared: Arc::clone(&shared) };
        let routes = Routes::new(&shared);
        let users = config.admin_uids.iter().copied().collect();
        tokio::spawn(Door::new(&shared, tls, routes.clone(), streams.clone()).accept(tcp));
        tokio::spawn(SocketDoor::new(&shared, users, routes, streams).accept(unix));
        tokio::spawn(introduce(Arc::clone(&shared)));
        Ok(Self { shared, address, socket: config.socket.clone(), alive: ended })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.shared.node
    }

    /// What was let in and what was not.
    pub fn counters(&self) -> CountersView {
        self.shared.counters.view()
    }

    /// Sessions that the node drives for its callers now.
    pub fn drives(&self) -> usize {
        DRIVES_MAX.saturating_sub(self.shared.drives.available_permits())
    }

    /// Whether the node would take fresh work now.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Reads the roster again. Connections of keys that it does not know any more are closed.
    ///
    /// # Errors
    /// [`RosterError`]; nothing has changed then.
    pub async fn reload_roster(&self) -> Result<Reloaded, RosterError> {
        self.shared.reload_roster().await
    }

    /// Waits until the state will not open in this process. A sealed node waits for its token, and does not fail.
    pub async fn failed(&self) -> Arc<OpenError> {
        match self.shared.node.opened().await {
            Err(error) => error,
            Ok(_) => std::future::pending().await,
        }
    }

    /// Stops: takes nothing new, finishes what is under way, then closes the state. Returns the last status of an open state.
    pub async fn stop(self) -> Option<Status> {
        self.stop_or(std::future::pending()).await
    }

    /// The same, and what is under way is waited for until `hurry` at the longest.
    pub async fn stop_or(mut self, hurry: impl Future<Output = ()>) -> Option<Status> {
        let shared = Arc::clone(&self.shared);
        shared.stage.send_replace(Stage::Stopping);
        shared.end_drill_to_stop();
        tokio::select! {
            () = shared.in_flight.none() => {}
            () = hurry => tracing::warn!("calls under way are cut off: the node was told to stop at once"),
            () = tokio::time::sleep(shared.limits.stop()) => {
                tracing::warn!("calls under way are cut off: they took longer than a stop waits");
            }
        }
        shared.stage.send_replace(Stage::Closing);
        if timeout(FAREWELL, self.alive.recv()).await.is_err() {
            shared.stage.send_replace(Stage::Over);
            if timeout(FAREWELL, self.alive.recv()).await.is_err() {
                tracing::error!("tasks of the server are still at work when the state closes");
            }
        }
        if let Err(error) = files::remove_socket(&self.socket) {
            tracing::debug!(%error, "the socket stays behind");
        }
        // Threads are joined and a last batch is written.
        tokio::task::spawn_blocking(move || shared.node.stop()).await.unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stage.send_replace(Stage::Over);
    }
}

/// The serving key of a state directory.
fn serving_key(state: &Path) -> Result<TlsKey, StartError> {
    let path = state.join(SERVING_KEY);
    match files::is_taken(&path) {
        Ok(false) => Err(StartError::NotInitialised(path)),
        Ok(true) | Err(_) => Ok(TlsKey::read(&path)?),
    }
}

fn bound(
    address: SocketAddr,
    listener: Option<std::net::TcpListener>,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = match listener {
        Some(listener) => listener,
        None => std::net::TcpListener::bind(address).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let found = listener.local_addr().map_err(failed)?;
    Ok((listener, found))
}

/// Says, once the state is open, whether the roster has this node as it is.
async fn introduce(shared: Arc<Shared>) {
    let mut stage = shared.stage.subscribe();
    let opened = tokio::select! {
        opened = shared.node.opened() => opened,
        // A sealed node that is dropped must not be held by this.
        _ = stage.wait_for(|stage| *stage > Stage::Serving) => return,
    };
    let Ok(engine) = opened else { return };
    let Ok(identity) = engine.node_identity() else { return };
    tracing::info!(%identity, "the state is open");
    let roster = shared.rosters.current();
    let Some(line) = roster.node_named(&shared.name) else {
        tracing::warn!(name = %shared.name, "the roster has no node of this name: nobody will find this one");
        return;
    };
    let client_pin = shared.client_key(&engine).map(|key| key.pin());
    if line.identity != identity || line.serving_pin != shared.serving_pin || client_pin.ok() != Some(line.client_pin) {
        tracing::warn!(name = %shared.name, "the roster has another identity or another pin for this node");
    }
}
