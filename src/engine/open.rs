//! From records to an engine: the sink of a recovery, and the opening of what it has read.

use std::sync::{Arc, Mutex};

use frostkeep_hsm::clock::Clock;

use super::ceremonies::Ceremonies;
use super::core::{Core, encode};
use super::freeze::Gates;
use super::record::{self, Record, SecretBytes};
use super::state::State;
use super::tally::Tally;
use zeroize::Zeroizing;

use super::{Engine, EngineConfig, EntropySource, Inner, image};
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
    /// Settings.
    pub config: EngineConfig,
}

impl Engine {
    /// An engine over a replayed state. Freezes come into force before it exists; a freeze that only a deny file knows is
    /// recorded, and files of lifted freezes are removed.
    pub fn open(replay: Replay, surroundings: Surroundings) -> Self {
        let Surroundings { line, gates, deny, clock, entropy, config } = surroundings;
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
        let entered = encode(&record).and_then(|encoded| {
            let slot = env.reserve(SlotKind::Round, encoded.size_bytes())?;
            core.install(env.line, slot, record, encoded)
        });
        if let Err(error) = entered {
            tracing::error!(%error, "the node identity of a new state could not be recorded");
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
