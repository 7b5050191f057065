//! Names of answers, and the messages that node identities sign.
//!
//! | hash | domain | components |
//! | --- | --- | --- |
//! | round id | `frostkeep/round-id/v1` | key group, session, message, root, included set, attempt id, member, package |
//! | request fingerprint | `frostkeep/request/v1` | the same, attempt number, coordinator |
//! | round signature | `frostkeep/round-signature/v1` | round id, member, share |
//! | timeout vote | `frostkeep/timeout-vote/v1` | key group, session, attempt id, number, coordinator, voter |
//!
//! Numbers are big-endian, ids are raw bytes, the included set is its fingerprint. The root is one byte 0 when absent, or
//! a byte 1 and the root: no root is not the zero root.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::AttemptContext;
use crate::hash::Framed;
use crate::ids::{KeyGroupId, Member, MerkleRoot, Message, RoundId, SessionId, to_hex};

const ROUND_ID_DOMAIN: &str = "frostkeep/round-id/v1";
const REQUEST_DOMAIN: &str = "frostkeep/request/v1";
const ROUND_SIGNATURE_DOMAIN: &str = "frostkeep/round-signature/v1";
const TIMEOUT_VOTE_DOMAIN: &str = "frostkeep/timeout-vote/v1";

/// The fingerprint of a `StartSignRound` request: equal for retries, different for anything else. It leaves the transition
/// evidence out; hex case and the order of participants never reach it, since it is made of parsed values (trap 14).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestFingerprint([u8; 32]);

impl RequestFingerprint {
    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RequestFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestFingerprint({})", to_hex(&self.0))
    }
}

/// What one member is asked to answer.
#[derive(Debug, Clone, Copy)]
pub struct RoundBinding<'a> {
    /// The key group.
    pub key_group: &'a KeyGroupId,
    /// The session.
    pub session: &'a SessionId,
    /// The session's message.
    pub message: &'a Message,
    /// The Taproot Merkle root of the tweak, if any.
    pub root: Option<&'a MerkleRoot>,
    /// The attempt.
    pub attempt: &'a AttemptContext,
    /// The member.
    pub member: Member,
}

impl RoundBinding<'_> {
    fn framed(&self, domain: &str, package: &[u8]) -> Framed {
        let mut root = Vec::with_capacity(33);
        root.push(u8::from(self.root.is_some()));
        if let Some(bytes) = self.root {
            root.extend(bytes.as_bytes());
        }
        Framed::new(domain)
            .part(self.key_group.as_bytes())
            .part(self.session.as_str().as_bytes())
            .part(self.message.as_bytes())
            .part(&root)
            .part(self.attempt.included_fingerprint())
            .part(self.attempt.id().as_bytes())
            .part(&self.member.number().to_be_bytes())
            .part(package)
    }

    /// The round id, over the canonical bytes of the signing package.
    pub fn round_id(&self, package: &[u8]) -> RoundId {
        RoundId::new(self.framed(ROUND_ID_DOMAIN, package).finish())
    }

    /// The request fingerprint, over the canonical bytes of the signing package.
    pub fn request_fingerprint(&self, package: &[u8]) -> RequestFingerprint {
        let framed = self
            .framed(REQUEST_DOMAIN, package)
            .part(&self.attempt.number().to_be_bytes())
            .part(&self.attempt.coordinator().number().to_be_bytes());
        RequestFingerprint(framed.finish())
    }
}

/// What the node's identity signs for a round: the share is bound to the round id, and so to package, message and root.
pub fn round_signature_message(round: &RoundId, member: Member, share: &[u8]) -> [u8; 32] {
    Framed::new(ROUND_SIGNATURE_DOMAIN).part(round.as_bytes()).part(&member.number().to_be_bytes()).part(share).finish()
}

/// What the node's identity signs to say that the coordinator of `attempt` has not come in time.
pub fn timeout_vote_message(
    key_group: &KeyGroupId,
    session: &SessionId,
    attempt: &AttemptContext,
    voter: Member,
) -> [u8; 32] {
    Framed::new(TIMEOUT_VOTE_DOMAIN)
        .part(key_group.as_bytes())
        .part(session.as_str().as_bytes())
        .part(attempt.id().as_bytes())
        .part(&attempt.number().to_be_bytes())
        .part(&attempt.coordinator().number().to_be_bytes())
        .part(&voter.number().to_be_bytes())
        .finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::roast::AttemptBinding;

    fn key_group(parity: u8) -> KeyGroupId {
        let mut bytes = [7; 33];
        bytes[0] = parity;
        KeyGroupId::new(bytes).unwrap()
    }

    fn attempt(key_group: &KeyGroupId, session: &str, message: u8, number: u32, included: &[u16]) -> AttemptContext {
        let binding = AttemptBinding {
            key_group,
            session: &SessionId::new(session).unwrap(),
            message: &Message::new([message; 32]),
            threshold: 2,
        };
        AttemptContext::derive(&binding, number, included).unwrap()
    }

    #[test]
    fn trap_17_every_component_of_a_round_and_the_root_too_changes_its_id_and_its_fingerprint() {
        let (group, other_group) = (key_group(2), key_group(3));
        let (session, other_session) = (SessionId::new("a").unwrap(), SessionId::new("b").unwrap());
        let (message, other_message) = (Message::new([1; 32]), Message::new([2; 32]));
        let zero = MerkleRoot::new([0; 32]);
        let one = MerkleRoot::new([1; 32]);
        let base = attempt(&group, "a", 1, 1, &[1, 2, 3]);
        let second = attempt(&group, "a", 1, 2, &[1, 2, 3]);
        let smaller = attempt(&group, "a", 1, 1, &[1, 2]);
        let member = |number| Member::new(number).unwrap();
        let b = RoundBinding {
            key_group: &group,
            session: &session,
            message: &message,
            root: None,
            attempt: &base,
            member: member(1),
        };
        let variants = [
            (b, "package"),
            (b, "packagE"),
            (b, ""),
            (RoundBinding { key_group: &other_group, ..b }, "package"),
            (RoundBinding { session: &other_session, ..b }, "package"),
            (RoundBinding { message: &other_message, ..b }, "package"),
            (RoundBinding { root: Some(&zero), ..b }, "package"),
            (RoundBinding { root: Some(&one), ..b }, "package"),
            (RoundBinding { attempt: &second, ..b }, "package"),
            (RoundBinding { attempt: &smaller, ..b }, "package"),
            (RoundBinding { member: member(2), ..b }, "package"),
        ];
        let ids: HashSet<RoundId> = variants.iter().map(|(b, p)| b.round_id(p.as_bytes())).collect();
        let prints: HashSet<_> = variants.iter().map(|(b, p)| b.request_fingerprint(p.as_bytes())).collect();
        assert_eq!((ids.len(), prints.len()), (variants.len(), variants.len()));
    }

    #[test]
    fn trap_14_hex_case_and_participant_order_do_not_make_another_request() {
        let group = key_group(2);
        let session = SessionId::new("a").unwrap();
        let lower: Message = "ab".repeat(32).parse().unwrap();
        let upper: Message = "AB".repeat(32).parse().unwrap();
        let fingerprint = |message: &Message, included: &[u16]| {
            let binding = AttemptBinding { key_group: &group, session: &session, message, threshold: 2 };
            let attempt = AttemptContext::derive(&binding, 1, included).unwrap();
            let member = Member::new(1).unwrap();
            RoundBinding { key_group: &group, session: &session, message, root: None, attempt: &attempt, member }
                .request_fingerprint(b"package")
        };
        assert_eq!(fingerprint(&lower, &[1, 2, 3]), fingerprint(&upper, &[3, 1, 2]));
    }

    #[test]
    fn a_signed_message_is_bound_to_each_of_its_components() {
        let group = key_group(2);
        let session = SessionId::new("a").unwrap();
        let (one, two) = (Member::new(1).unwrap(), Member::new(2).unwrap());
        let (first, second) = (attempt(&group, "a", 1, 1, &[1, 2]), attempt(&group, "a", 1, 2, &[1, 2]));
        let round = RoundId::new([1; 32]);
        let messages = [
            timeout_vote_message(&group, &session, &first, one),
            timeout_vote_message(&group, &session, &first, two),
            timeout_vote_message(&group, &session, &second, one),
            timeout_vote_message(&key_group(3), &session, &first, one),
            timeout_vote_message(&group, &SessionId::new("b").unwrap(), &first, one),
            round_signature_message(&round, one, &[5; 32]),
            round_signature_message(&round, two, &[5; 32]),
            round_signature_message(&round, one, &[6; 32]),
            round_signature_message(&RoundId::new([2; 32]), one, &[5; 32]),
        ];
        assert_eq!(messages.iter().collect::<HashSet<_>>().len(), messages.len());
    }
}
