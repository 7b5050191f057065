//! What the engine's tests share: nodes on a scripted token or a real SoftHSM, key generation without a dealer, and the
//! steps of a signing session.
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

pub mod outsider;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frostkeep::engine::record::RoundBody;
use frostkeep::engine::{
    Caller, CommitRequest, Engine, EngineConfig, FinalizeRequest, Finish, Gates, Refusal, Replay, Role, RoundReply,
    SessionRequest, SignRequest, Subject, SubmittedShare, Surroundings,
};
use frostkeep::frost::{Commitments, GroupKey, SignatureShare, SigningPackage};
use frostkeep::hsm::clock::{Clock, SystemClock};
use frostkeep::hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep::hsm::entropy;
use frostkeep::hsm::health::{Health, TokenHealth};
use frostkeep::hsm::outage::Backoff;
use frostkeep::hsm::provider::{
    AnchorRead, AnchorValue, DataKey, KeyDescriptor, KeyName, KeyProvider, SealedObject, Unavailable, UnwrapError,
    Waker, Wrap,
};
use frostkeep::hsm::provision::{self, CreateKey};
use frostkeep::hsm::scripted::ScriptedHandle;
use frostkeep::hsm::sealer::{Provider, Timing};
use frostkeep::hsm::tokens::Tokens;
use frostkeep::identity::IdentityKey;
use frostkeep::ids::{AttemptPolicy, CeremonyId, KeyGroupId, Member, Message, SessionId};
use frostkeep::keygen::{Certificate, ConfirmedKeyGroup, Parameters};
use frostkeep::node::{Node, NodeConfig, init};
use frostkeep::policy::SigningPolicy;
use frostkeep::roast::{AttemptBinding, AttemptContext, Evidence, TimeoutVote, Transition};
use frostkeep::store::{
    DenyFiles, Environment, FreeSpace, Line, Next, Opened, Opening, Persister, Tuning, VolumeSpace,
};
use frostkeep_fixtures::{P11KitServer, Shim, SoftToken, make_token, softhsm_module};
use rand_core::RngCore;

pub const PIN: &str = "kit-pin-7d1f";

/// The outcome of an operation that needs nobody's help.
pub fn at_once<T>(operation: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(operation).poll(&mut context) {
        std::task::Poll::Ready(outcome) => outcome,
        std::task::Poll::Pending => panic!("it waits for something"),
    }
}

/// Tests of another package (tests/kernel) know no binary: they have the scripted token alone.
const BINARY: Option<&str> = option_env!("CARGO_BIN_EXE_frostkeep");

/// The key under which a node's state is sealed.
pub enum Token {
    Scripted(ScriptedHandle),
    Soft(SoftToken),
    Remote(SoftToken, P11KitServer),
    /// Two tokens, of which either one opens everything.
    Two(Box<[Token; 2]>),
    Shimmed(SoftToken, Shim),
}

/// Fast enough for tests; the ratios are those of production.
pub fn timing() -> Timing {
    Timing { health_interval_ms: 200, backoff: Backoff { min_ms: 20, max_ms: 100 } }
}

pub fn deadlines() -> Deadlines {
    Deadlines { start_ms: 5_000, login_ms: 5_000, call_ms: 400 }
}

impl Token {
    pub fn scripted(label: &str) -> Self {
        let mut key = [0; 32];
        entropy::os().fill_bytes(&mut key);
        Self::Scripted(ScriptedHandle::new(label, key))
    }

    /// A real token with a key of its own.
    pub fn soft(directory: &Path, label: &str) -> Self {
        let token = Self::Soft(make_token(directory, label, PIN).unwrap());
        token.provision();
        token
    }

    /// A real token behind a p11-kit server, which can be stopped and killed.
    pub fn remote(directory: &Path, label: &str) -> Self {
        let soft = make_token(directory, label, PIN).unwrap();
        Self::Soft(soft.clone()).provision();
        let server = P11KitServer::start(&soft).unwrap();
        Self::Remote(soft, server)
    }

    /// A real token behind the fault shim.
    pub fn shimmed(directory: &Path, label: &str) -> Self {
        let soft = make_token(directory, label, PIN).unwrap();
        Self::Soft(soft.clone()).provision();
        let shim = Shim::new(directory, softhsm_module().unwrap()).unwrap();
        Self::Shimmed(soft, shim)
    }

    pub fn shim(&self) -> &Shim {
        match self {
            Self::Shimmed(_, shim) => shim,
            _ => panic!("no shim is before this token"),
        }
    }

    pub fn scripted_handle(&self) -> &ScriptedHandle {
        match self {
            Self::Scripted(handle) => handle,
            _ => panic!("a real token has no script"),
        }
    }

    pub fn config(&self) -> TokenConfig {
        let (uri, environment, latch) = match self {
            Self::Scripted(_) => panic!("a scripted token has no configuration"),
            Self::Two(_) => panic!("two tokens have two configurations"),
            Self::Soft(soft) => (soft.uri("frostkeep").unwrap(), soft.environment(), soft.latch_directory()),
            Self::Remote(soft, server) => {
                (server.uri("frostkeep").unwrap(), server.environment(), soft.latch_directory())
            }
            Self::Shimmed(soft, shim) => {
                let mut environment = soft.environment();
                environment.extend(shim.environment());
                (soft.uri_through(shim.module(), "frostkeep"), environment, soft.latch_directory())
            }
        };
        TokenConfig {
            uri,
            environment,
            agent: Some(AgentCommand {
                program: BINARY.expect("cargo names the binary to the tests of its package").into(),
                arguments: vec!["token-agent".into()],
            }),
            deadlines: deadlines(),
            health_interval_ms: 200,
            backoff_ms_min: 20,
            backoff_ms_max: 100,
            latch_directory: latch,
        }
    }

    fn provision(&self) {
        provision::init(&self.config(), CreateKey::IfAbsent, Box::new(entropy::os())).unwrap();
    }

    pub fn provider(&self) -> Box<dyn KeyProvider> {
        self.provider_on(Arc::new(SystemClock::new()))
    }

    /// The provider on the node's clock: times of two clocks do not compare, and refusals compare them.
    pub fn provider_on(&self, clock: Arc<dyn Clock>) -> Box<dyn KeyProvider> {
        match self {
            Self::Scripted(handle) => {
                handle.set_deadline(Duration::from_millis(400));
                Box::new(Provider::new(handle.token(), timing(), clock, Box::new(entropy::os())))
            }
            Self::Two(tokens) => {
                let configs = [tokens[0].config(), tokens[1].config()];
                Box::new(Tokens::from_config(&configs, 1, &clock).unwrap())
            }
            _ => Box::new(Provider::from_config(&self.config(), clock).unwrap()),
        }
    }

    /// One of two.
    pub fn of_two(&mut self, number: usize) -> &mut Token {
        match self {
            Self::Two(tokens) => &mut tokens[number],
            _ => panic!("there is one"),
        }
    }

    /// Every call hangs.
    pub fn hang(&self) {
        match self {
            Self::Remote(_, server) => server.stop().unwrap(),
            Self::Scripted(handle) => handle.hang(),
            _ => panic!("it does not hang"),
        }
    }

    /// The calls go on.
    pub fn go_on(&self) {
        match self {
            Self::Remote(_, server) => server.resume().unwrap(),
            Self::Scripted(handle) => handle.release(),
            _ => panic!("it does not hang"),
        }
    }

    /// The token is gone.
    pub fn take_away(&mut self) {
        match self {
            Self::Scripted(handle) => handle.fail_until_healed(frostkeep::hsm::token::FaultClass::Token),
            Self::Soft(soft) | Self::Shimmed(soft, _) => soft.take_away().unwrap(),
            Self::Remote(_, server) => server.kill(),
            Self::Two(tokens) => tokens.iter_mut().for_each(Token::take_away),
        }
    }

    /// The token is back.
    pub fn bring_back(&mut self) {
        match self {
            Self::Scripted(handle) => handle.heal(),
            Self::Soft(soft) | Self::Shimmed(soft, _) => soft.bring_back().unwrap(),
            Self::Remote(_, server) => server.restart().unwrap(),
            Self::Two(tokens) => tokens.iter_mut().for_each(Token::bring_back),
        }
    }
}

/// Which token a generic test body runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Scripted,
    Soft,
    Remote,
    TwoRemote,
    Shimmed,
}

/// A node with its token and its directory.
pub struct TestNode {
    pub token: Token,
    pub config: NodeConfig,
    pub node: Option<Node>,
    directory: PathBuf,
}

impl TestNode {
    pub fn new(directory: &Path, kind: Kind, index: usize) -> Self {
        let directory = directory.join(format!("node-{index}"));
        std::fs::create_dir_all(&directory).unwrap();
        let label = format!("kit-{index}");
        let token = match kind {
            Kind::Scripted => Token::scripted(&label),
            Kind::Soft => Token::soft(&directory, &label),
            Kind::Remote => Token::remote(&directory, &label),
            Kind::TwoRemote => {
                let one = |name: &str| Token::remote(&directory.join(name), &format!("{label}-{name}"));
                Token::Two(Box::new([one("a"), one("b")]))
            }
            Kind::Shimmed => Token::shimmed(&directory, &label),
        };
        let mut config = NodeConfig::new(directory.join("state"));
        config.tuning = Tuning { disk_reserve_bytes: 0, ..Tuning::default() };
        init(&config, token.provider().as_mut()).unwrap();
        Self { token, config, node: None, directory }
    }

    pub fn state(&self) -> &Path {
        &self.config.state
    }

    /// Starts the node's threads; it may be sealed.
    pub fn start(&mut self) {
        self.node =
            Some(Node::start(self.config.clone(), self.token.provider_on(Arc::clone(&self.config.clock))).unwrap());
    }

    /// Starts and waits until the state is open and its epoch recorded.
    pub async fn start_open(&mut self) -> Engine {
        self.start();
        self.opened().await
    }

    pub async fn opened(&self) -> Engine {
        let engine = self.node.as_ref().unwrap().opened().await.unwrap();
        eventually("the epoch is recorded", || {
            let status = engine.status();
            status.epoch_recorded && status.durable >= frostkeep::store::Position::new(2)
        })
        .await;
        engine
    }

    pub fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop();
        }
    }

    pub fn engine(&self) -> Engine {
        self.node.as_ref().unwrap().engine().unwrap()
    }

    /// Opens the state without threads: the test is the persister.
    pub fn open_by_hand(&mut self) -> Bench {
        self.stop();
        Bench::open(self, EngineConfig::default())
    }
}

/// An engine whose persister is stepped by the test.
pub struct Bench {
    pub engine: Engine,
    pub persister: Persister,
    pub line: Line,
    pub gates: Arc<Gates>,
}

impl Bench {
    pub fn open(node: &TestNode, config: EngineConfig) -> Self {
        let deny = DenyFiles::open(&node.config.state).unwrap();
        Self::over(node, config, Box::new(VolumeSpace::of(&node.config.state)), deny)
    }

    /// The same over a volume and deny files of the test's own.
    pub fn over(node: &TestNode, config: EngineConfig, space: Box<dyn FreeSpace>, deny: DenyFiles) -> Self {
        let environment = Self::environment(node, space);
        let opening = Opening::begin(
            &node.config.state,
            node.token.provider_on(Arc::clone(&node.config.clock)),
            environment,
            node.config.tuning,
        )
        .unwrap();
        let mut bench = Self::recovered(node, config, opening, deny);
        bench.settle();
        bench
    }

    pub fn environment(node: &TestNode, space: Box<dyn FreeSpace>) -> Environment {
        Environment { clock: Arc::clone(&node.config.clock), entropy: (node.config.entropy)(), space }
    }

    /// Recovers, and leaves even the epoch record to the test.
    pub fn unsettled(node: &TestNode, config: EngineConfig, opening: Opening) -> Self {
        let deny = DenyFiles::open(&node.config.state).unwrap();
        Self::recovered(node, config, opening, deny)
    }

    fn recovered(node: &TestNode, config: EngineConfig, opening: Opening, deny: DenyFiles) -> Self {
        let Opened { line, mut persister, sink } = match opening.recover(Replay::default()) {
            Ok(opened) => opened,
            Err(not) => panic!("{}", not.error),
        };
        let gates = Arc::new(Gates::default());
        let engine = Engine::open(
            sink,
            Surroundings {
                line: line.clone(),
                gates: Arc::clone(&gates),
                deny: Arc::new(deny),
                clock: Arc::clone(&node.config.clock),
                entropy: Arc::clone(&node.config.entropy),
                client_key: Arc::clone(&node.config.client_key),
                config,
            },
        );
        persister.set_snapshot_source(Arc::new(engine.clone()));
        Self { engine, persister, line, gates }
    }

    /// Steps until there is nothing to do at once.
    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            if self.persister.step() != Next::Now {
                return;
            }
        }
        panic!("the persister never rests");
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn member(number: u16) -> Member {
    Member::new(number).unwrap()
}

pub fn coordinator() -> Caller {
    Caller { name: "kit-coordinator".into(), identity: None, roles: vec![Role::Coordinator] }
}

/// The coordinator as a node of the key group, as the `evidence` policy wants it.
pub fn coordinator_as(identity: IdentityKey) -> Caller {
    Caller { name: "kit-node".into(), identity: Some(identity), roles: vec![Role::Coordinator, Role::Peer] }
}

pub fn admin() -> Caller {
    Caller { name: "kit-admin".into(), identity: None, roles: vec![Role::Admin] }
}

pub fn peer() -> Caller {
    Caller { name: "kit-peer".into(), identity: None, roles: vec![Role::Peer] }
}

/// A policy under which any message is signed: most tests are not about transactions.
pub fn any_message() -> SigningPolicy {
    SigningPolicy { danger_sign_any_message: true, ..SigningPolicy::standard() }
}

/// Nodes that hold one key.
pub struct Cluster {
    pub nodes: Vec<TestNode>,
    pub group: GroupKey,
    pub key_group: KeyGroupId,
    pub confirmed: ConfirmedKeyGroup,
    pub identities: Vec<IdentityKey>,
    /// Which node holds which member.
    pub seats: BTreeMap<Member, usize>,
    _directory: tempfile::TempDir,
}

/// How a cluster is made.
pub struct Plan {
    pub kind: Kind,
    /// Seats of each node, one after the other from member 1.
    pub seats: Vec<u16>,
    pub threshold: u16,
    pub attempts: AttemptPolicy,
    pub policy: SigningPolicy,
}

impl Plan {
    pub fn two_of_three(kind: Kind) -> Self {
        Self { kind, seats: vec![1, 1, 1], threshold: 2, attempts: AttemptPolicy::Roast, policy: any_message() }
    }
}

impl Cluster {
    /// Starts the nodes and generates a key: no dealer.
    pub async fn new(plan: Plan) -> Self {
        Self::configured(plan, &EngineConfig::default()).await
    }

    /// The same with engines of this configuration.
    pub async fn configured(plan: Plan, engine: &EngineConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut nodes: Vec<TestNode> =
            (0..plan.seats.len()).map(|index| TestNode::new(directory.path(), plan.kind, index)).collect();
        for node in &mut nodes {
            node.config.engine = engine.clone();
            node.start_open().await;
        }
        let identities: Vec<IdentityKey> = nodes.iter().map(|node| node.engine().node_identity().unwrap()).collect();
        let mut seats = BTreeMap::new();
        let mut holders = BTreeMap::new();
        let mut next = 1;
        for (index, count) in plan.seats.iter().enumerate() {
            for _ in 0..*count {
                seats.insert(member(next), index);
                holders.insert(member(next), identities[index]);
                next += 1;
            }
        }
        let engines: Vec<Engine> = nodes.iter().map(TestNode::engine).collect();
        let confirmed = generate(&engines, holders, plan.threshold, plan.attempts, plan.policy).await;
        let group = confirmed.certificate().group().clone();
        let key_group = group.id();
        Self { nodes, group, key_group, confirmed, identities, seats, _directory: directory }
    }

    /// One node that holds every seat.
    pub fn of_one(node: TestNode, confirmed: ConfirmedKeyGroup, directory: tempfile::TempDir) -> Self {
        let identities = vec![node.engine().node_identity().unwrap()];
        let group = confirmed.certificate().group().clone();
        let seats = group.members().iter().map(|seat| (*seat, 0)).collect();
        let key_group = group.id();
        Self { nodes: vec![node], group, key_group, confirmed, identities, seats, _directory: directory }
    }

    pub fn engine_of(&self, seat: Member) -> Engine {
        self.nodes[self.seats[&seat]].engine()
    }

    pub fn session_request(&self, session: &SessionId) -> SessionRequest {
        SessionRequest { session: session.clone(), key_group: self.key_group }
    }

    pub fn context(&self, session: &SessionId, subject: &Subject, number: u32, included: &[Member]) -> AttemptContext {
        let binding = AttemptBinding {
            key_group: &self.key_group,
            session,
            message: &subject.message,
            threshold: self.group.threshold(),
        };
        let included: Vec<u16> = included.iter().map(|member| member.number()).collect();
        AttemptContext::derive(&binding, number, &included).unwrap()
    }

    pub fn commit(&self, engine: &Engine, session: &SessionId, member: Member) -> Result<Commitments, Refusal> {
        let request = CommitRequest { session: session.clone(), key_group: self.key_group, member };
        engine.commit(&coordinator(), &request)
    }

    /// Commitments of all included from their nodes, and the package of the attempt.
    pub fn package(&self, session: &SessionId, subject: &Subject, included: &[Member]) -> SigningPackage {
        let commitments =
            included.iter().map(|seat| (*seat, self.commit(&self.engine_of(*seat), session, *seat).unwrap())).collect();
        SigningPackage::new(subject.message, commitments).unwrap()
    }

    /// A request for `member`, the first attempt of a session of `included`.
    pub fn request(
        &self,
        session: &SessionId,
        subject: &Subject,
        number: u32,
        package: &SigningPackage,
        member: Member,
    ) -> SignRequest {
        let included: Vec<Member> = package.members().collect();
        SignRequest {
            session: session.clone(),
            key_group: self.key_group,
            member,
            subject: *subject,
            context: self.context(session, subject, number, &included).parts(),
            package: package.clone(),
            evidence: Vec::new(),
        }
    }

    /// Runs a whole session: every included member answers, the first one's node finalises. Returns the signature.
    pub async fn sign(&self, session: &SessionId, subject: &Subject, included: &[Member]) -> [u8; 64] {
        let package = self.package(session, subject, included);
        let mut shares = Vec::new();
        for seat in included {
            let request = self.request(session, subject, 1, &package, *seat);
            let reply = start(&self.engine_of(*seat), &request).await.unwrap();
            shares.push(submitted(&reply));
        }
        let attempt = self.context(session, subject, 1, included).id();
        let request = FinalizeRequest {
            session: session.clone(),
            key_group: self.key_group,
            subject: *subject,
            finish: Finish::Shares { attempt, shares },
        };
        let finalized = self.engine_of(included[0]).finalize_sign_round(&coordinator(), &request).await.unwrap();
        *finalized.unwrap().signature()
    }
}

pub fn submitted(reply: &RoundReply) -> SubmittedShare {
    SubmittedShare {
        member: reply.member(),
        share: SignatureShare::from_bytes(reply.share()).unwrap(),
        round_signature: Some(*reply.round_signature()),
    }
}

/// `StartSignRound`, the reply as it is.
pub async fn start(engine: &Engine, request: &SignRequest) -> Result<RoundReply, Refusal> {
    engine.start_sign_round(&coordinator(), request, RoundReply::clone).await
}

pub fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

pub fn subject(byte: u8) -> Subject {
    Subject { message: Message::new([byte; 32]), root: None }
}

/// A key generation over engines, as a coordinator relays it: it learns nothing and can replace nothing.
pub async fn generate(
    engines: &[Engine],
    holders: BTreeMap<Member, IdentityKey>,
    threshold: u16,
    attempts: AttemptPolicy,
    policy: SigningPolicy,
) -> ConfirmedKeyGroup {
    let mut id = [0; 16];
    entropy::os().fill_bytes(&mut id);
    let ceremony = CeremonyId::new(id);
    let parameters = Parameters::new(ceremony, threshold, holders, attempts, policy.hash().unwrap()).unwrap();
    let mut messages = Vec::new();
    for engine in engines {
        messages.extend(engine.keygen_begin(&peer(), parameters.clone(), policy.clone()).await.unwrap());
    }
    deliver(engines, &ceremony, &messages).await;
    let mut messages = Vec::new();
    for engine in engines {
        messages.extend(engine.keygen_advance(&peer(), &ceremony).await.unwrap());
    }
    deliver(engines, &ceremony, &messages).await;
    let mut prepared = Vec::new();
    for engine in engines {
        prepared.push(engine.keygen_finish(&peer(), &ceremony).await.unwrap());
    }
    let transcript = prepared[0].transcript.clone();
    let statements: Vec<_> = prepared.iter().map(|reply| reply.statement).collect();
    let certificate = Certificate::new(transcript, statements).unwrap();
    let mut confirmations = Vec::new();
    for engine in engines {
        confirmations.push(engine.keygen_certify(&peer(), certificate.to_bytes()).await.unwrap());
    }
    ConfirmedKeyGroup::new(certificate, confirmations).unwrap()
}

pub async fn deliver(engines: &[Engine], ceremony: &CeremonyId, messages: &[frostkeep::keygen::Message]) {
    for engine in engines {
        for message in messages {
            engine.keygen_receive(&peer(), ceremony, message.to_bytes()).await.unwrap();
        }
    }
}

/// The bytes that a durable round is made of, for comparisons.
pub fn durable_part(reply: &RoundReply) -> Vec<u8> {
    reply.durable_part()
}

/// One step of evidence: the coordinator of `from` was silent, and those who are not in `to` are excluded.
pub fn timeout_step(from: &AttemptContext, to: &AttemptContext, votes: Vec<TimeoutVote>) -> Transition {
    Transition {
        active_number: from.number(),
        active_id: from.id(),
        active_coordinator: from.coordinator().number(),
        excluded: from.included().iter().filter(|one| !to.includes(**one)).map(|one| one.number()).collect(),
        evidence: Evidence::CoordinatorTimeout { votes },
        next: to.parts(),
    }
}

/// What a state holds of a round, for tests that read it back.
pub type Body = RoundBody;

/// A provider that takes its time to seal, as a token across a network does.
pub struct Slow {
    pub provider: Box<dyn KeyProvider>,
    pub seal_ms: u64,
}

impl KeyProvider for Slow {
    fn require(&mut self, keys: &[KeyDescriptor]) {
        self.provider.require(keys);
    }
    fn keys(&self) -> Vec<KeyDescriptor> {
        self.provider.keys()
    }
    fn health(&self) -> Health {
        self.provider.health()
    }
    fn tokens(&self) -> Vec<TokenHealth> {
        self.provider.tokens()
    }
    fn set_waker(&mut self, waker: Waker) {
        self.provider.set_waker(waker);
    }
    fn tick(&mut self) -> Duration {
        self.provider.tick()
    }
    fn wrap(&mut self, object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
        std::thread::sleep(Duration::from_millis(self.seal_ms));
        self.provider.wrap(object, key)
    }
    fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable> {
        self.provider.wrap_under(name, object, key)
    }
    fn unwrap(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError> {
        self.provider.unwrap(object, wraps)
    }
    fn anchor_read(&mut self) -> Result<AnchorRead, Unavailable> {
        self.provider.anchor_read()
    }
    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), Unavailable> {
        self.provider.anchor_write(value)
    }
    fn fence_by_anchor(&mut self, detail: String) {
        self.provider.fence_by_anchor(detail);
    }
    fn connection(&self) -> u64 {
        self.provider.connection()
    }
}
