//! What a node is and holds, for everybody who may call at all.

use frostkeep_hsm::clock::Millis;
use frostkeep_hsm::health::{Health, Outage, ProviderState};
use tonic::{Request, Response, Status};

use super::counters::CountersView;
use super::services::{Services, field, refused, taken};
use super::shared::Shared;
use crate::engine::{Engine, KeyGroupPhase, KeyGroupView, TallyView};

use crate::limits::BATCH_RECORDS_MAX;
use crate::node::Phase;
use crate::policy::PolicyError;
use crate::reasons::Reason;
use crate::store::{self, Releases, Storage, Strength, TokenStatus};
use crate::wire::drill::drill_message;
use crate::wire::status::status;
use crate::wire::v1::node_server::Node;
use crate::wire::{ceremony, request, v1};

#[tonic::async_trait]
impl Node for Services {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        taken(request)?;
        Ok(Response::new(self.0.status()))
    }

    async fn list_key_groups(
        &self,
        request: Request<v1::ListKeyGroupsRequest>,
    ) -> Result<Response<v1::ListKeyGroupsReply>, Status> {
        taken(request)?;
        let views = self.0.engine()?.key_groups().map_err(refused)?;
        let key_groups = views.iter().map(|view| self.0.key_group(view)).collect::<Result<_, _>>();
        Ok(Response::new(v1::ListKeyGroupsReply { key_groups: key_groups.map_err(unreadable)? }))
    }

    async fn get_key_group(
        &self,
        request: Request<v1::GetKeyGroupRequest>,
    ) -> Result<Response<v1::GetKeyGroupReply>, Status> {
        let (_, message) = taken(request)?;
        let id = field(request::key_group(&message.key_group))?;
        let view = self.0.engine()?.key_group(&id).map_err(refused)?;
        Ok(Response::new(v1::GetKeyGroupReply {
            key_group: Some(self.0.key_group(&view).map_err(unreadable)?),
            certificate: view.certificate.as_ref().map(|certificate| certificate.to_bytes()).unwrap_or_default(),
            signing_policy: ceremony::policy_json(&view.policy),
        }))
    }
}

/// A policy that was valid when it was recorded has a hash.
fn unreadable(error: PolicyError) -> Status {
    status(Reason::Internal, format!("a recorded policy: {error}"))
}

impl Shared {
    fn status(&self) -> v1::StatusReply {
        let now = self.clock.now();
        let mut reply = v1::StatusReply {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            serving_pin: self.serving_pin.as_bytes().to_vec(),
            roster_hash: self.rosters.current().hash().to_vec(),
            coordination: self.coordination,
            ..Default::default()
        };
        let seen = self.counters.view();
        let mut tally = TallyView { rounds_fresh: 0, rounds_replayed: 0, refused: Vec::new() };
        let mut records = store::Counters::default();
        match self.node.phase() {
            Phase::Opening => reply.phase = v1::Phase::Opening.into(),
            Phase::Sealed { error, health } => {
                reply.phase = v1::Phase::Sealed.into();
                reply.reason = error.reason().name().to_owned();
                reply.problem = error.to_string();
                reply.provider = Some(provider(&health, &[], now));
            }
            Phase::Failed(error) => {
                reply.phase = v1::Phase::Failed.into();
                reply.reason = error.reason().name().to_owned();
                reply.problem = error.to_string();
            }
            Phase::Open(engine) => {
                reply.phase = v1::Phase::Open.into();
                self.describe(&engine, now, &mut reply);
                (tally, records) = (engine.tally(), engine.status().counters);
            }
        }
        if reply.storage.is_none() {
            reply.storage = Some(v1::Storage { state: "unknown".to_owned(), ..Default::default() });
        }
        if let (Some(provider), Some(drills)) = (&mut reply.provider, &self.drills) {
            provider.drill = drills.on().map(|drill| drill_message(&drill, now));
            provider.outages_drilled = drills.outages();
            let times = drills.times();
            (provider.call_ms, provider.health_interval_ms) = (times.deadlines.call_ms, times.health_interval_ms);
        }
        reply.counters = Some(counters(&tally, &records, &seen));
        reply.connections = Some(connections(&seen));
        reply
    }

    fn describe(&self, engine: &Engine, now: Millis, reply: &mut v1::StatusReply) {
        let status = engine.status();
        // Both are there as soon as the first record of a new state is durable.
        reply.identity = engine.node_identity().map(|identity| identity.as_bytes().to_vec()).unwrap_or_default();
        reply.client_pin = self.client_key(engine).map(|key| key.pin().as_bytes().to_vec()).unwrap_or_default();
        reply.ready = self.is_ready();
        reply.provider = Some(provider(&status.health, &status.tokens, now));
        let (state, detail) = match &status.storage {
            Storage::Writable => ("writable", String::new()),
            Storage::DiskFull { free_bytes, reserve_bytes, .. } => {
                ("disk_full", format!("{free_bytes} bytes free, {reserve_bytes} are kept free"))
            }
            Storage::Failed { detail } => ("storage_failed", detail.to_string()),
        };
        let (state, releases) = match status.releases {
            Releases::Allowed => (state, "allowed"),
            Releases::AwaitingOpeningAnchor => (state, "awaiting_opening_anchor"),
            Releases::FencedByAnchor => (state, "fenced"),
            Releases::Closed => ("closed", "closed"),
        };
        reply.storage = Some(v1::Storage { state: state.to_owned(), detail, releases: releases.to_owned() });
        // What a clone could release before it is found.
        let (strength, window_records) = match status.anchor.strength {
            Strength::Strict => ("strict", Some(BATCH_RECORDS_MAX as u64)),
            Strength::Every(records) => ("every", Some(records)),
            Strength::Off => ("off", None),
        };
        reply.anchor = Some(v1::Anchor { strength: strength.to_owned(), window_records });
        reply.epoch = status.epoch;
        reply.durable_position = status.durable.number();
    }

    /// Whether the node would take fresh work now.
    pub(super) fn is_ready(&self) -> bool {
        let open = matches!(self.node.phase(), Phase::Open(engine) if engine.status().admits_work());
        open && !self.is_stopping()
    }

    fn key_group(&self, view: &KeyGroupView) -> Result<v1::KeyGroup, PolicyError> {
        let phase = match view.phase {
            KeyGroupPhase::Prepared => v1::KeyGroupPhase::Prepared,
            KeyGroupPhase::Active => v1::KeyGroupPhase::Active,
            KeyGroupPhase::Retired => v1::KeyGroupPhase::Retired,
        };
        Ok(v1::KeyGroup {
            id: view.id.as_bytes().to_vec(),
            phase: phase.into(),
            ceremony: view.ceremony.as_bytes().to_vec(),
            threshold: view.threshold.into(),
            seats: ceremony::seats(&view.seats),
            local_members: view.local_members.iter().map(|member| member.number().into()).collect(),
            attempt_policy: v1::AttemptPolicy::from(view.attempt_policy).into(),
            signing_policy_hash: view.policy.hash()?.to_vec(),
            freezes: view.freezes.iter().map(|freeze| freeze.as_bytes().to_vec()).collect(),
            frozen: view.frozen,
            sessions: view.sessions as u64,
            roster_agrees: self.rosters.current().disagreements(&view.seats).is_empty(),
        })
    }
}

fn provider(health: &Health, tokens: &[TokenStatus], now: Millis) -> v1::Provider {
    v1::Provider {
        state: state(health.state).to_owned(),
        outage: health.outage.as_ref().map(|outage| told(outage, now)),
        calls: health.calls,
        outages: health.outages,
        agents_started: health.agents_started,
        drill: None,
        outages_drilled: 0,
        tokens: tokens.iter().map(|token| one_token(token, now)).collect(),
        call_ms: 0,
        health_interval_ms: 0,
    }
}

fn one_token(token: &TokenStatus, now: Millis) -> v1::TokenStatus {
    v1::TokenStatus {
        name: token.health.name.clone(),
        state: state(token.health.state).to_owned(),
        outage: token.health.outage.as_ref().map(|outage| told(outage, now)),
        current: token.current,
    }
}

const fn state(state: ProviderState) -> &'static str {
    match state {
        ProviderState::Starting => "starting",
        ProviderState::Ready => "ready",
        ProviderState::Suspect => "suspect",
        ProviderState::Out => "out",
        ProviderState::Probing => "probing",
        ProviderState::Fenced => "fenced",
    }
}

fn told(outage: &Outage, now: Millis) -> v1::Outage {
    v1::Outage {
        class: outage.class.name().to_owned(),
        detail: outage.detail.clone(),
        token: outage.token.clone(),
        since_unix: outage.since_unix,
        lasted_ms: now.since(outage.since),
        next_try_ms: outage.next_try.map(|next_try| next_try.since(now)),
    }
}

/// What the engine refused, and what did not get as far as the engine.
fn counters(tally: &TallyView, records: &store::Counters, seen: &CountersView) -> v1::Counters {
    let refused = Reason::ALL.iter().filter_map(|reason| {
        let by_engine = tally.refused.iter().filter(|(known, _)| known == reason);
        let by_gate = seen.calls_refused.iter().filter(|(known, _)| known == reason);
        let count = by_engine.chain(by_gate).map(|(_, count)| count).sum();
        (count > 0).then(|| v1::RefusalCount { reason: reason.name().to_owned(), count })
    });
    v1::Counters {
        rounds_fresh: tally.rounds_fresh,
        rounds_replayed: tally.rounds_replayed,
        refused: refused.collect(),
        records: records.records,
        seals: records.seals,
    }
}

fn connections(seen: &CountersView) -> v1::Connections {
    let refused = seen.refused.iter();
    let refused = refused.map(|(cause, count)| v1::RefusalCount { reason: cause.name().to_owned(), count: *count });
    v1::Connections { open: seen.open, accepted: seen.accepted, refused: refused.collect() }
}
