//! What the lying node knows: its identity, the ceremony under way, its share, its nonces.

use std::collections::BTreeMap;
use std::sync::Arc;

use frostkeep::engine::{CeremonyStage, SignRequest};
use frostkeep::frost::{self, Commitments, KeyShare, Nonces};
use frostkeep::hsm::entropy;
use frostkeep::identity::NodeIdentity;
use frostkeep::ids::{self, CeremonyId, KeyGroupId, SessionId};
use frostkeep::keygen::{self, AwaitingRoundOne, AwaitingRoundTwo, Certificate, Confirmation, Parameters, Prepared};
use frostkeep::roast::{AttemptBinding, AttemptContext, RoundBinding, round_signature_message};
use frostkeep::wire::v1;
use tonic::Status;

use crate::Failed;

/// Where its ceremony stands.
enum Stage {
    None,
    One(AwaitingRoundOne, Vec<Vec<u8>>),
    Two(AwaitingRoundTwo, Vec<Vec<u8>>),
    Prepared(Box<Prepared>),
    Active(Box<Active>),
}

struct Active {
    certificate: Certificate,
    share: KeyShare,
}

pub(super) struct Member {
    identity: Arc<NodeIdentity>,
    stage: Stage,
    /// The signing policy of its key group, JSON.
    policy: String,
    nonces: BTreeMap<SessionId, (Nonces, Commitments)>,
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::failed_precondition(error.to_string())
}

fn bytes(messages: &[keygen::Message]) -> Vec<Vec<u8>> {
    messages.iter().map(keygen::Message::to_bytes).collect()
}

impl Member {
    pub(super) fn new(identity: Arc<NodeIdentity>) -> Self {
        Self { identity, stage: Stage::None, policy: String::new(), nonces: BTreeMap::new() }
    }

    pub(super) fn identity(&self) -> Vec<u8> {
        self.identity.public().as_bytes().to_vec()
    }

    pub(super) fn policy(&self) -> &str {
        &self.policy
    }

    pub(super) fn begin(&mut self, parameters: Parameters, policy: String) -> Result<Vec<Vec<u8>>, Status> {
        if let Stage::One(stage, said) = &self.stage
            && stage.ceremony() == parameters.ceremony()
        {
            return Ok(said.clone());
        }
        let (stage, said) =
            keygen::begin(parameters, Arc::clone(&self.identity), &mut entropy::os()).map_err(refused)?;
        let said = bytes(&said);
        (self.stage, self.policy) = (Stage::One(stage, said.clone()), policy);
        Ok(said)
    }

    pub(super) fn receive(&mut self, message: &[u8]) -> Result<(), Status> {
        match &mut self.stage {
            Stage::One(stage, _) => stage.receive(message).map(|_| ()).map_err(refused),
            Stage::Two(stage, _) => stage.receive(message).map(|_| ()).map_err(refused),
            _ => Err(refused("no ceremony awaits a message")),
        }
    }

    pub(super) fn advance(&mut self) -> Result<Vec<Vec<u8>>, Status> {
        match std::mem::replace(&mut self.stage, Stage::None) {
            Stage::One(stage, _) => {
                let (stage, said) = stage.advance(&mut entropy::os()).map_err(refused)?;
                let said = bytes(&said);
                self.stage = Stage::Two(stage, said.clone());
                Ok(said)
            }
            Stage::Two(stage, said) => {
                let again = said.clone();
                self.stage = Stage::Two(stage, said);
                Ok(again)
            }
            other => {
                self.stage = other;
                Err(refused("no ceremony is in round one"))
            }
        }
    }

    pub(super) fn finish(&mut self) -> Result<v1::FinishReply, Status> {
        if let Stage::Two(..) = &self.stage
            && let Stage::Two(stage, _) = std::mem::replace(&mut self.stage, Stage::None)
        {
            self.stage = Stage::Prepared(Box::new(stage.finish().map_err(refused)?));
        }
        let Stage::Prepared(prepared) = &self.stage else { return Err(refused("no ceremony is in round two")) };
        Ok(v1::FinishReply {
            transcript: prepared.transcript().to_bytes(),
            statement: prepared.statement().to_bytes(),
            failure: None,
        })
    }

    pub(super) fn certify(&mut self, certificate: &[u8]) -> Result<Vec<u8>, Status> {
        let certificate = Certificate::from_bytes(certificate).map_err(refused)?;
        if let Stage::Prepared(_) = &self.stage
            && let Stage::Prepared(prepared) = std::mem::replace(&mut self.stage, Stage::None)
        {
            let shares = prepared.activate(&certificate).map_err(|(_, error)| refused(error))?;
            let share = shares.into_iter().next().ok_or_else(|| refused("no seat"))?;
            self.stage = Stage::Active(Box::new(Active { certificate: certificate.clone(), share }));
        }
        Ok(Confirmation::sign(&certificate, &self.identity).to_bytes())
    }

    pub(super) fn stage(&self, ceremony: &CeremonyId) -> Option<CeremonyStage> {
        match &self.stage {
            Stage::One(stage, _) if stage.ceremony() == *ceremony => {
                Some(CeremonyStage::RoundOne { missing: stage.missing() })
            }
            Stage::Two(stage, _) if stage.ceremony() == *ceremony => {
                Some(CeremonyStage::RoundTwo { missing: stage.missing() })
            }
            Stage::Prepared(prepared) if prepared.ceremony() == *ceremony => Some(CeremonyStage::Prepared),
            Stage::Active(active) if active.certificate.ceremony() == *ceremony => Some(CeremonyStage::Active),
            _ => None,
        }
    }

    fn active(&self, key_group: &KeyGroupId) -> Result<&Active, Status> {
        match &self.stage {
            Stage::Active(active) if active.share.key_group() == *key_group => Ok(active),
            _ => Err(Status::not_found("no such key group")),
        }
    }

    pub(super) fn certificate(&self, key_group: &KeyGroupId) -> Result<&Certificate, Status> {
        self.active(key_group).map(|active| &active.certificate)
    }

    pub(super) fn commit(&mut self, key_group: &KeyGroupId, session: &SessionId) -> Result<Vec<u8>, Status> {
        let made = match self.nonces.get(session) {
            Some((_, commitments)) => return Ok(commitments.as_bytes().to_vec()),
            None => frost::commit(&self.active(key_group)?.share, &mut entropy::os()),
        };
        let commitments = made.1.as_bytes().to_vec();
        self.nonces.insert(session.clone(), made);
        Ok(commitments)
    }

    /// The lie: the right share with a bit flipped, and its signature that this is its answer.
    pub(super) fn answer(&mut self, request: &SignRequest) -> Result<v1::StartSignRoundReply, Status> {
        let (nonces, _) = self.nonces.remove(&request.session).ok_or_else(|| refused("no commitments"))?;
        let active = self.active(&request.key_group)?;
        let round = self.lie(active, request, nonces).map_err(refused)?;
        let next = self.commit(&request.key_group, &request.session)?;
        Ok(v1::StartSignRoundReply { round: Some(round), durable: true, next_commitments: next })
    }

    fn lie(&self, active: &Active, request: &SignRequest, nonces: Nonces) -> Result<v1::Round, Failed> {
        let group = active.certificate.group();
        let binding = AttemptBinding {
            key_group: &request.key_group,
            session: &request.session,
            message: &request.subject.message,
            threshold: group.threshold(),
        };
        let attempt = AttemptContext::parse(&binding, &request.context)?;
        let root = request.subject.root.as_ref();
        let mut share = frost::sign(nonces, &active.share, group, &request.package, root)?.to_bytes();
        if let Some(byte) = share.last_mut() {
            *byte ^= 1;
        }
        let member: ids::Member = request.member;
        let round = RoundBinding {
            key_group: &request.key_group,
            session: &request.session,
            message: &request.subject.message,
            root,
            attempt: &attempt,
            member,
        }
        .round_id(request.package.as_bytes());
        let signed =
            self.identity.sign("frostkeep/signed-hash/v1", &[&round_signature_message(&round, member, &share)]);
        Ok(v1::Round {
            round_id: round.as_bytes().to_vec(),
            attempt_id: attempt.id().as_bytes().to_vec(),
            member: member.number().into(),
            signature_share: share.to_vec(),
            position: 1,
            round_signature: signed.as_bytes().to_vec(),
        })
    }
}
