//! Changes of what a node does.

use tonic::{Request, Response, Status};

use super::services::{Services, field, refused, taken};
use crate::engine::{FreezeReport, Refusal};
use crate::ids::{FreezeId, Member};
use crate::limits::FREEZES_PER_THAW_MAX;
use crate::reasons::Reason;
use crate::store::Position;
use crate::wire::status::status;
use crate::wire::v1::admin_server::Admin;
use crate::wire::{ceremony, request, v1};

#[tonic::async_trait]
impl Admin for Services {
    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        // The gate lets nobody but the Unix socket get this far on a node that is not open.
        let report = self.0.node.freeze(&asker.caller, &key_group, &message.reason).await.map_err(refused)?;
        let FreezeReport { freeze, deny_file, .. } = report;
        tracing::warn!(%key_group, %freeze, caller = %asker.caller.name, reason = %message.reason, "frozen");
        let problem = deny_file.err().map(|refusal| refusal.to_string());
        Ok(Response::new(v1::FreezeReply {
            freeze: freeze.as_bytes().to_vec(),
            durable: problem.is_none(),
            problem: problem.unwrap_or_default(),
        }))
    }

    async fn thaw(&self, request: Request<v1::ThawRequest>) -> Result<Response<v1::ThawReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        if message.freezes.len() > FREEZES_PER_THAW_MAX {
            let found = message.freezes.len();
            let problem = format!("{found} freezes named: 1 to {FREEZES_PER_THAW_MAX} are allowed");
            return Err(status(Reason::InvalidRequest, problem));
        }
        let freezes = message.freezes.iter().map(|bytes| freeze_id(bytes)).collect::<Result<Vec<_>, _>>()?;
        let engine = self.0.engine_for(&asker, &key_group)?;
        let left = engine.thaw(&asker.caller, &key_group, &freezes).await.map_err(refused)?;
        let freezes = left.iter().map(|freeze| freeze.as_bytes().to_vec()).collect();
        Ok(Response::new(v1::ThawReply { freezes }))
    }

    async fn set_policy(&self, request: Request<v1::SetPolicyRequest>) -> Result<Response<v1::RecordedReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        let policy = field(ceremony::signing_policy(&message.signing_policy))?;
        let engine = self.0.engine_for(&asker, &key_group)?;
        recorded(engine.set_policy(&asker.caller, &key_group, &policy).await)
    }

    async fn replace_identity(
        &self,
        request: Request<v1::ReplaceIdentityRequest>,
    ) -> Result<Response<v1::RecordedReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        let member = u16::try_from(message.member).ok().and_then(|number| Member::new(number).ok());
        let member = member.ok_or_else(|| {
            let limit = u16::MAX;
            status(Reason::InvalidRequest, format!("member is {}: members are 1 to {limit}", message.member))
        })?;
        let identity = field(ceremony::identity(&message.identity))?;
        // Not gated by the roster: this is what ends a disagreement with it.
        let engine = self.0.engine()?;
        recorded(engine.replace_identity(&asker.caller, &key_group, member, identity).await)
    }

    async fn retire_key_group(
        &self,
        request: Request<v1::RetireKeyGroupRequest>,
    ) -> Result<Response<v1::RecordedReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        let engine = self.0.engine_for(&asker, &key_group)?;
        recorded(engine.retire_key_group(&asker.caller, &key_group).await)
    }

    async fn danger_drop_prepared(
        &self,
        request: Request<v1::DangerDropPreparedRequest>,
    ) -> Result<Response<v1::RecordedReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        let engine = self.0.engine_for(&asker, &key_group)?;
        recorded(engine.danger_drop_prepared(&asker.caller, &key_group).await)
    }

    async fn begin_drill(
        &self,
        request: Request<v1::BeginDrillRequest>,
    ) -> Result<Response<v1::BeginDrillReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.begin_drill(&asker, &message).map(Response::new)
    }

    async fn end_drill(&self, request: Request<v1::EndDrillRequest>) -> Result<Response<v1::EndDrillReply>, Status> {
        let (asker, message) = taken(request)?;
        self.0.end_drill(&asker, &message).map(Response::new)
    }

    async fn reload_roster(
        &self,
        request: Request<v1::ReloadRosterRequest>,
    ) -> Result<Response<v1::ReloadRosterReply>, Status> {
        taken(request)?;
        let reloaded = self.0.reload_roster().await;
        let reloaded = reloaded.map_err(|error| status(Reason::RosterInvalid, error.to_string()))?;
        Ok(Response::new(v1::ReloadRosterReply {
            roster_hash: reloaded.hash.to_vec(),
            nodes: u32::try_from(reloaded.nodes).unwrap_or(u32::MAX),
            clients: u32::try_from(reloaded.clients).unwrap_or(u32::MAX),
            disagreeing: reloaded.disagreeing.iter().map(|id| id.as_bytes().to_vec()).collect(),
        }))
    }
}

fn freeze_id(bytes: &[u8]) -> Result<FreezeId, Status> {
    let id = <[u8; 16]>::try_from(bytes).map(FreezeId::new);
    id.map_err(|_| status(Reason::InvalidRequest, format!("freezes has {} bytes: 16 are needed", bytes.len())))
}

fn recorded(position: Result<Position, Refusal>) -> Result<Response<v1::RecordedReply>, Status> {
    let position = position.map_err(refused)?;
    Ok(Response::new(v1::RecordedReply { position: position.number() }))
}
