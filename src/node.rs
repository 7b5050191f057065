//! A node: one state directory, one key provider, one engine. Wires the rooms together and owns the threads.
//!
//! ```text
//!   Opening (sealed: waits for the token) --recovered--> Engine + persister thread
//!        |  status, freeze                                   |  everything
//!        `--------------- one set of freeze gates -----------'
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, SystemClock};
use frostkeep_hsm::entropy;
use frostkeep_hsm::health::Health;
use frostkeep_hsm::provider::KeyProvider;
use tokio::sync::watch;

use crate::engine::{
    Caller, ClientKeySource, Engine, EngineConfig, EntropySource, FreezeReport, Gates, Refusal, Replay, Surroundings,
    freeze_now,
};
use crate::ids::KeyGroupId;
use crate::store::{
    CreateError, DenyFiles, Environment, NotOpened, OpenError, Opened, Opening, PersisterHandle, Status, Tuning,
    VolumeSpace, create,
};
use crate::tls::TlsKey;

/// The longest sleep between two looks of a node's own thread.
const LOOK_MS_MAX: u64 = 1_000;

/// What a node is made of, beside its key provider.
#[derive(Clone)]
pub struct NodeConfig {
    /// The state directory.
    pub state: PathBuf,
    /// Settings of the engine.
    pub engine: EngineConfig,
    /// Numbers of the store.
    pub tuning: Tuning,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: EntropySource,
    /// Where a state without one takes its client key from.
    pub client_key: ClientKeySource,
}

impl NodeConfig {
    /// The system's clock and randomness, and every setting at its default.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            engine: EngineConfig::default(),
            tuning: Tuning::default(),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(|| Box::new(entropy::os())),
            client_key: Arc::new(|| TlsKey::generate().map(|key| key.pkcs8()).map_err(|error| error.to_string())),
        }
    }

    fn environment(&self) -> Environment {
        Environment {
            clock: Arc::clone(&self.clock),
            entropy: (self.entropy)(),
            space: Box::new(VolumeSpace::of(&self.state)),
        }
    }
}

/// Where a node stands.
#[derive(Clone)]
pub enum Phase {
    /// The state is being opened.
    Opening,
    /// The state could not be opened because of the key provider. It waits and tries again; nothing is wrong with it.
    Sealed {
        /// The last outcome: an outage, or a wrong key.
        error: Arc<OpenError>,
        /// The key provider.
        health: Health,
    },
    /// Open.
    Open(Engine),
    /// It will not open in this process.
    Failed(Arc<OpenError>),
}

/// A running node.
pub struct Node {
    phase: watch::Receiver<Phase>,
    gates: Arc<Gates>,
    deny: Arc<DenyFiles>,
    config: NodeConfig,
    stop: mpsc::Sender<()>,
    thread: Mutex<Option<JoinHandle<Option<Status>>>>,
}

/// Makes an empty state directory, sealed under the provider's key. Its node identity is made by the first start.
///
/// # Errors
/// [`CreateError`]; nothing was made then.
pub fn init(config: &NodeConfig, provider: &mut dyn KeyProvider) -> Result<[u8; 16], CreateError> {
    create(&config.state, provider, &mut config.environment())
}

impl Node {
    /// Starts a node. A state that cannot be opened because of the key provider makes a sealed node (I7). The provider has to
    /// count on `config.clock`: refusals tell the time since an outage began, and times of two clocks do not compare.
    ///
    /// # Errors
    /// Every [`OpenError`] that needs no token: missing, busy, corrupt in the open part, unsupported version, disk.
    pub fn start(config: NodeConfig, provider: Box<dyn KeyProvider>) -> Result<Self, OpenError> {
        // First the store: a look at a place without one leaves nothing behind.
        let opening = Opening::begin(&config.state, provider, config.environment(), config.tuning)?;
        let deny = DenyFiles::open(&config.state).map_err(|error| OpenError::Io { what: error.to_string() })?;
        let gates = Arc::new(Gates::default());
        match deny.list() {
            Ok(denials) => {
                for denial in denials {
                    gates.freeze(&denial.key_group, denial.freeze);
                }
            }
            Err(error) => {
                tracing::error!(%error, "an unreadable deny file freezes every key group");
                gates.freeze_every_group();
            }
        }
        let (phases, phase) = watch::channel(Phase::Opening);
        let (stop, stopping) = mpsc::channel();
        let deny = Arc::new(deny);
        let warden =
            Warden { config: config.clone(), gates: Arc::clone(&gates), deny: Arc::clone(&deny), phases, stopping };
        let thread = std::thread::Builder::new()
            .name("node".into())
            .spawn(move || warden.run(opening))
            .map_err(|error| OpenError::Io { what: format!("no thread for the node: {error}") })?;
        Ok(Self { phase, gates, deny, config, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Where the node stands.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// The engine.
    ///
    /// # Errors
    /// [`Refusal::NotOpen`]: an outage for a sealed node, the reason of the failure for one that does not open.
    pub fn engine(&self) -> Result<Engine, Refusal> {
        match &*self.phase.borrow() {
            Phase::Open(engine) => Ok(engine.clone()),
            Phase::Opening => Err(Refusal::Starting),
            Phase::Sealed { error, .. } | Phase::Failed(error) => Err(Refusal::NotOpen(Arc::clone(error))),
        }
    }

    /// Waits until the state is open.
    ///
    /// # Errors
    /// [`OpenError`] when it will not open in this process.
    pub async fn opened(&self) -> Result<Engine, Arc<OpenError>> {
        let mut phase = self.phase.clone();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Open(engine) => return Ok(engine.clone()),
                Phase::Failed(error) => return Err(Arc::clone(error)),
                Phase::Opening | Phase::Sealed { .. } => {}
            }
            if phase.changed().await.is_err() {
                return Err(Arc::new(OpenError::Io { what: "the node has stopped".into() }));
            }
        }
    }

    /// Freezes a key group, on a sealed node too: then the next opening records it.
    ///
    /// # Errors
    /// As [`Engine::freeze`].
    pub async fn freeze(&self, caller: &Caller, key_group: &KeyGroupId, reason: &str) -> Result<FreezeReport, Refusal> {
        if let Ok(engine) = self.engine() {
            return engine.freeze(caller, key_group, reason).await;
        }
        let denial = (*key_group, reason, self.config.clock.unix_seconds());
        let wait_ms_max = self.config.engine.deny_file_wait_ms_max;
        let report = freeze_now(&self.gates, &self.deny, &self.config.entropy, caller, denial, wait_ms_max).await?;
        // The node may have opened meanwhile, with the file read before it was written.
        match self.engine() {
            Ok(engine) => Ok(engine.adopt_freeze(report, key_group, reason)),
            Err(_) => Ok(report),
        }
    }

    /// Stops: writes what can be written, closes the state, ends the threads. Returns the last status of an open state. What is
    /// asked of the node afterwards is refused.
    pub fn stop(&self) -> Option<Status> {
        // The thread may have ended by itself: then nobody listens.
        let _ = self.stop.send(());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = thread?.join();
        ended.unwrap_or_else(|_| {
            tracing::error!("the node's thread panicked");
            None
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The node's own thread: opens the state as soon as the key provider lets it, then keeps house.
struct Warden {
    config: NodeConfig,
    gates: Arc<Gates>,
    deny: Arc<DenyFiles>,
    phases: watch::Sender<Phase>,
    stopping: mpsc::Receiver<()>,
}

impl Warden {
    fn run(self, opening: Opening) -> Option<Status> {
        let mut opening = opening;
        let opened = loop {
            match opening.recover(Replay::default()) {
                Ok(opened) => break opened,
                Err(NotOpened { error, sealed: Some(sealed) }) => {
                    opening = *sealed;
                    let health = opening.health();
                    tracing::warn!(%error, "sealed: the state stays closed until the key provider is back");
                    self.phases.send_replace(Phase::Sealed { error: Arc::new(error), health });
                    if self.sleep_until_due(&mut opening) {
                        return None;
                    }
                }
                Err(NotOpened { error, sealed: None }) => {
                    tracing::error!(%error, "the state does not open");
                    self.phases.send_replace(Phase::Failed(Arc::new(error)));
                    return None;
                }
            }
        };
        self.keep(opened)
    }

    fn keep(self, opened: Opened<Replay>) -> Option<Status> {
        let Opened { line, mut persister, sink } = opened;
        let engine = Engine::open(
            sink,
            Surroundings {
                line: line.clone(),
                gates: Arc::clone(&self.gates),
                deny: Arc::clone(&self.deny),
                clock: Arc::clone(&self.config.clock),
                entropy: Arc::clone(&self.config.entropy),
                client_key: Arc::clone(&self.config.client_key),
                config: self.config.engine.clone(),
            },
        );
        persister.set_snapshot_source(Arc::new(engine.clone()));
        let handle: PersisterHandle = match persister.spawn() {
            Ok(handle) => handle,
            Err(error) => {
                let error = OpenError::Io { what: format!("no thread for the persister: {error}") };
                self.phases.send_replace(Phase::Failed(Arc::new(error)));
                return None;
            }
        };
        self.phases.send_replace(Phase::Open(engine.clone()));
        while !self.wait(Duration::from_millis(LOOK_MS_MAX)) {
            if let Err(refusal) = engine.tick() {
                tracing::warn!(%refusal, "housekeeping waits");
            }
        }
        Some(handle.stop())
    }

    /// Says whether the node is to stop.
    fn sleep_until_due(&self, opening: &mut Opening) -> bool {
        if opening.health().admits_work() {
            // Healthy, and of no help: the key is on another token. Nothing tells when that one is back.
            return self.wait(Duration::from_millis(LOOK_MS_MAX));
        }
        let mut left = opening.tick();
        while left > Duration::ZERO && !opening.health().admits_work() {
            let nap = left.min(Duration::from_millis(LOOK_MS_MAX));
            if self.wait(nap) {
                return true;
            }
            left = left.saturating_sub(nap);
        }
        false
    }

    /// Sleeps; says whether the node is to stop.
    fn wait(&self, time: Duration) -> bool {
        !matches!(self.stopping.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout))
    }
}
