//! A scratch node: a fresh store in a directory of its own, sealed under the configured token's key, with a key that its own seats make
//! among themselves. It lives in this process, beside a node that runs on the same token, and nothing of it is left.
//!
//! What is drilled is the token's agent, the sealing under its key and the engine. It has no network, and no state of anybody.

mod port;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, SystemClock};
use frostkeep_hsm::config::{ConfigError, TokenConfig};
use frostkeep_hsm::drill::{DrillSwitch, NotBegun};
use frostkeep_hsm::entropy;
use frostkeep_hsm::health::{Outage, ProviderState};
use frostkeep_hsm::provider::KeyProvider;
use frostkeep_hsm::tokens::Tokens;
use rand_core::RngCore;
use tempfile::TempDir;

use self::port::Seats;
use super::report::Drilled;
use super::stand::{Counts, Freezes, Seat, Seen, SeenOutage, SeenToken, Stand};
use crate::ceremony::{CeremonyError, Driver, Node as Holder, Pace};
use crate::client::{ClientError, DrillBegun, DrillOrder, DrillView, ServedRound, TokenView};
use crate::engine::{Caller, CommitRequest, Engine, Refusal, Role, RoundReply, SessionRequest, SignRequest};
use crate::frost::Commitments;
use crate::ids::{AttemptPolicy, CeremonyId, DrillId, KeyGroupId, Member};
use crate::keygen::Parameters;
use crate::node::{Node, NodeConfig, Phase, init};
use crate::policy::SigningPolicy;
use crate::reasons::Reason;
use crate::store::{CreateError, OpenError, Strength, TokenStatus, Tuning};
use crate::wire::status::{Problem, later_status, refusal_status, status};

/// Seats of the scratch key; all of them sign.
const SEATS: u16 = 2;
/// The longest that the fresh store may take to open.
const OPENING_MS_MAX: u64 = 60_000;

/// Why there is no scratch node.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// No directory.
    #[error("no directory for a scratch node")]
    Directory(#[source] io::Error),
    /// The token's settings.
    #[error("the token's settings")]
    Config(#[from] ConfigError),
    /// The store.
    #[error("a fresh store: {0}")]
    Create(#[from] CreateError),
    /// It does not open.
    #[error("a fresh store: {0}")]
    Open(#[from] OpenError),
    /// It did not open in time, or ended.
    #[error("a fresh store: {0}")]
    NotReady(String),
    /// The key.
    #[error("a key of its own: {0}")]
    Key(String),
}

impl From<CeremonyError> for ScratchError {
    fn from(error: CeremonyError) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<Refusal> for ScratchError {
    fn from(refusal: Refusal) -> Self {
        Self::NotReady(refusal.to_string())
    }
}

/// A scratch node. Dropped, it stops, and its directory goes.
pub struct Scratch {
    node: Node,
    engine: Engine,
    drills: DrillSwitch,
    clock: Arc<SystemClock>,
    caller: Caller,
    seat: Seat,
    identity: String,
    // Last: what is in it is closed before it goes.
    _directory: TempDir,
}

impl Scratch {
    /// Makes a scratch node on the tokens of `configs`, of which `min_wraps` have to be there for a seal.
    ///
    /// # Errors
    /// [`ScratchError`]; nothing is left then.
    pub async fn make(configs: &[TokenConfig], min_wraps: usize) -> Result<Self, ScratchError> {
        let directory =
            tempfile::Builder::new().prefix("frostkeep-drill-").tempdir().map_err(ScratchError::Directory)?;
        let clock = Arc::new(SystemClock::new());
        let node_config = NodeConfig {
            // A token keeps the anchor of one state, and that is not this one.
            tuning: Tuning { strength: Strength::Off, ..Tuning::default() },
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..NodeConfig::new(directory.path().join("state"))
        };
        let provider = Tokens::from_config(configs, min_wraps, &node_config.clock)?;
        let drills = provider.drills();
        let drills = drills.ok_or_else(|| ScratchError::NotReady("the key provider plays no outage".into()))?;
        // The directory goes with the node: whoever waits for it may be gone meanwhile.
        let node = tokio::task::spawn_blocking(move || {
            let mut provider: Box<dyn KeyProvider> = Box::new(provider);
            init(&node_config, provider.as_mut())?;
            Ok::<_, ScratchError>((Node::start(node_config, provider)?, directory))
        });
        let (node, directory) = node.await.map_err(|error| ScratchError::NotReady(error.to_string()))??;
        let engine = opened(&node, &clock).await?;
        let caller = Caller {
            name: user(),
            identity: None,
            roles: vec![Role::Coordinator, Role::Peer, Role::Admin, Role::Observer],
        };
        let seat = generate(&engine, &caller).await?;
        let identity = engine.node_identity()?.to_string();
        Ok(Self { node, engine, drills, clock, caller, seat, identity, _directory: directory })
    }

    /// The seat whose rounds are asked for.
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// What a report says of it.
    pub fn describe(&self) -> Drilled {
        Drilled {
            mode: "scratch node",
            node: "scratch".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            identity: Some(self.identity.clone()),
            key_group: None,
            member: None,
            no_rounds: None,
            danger_live_traffic: false,
        }
    }

    /// Stops the node. Takes as long as the token's deadlines at most.
    pub fn close(&self) {
        self.drills.end(None);
        self.node.stop();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A call that is played would hold the node's end.
        self.drills.end(None);
    }
}

/// Who runs this process.
fn user() -> String {
    let uid = std::fs::metadata("/proc/self").map(|own| own.uid());
    uid.map_or_else(|_| "local user".to_owned(), |uid| format!("uid {uid}"))
}

const fn state_name(state: ProviderState) -> &'static str {
    match state {
        ProviderState::Starting => "starting",
        ProviderState::Ready => "ready",
        ProviderState::Suspect => "suspect",
        ProviderState::Out => "out",
        ProviderState::Probing => "probing",
        ProviderState::Fenced => "fenced",
    }
}

fn seen_outage(outage: &Outage) -> SeenOutage {
    SeenOutage { class: outage.class.name().into(), detail: outage.detail.clone() }
}

/// The engine, once identity and epoch are durable, and each token has been tried: which of them are there is known then.
async fn opened(node: &Node, clock: &SystemClock) -> Result<Engine, ScratchError> {
    let limit = clock.now().plus(OPENING_MS_MAX);
    loop {
        match node.phase() {
            Phase::Open(engine) if engine.node_identity().is_ok() && engine.status().admits_work() => {
                let tried = |token: &TokenStatus| token.health.state != ProviderState::Starting;
                if engine.status().tokens.iter().all(tried) || clock.now() > limit {
                    return Ok(engine);
                }
            }
            Phase::Failed(error) => return Err(ScratchError::NotReady(error.to_string())),
            Phase::Sealed { error, .. } if clock.now() > limit => {
                return Err(ScratchError::NotReady(error.to_string()));
            }
            Phase::Open(_) | Phase::Opening if clock.now() > limit => {
                return Err(ScratchError::NotReady(format!("it did not open within {OPENING_MS_MAX} ms")));
            }
            Phase::Open(_) | Phase::Opening | Phase::Sealed { .. } => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A key of this node's own: a real key generation, all of whose seats are here.
async fn generate(engine: &Engine, caller: &Caller) -> Result<Seat, ScratchError> {
    let identity = engine.node_identity()?;
    let members = (1..=SEATS).map(|number| Member::new(number).map_err(|error| ScratchError::Key(error.to_string())));
    let members: Vec<Member> = members.collect::<Result<_, _>>()?;
    let seats: BTreeMap<_, _> = members.iter().map(|member| (*member, identity)).collect();
    let policy = SigningPolicy::standard();
    let hash = policy.hash().map_err(|error| ScratchError::Key(error.to_string()))?;
    let mut id = [0; 16];
    entropy::os().fill_bytes(&mut id);
    let parameters = Parameters::new(CeremonyId::new(id), SEATS, seats.clone(), AttemptPolicy::Roast, hash)
        .map_err(|error| ScratchError::Key(error.to_string()))?;
    let port = Seats { engine: engine.clone(), caller: caller.clone() };
    let holder = Holder { name: "scratch".into(), identity, port };
    let driver = Driver::new(vec![holder], Pace::default(), Arc::new(|_| {}));
    let confirmed = driver.run(&parameters, &policy).await?;
    let member = members.first().copied().ok_or_else(|| ScratchError::Key("a key without members".into()))?;
    Ok(Seat { group: confirmed.certificate().group().clone(), identities: seats, member })
}

/// A refusal, as it would travel.
fn refused(refusal: &Refusal) -> ClientError {
    problem(&refusal_status(refusal))
}

fn problem(status: &tonic::Status) -> ClientError {
    match Problem::from_status(status) {
        Some(problem) => ClientError::Refused(Box::new(problem)),
        None => ClientError::Nonsense(status.message().to_owned()),
    }
}

impl Stand for Scratch {
    async fn look(&self) -> Result<Seen, ClientError> {
        let (status, tally) = (self.engine.status(), self.engine.tally());
        let token = |token: &TokenStatus| SeenToken {
            name: token.health.name.clone(),
            state: state_name(token.health.state).into(),
            outage: token.health.outage.as_ref().map(seen_outage),
        };
        Ok(Seen {
            ready: status.admits_work(),
            state: state_name(status.health.state).into(),
            outage: status.health.outage.as_ref().map(seen_outage),
            tokens: status.tokens.iter().map(token).collect(),
            times: Some(*self.drills.times()),
            drill: self.drills.on().map(|drill| self.view(&drill)),
            counts: Counts {
                rounds_fresh: tally.rounds_fresh,
                rounds_replayed: tally.rounds_replayed,
                refused: tally.refused.iter().map(|(reason, count)| (reason.name().into(), *count)).collect(),
                seals: status.counters.seals,
                agents_started: status.health.agents_started,
                outages: status.health.outages,
                outages_drilled: self.drills.outages(),
            },
        })
    }

    async fn begin(&self, order: &DrillOrder) -> Result<DrillBegun, ClientError> {
        self.engine.admits_work().map_err(|refusal| refused(&refusal))?;
        let id = *order.drill.as_bytes();
        let begun = self.drills.begin(id, order.kind, order.duration_ms, &self.caller.name);
        let drill = begun.map_err(|error| {
            problem(&match &error {
                NotBegun::On(on) => later_status(Reason::DrillOn, error.to_string(), on.until.since(self.clock.now())),
                NotBegun::Duration { .. } => status(Reason::InvalidRequest, error.to_string()),
            })
        })?;
        let (times, token) = (self.drills.times(), self.drills.token());
        let token = token.map(|token| TokenView {
            label: token.label,
            serial: token.serial,
            manufacturer: token.manufacturer,
            model: token.model,
        });
        Ok(DrillBegun {
            drill: self.view(&drill),
            token: token.unwrap_or_default(),
            refused_within_ms: times.refused_within_ms(order.kind),
            healed_within_ms: times.healed_within_ms(),
            health_interval_ms: times.health_interval_ms,
            slow_ms: times.slow_ms(),
        })
    }

    async fn end(&self, drill: &DrillId) -> Result<(), ClientError> {
        self.drills.end(Some(*drill.as_bytes()));
        Ok(())
    }

    async fn freezes(&self, key_group: &KeyGroupId) -> Result<Freezes, ClientError> {
        let view = self.engine.key_group(key_group).map_err(|refusal| refused(&refusal))?;
        Ok(Freezes { frozen: view.frozen, freezes: view.freezes })
    }

    async fn commit(&self, request: &CommitRequest) -> Result<Commitments, ClientError> {
        self.engine.commit(&self.caller, request).map_err(|refusal| refused(&refusal))
    }

    async fn round(&self, request: &SignRequest) -> Result<ServedRound, ClientError> {
        let round = self.engine.start_sign_round(&self.caller, request, served).await;
        round.map_err(|refusal| refused(&refusal))
    }

    async fn abort(&self, _: Member, request: &SessionRequest) -> Result<(), ClientError> {
        self.engine.abort_session(&self.caller, request).await.map_err(|refusal| refused(&refusal))
    }
}

impl Scratch {
    fn view(&self, drill: &frostkeep_hsm::drill::Drill) -> DrillView {
        let now = self.clock.now();
        DrillView {
            drill: DrillId::new(drill.id),
            kind: drill.kind,
            by: drill.by.clone(),
            since_unix: drill.begun_unix,
            lasted_ms: now.min(drill.until).since(drill.begun),
            left_ms: drill.until.since(now),
        }
    }
}

fn served(reply: &RoundReply) -> ServedRound {
    ServedRound {
        round: reply.round_id(),
        attempt: reply.attempt(),
        member: reply.member(),
        share: *reply.share(),
        position: reply.position().number(),
        round_signature: *reply.round_signature(),
        next: reply.next_commitments().map(|next| *next.as_bytes()),
    }
}
