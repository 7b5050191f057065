//! The port of a key generation to the seats of a node in this process.

use crate::ceremony::{NodePort, Peer, PortError};
use crate::engine::{Caller, CeremonyStage, Engine, PreparedReply};
use crate::ids::CeremonyId;
use crate::keygen::{Confirmation, Message, Parameters};
use crate::policy::SigningPolicy;

/// The seats of one engine.
pub(super) struct Seats {
    pub(super) engine: Engine,
    pub(super) caller: Caller,
}

fn bytes(messages: &[Message]) -> Vec<Vec<u8>> {
    messages.iter().map(Message::to_bytes).collect()
}

impl NodePort for Seats {
    async fn preflight(&self, _: &Parameters, _: &SigningPolicy, _: &[Peer]) -> Result<(), PortError> {
        Ok(self.engine.keygen_preflight(&self.caller)?)
    }

    async fn begin(&self, parameters: &Parameters, policy: &SigningPolicy) -> Result<Vec<Vec<u8>>, PortError> {
        Ok(bytes(&self.engine.keygen_begin(&self.caller, parameters.clone(), policy.clone()).await?))
    }

    async fn receive(&self, ceremony: &CeremonyId, message: &[u8]) -> Result<(), PortError> {
        Ok(self.engine.keygen_receive(&self.caller, ceremony, message.to_vec()).await.map(drop)?)
    }

    async fn advance(&self, ceremony: &CeremonyId) -> Result<Vec<Vec<u8>>, PortError> {
        Ok(bytes(&self.engine.keygen_advance(&self.caller, ceremony).await?))
    }

    async fn finish(&self, ceremony: &CeremonyId) -> Result<PreparedReply, PortError> {
        Ok(self.engine.keygen_finish(&self.caller, ceremony).await?)
    }

    async fn certify(&self, certificate: &[u8]) -> Result<Confirmation, PortError> {
        Ok(self.engine.keygen_certify(&self.caller, certificate.to_vec()).await?)
    }

    async fn abandon(&self, ceremony: &CeremonyId) -> Result<(), PortError> {
        Ok(self.engine.keygen_abandon(&self.caller, ceremony)?)
    }

    async fn stage(&self, ceremony: &CeremonyId) -> Result<CeremonyStage, PortError> {
        Ok(self.engine.keygen_stage(&self.caller, ceremony).await?)
    }

    async fn unfinished(&self) -> Result<Vec<CeremonyId>, PortError> {
        Ok(self.engine.keygen_unfinished(&self.caller)?)
    }
}
