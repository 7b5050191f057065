//! What every connection and every service of one node uses.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use frostkeep_hsm::clock::Clock;
use frostkeep_hsm::drill::DrillSwitch;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::call::{InFlights, budget};
use super::counters::Counters;
use super::drill::Traffic;
use super::rosters::Rosters;
use super::settings::{Limits, count};
use crate::client::Network;
use crate::engine::{Caller, Engine};
use crate::ids::{KeyGroupId, Member};
use crate::limits::DRIVES_MAX;
use crate::node::{Node, Phase};
use crate::reasons::Reason;
use crate::roster::{Pin, RosterError};
use crate::store::OpenError;
use crate::tls::TlsKey;
use crate::wire::status::{refusal_status, sealed_status, status};

/// How far a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It serves.
    Serving,
    /// It finishes what is under way; nobody new comes in, nothing new is begun.
    Stopping,
    /// Nothing is under way: connections say goodbye.
    Closing,
    /// Connections are dropped.
    Over,
}

/// Where a caller came in, with room of its own: what the network takes is never taken from the Unix socket.
pub(super) struct Entrance {
    pub(super) network: bool,
    /// Connections.
    pub(super) connections: Arc<Semaphore>,
    /// Calls under way.
    pub(super) calls: Arc<Semaphore>,
    pub(super) calls_max: u64,
    /// Bytes of requests and long replies.
    pub(super) buffered: Arc<Semaphore>,
}

impl Entrance {
    pub(super) fn network(limits: &Limits) -> Arc<Self> {
        Self::new(true, limits.connections, limits.calls, limits)
    }

    pub(super) fn socket(limits: &Limits) -> Arc<Self> {
        Self::new(false, limits.socket_connections, limits.calls, limits)
    }

    fn new(network: bool, connections: u64, calls_max: u64, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            network,
            connections: Arc::new(Semaphore::new(count(connections))),
            calls: Arc::new(Semaphore::new(count(calls_max))),
            calls_max,
            buffered: budget(limits.buffered_bytes),
        })
    }
}

/// Who asks: put beside every request by the gate, and by nobody else.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    /// Whether the call came over the network.
    pub(super) network: bool,
}

/// A roster that has come into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The SHA-256 of its file.
    pub hash: [u8; 32],
    /// Nodes in it.
    pub nodes: usize,
    /// Clients in it.
    pub clients: usize,
    /// Key groups of this node whose seats it contradicts; none are known while the state is not open.
    pub disagreeing: Vec<KeyGroupId>,
}

/// What a [`Shared`] is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) node: Node,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rosters: Rosters,
    pub(super) serving_pin: Pin,
    pub(super) limits: Limits,
    pub(super) coordination: bool,
    pub(super) drills: Option<DrillSwitch>,
}

/// What every connection and every service uses.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) node: Node,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rosters: Rosters,
    pub(super) serving_pin: Pin,
    pub(super) limits: Limits,
    pub(super) coordination: bool,
    pub(super) counters: Counters,
    pub(super) traffic: Traffic,
    /// Of the key provider; none when it plays no outage.
    pub(super) drills: Option<DrillSwitch>,
    pub(super) in_flight: InFlights,
    pub(super) stage: watch::Sender<Stage>,
    /// Sessions that are driven from here.
    pub(super) drives: Arc<Semaphore>,
    calls_others_with: OnceLock<Arc<TlsKey>>,
    network: Mutex<Option<Network>>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { name, node, clock, rosters, serving_pin, limits, coordination, drills } = parts;
        Arc::new(Self {
            name,
            node,
            clock,
            rosters,
            serving_pin,
            limits,
            coordination,
            counters: Counters::default(),
            traffic: Traffic::default(),
            drills,
            in_flight: InFlights::default(),
            stage: watch::Sender::new(Stage::Serving),
            drives: Arc::new(Semaphore::new(DRIVES_MAX)),
            calls_others_with: OnceLock::new(),
            network: Mutex::default(),
        })
    }

    /// Reads the roster again. A file that does not parse changes nothing.
    pub(super) async fn reload_roster(&self) -> Result<Reloaded, RosterError> {
        let roster = self.rosters.reload().await?;
        let groups = match self.node.phase() {
            Phase::Open(engine) => engine.key_groups().unwrap_or_default(),
            _ => Vec::new(),
        };
        let contradicted = groups.iter().filter(|group| !roster.disagreements(&group.seats).is_empty());
        let disagreeing: Vec<KeyGroupId> = contradicted.map(|group| group.id).collect();
        for key_group in &disagreeing {
            tracing::warn!(%key_group, "the new roster contradicts the seats of a key group: it is refused until one is changed");
        }
        let reloaded =
            Reloaded { hash: roster.hash(), nodes: roster.nodes().len(), clients: roster.clients().len(), disagreeing };
        tracing::info!(nodes = reloaded.nodes, clients = reloaded.clients, "a new roster is in force");
        Ok(reloaded)
    }

    /// Whether the node finishes what it has begun, and takes nothing new.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stage.borrow() > Stage::Serving
    }

    /// The engine of the open state, or the refusal that says why it is not open.
    pub(super) fn engine(&self) -> Result<Engine, Status> {
        match self.node.phase() {
            Phase::Open(engine) => Ok(engine),
            Phase::Opening => Err(status(Reason::Starting, "the state is being opened")),
            Phase::Sealed { error, .. } | Phase::Failed(error) => match &*error {
                OpenError::Outage(outage) => Err(sealed_status(error.to_string(), outage, self.clock.now())),
                other => Err(status(other.reason(), other.to_string())),
            },
        }
    }

    /// The engine, for a call that names this key group.
    pub(super) fn engine_for(&self, asker: &Asker, key_group: &KeyGroupId) -> Result<Engine, Status> {
        let engine = self.engine()?;
        if asker.network {
            let disagreeing = self.disagreements(&engine, key_group);
            if !disagreeing.is_empty() {
                return Err(mismatch(key_group, &disagreeing));
            }
        }
        Ok(engine)
    }

    /// The members of a key group about which the roster in force says something else. None for a key group that is not here:
    /// the engine says so itself.
    pub(super) fn disagreements(&self, engine: &Engine, key_group: &KeyGroupId) -> Vec<Member> {
        let seats = engine.key_group(key_group).map(|group| group.seats);
        seats.map_or_else(|_| Vec::new(), |seats| self.rosters.current().disagreements(&seats))
    }

    /// The key with which this node calls others. It is sealed with the state.
    pub(super) fn client_key(&self, engine: &Engine) -> Result<Arc<TlsKey>, Status> {
        if let Some(key) = self.calls_others_with.get() {
            return Ok(Arc::clone(key));
        }
        let sealed = engine.client_key().map_err(|refusal| refusal_status(&refusal))?;
        let key = TlsKey::from_pkcs8(sealed)
            .map_err(|error| status(Reason::Internal, format!("the sealed client key: {error}")))?;
        Ok(Arc::clone(self.calls_others_with.get_or_init(|| Arc::new(key))))
    }

    /// The way to the nodes of the roster in force, whose connections are kept for the next who needs them.
    pub(super) fn network(&self, engine: &Engine) -> Result<Network, Status> {
        let (roster, key) = (self.rosters.current(), self.client_key(engine)?);
        let mut known = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(network) = known.as_ref().filter(|network| network.roster().hash() == roster.hash()) {
            return Ok(network.clone());
        }
        let network = Network::new(roster, &key)
            .map_err(|error| status(Reason::Internal, format!("the way to the nodes of the roster: {error}")))?;
        Ok(known.insert(network).clone())
    }
}

/// The refusal of a key group about which the roster says something else.
pub(super) fn mismatch(key_group: &KeyGroupId, members: &[Member]) -> Status {
    let members: Vec<String> = members.iter().map(Member::to_string).collect();
    let problem = format!(
        "the roster in force gives members {} of key group {key_group} to other nodes than the key group does",
        members.join(", ")
    );
    status(Reason::RosterMismatch, problem)
}
