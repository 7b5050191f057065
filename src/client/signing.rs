//! A signature of a key group: coordinated here, or by a node. Either way it counts only when it verifies here.

use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::entropy;
use tokio::time::timeout;

use super::agreement::KnownGroup;
use super::coordination::{Blamed, Coordinated};
use super::error::ClientError;
use super::network::{Network, NodeClient};
use super::patience::Patience;
use crate::coordinator::{self, Done, DriveConfig, DriveError};
use crate::engine::Subject;
use crate::frost::Signature;
use crate::ids::{AttemptPolicy, Member, SessionId};
use crate::reasons::Reason;
use crate::wire::status;

/// The longest that a node which is to coordinate is waited for, milliseconds.
const REACHED_MS_MAX: u64 = 6_000;

/// The longest that handing the signature over may take, milliseconds: somebody waits for it, and nodes that are away hear of
/// it from the next who asks them.
const HANDOVER_MS_MAX: u64 = 3_000;

/// How long beyond its deadline a node that coordinates is waited for, milliseconds: it has to say why there is none.
const FAREWELL_MS: u64 = 15_000;

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
    /// Under `evidence` a node has to coordinate, and none does.
    #[error("no node coordinates, which the attempt policy evidence needs: {}", .0.iter().map(|(node, why)| format!("{node}: {why}")).collect::<Vec<_>>().join("; "))]
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
                let off = nodes.iter().all(|(_, error)| error.reason() == Some(Reason::CoordinationOff));
                if off { Reason::CoordinationOff } else { Reason::PeerUnreachable }
            }
        }
    }
}

impl Network {
    /// Signs `subject` with `group`. Under `roast` this process coordinates, unless `via` names a node that is to; under
    /// `evidence` a node does, `via` or the first holder of a seat that will. `watch` hears how it goes on, in lines for
    /// people.
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
            (Some(node), _) => asked(node, group, subject, deadline_ms, watch)
                .await
                .unwrap_or_else(|error| Err(SigningError::Node { node: node.name.clone(), error })),
            (None, AttemptPolicy::Roast) => self.coordinate(group, subject, deadline_ms, watch).await,
            (None, AttemptPolicy::Evidence) => {
                let mut passed_by = Vec::new();
                for node in group.holders(self) {
                    match asked(node, group, subject, deadline_ms, watch).await {
                        Ok(ended) => return ended,
                        Err(error) => {
                            watch(&format!("{}: {error}", node.name));
                            passed_by.push((node.name.clone(), error));
                        }
                    }
                }
                Err(SigningError::NoCoordinator(passed_by))
            }
        }
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

/// Has a node coordinate. The outer error says that another node may do it.
async fn asked(
    node: &NodeClient,
    group: &KnownGroup,
    subject: Subject,
    deadline_ms: u64,
    watch: &(dyn Fn(&str) + Send + Sync),
) -> Result<Result<Signed, SigningError>, ClientError> {
    coordinates(node).await?;
    let wait_ms = deadline_ms.saturating_add(FAREWELL_MS);
    let tell = |line: &str| watch(&format!("{}: {line}", node.name));
    let client = node.client.with(Patience::short_ms(wait_ms));
    let answer = timeout(Duration::from_millis(wait_ms), client.sign(&group.id(), &subject, deadline_ms, tell)).await;
    let late = |_| Err(ClientError::Unreachable(format!("no answer within {wait_ms} ms")));
    let answer = answer.unwrap_or_else(late);
    let signed = match answer {
        Ok(signed) => signed,
        Err(error) if passes_by(&error) => return Err(error),
        Err(error) => return Ok(Err(SigningError::Node { node: node.name.clone(), error })),
    };
    let key = group.certificate.group();
    let verified = Signature::from_bytes(&signed.signature)
        .is_ok_and(|signature| key.verify(subject.message, subject.root.as_ref(), &signature).is_ok());
    if !verified {
        return Ok(Err(SigningError::Wrong(node.name.clone())));
    }
    let Coordinated { signature, session, unconfirmed, mut blamed } = signed;
    // The node's word is not a proof: what does not hold here is its word alone.
    let setting = group.setting(subject).in_session(session.clone());
    for one in &mut blamed {
        one.proof = one.proof.take().filter(|round| round.member == one.member.number() && setting.proves_fault(round));
    }
    Ok(Ok(Signed { signature, session, unconfirmed, blamed }))
}

/// Refuses unless the node is there and coordinates: a session's whole deadline is too long to find that out.
async fn coordinates(node: &NodeClient) -> Result<(), ClientError> {
    let status = node.client.with(Patience::short_ms(REACHED_MS_MAX)).status().await?;
    if status.message.coordination {
        return Ok(());
    }
    Err(ClientError::of(&status::status(Reason::CoordinationOff, "it does not coordinate")))
}

/// Whether the failure says nothing about the session, so that another node may coordinate it.
fn passes_by(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(problem) => {
            matches!(problem.reason, Reason::CoordinationOff | Reason::Stopping | Reason::CapacityExceeded)
        }
        ClientError::Unreachable(_) | ClientError::Nonsense(_) => true,
    }
}
