//! Signing. Replies that carry a share are made inside the engine's hand-over; nothing awaits between it and the return (I8).

use tonic::{Request, Response, Status};

use super::services::{Services, aside, field, read, refused, taken, unread};
use crate::bitcoin::OutputKeys;
use crate::engine::{
    CommitRequest, Engine, FinalizeRequest, Refusal, RoundReply, SessionRequest, SessionView, SignRequest, VoteRequest,
};
use crate::ids::{KeyGroupId, MerkleRoot};
use crate::roast::AttemptBinding;
use crate::wire::request::{self, DeriveRequest, VerifyRequest};
use crate::wire::v1;
use crate::wire::v1::signer_server::Signer;

#[tonic::async_trait]
impl Signer for Services {
    async fn derive_attempt_context(
        &self,
        request: Request<v1::DeriveAttemptContextRequest>,
    ) -> Result<Response<v1::DeriveAttemptContextReply>, Status> {
        let (_, message) = taken(request)?;
        let asked: DeriveRequest = read(message)?;
        let binding = AttemptBinding {
            key_group: &asked.key_group,
            session: &asked.session,
            message: &asked.message,
            threshold: asked.threshold,
        };
        let derived = Engine::derive_attempt_context(&binding, asked.number, &asked.included).map_err(unread)?;
        Ok(Response::new((&derived).into()))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: CommitRequest = read(message)?;
        self.0.note_traffic(Some(&asked.session));
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        let commitments = engine.commit(&asker.caller, &asked).map_err(refused)?;
        Ok(Response::new(v1::CommitReply { commitments: commitments.as_bytes().to_vec() }))
    }

    async fn start_sign_round(
        &self,
        request: Request<v1::StartSignRoundRequest>,
    ) -> Result<Response<v1::StartSignRoundReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: SignRequest = read(message)?;
        self.0.note_traffic(Some(&asked.session));
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        let encode = |reply: &RoundReply| Response::new(reply.into());
        engine.start_sign_round(&asker.caller, &asked, encode).await.map_err(refused)
    }

    async fn finalize_sign_round(
        &self,
        request: Request<v1::FinalizeSignRoundRequest>,
    ) -> Result<Response<v1::FinalizeSignRoundReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: FinalizeRequest = read(message)?;
        self.0.note_traffic(Some(&asked.session));
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        let finalized = engine.finalize_sign_round(&asker.caller, &asked).await.map_err(refused)?;
        Ok(Response::new(finalized.as_ref().into()))
    }

    async fn abort_session(
        &self,
        request: Request<v1::AbortSessionRequest>,
    ) -> Result<Response<v1::AbortSessionReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: SessionRequest = read(message)?;
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        engine.abort_session(&asker.caller, &asked).await.map_err(refused)?;
        Ok(Response::new(v1::AbortSessionReply {}))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::GetSessionReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: SessionRequest = read(message)?;
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        let encode = |view: &SessionView| Response::new(view.into());
        engine.session(&asker.caller, &asked, encode).map_err(refused)
    }

    async fn verify_signature_share(
        &self,
        request: Request<v1::VerifySignatureShareRequest>,
    ) -> Result<Response<v1::VerifySignatureShareReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: VerifyRequest = read(message)?;
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        let verdict = aside(move || {
            let VerifyRequest { session, key_group, subject, round } = &asked;
            engine.verify_signature_share(&asker.caller, key_group, session, subject, round).map_err(refused)
        })
        .await?;
        Ok(Response::new(v1::VerifySignatureShareReply { verdict: v1::ShareVerdict::from(verdict).into() }))
    }

    async fn vote_timeout(
        &self,
        request: Request<v1::VoteTimeoutRequest>,
    ) -> Result<Response<v1::VoteTimeoutReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: VoteRequest = read(message)?;
        self.0.note_traffic(Some(&asked.session));
        let engine = self.0.engine_for(&asker, &asked.key_group)?;
        let vote = engine.vote_timeout(&asker.caller, &asked).await.map_err(refused)?;
        Ok(Response::new(v1::VoteTimeoutReply { vote: Some((&vote).into()) }))
    }

    async fn build_taproot_tx(
        &self,
        request: Request<v1::BuildTaprootTxRequest>,
    ) -> Result<Response<v1::BuildTaprootTxReply>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        self.0.note_traffic(None);
        let engine = self.0.engine_for(&asker, &key_group)?;
        // A PSBT brings its previous transactions along: megabytes to parse.
        let of = engine.clone();
        let read = move || request::build_request(message, |id, roots| output_keys(&of, id, roots)).map_err(refused);
        let asked = aside(read).await?;
        let approval = engine.build_taproot_tx(&asker.caller, &asked).await.map_err(refused)?;
        Ok(Response::new((&approval).into()))
    }
}

/// The output keys of a key group under these roots, and under none.
fn output_keys(engine: &Engine, key_group: &KeyGroupId, roots: &[MerkleRoot]) -> Result<OutputKeys, Refusal> {
    let certificate = engine.key_group(key_group)?.certificate.ok_or(Refusal::KeyGroupPrepared(*key_group))?;
    let group = certificate.group();
    Ok(std::iter::once(None).chain(roots.iter().map(Some)).map(|root| group.output_key(root)).collect())
}
