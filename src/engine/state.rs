//! The state: what the records up to a position add up to. One `apply` serves the live run, replay and both views of
//! the ledger. Cloning is O(1): a snapshot is a clone of the durable view.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::record::{Advance, Ending, PreparedRecord, Record, RoundBody, SecretBytes};
use super::request::Subject;
use crate::bitcoin::{TransactionId, UnsignedTransaction};
use crate::frost::{GroupKey, KeyShare};
use crate::hash::Framed;
use crate::identity::{IdentityKey, NodeIdentity};
use crate::ids::{AttemptId, AttemptPolicy, CeremonyId, FreezeId, KeyGroupId, Member, Message, SessionId};
use crate::keygen::{Certificate, Prepared, Statement, Transcript};
use crate::limits;
use crate::policy::{Charge, SigningPolicy, Usage};
use crate::roast::AttemptContextParts;
use crate::roast::score::{Blame, Score, Scoring};
use crate::store::{Placed, Position};

/// A record that the state cannot take: a journal of another program, or our bug.
#[derive(Debug, Clone, thiserror::Error)]
#[error("record at position {position}: {what}")]
pub struct StateError {
    /// The record's position.
    pub position: Position,
    /// What does not fit.
    pub what: String,
}

/// A round, with the position of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The round.
    pub body: Arc<RoundBody>,
    /// The position of its record.
    pub position: Position,
}

impl Placed for Round {
    fn position(&self) -> Position {
        self.position
    }
}

/// An open session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) subject: Subject,
    /// Under `evidence`: the active attempt.
    pub(crate) active: Option<Arc<AttemptContextParts>>,
    /// The rounds that are served: of the active attempt under `evidence`, of any attempt under `roast`.
    pub(crate) rounds: OrdMap<(AttemptId, Member), Round>,
    /// Consumed markers, per attempt *and member* (trap 10). They outlive the rounds.
    pub(crate) consumed: OrdSet<(AttemptId, Member)>,
    /// Hashes of the transition records, oldest first.
    pub(crate) transcript: imbl::Vector<[u8; 32]>,
}

/// What is left of an ended session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) subject_hash: [u8; 32],
    pub(crate) outcome: Outcome,
    pub(crate) position: Position,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finalized(Box<[u8; 64]>),
    Aborted,
    Closed,
}

/// A finished signature, with the position of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The signature, BIP-340.
    pub signature: [u8; 64],
    /// The position of its record.
    pub position: Position,
}

impl Placed for Finished {
    fn position(&self) -> Position {
        self.position
    }
}

/// An approved transaction.
#[derive(Debug, Clone)]
pub struct Approval {
    /// The transaction with its prevouts.
    pub transaction: Arc<UnsignedTransaction>,
    /// The group's output keys that its inputs may be of, the one without a script tree first.
    pub keys: Vec<[u8; 32]>,
    /// What it counts against the policy's rates, and since when.
    pub charge: Charge,
    /// The position of its record.
    pub position: Position,
}

impl Placed for Approval {
    fn position(&self) -> Position {
        self.position
    }
}

/// The key of an approval: txid, and the hash of the prevouts, so that wrong amounts do not block the right ones.
pub(crate) type ApprovalKey = (TransactionId, [u8; 32]);

/// The key under which a transaction is approved.
pub(crate) fn approval_key(transaction: &UnsignedTransaction) -> ApprovalKey {
    (transaction.id(), transaction.prevouts_hash())
}

/// A freeze, lifted or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freeze {
    pub(crate) reason: String,
    pub(crate) unix: u64,
    pub(crate) lifted: bool,
}

/// Where a key group stands.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Shares and own signature are there, the certificate is not. Signs nothing.
    Prepared,
    /// Certified.
    Active {
        certificate: Arc<Certificate>,
        /// The position of its record.
        position: Position,
    },
    /// Ended; shares wiped.
    Retired { certificate: Arc<Certificate>, position: Position },
}

/// A key group as this node holds it.
#[derive(Clone)]
pub(crate) struct KeyGroup {
    pub(crate) ceremony: CeremonyId,
    /// The prepared shares, encoded; gone when the key group is retired.
    pub(crate) prepared: Option<SecretBytes>,
    pub(crate) prepared_at: Position,
    pub(crate) statement: Statement,
    pub(crate) phase: Phase,
    pub(crate) group_key: Arc<GroupKey>,
    pub(crate) attempt_policy: AttemptPolicy,
    /// The identities in force: those of the certificate, but for the replaced.
    pub(crate) identities: Arc<BTreeMap<Member, IdentityKey>>,
    /// Members with another identity than the certificate gave them at first, and the position of the last such record.
    pub(crate) replaced: OrdMap<Member, Position>,
    pub(crate) seats: Arc<BTreeMap<Member, Arc<KeyShare>>>,
    pub(crate) policy: Arc<SigningPolicy>,
    pub(crate) sessions: OrdMap<SessionId, Session>,
    pub(crate) ended: OrdMap<[u8; 32], Tombstone>,
    pub(crate) approvals: OrdMap<ApprovalKey, Approval>,
    /// The approvals by age.
    pub(crate) approved_at: OrdSet<(u64, ApprovalKey)>,
    /// Which approved transaction, and which of its inputs, a message is a sighash of.
    pub(crate) sighashes: OrdMap<Message, (ApprovalKey, usize)>,
    /// What counts against the policy's rates.
    pub(crate) usage: Usage,
    pub(crate) freezes: OrdMap<FreezeId, Freeze>,
    pub(crate) scores: OrdMap<Member, Score>,
}

impl KeyGroup {
    pub(crate) fn tombstone(&self, session: &SessionId) -> Option<&Tombstone> {
        self.ended.get(&session_hash(session))
    }
}

/// The state at a position.
#[derive(Clone, Default)]
pub struct State {
    pub(crate) position: Position,
    pub(crate) identity: Option<Arc<NodeIdentity>>,
    /// The key that this node calls others with, PKCS#8.
    pub(crate) client_key: Option<SecretBytes>,
    pub(crate) key_groups: OrdMap<KeyGroupId, KeyGroup>,
    /// Key generations that have begun here, whatever became of them, with the position of that record.
    pub(crate) begun: OrdMap<CeremonyId, Position>,
}

/// The name under which an ended session is remembered.
pub(crate) fn session_hash(session: &SessionId) -> [u8; 32] {
    Framed::new("frostkeep/session/v1").part(session.as_str().as_bytes()).finish()
}

/// The hash of message and root, for a tombstone.
pub(crate) fn subject_hash(subject: &Subject) -> [u8; 32] {
    let hash = Framed::new("frostkeep/subject/v1").part(subject.message.as_bytes());
    match &subject.root {
        Some(root) => hash.part(root.as_bytes()).finish(),
        None => hash.finish(),
    }
}

impl State {
    /// Takes the record at `position`, which is above every earlier one.
    ///
    /// # Errors
    /// [`StateError`]; the state is unusable then, and a journal that holds such a record is corrupt.
    pub fn apply(&mut self, position: Position, record: &Record) -> Result<(), StateError> {
        let wrong = |what: String| StateError { position, what };
        if position <= self.position {
            return Err(wrong(format!("it comes after position {}", self.position)));
        }
        self.position = position;
        match record {
            Record::Identity(seed) => {
                let identity = identity_of(seed).map_err(wrong)?;
                if self.identity.replace(Arc::new(identity)).is_some() {
                    return Err(wrong("a second node identity".into()));
                }
                Ok(())
            }
            Record::ClientKey(key) => match self.client_key.replace(key.clone()) {
                None => Ok(()),
                Some(_) => Err(wrong("a second client key".into())),
            },
            Record::Prepared(prepared) => {
                let group = prepare(prepared, position).map_err(wrong)?;
                match self.key_groups.insert(prepared.key_group, group) {
                    None => Ok(()),
                    Some(_) => Err(wrong(format!("key group {} is prepared twice", prepared.key_group))),
                }
            }
            Record::Begun { ceremony } => {
                if self.begun.insert(*ceremony, position).is_some() {
                    return Err(wrong(format!("key generation {ceremony} has begun twice")));
                }
                if self.begun.len() > limits::CEREMONIES_REMEMBERED_MAX
                    && let Some((oldest, _)) = self.begun.iter().min_by_key(|(_, at)| **at)
                {
                    let oldest = *oldest;
                    self.begun.remove(&oldest);
                }
                Ok(())
            }
            Record::PreparedDropped { key_group } => match self.key_groups.remove(key_group) {
                Some(KeyGroup { phase: Phase::Prepared, .. }) => Ok(()),
                _ => Err(wrong(format!("key group {key_group} is not prepared"))),
            },
            _ => self.apply_to_group(position, record).map_err(wrong),
        }
    }

    fn apply_to_group(&mut self, position: Position, record: &Record) -> Result<(), String> {
        let id = key_group_of(record);
        let group = id
            .and_then(|id| self.key_groups.get_mut(&id))
            .ok_or_else(|| format!("key group {} is not known", id.map_or(String::new(), |id| id.to_string())))?;
        match record {
            Record::Activated { certificate, .. } => group.activate(certificate, position),
            Record::Retired { .. } => {
                group.retire();
                Ok(())
            }
            Record::PolicySet { policy, .. } => {
                group.policy = Arc::new(policy.clone());
                Ok(())
            }
            Record::Approved { raw, prevouts, keys, charge, .. } => {
                let transaction = UnsignedTransaction::from_parts(raw, prevouts).map_err(|error| error.to_string())?;
                let approval =
                    Approval { transaction: Arc::new(transaction), keys: keys.clone(), charge: *charge, position };
                group.approve(approval);
                Ok(())
            }
            Record::Round { body, advances } => group.take_round(position, body, advances),
            Record::Finalized { session, signature, .. } => {
                group.end(session, Outcome::Finalized(Box::new(*signature)), position)
            }
            Record::Ended { session, ending, .. } => {
                let outcome = match ending {
                    Ending::Aborted => Outcome::Aborted,
                    Ending::Closed => Outcome::Closed,
                };
                group.end(session, outcome, position)
            }
            Record::Frozen { freeze, reason, unix, .. } => {
                // A thaw that names an id lifts it for ever: a deny file found later must not bring it back.
                if !group.freezes.get(freeze).is_some_and(|known| known.lifted) {
                    group.freezes.insert(*freeze, Freeze { reason: reason.clone(), unix: *unix, lifted: false });
                }
                Ok(())
            }
            Record::Thawed { freezes, unix, .. } => {
                for freeze in freezes {
                    group.freezes.insert(*freeze, Freeze { reason: String::new(), unix: *unix, lifted: true });
                }
                group.forget_lifted();
                Ok(())
            }
            Record::IdentityReplaced { member, identity, .. } => group.replace_identity(*member, *identity, position),
            Record::Identity(_)
            | Record::ClientKey(_)
            | Record::Prepared(_)
            | Record::PreparedDropped { .. }
            | Record::Begun { .. } => Err("a record of the node, not of a key group".into()),
        }
    }
}

/// The key group that a record changes; none for records of the node.
pub(crate) fn key_group_of(record: &Record) -> Option<KeyGroupId> {
    match record {
        Record::Identity(_) | Record::ClientKey(_) | Record::Begun { .. } => None,
        Record::Prepared(prepared) => Some(prepared.key_group),
        Record::Round { body, .. } => Some(body.key_group),
        Record::Activated { key_group, .. }
        | Record::PreparedDropped { key_group }
        | Record::Retired { key_group }
        | Record::PolicySet { key_group, .. }
        | Record::Approved { key_group, .. }
        | Record::Finalized { key_group, .. }
        | Record::Ended { key_group, .. }
        | Record::Frozen { key_group, .. }
        | Record::IdentityReplaced { key_group, .. }
        | Record::Thawed { key_group, .. } => Some(*key_group),
    }
}

/// The node identity with this seed.
pub(crate) fn identity_of(seed: &SecretBytes) -> Result<NodeIdentity, String> {
    let seed = <&[u8; 32]>::try_from(seed.expose()).map_err(|_| "a node identity seed has 32 bytes".to_string())?;
    Ok(NodeIdentity::from_seed(seed))
}

/// A key group from its prepared record, checked: it signs nothing before its certificate is there.
pub(crate) fn prepare(record: &PreparedRecord, position: Position) -> Result<KeyGroup, String> {
    let prepared = Prepared::decode(record.prepared.expose()).map_err(|error| error.to_string())?;
    let mut group = KeyGroup::of(prepared.transcript(), *prepared.statement(), record.policy.clone());
    if group.group_key.id() != record.key_group {
        return Err(format!("key group {} holds the key of {}", record.key_group, group.group_key.id()));
    }
    group.prepared = Some(record.prepared.clone());
    group.prepared_at = position;
    Ok(group)
}

/// A retired key group: what is public of it.
pub(crate) fn retired(
    certificate: Certificate,
    statement: Statement,
    position: Position,
    policy: SigningPolicy,
) -> KeyGroup {
    let mut group = KeyGroup::of(certificate.transcript(), statement, policy);
    group.phase = Phase::Retired { certificate: Arc::new(certificate), position };
    group
}

impl KeyGroup {
    fn of(transcript: &Transcript, statement: Statement, policy: SigningPolicy) -> Self {
        let parameters = transcript.parameters();
        Self {
            ceremony: parameters.ceremony(),
            prepared: None,
            prepared_at: Position::ZERO,
            statement,
            phase: Phase::Prepared,
            group_key: Arc::new(transcript.group().clone()),
            attempt_policy: parameters.attempt_policy(),
            identities: Arc::new(parameters.seats().clone()),
            replaced: OrdMap::new(),
            seats: Arc::default(),
            policy: Arc::new(policy),
            sessions: OrdMap::new(),
            ended: OrdMap::new(),
            approvals: OrdMap::new(),
            approved_at: OrdSet::new(),
            sighashes: OrdMap::new(),
            usage: Usage::default(),
            freezes: OrdMap::new(),
            scores: OrdMap::new(),
        }
    }

    /// The certificate turns the prepared shares into seats.
    pub(crate) fn activate(&mut self, certificate: &Arc<Certificate>, position: Position) -> Result<(), String> {
        let bytes = self.prepared.as_ref().ok_or("nothing is prepared")?;
        let prepared = Prepared::decode(bytes.expose()).map_err(|error| error.to_string())?;
        let shares = prepared.activate(certificate).map_err(|(_, error)| error.to_string())?;
        self.seats = Arc::new(shares.into_iter().map(|share| (share.member(), Arc::new(share))).collect());
        self.phase = Phase::Active { certificate: Arc::clone(certificate), position };
        Ok(())
    }
}

impl KeyGroup {
    pub(crate) fn replace_identity(
        &mut self,
        member: Member,
        identity: IdentityKey,
        position: Position,
    ) -> Result<(), String> {
        let seat = Arc::make_mut(&mut self.identities).get_mut(&member);
        *seat.ok_or_else(|| format!("member {member} is not of this key group"))? = identity;
        self.replaced.insert(member, position);
        Ok(())
    }

    pub(crate) fn retire(&mut self) {
        if let Phase::Active { certificate, position } = &self.phase {
            self.phase = Phase::Retired { certificate: Arc::clone(certificate), position: *position };
        }
        self.seats = Arc::default();
        self.prepared = None;
        self.sessions.clear();
        self.ended.clear();
        self.approvals.clear();
        self.approved_at.clear();
        self.usage = Usage::default();
        self.sighashes.clear();
    }

    pub(crate) fn approve(&mut self, approval: Approval) {
        self.usage.record(&approval.charge);
        while let Some((unix, key)) = self.approved_at.get_min().copied() {
            if !self.forgets_at(approval.charge.at_unix_s) {
                break;
            }
            self.forget_approval(unix, key);
            self.usage.forget_before(approval.charge.at_unix_s, limits::POLICY_WINDOW_S_MAX);
        }
        let key = approval_key(&approval.transaction);
        if self.approvals.contains_key(&key) {
            return;
        }
        for (message, input) in approval.transaction.signature_hashes() {
            self.sighashes.insert(message, (key, input));
        }
        self.approved_at.insert((approval.charge.at_unix_s, key));
        self.approvals.insert(key, approval);
    }

    /// Whether an approval at this time makes room by forgetting an old one.
    pub(crate) fn forgets_at(&self, unix: u64) -> bool {
        let oldest = self.approved_at.get_min();
        oldest.is_some_and(|(oldest, _)| unix.saturating_sub(*oldest) > limits::APPROVAL_AGE_S_MAX)
    }

    fn forget_approval(&mut self, unix: u64, key: ApprovalKey) {
        self.approved_at.remove(&(unix, key));
        if let Some(old) = self.approvals.remove(&key) {
            for (message, _) in old.transaction.signature_hashes() {
                self.sighashes.remove(&message);
            }
        }
    }

    /// Forgets the freezes lifted first when there are too many. One whose deny file is still there then freezes again: a
    /// freeze that is forgotten can only deny.
    fn forget_lifted(&mut self) {
        let mut lifted: Vec<(u64, FreezeId)> =
            self.freezes.iter().filter(|(_, known)| known.lifted).map(|(id, known)| (known.unix, *id)).collect();
        let surplus = lifted.len().saturating_sub(limits::FREEZES_LIFTED_MAX);
        if surplus > 0 {
            lifted.sort_unstable();
            for (_, id) in lifted.iter().take(surplus) {
                self.freezes.remove(id);
            }
        }
    }

    /// The scores when `advances` are recorded. A clone is O(1).
    pub(crate) fn scores_after(&self, advances: &[Advance]) -> OrdMap<Member, Score> {
        let mut scores = self.scores.clone();
        for advance in advances {
            let blame = match advance.timeout {
                true => Blame::Timeout { votes: usize::from(advance.votes), threshold: self.group_key.threshold() },
                false => Blame::InvalidShare,
            };
            for member in &advance.blamed {
                scores.entry(*member).or_default().blame(Scoring::On, advance.from, blame);
            }
        }
        scores
    }

    fn take_round(&mut self, position: Position, body: &Arc<RoundBody>, advances: &[Advance]) -> Result<(), String> {
        let subject = Subject { message: body.message, root: body.root };
        let attempt = AttemptId::new(body.context.attempt_id);
        let evidence = matches!(self.attempt_policy, AttemptPolicy::Evidence);
        self.scores = self.scores_after(advances);
        let session = self.sessions.entry(body.session.clone()).or_insert_with(|| Session {
            subject,
            active: None,
            rounds: OrdMap::new(),
            consumed: OrdSet::new(),
            transcript: imbl::Vector::new(),
        });
        if session.subject != subject {
            return Err(format!("a round of session {} signs another message", body.session));
        }
        if evidence && session.active.as_ref().is_none_or(|active| active.attempt_id != body.context.attempt_id) {
            // The previous attempt gives way here, and only here (I3): with the record of the advance.
            session.active = Some(Arc::new(body.context.clone()));
            session.rounds.clear();
        }
        session.transcript.extend(advances.iter().map(|advance| advance.hash));
        if session.consumed.insert((attempt, body.member)).is_some() {
            return Err(format!("member {} consumed attempt {attempt} twice", body.member));
        }
        session.rounds.insert((attempt, body.member), Round { body: Arc::clone(body), position });
        Ok(())
    }

    fn end(&mut self, session: &SessionId, outcome: Outcome, position: Position) -> Result<(), String> {
        let ended = self.sessions.remove(session).ok_or_else(|| format!("session {session} is not open"))?;
        let tombstone = Tombstone { subject_hash: subject_hash(&ended.subject), outcome, position };
        self.ended.insert(session_hash(session), tombstone);
        Ok(())
    }
}

/// Room for one more open session.
pub(crate) fn session_room(group: &KeyGroup) -> bool {
    group.sessions.len() < limits::SESSIONS_OPEN_MAX
}
