//! The ceremony on one node, as states that are consumed. All of a node's seats go through it together.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_core::{CryptoRng, RngCore};

use super::envelope::EnvelopeKey;
use super::fault::{check_round_one, envelopes_complete};
use super::message::round_one;
use super::{
    Body, Envelope, Failure, Fault, Message, MessageError, Parameters, Prepared, Round, RoundOneFault, Transcript,
};
use crate::frost::{DkgError, DkgRoundOne, DkgRoundTwo, RoundOnePackage};
use crate::identity::{IdentityKey, NodeIdentity};
use crate::ids::{CeremonyId, Member};

/// Why a node does not take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// The node holds no seat.
    #[error("identity {identity} holds no seat in ceremony {ceremony}")]
    NoSeat {
        /// The ceremony.
        ceremony: CeremonyId,
        /// The node.
        identity: IdentityKey,
    },
    /// Our fault: valid parameters were refused.
    #[error("the key generation could not begin")]
    Dkg(#[from] DkgError),
}

/// What became of a message that was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The first of its sender in this round.
    New(Member),
    /// The same again: a retransmission.
    Repeat(Member),
}

/// What became of a message that was not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Not a message of this ceremony; nothing changed.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message of a round that has not begun here; nothing changed, it may be given again later.
    #[error("{found} message of member {sender} while {expected} is awaited")]
    Early {
        /// The sender.
        sender: Member,
        /// The round that is awaited.
        expected: Round,
        /// The round of the message.
        found: Round,
    },
    /// The ceremony cannot succeed any more; the fault is kept for its end.
    #[error("the ceremony cannot succeed")]
    Fault(#[source] Fault),
}

/// What both states know: whom they speak for, and what came in.
struct Desk {
    parameters: Parameters,
    identity: Arc<NodeIdentity>,
    received: BTreeMap<(Round, Member), Message>,
    /// By who says so and about whom: at most one each, so that nobody can make it grow.
    faults: BTreeMap<(Member, Member), Fault>,
}

impl Desk {
    fn fault(&mut self, by: Member, about: Member, fault: Fault) -> ReceiveError {
        ReceiveError::Fault(self.faults.entry((by, about)).or_insert(fault).clone())
    }

    /// Files a message of a round up to `awaited`.
    fn receive(&mut self, bytes: &[u8], awaited: Round) -> Result<Receipt, ReceiveError> {
        let message = Message::open(bytes, &self.parameters)?;
        let (sender, round) = (message.sender(), message.round());
        if let Body::Complaint { accused } = *message.body() {
            return Err(self.fault(sender, accused, Fault::Complaint { accuser: sender, accused }));
        }
        if round > awaited {
            return Err(ReceiveError::Early { sender, expected: awaited, found: round });
        }
        if let Some(first) = self.received.get(&(round, sender)) {
            if first.digest() == message.digest() {
                return Ok(Receipt::Repeat(sender));
            }
            let first = Box::new(first.clone());
            return Err(self.fault(sender, sender, Fault::Equivocation { first, second: Box::new(message) }));
        }
        if let Err(reason) = check_round_one(&message, &self.parameters) {
            return Err(self.fault(sender, sender, Fault::RoundOne { reason, proof: Box::new(message) }));
        }
        if round == Round::Two && !envelopes_complete(&message, &self.parameters) {
            return Err(self.fault(sender, sender, Fault::Envelopes { proof: Box::new(message) }));
        }
        self.received.insert((round, sender), message);
        Ok(Receipt::New(sender))
    }

    /// Whose message has not come and may still come: who is at fault by proof is not waited for.
    fn missing(&self, round: Round) -> Vec<Member> {
        let members = self.parameters.seats().keys().copied();
        let awaited = |member: &Member| {
            !self.received.contains_key(&(round, *member)) && !self.faults.contains_key(&(*member, *member))
        };
        members.filter(awaited).collect()
    }

    /// Ends the ceremony when anybody is faulty or absent in `round`.
    fn complete(&self, round: Round) -> Result<(), Failure> {
        let absent = self.missing(round).into_iter().map(|member| Fault::Absent { member, round });
        let faults: Vec<Fault> = self.faults.values().cloned().chain(absent).collect();
        if faults.is_empty() { Ok(()) } else { Err(self.failure(faults, Vec::new())) }
    }

    fn failure(&self, faults: Vec<Fault>, complaints: Vec<Message>) -> Failure {
        Failure { ceremony: self.parameters.ceremony(), faults, complaints, defect: None }
    }

    fn defect(&self, defect: &DkgError) -> Failure {
        Failure { defect: Some(defect.clone()), ..self.failure(Vec::new(), Vec::new()) }
    }

    fn complain(&self, accusations: &[(Member, Member)]) -> Failure {
        let faults = accusations.iter().map(|&(accuser, accused)| Fault::Complaint { accuser, accused }).collect();
        let sign = |&(accuser, accused): &(Member, Member)| {
            Message::sign(&self.parameters, accuser, Body::Complaint { accused }, &self.identity)
        };
        self.failure(faults, accusations.iter().map(sign).collect())
    }
}

/// Begins: a secret polynomial and an envelope key for each of the node's seats, and the round-one messages to all.
///
/// # Errors
/// [`BeginError`].
///
/// # Security
/// From here on there are secrets. Token, disk and every peer must have been seen before.
pub fn begin<R: RngCore + CryptoRng>(
    parameters: Parameters,
    identity: Arc<NodeIdentity>,
    entropy: &mut R,
) -> Result<(AwaitingRoundOne, Vec<Message>), BeginError> {
    let own = parameters.seats_of(identity.public());
    if own.is_empty() {
        return Err(BeginError::NoSeat { ceremony: parameters.ceremony(), identity: identity.public() });
    }
    let mut seats = BTreeMap::new();
    let mut messages = Vec::with_capacity(own.len());
    for member in own {
        let (state, package) = DkgRoundOne::start(member, parameters.seats().len(), parameters.threshold(), entropy)?;
        let key = EnvelopeKey::generate(entropy);
        let body = Body::RoundOne { package: package.as_bytes().to_vec(), key: key.public() };
        messages.push(Message::sign(&parameters, member, body, &identity));
        seats.insert(member, (state, key));
    }
    let received = messages.iter().map(|message| ((Round::One, message.sender()), message.clone())).collect();
    let desk = Desk { parameters, identity, received, faults: BTreeMap::new() };
    Ok((AwaitingRoundOne { desk, seats }, messages))
}

/// A node that awaits the round-one messages of the others.
///
/// # Security
/// Secrets live in RAM only; dropped or restarted, the ceremony is void.
pub struct AwaitingRoundOne {
    desk: Desk,
    seats: BTreeMap<Member, (DkgRoundOne, EnvelopeKey)>,
}

impl AwaitingRoundOne {
    /// The ceremony.
    pub fn ceremony(&self) -> CeremonyId {
        self.desk.parameters.ceremony()
    }

    /// Takes one message, from whomever.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Receipt, ReceiveError> {
        self.desk.receive(bytes, Round::One)
    }

    /// Members whose round-one message has not come.
    pub fn missing(&self) -> Vec<Member> {
        self.desk.missing(Round::One)
    }

    /// Goes on when every message is there: the round-two messages to all.
    ///
    /// # Errors
    /// [`Failure`] names every absent and every faulty member.
    pub fn advance<R: RngCore + CryptoRng>(self, entropy: &mut R) -> Result<(AwaitingRoundTwo, Vec<Message>), Failure> {
        let Self { mut desk, seats } = self;
        desk.complete(Round::One)?;
        let opened: BTreeMap<Member, (RoundOnePackage, [u8; 32])> = desk
            .parameters
            .seats()
            .keys()
            .filter_map(|&member| Some((member, round_one(desk.received.get(&(Round::One, member))?)?)))
            .collect();
        let parameters = desk.parameters.hash();
        let mut next = BTreeMap::new();
        let mut messages = Vec::with_capacity(seats.len());
        for (member, (state, key)) in seats {
            let others = opened.iter().filter(|(other, _)| **other != member);
            let packages = others.map(|(&other, (package, _))| (other, package.clone())).collect();
            // Every package was verified when it came; a refusal here names the same culprits again.
            let (state, outgoing) = state.advance(&packages).map_err(|error| desk.refused(&error))?;
            let mut envelopes = Vec::with_capacity(outgoing.len());
            for (receiver, package) in &outgoing {
                let key = opened.get(receiver).map(|(_, key)| key);
                let sealed = key.and_then(|key| Envelope::seal(package, key, &parameters, member, *receiver, entropy));
                envelopes.push(sealed.ok_or_else(|| desk.blame_round_one(&[*receiver], RoundOneFault::Key))?);
            }
            messages.push(Message::sign(&desk.parameters, member, Body::RoundTwo { envelopes }, &desk.identity));
            next.insert(member, (state, key));
        }
        desk.received.extend(messages.iter().map(|message| ((Round::Two, message.sender()), message.clone())));
        Ok((AwaitingRoundTwo { desk, seats: next }, messages))
    }
}

impl Desk {
    fn refused(&self, error: &DkgError) -> Failure {
        match error {
            DkgError::RoundOne { culprits } => self.blame_round_one(culprits, RoundOneFault::Proof),
            defect => self.defect(defect),
        }
    }

    fn blame_round_one(&self, culprits: &[Member], reason: RoundOneFault) -> Failure {
        let proof = |member: &Member| self.received.get(&(Round::One, *member)).cloned().map(Box::new);
        let faults = culprits.iter().filter_map(proof).map(|proof| Fault::RoundOne { reason, proof }).collect();
        self.failure(faults, Vec::new())
    }
}

/// A node that awaits the round-two messages of the others.
///
/// # Security
/// Secrets live in RAM only; dropped or restarted, the ceremony is void.
pub struct AwaitingRoundTwo {
    desk: Desk,
    seats: BTreeMap<Member, (DkgRoundTwo, EnvelopeKey)>,
}

impl AwaitingRoundTwo {
    /// The ceremony.
    pub fn ceremony(&self) -> CeremonyId {
        self.desk.parameters.ceremony()
    }

    /// Takes one message, from whomever.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Receipt, ReceiveError> {
        self.desk.receive(bytes, Round::Two)
    }

    /// Members whose round-two message has not come.
    pub fn missing(&self) -> Vec<Member> {
        self.desk.missing(Round::Two)
    }

    /// Finishes when every message is there: the key shares of all seats, with the node's signature on the transcript.
    ///
    /// # Errors
    /// [`Failure`] names every absent and every faulty member, and holds the complaints to send.
    pub fn finish(self) -> Result<Prepared, Failure> {
        let Self { desk, seats } = self;
        desk.complete(Round::Two)?;
        let parameters = desk.parameters.hash();
        let mut accusations = Vec::new();
        let mut shares = Vec::with_capacity(seats.len());
        let mut group = None;
        for (member, (state, key)) in seats {
            let mut packages = BTreeMap::new();
            for (&sender, envelope) in desk.envelopes_to(member).iter() {
                match envelope.open(&key, &parameters, sender) {
                    Some(package) => drop(packages.insert(sender, package)),
                    None => accusations.push((member, sender)),
                }
            }
            if packages.len() + 1 < desk.parameters.seats().len() {
                continue;
            }
            match state.finish(&packages) {
                Ok((share, key)) => {
                    shares.push(share);
                    group = Some(key);
                }
                Err(DkgError::RoundTwo { culprits }) => {
                    accusations.extend(culprits.into_iter().map(|accused| (member, accused)));
                }
                Err(defect) => return Err(desk.defect(&defect)),
            }
        }
        let Some(group) = group.filter(|_| accusations.is_empty()) else {
            return Err(desk.complain(&accusations));
        };
        let digests = desk.parameters.seats().keys().filter_map(|&member| {
            let one = desk.received.get(&(Round::One, member))?.digest();
            Some((one, desk.received.get(&(Round::Two, member))?.digest()))
        });
        let digests = digests.collect();
        let transcript = Transcript::new(desk.parameters.clone(), digests, group)
            .expect("every seat has both messages, and the key generation ran with these members and this threshold");
        Ok(Prepared::new(shares, transcript, &desk.identity))
    }
}

impl Desk {
    /// What every other member sealed for `receiver`.
    fn envelopes_to(&self, receiver: Member) -> BTreeMap<Member, &Envelope> {
        self.received
            .values()
            .filter_map(|message| match message.body() {
                Body::RoundTwo { envelopes } => {
                    Some((message.sender(), envelopes.iter().find(|envelope| envelope.receiver() == receiver)?))
                }
                _ => None,
            })
            .collect()
    }
}
