//! Who asks: an identity with roles. The network authenticates it; the rules are here. Deny by default.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::identity::IdentityKey;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Drives signing: commitments, rounds, finalisation, transactions.
    Coordinator,
    /// Another node of a key group: key generation, votes.
    Peer,
    /// Changes what the node does: freeze, thaw, policy, key groups.
    Admin,
    /// Reads status and sessions' public parts.
    Observer,
}

impl Role {
    /// The name in rosters and refusals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Peer => "peer",
            Self::Admin => "admin",
            Self::Observer => "observer",
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name in the roster, for logs.
    pub name: String,
    /// The node identity, when the caller is a node.
    pub identity: Option<IdentityKey>,
    /// What it may do.
    pub roles: Vec<Role>,
}

impl Caller {
    /// Refuses unless the caller has one of `roles`.
    ///
    /// # Errors
    /// [`Refusal::PermissionDenied`] naming the caller and the roles that would do.
    pub fn require(&self, roles: &'static [Role]) -> Result<(), Refusal> {
        if roles.iter().any(|role| self.roles.contains(role)) {
            return Ok(());
        }
        Err(Refusal::PermissionDenied {
            caller: self.name.clone(),
            needs: roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" or "),
        })
    }
}
