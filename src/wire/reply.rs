//! Replies of the engine, as the server writes them. What a client reads of them is not believed: it is checked where it is
//! used.

use super::v1;
use crate::engine::{ApprovalReply, Finalized, RoundReply, SessionView};
use crate::ids::AttemptId;
use crate::roast::AttemptContext;

impl From<&AttemptContext> for v1::DeriveAttemptContextReply {
    fn from(context: &AttemptContext) -> Self {
        Self { attempt: Some((&context.parts()).into()) }
    }
}

impl From<&RoundReply> for v1::StartSignRoundReply {
    fn from(reply: &RoundReply) -> Self {
        let round = v1::Round {
            round_id: reply.round_id().as_bytes().to_vec(),
            attempt_id: reply.attempt().as_bytes().to_vec(),
            member: reply.member().number().into(),
            signature_share: reply.share().to_vec(),
            position: reply.position().number(),
            round_signature: reply.round_signature().to_vec(),
        };
        let next_commitments = reply.next_commitments().map(|next| next.as_bytes().to_vec()).unwrap_or_default();
        Self { round: Some(round), durable: true, next_commitments }
    }
}

impl From<Option<&Finalized>> for v1::FinalizeSignRoundReply {
    fn from(finalized: Option<&Finalized>) -> Self {
        Self {
            signature: finalized.map(|finalized| finalized.signature().to_vec()),
            position: finalized.map(|finalized| finalized.position().number()).unwrap_or_default(),
        }
    }
}

impl From<&SessionView> for v1::GetSessionReply {
    fn from(view: &SessionView) -> Self {
        let rounds = view.rounds.iter().map(|durable| {
            let (body, position) = (&durable.get().body, durable.get().position);
            v1::SessionRound {
                round: Some(v1::Round {
                    round_id: body.round_id.as_bytes().to_vec(),
                    attempt_id: body.context.attempt_id.to_vec(),
                    member: body.member.number().into(),
                    signature_share: body.share.to_vec(),
                    position: position.number(),
                    round_signature: body.round_signature.to_vec(),
                }),
                attempt: Some((&body.context).into()),
                signing_package: body.package.clone(),
            }
        });
        let highest = view.highest.iter();
        let highest =
            highest.map(|(member, number)| v1::HighestAttempt { member: member.number().into(), number: *number });
        let active_id = |(_, id): (u32, AttemptId)| id.as_bytes().to_vec();
        Self {
            subject: Some((&view.subject).into()),
            active_number: view.active.map(|(number, _)| number).unwrap_or_default(),
            active_id: view.active.map(active_id).unwrap_or_default(),
            highest: highest.collect(),
            rounds: rounds.collect(),
            transcript: view.transcript.iter().map(|hash| hash.to_vec()).collect(),
            transcript_head: view.transcript_head.as_bytes().to_vec(),
        }
    }
}

impl From<&ApprovalReply> for v1::BuildTaprootTxReply {
    fn from(reply: &ApprovalReply) -> Self {
        let hashes = reply.sighashes().iter().map(|(message, input)| v1::SignatureHash {
            message: message.as_bytes().to_vec(),
            // Transactions have at most TRANSACTION_INPUTS_MAX inputs.
            input: u32::try_from(*input).unwrap_or(u32::MAX),
        });
        Self {
            txid: reply.id().as_bytes().to_vec(),
            signature_hashes: hashes.collect(),
            position: reply.position().number(),
        }
    }
}
