//! The image of a state: what a snapshot holds. Loading it gives the same state as replaying the records.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::record::{self, PreparedRecord, RecordError, RoundBody, SecretBytes};
use super::request::Subject;
use super::state::{
    Approval, Freeze, KeyGroup, Outcome, Phase, Round, Session, State, StateError, Tombstone, identity_of, prepare,
    retired,
};
use crate::bitcoin::{Prevout, UnsignedTransaction};
use crate::identity::IdentityKey;
use crate::ids::{AttemptId, CeremonyId, FreezeId, KeyGroupId, Member, MerkleRoot, Message, SessionId};
use crate::keygen::{Certificate, Statement};
use crate::limits;
use crate::policy::{Charge, SigningPolicy};
use crate::roast::AttemptContextParts;
use crate::roast::score::Score;
use crate::store::Position;

/// Consumed markers of one item: bounds its size.
const MARKERS_PER_ITEM: usize = 4_096;

/// One piece of an image. Postcard 1; variants are only ever appended, and the fields of one never change.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Item {
    Position(Position),
    Identity(SecretBytes),
    KeyGroup(Box<KeyGroupItem>),
    Approval {
        key_group: KeyGroupId,
        raw: Vec<u8>,
        prevouts: Vec<Prevout>,
        keys: Vec<[u8; 32]>,
        charge: Charge,
        position: Position,
    },
    Session {
        key_group: KeyGroupId,
        session: SessionId,
        message: Message,
        root: Option<MerkleRoot>,
        active: Option<AttemptContextParts>,
        transcript: Vec<[u8; 32]>,
    },
    Consumed {
        key_group: KeyGroupId,
        session: SessionId,
        markers: Vec<(AttemptId, Member)>,
    },
    Round {
        body: Arc<RoundBody>,
        position: Position,
    },
    Ended {
        key_group: KeyGroupId,
        session_hash: [u8; 32],
        subject_hash: [u8; 32],
        outcome: EndedItem,
        position: Position,
    },
    Begun(Vec<(CeremonyId, Position)>),
    ClientKey(SecretBytes),
    Replaced {
        key_group: KeyGroupId,
        seats: Vec<(Member, IdentityKey, Position)>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeyGroupItem {
    prepared: Option<PreparedRecord>,
    prepared_at: Position,
    certificate: Option<(Vec<u8>, Position)>,
    statement: Vec<u8>,
    policy: SigningPolicy,
    freezes: Vec<(FreezeId, String, u64, bool)>,
    scores: Vec<(Member, Score)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum EndedItem {
    Finalized(#[serde(with = "record::sixty_four")] [u8; 64]),
    Aborted,
    Closed,
}

/// The pieces of `state`, encoded, in an order that [`load`] takes. Lazy: the state is a cheap clone, and nothing of it
/// is copied before it is asked for.
pub(crate) fn items(
    position: Position,
    state: State,
) -> impl Iterator<Item = Result<Zeroizing<Vec<u8>>, RecordError>> + Send {
    let head = std::iter::once(Item::Position(position));
    let identity = state.identity.map(|known| Item::Identity(SecretBytes::new(Zeroizing::new(known.seed().to_vec()))));
    let client_key = state.client_key.map(Item::ClientKey);
    let begun = (!state.begun.is_empty()).then(|| Item::Begun(state.begun.iter().map(|(id, at)| (*id, *at)).collect()));
    let groups = state.key_groups.into_iter().flat_map(|(id, group)| group_items(id, group));
    let node = head.chain(identity).chain(client_key).chain(begun);
    node.chain(groups).map(|item| record::encode(&item, limits::SNAPSHOT_ITEM_BYTES_MAX))
}

fn group_items(key_group: KeyGroupId, group: KeyGroup) -> impl Iterator<Item = Item> + Send {
    let certificate = match &group.phase {
        Phase::Prepared => None,
        Phase::Active { certificate, position } | Phase::Retired { certificate, position } => {
            Some((certificate.to_bytes(), *position))
        }
    };
    let head = Item::KeyGroup(Box::new(KeyGroupItem {
        prepared: group.prepared.as_ref().map(|prepared| PreparedRecord {
            ceremony: group.ceremony,
            key_group,
            prepared: prepared.clone(),
            policy: (*group.policy).clone(),
        }),
        prepared_at: group.prepared_at,
        certificate,
        statement: group.statement.to_bytes(),
        policy: (*group.policy).clone(),
        freezes: group
            .freezes
            .iter()
            .map(|(id, freeze)| (*id, freeze.reason.clone(), freeze.unix, freeze.lifted))
            .collect(),
        scores: group.scores.iter().map(|(member, score)| (*member, score.clone())).collect(),
    }));
    let replaced: Vec<_> = group
        .replaced
        .iter()
        .filter_map(|(member, position)| Some((*member, *group.identities.get(member)?, *position)))
        .collect();
    let replaced = (!replaced.is_empty()).then_some(Item::Replaced { key_group, seats: replaced });
    let approvals = group.approvals.into_iter().map(move |(_, approval)| Item::Approval {
        key_group,
        raw: approval.transaction.raw(),
        prevouts: approval.transaction.prevouts(),
        keys: approval.keys,
        charge: approval.charge,
        position: approval.position,
    });
    let sessions = group.sessions.into_iter().flat_map(move |(id, session)| session_items(key_group, id, session));
    let ended = group.ended.into_iter().map(move |(session_hash, tombstone)| Item::Ended {
        key_group,
        session_hash,
        subject_hash: tombstone.subject_hash,
        outcome: match tombstone.outcome {
            Outcome::Finalized(signature) => EndedItem::Finalized(*signature),
            Outcome::Aborted => EndedItem::Aborted,
            Outcome::Closed => EndedItem::Closed,
        },
        position: tombstone.position,
    });
    std::iter::once(head).chain(replaced).chain(approvals).chain(sessions).chain(ended)
}

fn session_items(key_group: KeyGroupId, id: SessionId, session: Session) -> impl Iterator<Item = Item> + Send {
    let head = Item::Session {
        key_group,
        session: id.clone(),
        message: session.subject.message,
        root: session.subject.root,
        active: session.active.map(|active| (*active).clone()),
        transcript: session.transcript.into_iter().collect(),
    };
    let all: Vec<_> = session.consumed.into_iter().collect();
    let markers: Vec<_> = all
        .chunks(MARKERS_PER_ITEM)
        .map(|markers| Item::Consumed { key_group, session: id.clone(), markers: markers.to_vec() })
        .collect();
    let rounds =
        session.rounds.into_iter().map(|(_, round)| Item::Round { body: round.body, position: round.position });
    std::iter::once(head).chain(markers).chain(rounds)
}

/// Takes one encoded piece into `state`.
///
/// # Errors
/// [`StateError`] when it does not decode or does not fit.
pub(crate) fn load(state: &mut State, bytes: &[u8]) -> Result<(), StateError> {
    let position = state.position;
    let wrong = |what: String| StateError { position, what: format!("snapshot item: {what}") };
    let item: Item = record::decode(bytes).map_err(|error| wrong(error.to_string()))?;
    take(state, item).map_err(wrong)
}

fn take(state: &mut State, item: Item) -> Result<(), String> {
    match item {
        Item::Position(position) => state.position = position,
        Item::Identity(seed) => state.identity = Some(Arc::new(identity_of(&seed)?)),
        Item::KeyGroup(item) => {
            let (id, group) = key_group(*item)?;
            state.key_groups.insert(id, group);
        }
        Item::Begun(begun) => state.begun.extend(begun),
        Item::ClientKey(key) => state.client_key = Some(key),
        Item::Replaced { key_group, seats } => {
            let group = group(state, &key_group)?;
            for (member, identity, position) in seats {
                group.replace_identity(member, identity, position)?;
            }
        }
        Item::Approval { key_group, raw, prevouts, keys, charge, position } => {
            let transaction = UnsignedTransaction::from_parts(&raw, &prevouts).map_err(|error| error.to_string())?;
            let approval = Approval { transaction: Arc::new(transaction), keys, charge, position };
            group(state, &key_group)?.approve(approval);
        }
        Item::Session { key_group, session, message, root, active, transcript } => {
            let opened = Session {
                subject: Subject { message, root },
                active: active.map(Arc::new),
                rounds: OrdMap::new(),
                consumed: OrdSet::new(),
                transcript: transcript.into_iter().collect::<Vector<_>>(),
            };
            group(state, &key_group)?.sessions.insert(session, opened);
        }
        Item::Consumed { key_group, session, markers } => {
            open_session(state, &key_group, &session)?.consumed.extend(markers);
        }
        Item::Round { body, position } => {
            let key = (AttemptId::new(body.context.attempt_id), body.member);
            let session = open_session(state, &body.key_group, &body.session)?;
            session.rounds.insert(key, Round { body, position });
        }
        Item::Ended { key_group, session_hash, subject_hash, outcome, position } => {
            let outcome = match outcome {
                EndedItem::Finalized(signature) => Outcome::Finalized(Box::new(signature)),
                EndedItem::Aborted => Outcome::Aborted,
                EndedItem::Closed => Outcome::Closed,
            };
            group(state, &key_group)?.ended.insert(session_hash, Tombstone { subject_hash, outcome, position });
        }
    }
    Ok(())
}

fn key_group(item: KeyGroupItem) -> Result<(KeyGroupId, KeyGroup), String> {
    let mut group = match (&item.prepared, item.certificate) {
        (Some(prepared), certificate) => {
            let mut group = prepare(prepared, item.prepared_at)?;
            if let Some((certificate, position)) = certificate {
                let certificate = Certificate::from_bytes(&certificate).map_err(|error| error.to_string())?;
                group.activate(&Arc::new(certificate), position)?;
            }
            group
        }
        (None, Some((certificate, position))) => {
            let certificate = Certificate::from_bytes(&certificate).map_err(|error| error.to_string())?;
            let statement = Statement::from_bytes(&item.statement).map_err(|error| error.to_string())?;
            retired(certificate, statement, position, item.policy.clone())
        }
        (None, None) => return Err("a key group without shares and certificate".into()),
    };
    group.policy = Arc::new(item.policy);
    group.prepared_at = item.prepared_at;
    for (id, reason, unix, lifted) in item.freezes {
        group.freezes.insert(id, Freeze { reason, unix, lifted });
    }
    group.scores = item.scores.into_iter().collect();
    Ok((group.group_key.id(), group))
}

fn group<'a>(state: &'a mut State, id: &KeyGroupId) -> Result<&'a mut KeyGroup, String> {
    state.key_groups.get_mut(id).ok_or_else(|| format!("key group {id} is not known"))
}

fn open_session<'a>(state: &'a mut State, key_group: &KeyGroupId, id: &SessionId) -> Result<&'a mut Session, String> {
    let group = group(state, key_group)?;
    group.sessions.get_mut(id).ok_or_else(|| format!("session {id} is not open"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_of_a_snapshot_item_never_changes() {
        let key_group = KeyGroupId::new([2; 33]).unwrap();
        for (item, number) in [
            (Item::Position(Position::ZERO), 0),
            (Item::Begun(Vec::new()), 8),
            (Item::ClientKey(SecretBytes::new(Zeroizing::new(vec![1]))), 9),
            (Item::Replaced { key_group, seats: Vec::new() }, 10),
        ] {
            assert_eq!(record::encode(&item, 100).unwrap().first(), Some(&number), "{item:?}");
        }
    }
}
