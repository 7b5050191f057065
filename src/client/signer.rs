//! The calls of the service `Signer`.

use super::error::ClientError;
use super::node::{Client, call};
use super::read::{at_most, exact, member, present, same};
use crate::bitcoin::TransactionId;
use crate::coordinator::{RoundAnswer, RoundReport, SessionReport};
use crate::engine::{BuildRequest, CommitRequest, FinalizeRequest, SessionRequest, SignRequest, Subject, VoteRequest};
use crate::frost::Commitments;
use crate::ids::{AttemptId, KeyGroupId, Member, Message, RoundId, SessionId};
use crate::limits::TRANSACTION_INPUTS_MAX;
use crate::roast::{AttemptContextParts, ShareVerdict, SignedRound};
use crate::wire::request::{DeriveRequest, session_ref};
use crate::wire::v1;

/// A durable round as a node served it. The coordinator judges share and signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedRound {
    /// Its name.
    pub round: RoundId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The member that answered.
    pub member: Member,
    /// The signature share.
    pub share: [u8; 32],
    /// The position of its record in the node's journal.
    pub position: u64,
    /// The round signature.
    pub round_signature: [u8; 64],
    /// The member's current commitments, if it has any. Not part of the round: each answer may have others.
    pub next: Option<[u8; Commitments::BYTES]>,
}

impl ServedRound {
    /// What every serve repeats byte for byte: all but the next commitments, as the engine writes it.
    pub fn durable_part(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + 32 + 2 + 32 + 8 + 64);
        bytes.extend_from_slice(self.round.as_bytes());
        bytes.extend_from_slice(self.attempt.as_bytes());
        bytes.extend_from_slice(&self.member.number().to_be_bytes());
        bytes.extend_from_slice(&self.share);
        bytes.extend_from_slice(&self.position.to_be_bytes());
        bytes.extend_from_slice(&self.round_signature);
        bytes
    }

    pub(super) fn read(reply: v1::StartSignRoundReply, request: &SignRequest) -> Result<Self, ClientError> {
        let round = present("round", reply.round)?;
        let next = reply.next_commitments.as_slice();
        let served = Self {
            round: RoundId::new(exact("round_id", &round.round_id)?),
            attempt: AttemptId::new(exact("attempt_id", &round.attempt_id)?),
            member: member("member", round.member)?,
            share: exact("signature_share", &round.signature_share)?,
            position: round.position,
            round_signature: exact("round_signature", &round.round_signature)?,
            next: super::read::exact_or_none("next_commitments", next)?,
        };
        same("member", &served.member, &request.member)?;
        same("attempt_id", served.attempt.as_bytes(), &request.context.attempt_id)?;
        same("durable", &reply.durable, &true)?;
        Ok(served)
    }
}

impl From<ServedRound> for RoundAnswer {
    fn from(served: ServedRound) -> Self {
        Self {
            round: served.round,
            share: served.share.to_vec(),
            round_signature: served.round_signature.to_vec(),
            next: served.next.map(|next| next.to_vec()),
        }
    }
}

/// A transaction that a node has approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The transaction, the one that was asked about.
    pub id: TransactionId,
    /// The key-path signature hashes of its Taproot inputs, each with the number of the input.
    pub sighashes: Vec<(Message, usize)>,
    /// The position of the record.
    pub position: u64,
}

impl Client {
    /// `DeriveAttemptContext`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn derive_attempt_context(&self, request: &DeriveRequest) -> Result<AttemptContextParts, ClientError> {
        let message = v1::DeriveAttemptContextRequest {
            session: Some(session_ref(&request.session, &request.key_group)),
            message: request.message.as_bytes().to_vec(),
            threshold: request.threshold.into(),
            number: request.number,
            included: request.included.iter().map(|&member| member.into()).collect(),
        };
        let reply = call!(self, signer_client::SignerClient::derive_attempt_context, message)?;
        present("attempt", reply.attempt)?.try_into().map_err(ClientError::nonsense)
    }

    /// `Commit`: the encoded commitments.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn commit(&self, request: &CommitRequest) -> Result<[u8; Commitments::BYTES], ClientError> {
        let reply = call!(self, signer_client::SignerClient::commit, v1::CommitRequest::from(request))?;
        exact("commitments", &reply.commitments)
    }

    /// `StartSignRound`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_sign_round(&self, request: &SignRequest) -> Result<ServedRound, ClientError> {
        let message = v1::StartSignRoundRequest::from(request);
        ServedRound::read(call!(self, signer_client::SignerClient::start_sign_round, message)?, request)
    }

    /// `FinalizeSignRound`; none when the node has no such session, and records nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn finalize_sign_round(&self, request: &FinalizeRequest) -> Result<Option<[u8; 64]>, ClientError> {
        let message = v1::FinalizeSignRoundRequest::from(request);
        let reply = call!(self, signer_client::SignerClient::finalize_sign_round, message)?;
        reply.signature.map(|signature| exact("signature", &signature)).transpose()
    }

    /// `AbortSession`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn abort_session(&self, request: &SessionRequest) -> Result<(), ClientError> {
        call!(self, signer_client::SignerClient::abort_session, v1::AbortSessionRequest::from(request)).map(|_| ())
    }

    /// `GetSession`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn session(&self, request: &SessionRequest) -> Result<SessionReport, ClientError> {
        let message = v1::GetSessionRequest::from(request);
        let reply = call!(self, signer_client::SignerClient::get_session, message)?;
        let subject = Subject::try_from(present("subject", reply.subject)?).map_err(ClientError::nonsense)?;
        let active = match super::read::exact_or_none("active_id", &reply.active_id)? {
            Some(id) => Some((reply.active_number, AttemptId::new(id))),
            None => None,
        };
        // The size of the message bounds their number; the coordinator drops what is no round of the session.
        let rounds = reply.rounds.into_iter().map(report).collect::<Result<_, _>>()?;
        Ok(SessionReport { subject, active, rounds })
    }

    /// `VerifySignatureShare`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn verify_signature_share(
        &self,
        key_group: &KeyGroupId,
        session: &SessionId,
        subject: &Subject,
        round: &SignedRound,
    ) -> Result<ShareVerdict, ClientError> {
        let message = v1::VerifySignatureShareRequest {
            session: Some(session_ref(session, key_group)),
            subject: Some(subject.into()),
            round: Some(round.into()),
        };
        let reply = call!(self, signer_client::SignerClient::verify_signature_share, message)?;
        match v1::ShareVerdict::try_from(reply.verdict) {
            Ok(v1::ShareVerdict::Valid) => Ok(ShareVerdict::Valid),
            Ok(v1::ShareVerdict::Invalid) => Ok(ShareVerdict::Invalid),
            Ok(v1::ShareVerdict::Indeterminate) => Ok(ShareVerdict::Indeterminate),
            Ok(v1::ShareVerdict::Unspecified) | Err(_) => {
                Err(ClientError::Nonsense(format!("{} is no verdict", reply.verdict)))
            }
        }
    }

    /// `VoteTimeout`: the signature of the vote.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn vote_timeout(&self, request: &VoteRequest) -> Result<[u8; 64], ClientError> {
        let message = v1::VoteTimeoutRequest::from(request);
        let reply = call!(self, signer_client::SignerClient::vote_timeout, message)?;
        let vote = present("vote", reply.vote)?;
        same("voter", &member("voter", vote.voter)?, &request.member)?;
        exact("signature", &vote.signature)
    }

    /// `BuildTaprootTx`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn build_taproot_tx(&self, request: &BuildRequest) -> Result<Approved, ClientError> {
        let message = v1::BuildTaprootTxRequest::from(request);
        let reply = call!(self, signer_client::SignerClient::build_taproot_tx, message)?;
        let id = TransactionId::new(exact("txid", &reply.txid)?);
        same("txid", &id, &request.transaction.id())?;
        at_most("signature_hashes", &reply.signature_hashes, 2 * TRANSACTION_INPUTS_MAX)?;
        let hashes = reply.signature_hashes.iter().map(|hash| {
            let input = usize::try_from(hash.input).map_err(ClientError::nonsense)?;
            Ok((Message::new(exact("message", &hash.message)?), input))
        });
        let sighashes: Vec<_> = hashes.collect::<Result<_, ClientError>>()?;
        same("signature_hashes", &sighashes, &request.transaction.signature_hashes())?;
        Ok(Approved { id, sighashes, position: reply.position })
    }
}

fn report(round: v1::SessionRound) -> Result<RoundReport, ClientError> {
    let attempt = present("attempt", round.attempt)?.try_into().map_err(ClientError::nonsense)?;
    let served = present("round", round.round)?;
    Ok(RoundReport {
        member: member("member", served.member)?.number(),
        attempt,
        package: round.signing_package,
        share: served.signature_share,
        round_signature: served.round_signature,
    })
}
