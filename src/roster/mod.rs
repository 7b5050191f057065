//! The roster: who is who between nodes. A TOML file that every node reads; it names no secret.
//!
//! ```toml
//! [[node]]
//! name = "north"
//! address = "north.example:7450"
//! identity = "..."      # Ed25519 key, 64 hex digits
//! serving_pin = "..."   # SHA-256 of the key that this node serves with
//! client_pin = "..."    # SHA-256 of the key that it calls others with
//! members = [1]
//! roles = ["coordinator", "peer"]
//!
//! [[client]]            # a command line, or another machine that is no node
//! name = "operator"
//! pin = "..."
//! roles = ["admin"]
//! ```
//!
//! Roles go with client pins alone: the serving key is stored unsealed, so a stolen disk opens no door.

mod error;
mod parse;
mod pin;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

pub use error::{Place, RosterError};
pub(crate) use parse::{check_address, check_name};
pub use pin::Pin;

use crate::engine::{Caller, Role};
use crate::hash::sha256;
use crate::identity::IdentityKey;
use crate::ids::Member;
use crate::limits::ROSTER_BYTES_MAX;

/// A node, as the roster names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLine {
    /// Its name: 1 to 64 bytes of printable ASCII without spaces.
    pub name: String,
    /// Where others reach it: `host:port`.
    pub address: String,
    /// Its identity.
    pub identity: IdentityKey,
    /// The key that it serves with. It opens no door.
    pub serving_pin: Pin,
    /// The key that it calls others with. The roles go with it.
    pub client_pin: Pin,
    /// Its seats.
    pub members: Vec<Member>,
    /// What it may ask of other nodes.
    pub roles: Vec<Role>,
}

/// A caller that is no node, as the roster names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLine {
    /// Its name: 1 to 64 bytes of printable ASCII without spaces.
    pub name: String,
    /// The key that it calls with.
    pub pin: Pin,
    /// What it may ask.
    pub roles: Vec<Role>,
}

/// A valid roster: names, addresses, identities, members and pins are each given once.
#[derive(Debug, Clone)]
pub struct Roster {
    nodes: Vec<NodeLine>,
    clients: Vec<ClientLine>,
    hash: [u8; 32],
}

impl Roster {
    /// The roster with this text.
    ///
    /// # Errors
    /// [`RosterError`], which names the line.
    pub fn parse(text: &str) -> Result<Self, RosterError> {
        let (nodes, clients) = parse::parse(text)?;
        Ok(Self { nodes, clients, hash: sha256(text.as_bytes()) })
    }

    /// The roster in this file.
    ///
    /// # Errors
    /// [`RosterError`].
    pub fn read(path: &Path) -> Result<Self, RosterError> {
        let unreadable = |source| RosterError::Unreadable { path: path.into(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(ROSTER_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = match std::str::from_utf8(&bytes) {
            _ if bytes.len() > ROSTER_BYTES_MAX => return Err(RosterError::TooLarge),
            Ok(text) => text,
            Err(error) => return Err(RosterError::NotText { offset: error.valid_up_to() }),
        };
        Self::parse(text)
    }

    /// The nodes, in the order of the file.
    pub fn nodes(&self) -> &[NodeLine] {
        &self.nodes
    }

    /// The callers that are no nodes, in the order of the file.
    pub fn clients(&self) -> &[ClientLine] {
        &self.clients
    }

    /// SHA-256 of the file's bytes: which roster is in force.
    pub const fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Who calls with this key. A serving pin is nobody: what it proves lies unsealed on a disk.
    pub fn caller(&self, pin: &Pin) -> Option<Caller> {
        let node = self.nodes.iter().find(|node| node.client_pin == *pin);
        let node = node.map(|node| (&node.name, Some(node.identity), &node.roles));
        let client = || self.clients.iter().find(|client| client.pin == *pin);
        let (name, identity, roles) = node.or_else(|| client().map(|found| (&found.name, None, &found.roles)))?;
        Some(Caller { name: name.clone(), identity, roles: roles.clone() })
    }

    /// The node with this identity.
    pub fn node_of(&self, identity: &IdentityKey) -> Option<&NodeLine> {
        self.nodes.iter().find(|node| node.identity == *identity)
    }

    /// The node with this name.
    pub fn node_named(&self, name: &str) -> Option<&NodeLine> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node that holds this member.
    pub fn node_of_member(&self, member: Member) -> Option<&NodeLine> {
        self.nodes.iter().find(|node| node.members.contains(&member))
    }

    /// The members of a key group about which this roster says something else than the group: another node holds the member, or
    /// the member's node is here without it. A node that the roster leaves out contradicts nothing: it is lost or revoked,
    /// nobody can reach it, and the others go on signing.
    pub fn disagreements(&self, seats: &BTreeMap<Member, IdentityKey>) -> Vec<Member> {
        let differs = |member: Member, identity: &IdentityKey| match self.node_of_member(member) {
            Some(node) => node.identity != *identity,
            None => self.node_of(identity).is_some(),
        };
        seats.iter().filter(|(member, identity)| differs(**member, identity)).map(|(member, _)| *member).collect()
    }

    /// The members that no line of this roster gives to exactly that identity. A key that does not exist yet has to have none:
    /// whoever may call a node could otherwise make up members, and fill it with key groups.
    pub fn strangers(&self, seats: &BTreeMap<Member, IdentityKey>) -> Vec<Member> {
        let known = |member: Member, identity: &IdentityKey| {
            self.node_of_member(member).is_some_and(|node| node.identity == *identity)
        };
        seats.iter().filter(|(member, identity)| !known(**member, identity)).map(|(member, _)| *member).collect()
    }
}
