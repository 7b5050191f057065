//! Replies of the engine, as the server writes them. What a client reads of them is not believed: it is checked where it is
//! used.

use prost::Message as _;
use prost::encoding::message::encoded_len;

use super::v1;
use crate::engine::{ApprovalReply, Finalized, RoundReply, SessionView};
use crate::ids::AttemptId;
use crate::limits::WIRE_MESSAGE_BYTES_MAX;
use crate::roast::AttemptContext;

/// The number of `GetSessionReply.rounds`.
const ROUNDS: u32 = 5;

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
        let rounds = rounds.collect();
        let active_id = |(_, id): (u32, AttemptId)| id.as_bytes().to_vec();
        let reply = Self {
            subject: Some((&view.subject).into()),
            active_number: view.active.map(|(number, _)| number).unwrap_or_default(),
            active_id: view.active.map(active_id).unwrap_or_default(),
            highest: highest.collect(),
            rounds: Vec::new(),
            transcript: view.transcript.iter().map(|hash| hash.to_vec()).collect(),
            transcript_head: view.transcript_head.as_bytes().to_vec(),
        };
        let room = WIRE_MESSAGE_BYTES_MAX.saturating_sub(reply.encoded_len());
        Self { rounds: that_fit(rounds, room), ..reply }
    }
}

/// The rounds that have room, those of the highest attempts first: a client refuses a message above its limit as a whole.
fn that_fit(mut rounds: Vec<v1::SessionRound>, mut room: usize) -> Vec<v1::SessionRound> {
    let number = |round: &v1::SessionRound| round.attempt.as_ref().map_or(0, |attempt| attempt.number);
    rounds.sort_by_key(|round| std::cmp::Reverse(number(round)));
    let fits = |round: &v1::SessionRound| {
        let left = room.checked_sub(encoded_len(ROUNDS, round));
        room = left.unwrap_or(room);
        left.is_some()
    };
    let end = rounds.iter().map(fits).take_while(|fits| *fits).count();
    rounds.truncate(end);
    rounds
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

#[cfg(test)]
mod tests {
    use super::*;

    fn round(number: u32, bytes: usize) -> v1::SessionRound {
        let attempt = v1::AttemptContext { number, ..Default::default() };
        v1::SessionRound { round: None, attempt: Some(attempt), signing_package: vec![7; bytes] }
    }

    #[test]
    fn a_session_s_rounds_fit_a_message_and_those_left_out_are_of_the_lowest_attempts() {
        let rounds: Vec<_> = (1..=512).map(|number| round(number, 10_500)).collect();
        let empty = v1::GetSessionReply { transcript: vec![vec![1; 32]; 999], ..Default::default() };
        let kept = that_fit(rounds.clone(), WIRE_MESSAGE_BYTES_MAX - empty.encoded_len());
        let numbers: Vec<_> = kept.iter().map(|round| round.attempt.as_ref().unwrap().number).collect();
        let lowest = 513 - u32::try_from(kept.len()).unwrap();
        assert_eq!(numbers, (lowest..=512).rev().collect::<Vec<_>>());
        let with = |rounds| v1::GetSessionReply { rounds, ..empty.clone() }.encoded_len();
        assert!(with(kept.clone()) <= WIRE_MESSAGE_BYTES_MAX);
        let one_more = kept.iter().cloned().chain([round(lowest - 1, 10_500)]).collect();
        assert!(lowest > 1 && with(one_more) > WIRE_MESSAGE_BYTES_MAX);
        assert_eq!(that_fit(rounds, usize::MAX).len(), 512);
    }
}
