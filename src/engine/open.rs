//! From records to an engine: the sink of a recovery, and the opening of what it has read.

use std::sync::{Arc, Mutex};

use frostkeep_hsm::clock::Clock;
use zeroize::Zeroizing;

use super::ceremonies::Ceremonies;
use super::core::{Core, Env, encode};
use super::freeze::Gates;
use super::record::{self, Record, SecretBytes};
use super::refusal::Refusal;
use super::state::State;
use super::tally::Tally;
use super::{ClientKeySource, Engine, EngineConfig, EntropySource, Inner, image};
use crate::identity::NodeIdentity;
use crate::store::deny::DenyFiles;
use crate::store::{Line, Position, RecoverySink, SinkError, SlotKind, SnapshotData, SnapshotSource};

/// Replays a recovery into a state: the same `apply` as the live run.
#[derive(Default)]
pub struct Replay {
    state: State,
}

impl RecoverySink for Replay {
    fn snapshot_item(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        image::load(&mut self.state, bytes).map_err(|error| SinkError(error.to_string()))
    }

    fn record(&mut self, position: Position, bytes: &[u8]) -> Result<(), SinkError> {
        let record: Record = record::decode(bytes).map_err(|error| SinkError(error.to_string()))?;
        self.state.apply(position, &record).map_err(|error| SinkError(error.to_string()))
    }
}

/// What an engine is made of, beside its state.
pub struct Surroundings {
    /// The line of the open store.
    pub line: Line,
    /// The freeze gates, which a sealed node already had.
    pub gates: Arc<Gates>,
    /// The deny files.
    pub deny: Arc<DenyFiles>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: EntropySource,
    /// Where a state without one takes its client key from.
    pub client_key: ClientKeySource,
    /// Settings.
    pub config: EngineConfig,
}

impl Engine {
    /// An engine over a replayed state. Freezes come into force before it exists; a freeze that only a deny file knows is
    /// recorded, and files of lifted freezes are removed.
    pub fn open(replay: Replay, surroundings: Surroundings) -> Self {
        let Surroundings { line, gates, deny, clock, entropy, client_key, config } = surroundings;
        let core = Core::new(replay.state);
        let engine = Self {
            inner: Arc::new(Inner {
                core: Mutex::new(core),
                ceremonies: Ceremonies::default(),
                line,
                gates,
                deny,
                clock,
                entropy,
                config,
                tally: Tally::default(),
            }),
        };
        engine.take_freezes();
        engine.take_identity();
        engine.take_client_key(&client_key);
        engine
    }

    /// A state without a single record is new: its first one is a fresh node identity.
    fn take_identity(&self) {
        let env = self.env();
        let mut core = self.core();
        if core.ledger.admitted().position != Position::ZERO {
            return;
        }
        let seed = NodeIdentity::generate(&mut (self.inner.entropy)()).seed();
        let record = Record::Identity(SecretBytes::new(Zeroizing::new(seed.to_vec())));
        if let Err(error) = core.enter(&env, record) {
            tracing::error!(%error, "the node identity of a new state could not be recorded");
        }
    }

    /// A state without a client key is new, or of a release that knew none.
    fn take_client_key(&self, source: &ClientKeySource) {
        if self.core().ledger.admitted().client_key.is_some() {
            return;
        }
        let made = source().map_err(Refusal::Internal);
        let entered = made.and_then(|key| {
            let env = self.env();
            self.core().enter(&env, Record::ClientKey(SecretBytes::new(key)))
        });
        if let Err(error) = entered {
            tracing::error!(%error, "a client key could not be made: this node calls no other until a restart makes one");
        }
    }

    fn take_freezes(&self) {
        let gates = &self.inner.gates;
        let env = self.env();
        let mut core = self.core();
        let mut lifted = Vec::new();
        for (id, group) in &core.ledger.admitted().key_groups {
            for (freeze, known) in &group.freezes {
                if known.lifted {
                    lifted.push(*freeze);
                    gates.lift(id, &[*freeze]);
                } else {
                    gates.freeze(id, *freeze);
                }
            }
        }
        match self.inner.deny.list() {
            Ok(denials) => {
                for denial in denials.iter().filter(|denial| !lifted.contains(&denial.freeze)) {
                    gates.freeze(&denial.key_group, denial.freeze);
                    core.record_freeze(&env, &denial.key_group, denial.freeze, &denial.reason);
                }
            }
            Err(error) => {
                tracing::error!(%error, "an unreadable deny file freezes every key group");
                gates.freeze_every_group();
            }
        }
        drop(core);
        if let Err(error) = self.inner.deny.remove(&lifted) {
            tracing::warn!(%error, "files of lifted freezes stay behind");
        }
    }
}

impl Core {
    fn enter(&mut self, env: &Env<'_>, record: Record) -> Result<Position, Refusal> {
        let encoded = encode(&record)?;
        let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
        self.install(env.line, slot, record, encoded)
    }
}

impl SnapshotSource for Engine {
    fn snapshot(&self) -> SnapshotData {
        let (position, state) = {
            let mut core = self.core();
            // A view that does not settle is our bug; its last good position is still a true snapshot.
            let position = core.settle(&self.inner.line).unwrap_or(core.ledger.durable().position);
            (position, core.ledger.durable().clone())
        };
        // An empty item is one that the store refuses: a piece that does not encode must not be left out in silence.
        let items = image::items(position, state).map(|item| {
            item.unwrap_or_else(|error| {
                tracing::error!(%error, "a piece of the snapshot does not encode");
                Zeroizing::new(Vec::new())
            })
        });
        SnapshotData { position, items: Box::new(items) }
    }
}
