//! Where things leave: behind the freeze gate and the fence, checked again at the moment itself (I8, I6).

use super::Engine;
use super::refusal::Refusal;
use super::reply::{ReleasedRound, RoundReply};
use crate::ids::KeyGroupId;

impl Engine {
    /// The one place where a share leaves: durable by type (I1).
    pub(super) fn release<R>(
        &self,
        released: ReleasedRound,
        encode: impl FnOnce(&RoundReply) -> R,
    ) -> Result<R, Refusal> {
        let key_group = released.round.get().body.key_group;
        let reply = RoundReply::new(released);
        self.hand_over(&key_group, || encode(&reply))
    }

    /// Runs `hand_over` unless the key group is frozen or the anchor forbids releases. A freeze waits for it to return.
    pub(super) fn hand_over<R>(&self, key_group: &KeyGroupId, hand_over: impl FnOnce() -> R) -> Result<R, Refusal> {
        self.inner.gates.release(key_group, || {
            super::core::releases_allowed(self.inner.line.status().releases)?;
            Ok(hand_over())
        })?
    }

    /// A refusal that carries a finished signature leaves by the same gate.
    pub(super) fn guard_signature<T>(&self, key_group: &KeyGroupId, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        match answer {
            Err(refusal @ Refusal::SessionFinalized { .. }) => Err(self.hand_over(key_group, || refusal)?),
            other => other,
        }
    }
}
