//! All nodes of a roster, each by a client of its own under one TLS key.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::channel::Endpoint;
use super::error::ClientError;
use super::node::Client;
use super::patience::Patience;
use crate::ceremony;
use crate::identity::IdentityKey;
use crate::ids::Member;
use crate::roster::{NodeLine, Roster};
use crate::tls::TlsKey;

/// A node of the roster, and the way to it.
#[derive(Debug, Clone)]
pub struct NodeClient {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub identity: IdentityKey,
    /// Its seats, as the roster has them.
    pub members: Vec<Member>,
    /// The way to it.
    pub client: Client,
}

/// All nodes of a roster. Nothing is connected before it is needed.
#[derive(Debug, Clone)]
pub struct Network {
    roster: Arc<Roster>,
    nodes: Vec<NodeClient>,
}

impl Network {
    /// The nodes of `roster`, called with `key`. Must be called on a runtime.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when no TLS configuration can be made of the key.
    pub fn new(roster: Arc<Roster>, key: &Arc<TlsKey>) -> Result<Self, ClientError> {
        let node = |line: &NodeLine| {
            let endpoint = Endpoint::Tls { address: line.address.clone(), key: Arc::clone(key), pin: line.serving_pin };
            Ok(NodeClient {
                name: line.name.clone(),
                identity: line.identity,
                members: line.members.clone(),
                client: Client::connect(&endpoint)?,
            })
        };
        let nodes = roster.nodes().iter().map(node).collect::<Result<_, ClientError>>()?;
        Ok(Self { roster, nodes })
    }

    /// The roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The nodes, in the order of the roster.
    pub fn nodes(&self) -> &[NodeClient] {
        &self.nodes
    }

    /// The node with this name.
    pub fn node_named(&self, name: &str) -> Option<&NodeClient> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node with this identity.
    pub fn node_of(&self, identity: &IdentityKey) -> Option<&NodeClient> {
        self.nodes.iter().find(|node| node.identity == *identity)
    }

    /// The way to the members of a key group, whose seats these are: the certificate's, with the identities that have been
    /// replaced since. A member whose identity no line of the roster has is unreachable, by name.
    pub fn port(&self, seats: &BTreeMap<Member, IdentityKey>) -> MemberPort {
        let way = |identity: &IdentityKey| match self.node_of(identity) {
            Some(node) => Ok(node.client.with(Patience::once())),
            None => Err(format!("no node of the roster has the identity {identity}")),
        };
        MemberPort { members: seats.iter().map(|(member, identity)| (*member, way(identity))).collect() }
    }

    /// The nodes that hold seats, for a driver of key generation.
    pub fn ceremony_nodes(&self) -> Vec<ceremony::Node<NodeClient>> {
        let holders = self.nodes.iter().filter(|node| !node.members.is_empty());
        let node = |node: &NodeClient| {
            let client = node.client.with(Patience::once());
            let (name, identity) = (node.name.clone(), node.identity);
            ceremony::Node { name, identity, port: NodeClient { client, ..node.clone() } }
        };
        holders.map(node).collect()
    }
}

/// The way to the members of one key group, for a coordinator. It asks once; the coordinator's driver asks again.
#[derive(Debug, Clone)]
pub struct MemberPort {
    members: BTreeMap<Member, Result<Client, String>>,
}

impl MemberPort {
    pub(super) fn client(&self, member: Member) -> Result<&Client, ClientError> {
        match self.members.get(&member) {
            Some(Ok(client)) => Ok(client),
            Some(Err(problem)) => Err(ClientError::Unreachable(problem.clone())),
            None => Err(ClientError::Unreachable(format!("member {member} has no seat in this key group"))),
        }
    }
}
