//! The history of advances. The hash of a record is the same on every node that took the step: no clock enters it, and not
//! which votes proved it (trap 16).

use serde::{Deserialize, Serialize};

use super::{Authorised, TransitionReason};
use crate::hash::Framed;
use crate::ids::{AttemptId, KeyGroupId, Member, SessionId};

const RECORD_DOMAIN: &str = "frostkeep/transition/v1";
const HEAD_DOMAIN: &str = "frostkeep/transition-head/v1";

/// One advance, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionRecord {
    /// The key group.
    pub key_group: KeyGroupId,
    /// The session.
    pub session: SessionId,
    /// The attempt that was left.
    pub from: AttemptId,
    /// The attempt that became active.
    pub to: AttemptId,
    /// Why.
    pub reason: TransitionReason,
    /// The excluded, ascending.
    pub excluded: Vec<Member>,
}

impl TransitionRecord {
    /// The record of a proved step.
    pub fn new(key_group: &KeyGroupId, session: &SessionId, step: &Authorised) -> Self {
        Self {
            key_group: *key_group,
            session: session.clone(),
            from: step.from.id(),
            to: step.to.id(),
            reason: step.reason,
            excluded: step.excluded.clone(),
        }
    }

    /// The hash of the record, equal on every node.
    pub fn hash(&self) -> [u8; 32] {
        let excluded: Vec<u8> = self.excluded.iter().flat_map(|member| member.number().to_be_bytes()).collect();
        Framed::new(RECORD_DOMAIN)
            .part(self.key_group.as_bytes())
            .part(self.session.as_str().as_bytes())
            .part(self.from.as_bytes())
            .part(self.to.as_bytes())
            .part(self.reason.as_str().as_bytes())
            .part(&excluded)
            .finish()
    }
}

/// The head of a session's chain of records. Heads are equal on nodes that took the same steps; a node that came to a
/// session later has a shorter chain, whose records still have the same hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptHead([u8; 32]);

impl TranscriptHead {
    /// The head before the first advance.
    pub fn start(key_group: &KeyGroupId, session: &SessionId) -> Self {
        Self(Framed::new(HEAD_DOMAIN).part(key_group.as_bytes()).part(session.as_str().as_bytes()).finish())
    }

    /// The head after the record with this hash.
    pub fn after(self, record: &[u8; 32]) -> Self {
        Self(Framed::new(HEAD_DOMAIN).part(&self.0).part(record).finish())
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn record() -> TransitionRecord {
        TransitionRecord {
            key_group: KeyGroupId::new([2; 33]).unwrap(),
            session: SessionId::new("session").unwrap(),
            from: AttemptId::new([1; 32]),
            to: AttemptId::new([2; 32]),
            reason: TransitionReason::InvalidShare,
            excluded: vec![Member::new(3).unwrap()],
        }
    }

    #[test]
    fn every_field_of_a_record_changes_its_hash() {
        let base = record();
        let records = [
            base.clone(),
            TransitionRecord { key_group: KeyGroupId::new([3; 33]).unwrap(), ..base.clone() },
            TransitionRecord { session: SessionId::new("other").unwrap(), ..base.clone() },
            TransitionRecord { from: AttemptId::new([9; 32]), ..base.clone() },
            TransitionRecord { to: AttemptId::new([9; 32]), ..base.clone() },
            TransitionRecord { reason: TransitionReason::CoordinatorTimeout, ..base.clone() },
            TransitionRecord { excluded: vec![], ..base.clone() },
            TransitionRecord { excluded: vec![Member::new(4).unwrap()], ..base },
        ];
        assert_eq!(records.iter().map(TransitionRecord::hash).collect::<HashSet<_>>().len(), records.len());
    }

    #[test]
    fn a_head_depends_on_the_order_of_the_steps() {
        let (first, second) = (record(), TransitionRecord { to: AttemptId::new([5; 32]), ..record() });
        let start = TranscriptHead::start(&first.key_group, &first.session);
        assert_ne!(start.after(&first.hash()).after(&second.hash()), start.after(&second.hash()).after(&first.hash()));
        assert_eq!(start.after(&first.hash()), start.after(&record().hash()));
    }
}
