//! What is drilled: a node, and the members whose commitments its rounds need.

use std::collections::BTreeMap;
use std::future::Future;

use frostkeep_hsm::drill::{MARK, Times};

use crate::client::{ClientError, DrillBegun, DrillOrder, DrillView, ServedRound};
use crate::engine::{CommitRequest, SessionRequest, SignRequest};
use crate::frost::{Commitments, GroupKey};
use crate::identity::IdentityKey;
use crate::ids::{DrillId, FreezeId, KeyGroupId, Member};

/// The key group that rounds are asked of, and the member of the node that answers them.
#[derive(Clone)]
pub struct Seat {
    /// The key group.
    pub group: GroupKey,
    /// Who holds which seat.
    pub identities: BTreeMap<Member, IdentityKey>,
    /// The member, a seat of the node that is drilled.
    pub member: Member,
}

impl Seat {
    /// The key group's id.
    pub fn key_group(&self) -> KeyGroupId {
        self.group.id()
    }
}

/// An outage as the node tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenOutage {
    /// Its class.
    pub class: String,
    /// What was seen last.
    pub detail: String,
}

impl SeenOutage {
    /// Whether a drill plays it.
    pub fn is_drilled(&self) -> bool {
        self.detail.starts_with(MARK)
    }
}

/// One of the node's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenToken {
    /// Its configured name.
    pub name: String,
    /// State of its outage machine.
    pub state: String,
    /// Its outage, if there is one.
    pub outage: Option<SeenOutage>,
}

impl SeenToken {
    /// Whether it would answer.
    pub fn is_there(&self) -> bool {
        matches!(self.state.as_str(), "ready" | "suspect")
    }

    /// What is wrong with it, with its name.
    pub fn trouble(&self) -> String {
        let Self { name, state, outage } = self;
        match outage {
            Some(SeenOutage { class, detail }) => format!("token {name}: {class}: {detail}"),
            None => format!("token {name}: {state}"),
        }
    }
}

/// Counters of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rounds that were computed for the caller that got them.
    pub rounds_fresh: u64,
    /// Rounds that were served from memory.
    pub rounds_replayed: u64,
    /// Refusals by reason.
    pub refused: BTreeMap<String, u64>,
    /// Batches sealed by the token.
    pub seals: u64,
    /// Token agents started.
    pub agents_started: u64,
    /// Outages begun.
    pub outages: u64,
    /// How many of them drills began.
    pub outages_drilled: u64,
}

/// The node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether it would take fresh work.
    pub ready: bool,
    /// State of the key provider.
    pub state: String,
    /// The outage, if there is one.
    pub outage: Option<SeenOutage>,
    /// Each of its tokens: those that are away while others serve are in no outage of the node's.
    pub tokens: Vec<SeenToken>,
    /// The times of its tokens that say how long a drill has to last; none where the node does not tell.
    pub times: Option<Times>,
    /// The drill that is on.
    pub drill: Option<DrillView>,
    /// Its counters.
    pub counts: Counts,
}

impl Seen {
    /// Whether it would take fresh work, and each of its tokens is there.
    pub fn is_whole(&self) -> bool {
        self.ready && self.tokens.iter().all(SeenToken::is_there)
    }

    /// The outages that no drill plays. The detail of the node's own begins as that of its first token does, with the others behind.
    pub fn real_outages(&self) -> Vec<String> {
        let real = |outage: &SeenOutage| !outage.is_drilled();
        let of_tokens = self.tokens.iter().filter(|token| token.outage.as_ref().is_some_and(real));
        let mut told: Vec<String> = of_tokens.map(SeenToken::trouble).collect();
        if let Some(outage) = self.outage.as_ref().filter(|outage| told.is_empty() && real(outage)) {
            told.push(format!("{}: {}", outage.class, outage.detail));
        }
        told
    }

    /// The classes of the outages that a drill plays, at any of its tokens.
    pub fn drilled_classes(&self) -> impl Iterator<Item = &str> {
        let of_tokens = self.tokens.iter().filter_map(|token| token.outage.as_ref());
        self.outage.iter().chain(of_tokens).filter(|outage| outage.is_drilled()).map(|outage| outage.class.as_str())
    }
}

/// Whether a key group is frozen, and by what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freezes {
    /// Whether it is frozen.
    pub frozen: bool,
    /// The freezes in force.
    pub freezes: Vec<FreezeId>,
}

/// A node that is drilled. Every call ends, with an answer or without.
///
/// # Errors
/// Each call fails with [`ClientError`].
pub trait Stand: Send + Sync + 'static {
    /// How the node is now.
    fn look(&self) -> impl Future<Output = Result<Seen, ClientError>> + Send;

    /// Begins a drill.
    fn begin(&self, order: &DrillOrder) -> impl Future<Output = Result<DrillBegun, ClientError>> + Send;

    /// Ends the drill, if it is on.
    fn end(&self, drill: &DrillId) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// The freezes of a key group.
    fn freezes(&self, key_group: &KeyGroupId) -> impl Future<Output = Result<Freezes, ClientError>> + Send;

    /// Commitments of a member, from its node.
    fn commit(&self, request: &CommitRequest) -> impl Future<Output = Result<Commitments, ClientError>> + Send;

    /// A round of the drilled node's member.
    fn round(&self, request: &SignRequest) -> impl Future<Output = Result<ServedRound, ClientError>> + Send;

    /// Ends the session on the node of a member.
    fn abort(&self, member: Member, request: &SessionRequest) -> impl Future<Output = Result<(), ClientError>> + Send;
}
