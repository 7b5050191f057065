//! A signature of a key group: coordinated here, or by a node. Either way it counts only when it verifies here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, Millis, SystemClock};
use frostkeep_hsm::entropy;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::agreement::KnownGroup;
use super::coordination::{Blamed, Coordinated};
use super::error::ClientError;
use super::network::{Network, NodeClient};
use super::patience::Patience;
use super::view::{NodePhase, NodeStatus};
use crate::coordinator::{self, Done, DriveConfig, DriveError};
use crate::engine::Subject;
use crate::frost::Signature;
use crate::ids::{AttemptPolicy, Member, SessionId};
use crate::reasons::{Fault, Reason};
use crate::wire::status;

/// The longest that a node which is to coordinate is waited for, milliseconds.
const REACHED_MS_MAX: u64 = 6_000;

/// The longest that handing the signature over may take, milliseconds: somebody waits for it, and nodes that are away hear of
/// it from the next who asks them.
const HANDOVER_MS_MAX: u64 = 3_000;

/// How much of the time that a node has is kept for its answer, milliseconds at most: it has to say why there is no signature.
const FAREWELL_MS_MAX: u64 = 15_000;

/// How long the other nodes' status is waited for when one is ready, milliseconds.
const OTHERS_MS_MAX: u64 = 500;

/// A finished session.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The signature, BIP-340, verified through libsecp256k1.
    pub signature: [u8; 64],
    /// The session.
    pub session: SessionId,
    /// Members whose nodes have not confirmed the signature: their sessions end when they next hear of it.
    pub unconfirmed: Vec<Member>,
    /// Members at fault. A proof has been checked here.
    pub blamed: Vec<Blamed>,
}

/// Why there is no signature.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SigningError {
    /// The coordinator of this process found no way.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The node that coordinated has none.
    #[error("node {node}: {error}")]
    Node {
        /// Its name.
        node: String,
        /// Why.
        error: ClientError,
    },
    /// The node that coordinated gave a signature that does not verify.
    #[error("node {0} gave a signature that does not verify")]
    Wrong(String),
    /// Under `evidence` a node has to coordinate, and no holder of a seat gave a signature.
    #[error("no node coordinated, which the attempt policy evidence needs: {}", .0.iter().map(|(node, why)| format!("{node}: {why}")).collect::<Vec<_>>().join("; "))]
    NoCoordinator(Vec<(String, ClientError)>),
}

impl SigningError {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Drive(error) => error.reason(),
            Self::Node { error, .. } => error.reason().unwrap_or(Reason::PeerUnreachable),
            Self::Wrong(_) => Reason::SignatureInvalid,
            Self::NoCoordinator(nodes) => {
                let off = Some(Reason::CoordinationOff);
                if nodes.iter().all(|(_, error)| error.reason() == off) {
                    return Reason::CoordinationOff;
                }
                let mut refused = nodes.iter().filter_map(|(_, error)| error.reason()).filter(|it| Some(*it) != off);
                let first = refused.next();
                first.filter(|first| refused.all(|other| other == *first)).unwrap_or(Reason::PeerUnreachable)
            }
        }
    }
}

/// When a command ends: said once, for all that it tries.
struct End {
    clock: SystemClock,
    begun: Millis,
    deadline_ms: u64,
}

impl End {
    fn after_ms(deadline_ms: u64) -> Self {
        let clock = SystemClock::new();
        Self { begun: clock.now(), clock, deadline_ms }
    }

    fn left_ms(&self) -> u64 {
        self.deadline_ms.saturating_sub(self.clock.now().since(self.begun))
    }
}

impl Network {
    /// Signs `subject` with `group`. Under `roast` this process coordinates, unless `via` names a node that is to; under
    /// `evidence` a node does: `via`, or one holder of a seat after the other, those first that are ready, until one has a
    /// signature that verifies. No word of fewer holders than the threshold ends that, nor may one of them use up the time.
    /// `watch` hears how it goes on, in lines for people.
    ///
    /// # Errors
    /// [`SigningError`].
    pub async fn sign(
        &self,
        group: &KnownGroup,
        subject: Subject,
        via: Option<&NodeClient>,
        deadline_ms: u64,
        watch: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Signed, SigningError> {
        match (via, group.attempt_policy()) {
            (Some(node), _) => via_node(node, group, subject, deadline_ms, watch).await,
            (None, AttemptPolicy::Roast) => self.coordinate(group, subject, deadline_ms, watch).await,
            (None, AttemptPolicy::Evidence) => self.by_holders(group, subject, deadline_ms, watch).await,
        }
    }

    async fn by_holders(
        &self,
        group: &KnownGroup,
        subject: Subject,
        deadline_ms: u64,
        watch: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Signed, SigningError> {
        let end = End::after_ms(deadline_ms);
        let mut candidates = Candidates::of(group.holders(self), &end);
        let mut failed: Vec<(&NodeClient, ClientError)> = Vec::new();
        while let Some((node, status)) = candidates.next(&end).await {
            // Whoever is silent leaves as much time to the others.
            let left_ms = end.left_ms();
            let patience = match candidates.is_empty() {
                true => Patience::short_ms(left_ms),
                false => Patience { call_ms_max: left_ms / 2, ..Patience::within_ms(REACHED_MS_MAX) },
            };
            let ended = match status.and_then(|status| coordinates(&status)) {
                Ok(()) if patience.call_ms_max > 0 => asked(node, group, subject, patience, watch).await,
                Ok(()) => Err(ClientError::Unreachable(format!("not asked: the {deadline_ms} ms are over"))),
                Err(error) => Err(error),
            };
            let error = match ended {
                Ok(signed) => return Ok(signed),
                Err(error) => error,
            };
            watch(&format!("{}: {error}", node.name));
            failed.push((node, error.clone()));
            if is_shared(group, &failed, &error) {
                return Err(SigningError::Node { node: node.name.clone(), error });
            }
        }
        Err(SigningError::NoCoordinator(failed.into_iter().map(|(node, error)| (node.name.clone(), error)).collect()))
    }

    async fn coordinate(
        &self,
        group: &KnownGroup,
        subject: Subject,
        deadline_ms: u64,
        watch: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Signed, SigningError> {
        let port = Arc::new(self.port(&group.seats));
        let config = DriveConfig { deadline_ms, handover_ms: HANDOVER_MS_MAX, ..DriveConfig::default() };
        let mut tell = |progress: &coordinator::Progress| watch(&progress.to_string());
        let setting = group.setting(subject);
        let Done { session, signature, unconfirmed, blamed } =
            coordinator::sign(&port, &setting, &config, &mut entropy::os(), &mut tell).await?;
        // The machine has verified it: through libsecp256k1, as every signature that it gives.
        let blamed = blamed.iter().map(Blamed::from).collect();
        Ok(Signed { signature: *signature.as_bytes(), session, unconfirmed, blamed })
    }
}

/// The holders of seats, by what they say of themselves.
struct Candidates<'a> {
    nodes: Vec<&'a NodeClient>,
    asked: JoinSet<(usize, Result<NodeStatus, ClientError>)>,
    /// By (not ready, the place among the holders).
    heard: BTreeMap<(bool, usize), Result<NodeStatus, ClientError>>,
}

impl<'a> Candidates<'a> {
    fn of(nodes: Vec<&'a NodeClient>, end: &End) -> Self {
        let mut asked = JoinSet::new();
        for (index, node) in nodes.iter().enumerate() {
            let client = node.client.with(Patience::short_ms(REACHED_MS_MAX.min(end.left_ms())));
            asked.spawn(async move { (index, client.status().await) });
        }
        Self { nodes, asked, heard: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.heard.is_empty()
    }

    /// The next that is ready, or one that is not when no other is left.
    async fn next(&mut self, end: &End) -> Option<(&'a NodeClient, Result<NodeStatus, ClientError>)> {
        loop {
            let ready = self.heard.first_key_value().is_some_and(|((not_ready, _), _)| !*not_ready);
            let limit_ms = if ready { OTHERS_MS_MAX.min(end.left_ms()) } else { REACHED_MS_MAX };
            match timeout(Duration::from_millis(limit_ms), self.asked.join_next()).await {
                Ok(Some(Ok((index, status)))) => {
                    let ready = status.as_ref().is_ok_and(|it| it.phase == NodePhase::Open && it.message.ready);
                    self.heard.insert((!ready, index), status);
                }
                Ok(Some(Err(_))) => {}
                Err(_) if !ready => {}
                Ok(None) | Err(_) => break,
            }
        }
        let ((_, index), status) = self.heard.pop_first()?;
        Some((*self.nodes.get(index)?, status))
    }
}

/// Whether the failure ends it all: a refusal for the caller's own fault, which as many seats as the threshold gave for the
/// same reason. Fewer may lie.
fn is_shared(group: &KnownGroup, failed: &[(&NodeClient, ClientError)], error: &ClientError) -> bool {
    let Some(reason) = error.reason().filter(|reason| reason.fault() == Fault::Caller) else { return false };
    let same = |identity| failed.iter().any(|(node, it)| node.identity == identity && it.reason() == Some(reason));
    let seats = group.seats.values().filter(|identity| same(**identity)).count();
    reason != Reason::CoordinationOff && seats >= usize::from(group.certificate.group().threshold())
}

async fn via_node(
    node: &NodeClient,
    group: &KnownGroup,
    subject: Subject,
    deadline_ms: u64,
    watch: &(dyn Fn(&str) + Send + Sync),
) -> Result<Signed, SigningError> {
    let end = End::after_ms(deadline_ms);
    let client = node.client.with(Patience::short_ms(REACHED_MS_MAX.min(deadline_ms)));
    let ended = match client.status().await.and_then(|status| coordinates(&status)) {
        Ok(()) => asked(node, group, subject, Patience::short_ms(end.left_ms()), watch).await,
        Err(error) => Err(error),
    };
    ended.map_err(|error| match error {
        ClientError::Nonsense(problem) if problem == WRONG => SigningError::Wrong(node.name.clone()),
        error => SigningError::Node { node: node.name.clone(), error },
    })
}

const WRONG: &str = "a signature that does not verify";

/// Has a node coordinate, and verifies what it gives. All of it takes at most as long as one call may.
async fn asked(
    node: &NodeClient,
    group: &KnownGroup,
    subject: Subject,
    patience: Patience,
    watch: &(dyn Fn(&str) + Send + Sync),
) -> Result<Signed, ClientError> {
    let limit_ms = patience.call_ms_max;
    // A deadline of 0 would be the node's own.
    let deadline_ms = limit_ms.saturating_sub(FAREWELL_MS_MAX.min(limit_ms / 10)).max(1);
    let tell = |line: &str| watch(&format!("{}: {line}", node.name));
    let client = node.client.with(patience);
    let answer = timeout(Duration::from_millis(limit_ms), client.sign(&group.id(), &subject, deadline_ms, tell)).await;
    let late = |_| Err(ClientError::Unreachable(format!("no answer within {limit_ms} ms")));
    let signed = answer.unwrap_or_else(late)?;
    let key = group.certificate.group();
    let verified = Signature::from_bytes(&signed.signature)
        .is_ok_and(|signature| key.verify(subject.message, subject.root.as_ref(), &signature).is_ok());
    if !verified {
        return Err(ClientError::Nonsense(WRONG.into()));
    }
    let Coordinated { signature, session, unconfirmed, mut blamed } = signed;
    // The node's word is not a proof: what does not hold here is its word alone.
    let setting = group.setting(subject).in_session(session.clone());
    for one in &mut blamed {
        one.proof = one.proof.take().filter(|round| round.member == one.member.number() && setting.proves_fault(round));
    }
    Ok(Signed { signature, session, unconfirmed, blamed })
}

/// Refuses unless the node coordinates: a session's whole deadline is too long to find that out.
fn coordinates(status: &NodeStatus) -> Result<(), ClientError> {
    if status.message.coordination {
        return Ok(());
    }
    Err(ClientError::of(&status::status(Reason::CoordinationOff, "it does not coordinate")))
}
