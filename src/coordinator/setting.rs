//! What a session signs, under which key, and who holds it: what every judgement of a coordinator rests on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::advance::{Facts, Oracle};
use crate::engine::{Subject, trial_session, trial_subject};
use crate::frost::{GroupKey, Signature, SigningPackage};
use crate::hash::Framed;
use crate::identity::IdentityKey;
use crate::ids::{CeremonyId, KeyGroupId, Member, RoundId, SessionId, to_hex};
use crate::limits::{SESSION_TRIES_MAX, TRIALS_MAX};
use crate::roast::{
    AttemptBinding, AttemptContext, AttemptContextParts, ContextError, EvidenceOracle, RoundBinding, ShareVerdict,
    SignedRound, Transition, TransitionError, evidence, round_signature_message,
};

const SESSION_ID_DOMAIN: &str = "frostkeep/session-id/v1";

/// The session of this try of a subject: 32 hex digits of a hash of message and root, a dash, the try. A second run finds
/// the sessions of the first one by it.
pub fn session_id(subject: &Subject, try_number: u32) -> SessionId {
    let mut root = vec![u8::from(subject.root.is_some())];
    root.extend(subject.root.iter().flat_map(|root| root.as_bytes()));
    let hash = Framed::new(SESSION_ID_DOMAIN).part(subject.message.as_bytes()).part(&root).finish();
    let digits = to_hex(hash.split_at(16).0);
    SessionId::new(&format!("{digits}-{try_number}")).expect("hex digits, a dash and a number are a session id")
}

/// One session of one key group, with the public facts of the group's certificate. Cheap to clone.
#[derive(Clone)]
pub struct Setting {
    facts: Facts,
    session: SessionId,
    subject: Subject,
    /// The ceremony whose trial message the subject is.
    trial: Option<CeremonyId>,
}

impl Setting {
    /// The session `session` of `subject` under `group`, whose members have these identities.
    pub fn new(
        group: GroupKey,
        identities: BTreeMap<Member, IdentityKey>,
        session: SessionId,
        subject: Subject,
    ) -> Self {
        let facts = Facts { key_group: group.id(), group_key: Arc::new(group), identities: Arc::new(identities) };
        Self { facts, session, subject, trial: None }
    }

    /// The same for a key group that came out of `ceremony`: if the subject is its trial message, the tries are the trial
    /// sessions, the only ones in which every policy lets it pass.
    #[must_use]
    pub fn of_ceremony(self, ceremony: CeremonyId) -> Self {
        let (_, subject) = trial_subject(&self.facts.key_group, &ceremony);
        Self { trial: (self.subject == subject).then_some(ceremony), ..self }
    }

    /// The sessions of the subject, the lowest try first.
    pub fn tries(&self) -> Vec<SessionId> {
        match &self.trial {
            Some(ceremony) => (0..TRIALS_MAX).filter_map(|number| trial_session(ceremony, number)).collect(),
            None => (0..SESSION_TRIES_MAX).map(|number| session_id(&self.subject, number)).collect(),
        }
    }

    /// The same key group and subject in another session.
    pub fn in_session(&self, session: SessionId) -> Self {
        Self { session, ..self.clone() }
    }

    /// The key group.
    pub fn key_group(&self) -> KeyGroupId {
        self.facts.key_group
    }

    /// The key group's public key material.
    pub fn group(&self) -> &GroupKey {
        &self.facts.group_key
    }

    /// The session.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// What is signed.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// All members, ascending.
    pub fn members(&self) -> &[Member] {
        self.facts.group_key.members()
    }

    /// Members that must sign together.
    pub fn threshold(&self) -> usize {
        usize::from(self.facts.group_key.threshold())
    }

    fn binding(&self) -> AttemptBinding<'_> {
        AttemptBinding {
            key_group: &self.facts.key_group,
            session: &self.session,
            message: &self.subject.message,
            threshold: self.facts.group_key.threshold(),
        }
    }

    /// The attempt of this number with these members.
    ///
    /// # Errors
    /// [`ContextError`].
    pub fn derive(&self, number: u32, included: &[Member]) -> Result<AttemptContext, ContextError> {
        let included: Vec<u16> = included.iter().map(|member| member.number()).collect();
        AttemptContext::derive(&self.binding(), number, &included)
    }

    /// The attempt that `parts` claim to be, of members of this group.
    pub(crate) fn parse(&self, parts: &AttemptContextParts) -> Option<AttemptContext> {
        let context = AttemptContext::parse(&self.binding(), parts).ok()?;
        let known = |member: &Member| self.members().binary_search(member).is_ok();
        context.included().iter().all(known).then_some(context)
    }

    /// The package that `bytes` claim to be, if it is one of this attempt.
    pub(crate) fn package_of(&self, context: &AttemptContext, bytes: &[u8]) -> Option<SigningPackage> {
        let package = SigningPackage::from_bytes(bytes).ok()?;
        let fits = package.message() == self.subject.message
            && package.members().eq(context.included().iter().copied())
            && package.check_against(self.group()).is_ok();
        fits.then_some(package)
    }

    fn round_binding<'a>(&'a self, attempt: &'a AttemptContext, member: Member) -> RoundBinding<'a> {
        RoundBinding {
            key_group: &self.facts.key_group,
            session: &self.session,
            message: &self.subject.message,
            root: self.subject.root.as_ref(),
            attempt,
            member,
        }
    }

    /// The name of the answer of `member` to this attempt with this package.
    pub fn round_id(&self, attempt: &AttemptContext, member: Member, package: &SigningPackage) -> RoundId {
        self.round_binding(attempt, member).round_id(package.as_bytes())
    }

    /// The finished signature in `bytes`, if it verifies through libsecp256k1.
    pub(crate) fn finished(&self, bytes: &[u8]) -> Option<Signature> {
        let signature = Signature::from_bytes(bytes).ok()?;
        let verified = self.group().verify(self.subject.message, self.subject.root.as_ref(), &signature);
        verified.ok().map(|()| signature)
    }

    /// Whether the member's identity signed this answer: then a bad share is proved to be its own.
    pub(crate) fn is_signed(&self, context: &AttemptContext, member: Member, round: &SignedRound) -> bool {
        let id = self.round_binding(context, member).round_id(&round.package);
        let message = round_signature_message(&id, member, &round.share);
        self.facts.genuine(member, &message, &round.round_signature)
    }

    /// Whether this answer's share verifies against its package.
    pub fn is_valid(&self, round: &SignedRound) -> bool {
        self.facts.verdict(&self.session, &self.subject, round) == ShareVerdict::Valid
    }

    /// Whether this answer proves its member's fault: its identity signed it, and its share does not verify.
    pub fn proves_fault(&self, round: &SignedRound) -> bool {
        self.facts.verdict(&self.session, &self.subject, round) == ShareVerdict::Invalid
    }

    /// Whether the voter's identity signed this vote.
    pub(crate) fn vote_is_genuine(&self, context: &AttemptContext, vote: &crate::roast::TimeoutVote) -> bool {
        self.oracle().vote_is_genuine(context, vote)
    }

    fn oracle(&self) -> Oracle<'_> {
        Oracle { facts: &self.facts, session: &self.session, subject: &self.subject }
    }

    /// Whether `transition` leads from `active` to where it says, as every node will judge it.
    pub(crate) fn authorises(&self, active: &AttemptContext, transition: &Transition) -> Result<(), TransitionError> {
        let target = AttemptContext::parse(&self.binding(), &transition.next).map_err(TransitionError::Next)?;
        let chain = std::slice::from_ref(transition);
        let root = self.subject.root.as_ref();
        evidence::authorise(&self.binding(), root, active, &target, chain, &self.oracle()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MerkleRoot, Message};

    #[test]
    fn a_session_is_named_by_message_root_and_try_alone() {
        let subject = |message, root| Subject { message: Message::new([message; 32]), root };
        let plain = subject(1, None);
        let ids = [
            session_id(&plain, 0),
            session_id(&plain, 1),
            session_id(&subject(2, None), 0),
            session_id(&subject(1, Some(MerkleRoot::new([0; 32]))), 0),
            session_id(&subject(1, Some(MerkleRoot::new([1; 32]))), 0),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(session_id(&plain, 0), session_id(&plain, 0));
        let (digits, number) = ids[1].as_str().split_once('-').unwrap();
        assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && number == "1");
    }
}
