//! The way of a coordinator to its members, over the network.

use super::network::MemberPort;
use crate::coordinator::ask::AttemptAsk;
use crate::coordinator::{Port, PortError, RoundAnswer, SessionReport};
use crate::engine::{CommitRequest, FinalizeRequest, SessionRequest, SignRequest, Subject, VoteRequest};
use crate::ids::Member;
use crate::wire::request::DriveRequest;

impl Port for MemberPort {
    async fn session(&self, member: Member, request: SessionRequest) -> Result<SessionReport, PortError> {
        Ok(self.client(member)?.session(&request).await?)
    }

    async fn commit(&self, member: Member, request: CommitRequest) -> Result<Vec<u8>, PortError> {
        Ok(self.client(member)?.commit(&request).await?.to_vec())
    }

    async fn start_sign_round(&self, member: Member, request: SignRequest) -> Result<RoundAnswer, PortError> {
        Ok(self.client(member)?.start_sign_round(&request).await?.into())
    }

    async fn finalize(&self, member: Member, request: FinalizeRequest) -> Result<Option<Vec<u8>>, PortError> {
        let signature = self.client(member)?.finalize_sign_round(&request).await?;
        Ok(signature.map(|signature| signature.to_vec()))
    }

    async fn abort(&self, member: Member, request: SessionRequest) -> Result<(), PortError> {
        Ok(self.client(member)?.abort_session(&request).await?)
    }

    async fn vote_timeout(&self, member: Member, request: VoteRequest) -> Result<Vec<u8>, PortError> {
        Ok(self.client(member)?.vote_timeout(&request).await?.to_vec())
    }

    async fn drive(
        &self,
        member: Member,
        session: SessionRequest,
        subject: Subject,
        ask: &AttemptAsk,
    ) -> Result<Vec<u8>, PortError> {
        let (context, evidence) = (ask.context.parts(), ask.evidence.clone());
        let request = DriveRequest { session, subject, context, evidence };
        Ok(self.client(member)?.drive(&request).await?.to_vec())
    }
}
