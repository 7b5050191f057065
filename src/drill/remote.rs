//! A running node: over the network with the roles of the command line, or over its Unix socket, which asks for no rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use frostkeep_hsm::config::Deadlines;
use frostkeep_hsm::drill::Times;
use tokio::time::timeout;

use super::report::Drilled;
use super::stand::{Counts, Freezes, Seat, Seen, SeenOutage, SeenToken, Stand};
use crate::client::view::{GroupPhase, KeyGroupInfo, NodeStatus};
use crate::client::{Client, ClientError, DrillBegun, DrillOrder, Network, Patience, ServedRound};
use crate::engine::{CommitRequest, SessionRequest, SignRequest};
use crate::frost::Commitments;
use crate::ids::{AttemptPolicy, DrillId, KeyGroupId, Member};
use crate::limits::REPLY_WAIT_MS_MAX;
use crate::wire::v1;

/// The longest that an answer is waited for which needs no disk, milliseconds.
const ANSWER_MS_MAX: u64 = 6_000;

/// Why a drill asks for no rounds.
pub type NoRounds = String;

/// A running node.
pub struct Remote {
    client: Client,
    members: BTreeMap<Member, Client>,
}

impl Remote {
    /// The node behind `client`. Rounds need the way to the members' nodes: `network`.
    pub fn new(client: &Client, network: Option<&Network>, seat: Option<&Seat>) -> Self {
        let client = client.with(Patience::once());
        let mut members = BTreeMap::new();
        if let (Some(network), Some(seat)) = (network, seat) {
            for (member, identity) in &seat.identities {
                if let Some(node) = network.node_of(identity) {
                    members.insert(*member, node.client.with(Patience::once()));
                }
            }
            members.insert(seat.member, client.clone());
        }
        Self { client, members }
    }

    /// What a report says of the node.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe(&self, name: &str) -> Result<Drilled, ClientError> {
        let status = within(ANSWER_MS_MAX, self.client.status()).await?;
        let named = if status.message.name.is_empty() { name.to_owned() } else { status.message.name.clone() };
        Ok(Drilled {
            mode: "running node",
            node: named,
            version: status.message.version.clone(),
            identity: status.identity.map(|identity| identity.to_string()),
            key_group: None,
            member: None,
            no_rounds: None,
            danger_live_traffic: false,
        })
    }

    /// The key group whose rounds are asked for: the one that is named, or the first that can be. Or why there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn choose(
        client: &Client,
        named: Option<&KeyGroupId>,
    ) -> Result<Result<KeyGroupInfo, NoRounds>, ClientError> {
        let client = client.with(Patience::once());
        let groups = within(ANSWER_MS_MAX, client.key_groups()).await?;
        let candidates = groups.into_iter().filter(|group| named.is_none_or(|id| *id == group.id));
        let mut why = match named {
            Some(id) => format!("the node does not hold key group {id}"),
            None => "the node holds no key group".to_owned(),
        };
        for group in candidates {
            match unusable(&group) {
                None => return Ok(Ok(group)),
                Some(problem) => why = format!("key group {}: {problem}", group.id),
            }
        }
        Ok(Err(why))
    }
}

/// Why no rounds of a key group are asked for.
fn unusable(group: &KeyGroupInfo) -> Option<&'static str> {
    if group.phase != GroupPhase::Active {
        return Some("it is not active");
    }
    if group.local_members.is_empty() {
        return Some("the node has no member of it");
    }
    if group.frozen {
        return Some("it is frozen");
    }
    if !group.roster_agrees {
        return Some("the node's roster contradicts its seats");
    }
    if group.attempt_policy == AttemptPolicy::Evidence {
        return Some("under the attempt policy evidence the node of the selected member alone may ask");
    }
    None
}

async fn within<T>(limit_ms: u64, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let late = |_| Err(ClientError::Unreachable(format!("no answer within {limit_ms} ms")));
    timeout(Duration::from_millis(limit_ms), call).await.unwrap_or_else(late)
}

impl Stand for Remote {
    async fn look(&self) -> Result<Seen, ClientError> {
        within(ANSWER_MS_MAX, self.client.status()).await.map(seen)
    }

    async fn begin(&self, order: &DrillOrder) -> Result<DrillBegun, ClientError> {
        within(ANSWER_MS_MAX, self.client.begin_drill(order)).await
    }

    async fn end(&self, drill: &DrillId) -> Result<(), ClientError> {
        within(ANSWER_MS_MAX, self.client.end_drill(Some(drill))).await.map(drop)
    }

    async fn freezes(&self, key_group: &KeyGroupId) -> Result<Freezes, ClientError> {
        let info = within(ANSWER_MS_MAX, self.client.key_group(key_group)).await?.info;
        Ok(Freezes { frozen: info.frozen, freezes: info.freezes })
    }

    async fn commit(&self, request: &CommitRequest) -> Result<Commitments, ClientError> {
        let client = self.client_of(request.member)?;
        let bytes = within(ANSWER_MS_MAX, client.commit(request)).await?;
        Commitments::from_bytes(&bytes).map_err(|error| ClientError::Nonsense(error.to_string()))
    }

    async fn round(&self, request: &SignRequest) -> Result<ServedRound, ClientError> {
        // A node waits this long for its disk before it says so.
        within(REPLY_WAIT_MS_MAX + ANSWER_MS_MAX, self.client.start_sign_round(request)).await
    }

    async fn abort(&self, member: Member, request: &SessionRequest) -> Result<(), ClientError> {
        within(REPLY_WAIT_MS_MAX + ANSWER_MS_MAX, self.client_of(member)?.abort_session(request)).await
    }
}

impl Remote {
    fn client_of(&self, member: Member) -> Result<&Client, ClientError> {
        let unknown = || ClientError::Unreachable("no node of the roster has its identity".into());
        self.members.get(&member).ok_or_else(unknown)
    }
}

fn seen(status: NodeStatus) -> Seen {
    let provider = status.message.provider.unwrap_or_default();
    let counters = status.message.counters.unwrap_or_default();
    let refused = |counts: Vec<v1::RefusalCount>| counts.into_iter().map(|one| (one.reason, one.count)).collect();
    let times = (provider.call_ms > 0).then(|| Times {
        deadlines: Deadlines { call_ms: provider.call_ms, ..Deadlines::default() },
        health_interval_ms: provider.health_interval_ms,
        backoff_ms_max: 0,
    });
    let outage = |outage: v1::Outage| SeenOutage { class: outage.class, detail: outage.detail };
    let token =
        |token: v1::TokenStatus| SeenToken { name: token.name, state: token.state, outage: token.outage.map(outage) };
    Seen {
        ready: status.message.ready,
        state: provider.state,
        outage: provider.outage.map(outage),
        tokens: provider.tokens.into_iter().map(token).collect(),
        times,
        drill: status.drill,
        counts: Counts {
            rounds_fresh: counters.rounds_fresh,
            rounds_replayed: counters.rounds_replayed,
            refused: refused(counters.refused),
            seals: counters.seals,
            agents_started: provider.agents_started,
            outages: provider.outages,
            outages_drilled: provider.outages_drilled,
        },
    }
}
