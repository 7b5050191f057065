//! What a ceremony is about. Every node is told the same, and every message names its hash.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::encode;
use crate::hash::Framed;
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, CeremonyId, Member};
use crate::limits::MEMBERS_MAX;

/// Parameters that no key group can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// A threshold that this many members cannot have.
    #[error(
        "threshold {threshold} of {members} members: 2 to the number of members, at most {MEMBERS_MAX}, is allowed"
    )]
    Threshold {
        /// The threshold.
        threshold: u16,
        /// Members.
        members: usize,
    },
}

/// Ceremony, threshold, seats and policies: valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Parameters {
    raw: Raw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Raw {
    ceremony: CeremonyId,
    threshold: u16,
    seats: BTreeMap<Member, IdentityKey>,
    attempt_policy: AttemptPolicy,
    signing_policy: [u8; 32],
}

impl Parameters {
    /// The parameters of `ceremony`: `threshold` of `seats`, each held by the node with that identity (a node may hold
    /// several), under these policies (the signing policy by its hash).
    ///
    /// # Errors
    /// [`ParametersError`].
    pub fn new(
        ceremony: CeremonyId,
        threshold: u16,
        seats: BTreeMap<Member, IdentityKey>,
        attempt_policy: AttemptPolicy,
        signing_policy: [u8; 32],
    ) -> Result<Self, ParametersError> {
        Raw { ceremony, threshold, seats, attempt_policy, signing_policy }.try_into()
    }

    /// The same of another ceremony.
    #[must_use]
    pub fn with_ceremony(&self, ceremony: CeremonyId) -> Self {
        Self { raw: Raw { ceremony, ..self.raw.clone() } }
    }

    /// The ceremony.
    pub fn ceremony(&self) -> CeremonyId {
        self.raw.ceremony
    }

    /// Members that must sign together.
    pub fn threshold(&self) -> u16 {
        self.raw.threshold
    }

    /// Who holds which seat.
    pub fn seats(&self) -> &BTreeMap<Member, IdentityKey> {
        &self.raw.seats
    }

    /// How attempts advance in the key group.
    pub fn attempt_policy(&self) -> AttemptPolicy {
        self.raw.attempt_policy
    }

    /// The hash of the key group's first signing policy.
    pub fn signing_policy(&self) -> [u8; 32] {
        self.raw.signing_policy
    }

    /// The node that holds the seat of `member`.
    pub fn identity_of(&self, member: Member) -> Option<IdentityKey> {
        self.raw.seats.get(&member).copied()
    }

    /// The seats of one node, ascending.
    pub fn seats_of(&self, identity: IdentityKey) -> Vec<Member> {
        self.raw.seats.iter().filter(|(_, holder)| **holder == identity).map(|(member, _)| *member).collect()
    }

    /// All nodes.
    pub fn identities(&self) -> BTreeSet<IdentityKey> {
        self.raw.seats.values().copied().collect()
    }

    /// The hash that every message names.
    pub fn hash(&self) -> [u8; 32] {
        Framed::new("frostkeep-keygen-parameters-v1").part(&encode(self)).finish()
    }
}

impl TryFrom<Raw> for Parameters {
    type Error = ParametersError;
    fn try_from(raw: Raw) -> Result<Self, ParametersError> {
        let (threshold, members) = (raw.threshold, raw.seats.len());
        if threshold < 2 || usize::from(threshold) > members || members > MEMBERS_MAX {
            return Err(ParametersError::Threshold { threshold, members });
        }
        Ok(Self { raw })
    }
}

impl From<Parameters> for Raw {
    fn from(parameters: Parameters) -> Raw {
        parameters.raw
    }
}
