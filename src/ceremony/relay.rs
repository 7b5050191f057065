//! Carrying messages to one node.

use tokio::task::JoinSet;

use super::judge::{Objection, Said};
use super::port::{NodePort, PortError};
use super::reach::Reach;
use crate::ids::CeremonyId;
use crate::limits::CEREMONY_CALLS_MAX;
use crate::reasons::Reason;

/// How often a node that misses messages is handed them again before it is named.
const HANDED_AGAIN_MAX: u32 = 2;

/// Hands the messages of the others to one node, a few at a time. A message that it refuses as wrong is an objection; any
/// other refusal ends the step.
pub(super) async fn hand_over<P: NodePort>(
    reach: &Reach<P>,
    ceremony: CeremonyId,
    said: &[Said],
) -> Result<Vec<Objection>, PortError> {
    let mut calls = JoinSet::new();
    let mut objections = Vec::new();
    let mut waiting = said.iter().filter(|message| message.from != reach.index);
    loop {
        while calls.len() < CEREMONY_CALLS_MAX
            && let Some(message) = waiting.next()
        {
            let (reach, message) = (reach.clone(), message.clone());
            calls.spawn(async move {
                let answer = reach.insist(|| reach.node.port.receive(&ceremony, &message.bytes)).await;
                (message.from, answer)
            });
        }
        match calls.join_next().await {
            None => return Ok(objections),
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((from, Err(error)))) if error.reason() == Some(Reason::CeremonyMessageInvalid) => {
                objections.push(Objection { from, error });
            }
            Some(Ok((_, Err(error)))) => return Err(error),
            Some(Err(defect)) => return Err(PortError::Unreachable(format!("a call to it ended early: {defect}"))),
        }
    }
}

/// A call that needs all messages of a round: a node that misses some is handed them again before it is named.
pub(super) async fn heard<P, T, F>(
    reach: &Reach<P>,
    ceremony: CeremonyId,
    said: &[Said],
    mut call: impl FnMut() -> F,
) -> Result<T, PortError>
where
    P: NodePort,
    F: Future<Output = Result<T, PortError>>,
{
    for _ in 0..HANDED_AGAIN_MAX {
        match reach.insist(&mut call).await {
            Err(error) if error.reason() == Some(Reason::CeremonyIncomplete) => {
                hand_over(reach, ceremony, said).await?;
            }
            answer => return answer,
        }
    }
    reach.insist(call).await
}
