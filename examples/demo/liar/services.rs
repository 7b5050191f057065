//! The lying node's side of the network interface.

use std::sync::{Arc, Mutex};

use frostkeep::engine::{CommitRequest, SignRequest};
use frostkeep::ids::CeremonyId;
use frostkeep::keygen::Parameters;
use frostkeep::reasons::Reason;
use frostkeep::wire::{ceremony, request, status, v1};
use tonic::{Request, Response, Status};

use super::member::Member;
use super::{NAME, held};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
pub(super) struct Services(pub(super) Arc<Mutex<Member>>);

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn unknown_session() -> Status {
    status::status(Reason::SessionUnknown, "no such session here")
}

fn named(ceremony_id: &[u8]) -> Result<CeremonyId, Status> {
    ceremony::ceremony(ceremony_id).map_err(malformed)
}

#[tonic::async_trait]
impl v1::signer_server::Signer for Services {
    async fn commit(&self, request: Request<v1::CommitRequest>) -> Answer<v1::CommitReply> {
        let request = CommitRequest::try_from(request.into_inner()).map_err(malformed)?;
        let commitments = held(&self.0).commit(&request.key_group, &request.session)?;
        Ok(Response::new(v1::CommitReply { commitments }))
    }

    async fn start_sign_round(&self, request: Request<v1::StartSignRoundRequest>) -> Answer<v1::StartSignRoundReply> {
        let request = SignRequest::try_from(request.into_inner()).map_err(malformed)?;
        held(&self.0).answer(&request).map(Response::new)
    }

    async fn finalize_sign_round(
        &self,
        _: Request<v1::FinalizeSignRoundRequest>,
    ) -> Answer<v1::FinalizeSignRoundReply> {
        Ok(Response::new(v1::FinalizeSignRoundReply::default()))
    }

    async fn abort_session(&self, _: Request<v1::AbortSessionRequest>) -> Answer<v1::AbortSessionReply> {
        Ok(Response::new(v1::AbortSessionReply {}))
    }

    async fn get_session(&self, _: Request<v1::GetSessionRequest>) -> Answer<v1::GetSessionReply> {
        Err(unknown_session())
    }

    async fn derive_attempt_context(
        &self,
        _: Request<v1::DeriveAttemptContextRequest>,
    ) -> Answer<v1::DeriveAttemptContextReply> {
        Err(Status::unimplemented("not here"))
    }

    async fn verify_signature_share(
        &self,
        _: Request<v1::VerifySignatureShareRequest>,
    ) -> Answer<v1::VerifySignatureShareReply> {
        Err(Status::unimplemented("not here"))
    }

    async fn vote_timeout(&self, _: Request<v1::VoteTimeoutRequest>) -> Answer<v1::VoteTimeoutReply> {
        Err(unknown_session())
    }

    async fn build_taproot_tx(&self, _: Request<v1::BuildTaprootTxRequest>) -> Answer<v1::BuildTaprootTxReply> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl v1::key_generation_server::KeyGeneration for Services {
    async fn preflight(&self, _: Request<v1::PreflightRequest>) -> Answer<v1::PreflightReply> {
        Ok(Response::new(v1::PreflightReply {}))
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Answer<v1::MessagesReply> {
        let v1::BeginRequest { parameters, signing_policy } = request.into_inner();
        let parameters = Parameters::try_from(parameters.ok_or_else(|| malformed("no parameters"))?);
        let messages = held(&self.0).begin(parameters.map_err(malformed)?, signing_policy)?;
        Ok(Response::new(v1::MessagesReply { messages, failure: None }))
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Answer<v1::ReceiveReply> {
        held(&self.0).receive(&request.into_inner().message)?;
        Ok(Response::new(v1::ReceiveReply { failure: None }))
    }

    async fn advance(&self, _: Request<v1::CeremonyRequest>) -> Answer<v1::MessagesReply> {
        let messages = held(&self.0).advance()?;
        Ok(Response::new(v1::MessagesReply { messages, failure: None }))
    }

    async fn finish(&self, _: Request<v1::CeremonyRequest>) -> Answer<v1::FinishReply> {
        held(&self.0).finish().map(Response::new)
    }

    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Answer<v1::CertifyReply> {
        let confirmation = held(&self.0).certify(&request.into_inner().certificate)?;
        Ok(Response::new(v1::CertifyReply { confirmation }))
    }

    async fn abandon(&self, _: Request<v1::CeremonyRequest>) -> Answer<v1::AbandonReply> {
        Ok(Response::new(v1::AbandonReply {}))
    }

    async fn stage(&self, request: Request<v1::CeremonyRequest>) -> Answer<v1::StageReply> {
        let stage = held(&self.0).stage(&named(&request.into_inner().ceremony)?);
        let stage = stage.ok_or_else(|| status::status(Reason::CeremonyUnknown, "no such ceremony here"))?;
        Ok(Response::new((&stage).into()))
    }

    async fn unfinished(&self, _: Request<v1::UnfinishedRequest>) -> Answer<v1::UnfinishedReply> {
        Ok(Response::new(v1::UnfinishedReply { ceremonies: Vec::new() }))
    }
}

#[tonic::async_trait]
impl v1::node_server::Node for Services {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        let identity = held(&self.0).identity();
        // Nobody asks it for its roster or its pin.
        let (serving_pin, roster_hash) = (vec![0; 32], vec![0; 32]);
        let phase = v1::Phase::Open.into();
        let name = NAME.into();
        Ok(Response::new(v1::StatusReply { name, identity, phase, serving_pin, roster_hash, ..Default::default() }))
    }

    async fn list_key_groups(&self, _: Request<v1::ListKeyGroupsRequest>) -> Answer<v1::ListKeyGroupsReply> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_key_group(&self, request: Request<v1::GetKeyGroupRequest>) -> Answer<v1::GetKeyGroupReply> {
        let id = request::key_group(&request.into_inner().key_group).map_err(malformed)?;
        let member = held(&self.0);
        let certificate = member.certificate(&id)?;
        let parameters = certificate.transcript().parameters();
        let key_group = v1::KeyGroup {
            id: id.as_bytes().to_vec(),
            phase: v1::KeyGroupPhase::Active.into(),
            ceremony: parameters.ceremony().as_bytes().to_vec(),
            threshold: parameters.threshold().into(),
            seats: ceremony::seats(parameters.seats()),
            attempt_policy: v1::AttemptPolicy::from(parameters.attempt_policy()).into(),
            signing_policy_hash: parameters.signing_policy().to_vec(),
            roster_agrees: true,
            ..Default::default()
        };
        let certificate = certificate.to_bytes();
        Ok(Response::new(v1::GetKeyGroupReply {
            key_group: Some(key_group),
            certificate,
            signing_policy: member.policy().to_owned(),
        }))
    }
}
