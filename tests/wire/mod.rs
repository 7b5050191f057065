//! Ports over engines in process: wires that die, lose answers and change what they carry, and a node that lies.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

use frostkeep::ceremony::{Driver, Node, NodePort, Pace, Peer, PortError, Refused};
use frostkeep::engine::{CeremonyStage, Engine, PreparedReply};
use frostkeep::hash::{Framed, sha256};
use frostkeep::hsm::entropy;
use frostkeep::identity::{IdentityKey, IdentitySignature, NodeIdentity};
use frostkeep::ids::{AttemptPolicy, CeremonyId, Member};
use frostkeep::keygen::{
    self, AwaitingRoundOne, AwaitingRoundTwo, Body, Confirmation, Fault, Message, Parameters, ReceiveError,
    RoundOneFault, Statement, Transcript,
};
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use rand_core::RngCore;

use crate::kit::{Kind, TestNode, any_message, member, peer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Preflight,
    Begin,
    Receive,
    Advance,
    Finish,
    Certify,
    Abandon,
    Stage,
}

/// Whether a wire dies before the node has done what it was asked, or after it, with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// Who answers.
enum Behind {
    Engine(Mutex<Engine>),
    Liar(Box<Liar>),
}

/// The way to one node, and what is wrong with it.
pub struct WireState {
    name: String,
    behind: Behind,
    pub dead: AtomicBool,
    pub loses_answers: AtomicBool,
    answered: AtomicUsize,
    dies: Mutex<Option<(Call, When)>>,
    unreached: Mutex<BTreeSet<String>>,
    tamper: Mutex<Option<Tamper>>,
    confirms_as: Mutex<Option<Engine>>,
    calls: Mutex<Vec<Call>>,
}

#[derive(Clone)]
pub struct Wire(pub Arc<WireState>);

impl WireState {
    fn new(name: String, behind: Behind) -> Arc<Self> {
        Arc::new(Self {
            name,
            behind,
            dead: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            dies: Mutex::default(),
            unreached: Mutex::default(),
            tamper: Mutex::default(),
            confirms_as: Mutex::default(),
            calls: Mutex::default(),
        })
    }

    pub fn die_at(&self, call: Call, when: When) {
        *self.dies.lock().unwrap() = Some((call, when));
    }

    pub fn cut_off_from(&self, peer: &str) {
        self.unreached.lock().unwrap().insert(peer.into());
    }

    pub fn tamper_with(&self, tamper: Tamper) {
        *self.tamper.lock().unwrap() = Some(tamper);
    }

    /// Confirmations come from another node.
    pub fn confirm_as(&self, engine: Engine) {
        *self.confirms_as.lock().unwrap() = Some(engine);
    }

    /// All is well again.
    pub fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
        *self.dies.lock().unwrap() = None;
        *self.tamper.lock().unwrap() = None;
        *self.confirms_as.lock().unwrap() = None;
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn engine(&self) -> Option<Engine> {
        match &self.behind {
            Behind::Engine(engine) => Some(engine.lock().unwrap().clone()),
            Behind::Liar(_) => None,
        }
    }

    fn gate(&self, call: Call, when: When) -> Result<(), PortError> {
        if when == When::Before {
            self.calls.lock().unwrap().push(call);
        }
        if *self.dies.lock().unwrap() == Some((call, when)) {
            self.dead.store(true, Ordering::SeqCst);
        }
        let lost = when == When::After
            && self.loses_answers.load(Ordering::SeqCst)
            && self.answered.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if lost || self.dead.load(Ordering::SeqCst) {
            return Err(PortError::Unreachable("the wire is cut".into()));
        }
        Ok(())
    }
}

impl Wire {
    async fn through<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, PortError>> + Send,
    ) -> Result<T, PortError> {
        self.0.gate(call, When::Before)?;
        let answer = work.await;
        self.0.gate(call, When::After)?;
        answer
    }
}

fn bytes(messages: Vec<Message>) -> Vec<Vec<u8>> {
    messages.iter().map(Message::to_bytes).collect()
}

impl NodePort for Wire {
    async fn preflight(&self, _: &Parameters, _: &SigningPolicy, peers: &[Peer]) -> Result<(), PortError> {
        self.through(Call::Preflight, async {
            if let Some(engine) = self.0.engine() {
                engine.keygen_preflight(&peer())?;
            }
            let unreached = self.0.unreached.lock().unwrap();
            let missed: Vec<&str> =
                peers.iter().map(|peer| peer.name.as_str()).filter(|name| unreached.contains(*name)).collect();
            if missed.is_empty() {
                return Ok(());
            }
            Err(refused(Reason::Busy, format!("cannot reach {}", missed.join(", "))))
        })
        .await
    }

    async fn begin(&self, parameters: &Parameters, policy: &SigningPolicy) -> Result<Vec<Vec<u8>>, PortError> {
        self.through(Call::Begin, async {
            match &self.0.behind {
                Behind::Liar(liar) => Ok(liar.begin(parameters)),
                Behind::Engine(_) => {
                    let engine = self.0.engine().unwrap();
                    Ok(bytes(engine.keygen_begin(&peer(), parameters.clone(), policy.clone()).await?))
                }
            }
        })
        .await
    }

    async fn receive(&self, ceremony: &CeremonyId, message: &[u8]) -> Result<(), PortError> {
        self.through(Call::Receive, async {
            let Some(engine) = self.0.engine() else {
                let Behind::Liar(liar) = &self.0.behind else { unreachable!() };
                return liar.receive(ceremony, message).await;
            };
            let carried = match &mut *self.0.tamper.lock().unwrap() {
                Some(tamper) => tamper.carry(message),
                None => vec![message.to_vec()],
            };
            // The answer is that of the message which was given, if it went through at all.
            let mut answer = Ok(());
            for one in carried {
                let own = one == message;
                let told = engine.keygen_receive(&peer(), ceremony, one).await;
                if own || answer.is_ok() {
                    answer = told.map(|_| ());
                }
            }
            Ok(answer?)
        })
        .await
    }

    async fn advance(&self, ceremony: &CeremonyId) -> Result<Vec<Vec<u8>>, PortError> {
        self.through(Call::Advance, async {
            match &self.0.behind {
                Behind::Liar(liar) => Ok(liar.advance()),
                Behind::Engine(_) => Ok(bytes(self.0.engine().unwrap().keygen_advance(&peer(), ceremony).await?)),
            }
        })
        .await
    }

    async fn finish(&self, ceremony: &CeremonyId) -> Result<PreparedReply, PortError> {
        self.through(Call::Finish, async {
            match &self.0.behind {
                Behind::Liar(liar) => liar.finish(),
                Behind::Engine(_) => Ok(self.0.engine().unwrap().keygen_finish(&peer(), ceremony).await?),
            }
        })
        .await
    }

    async fn certify(&self, certificate: &[u8]) -> Result<Confirmation, PortError> {
        self.through(Call::Certify, async {
            let other = self.0.confirms_as.lock().unwrap().clone();
            let engine = other.or_else(|| self.0.engine()).unwrap();
            Ok(engine.keygen_certify(&peer(), certificate.to_vec()).await?)
        })
        .await
    }

    async fn abandon(&self, ceremony: &CeremonyId) -> Result<(), PortError> {
        self.through(Call::Abandon, async {
            match self.0.engine() {
                Some(engine) => Ok(engine.keygen_abandon(&peer(), ceremony)?),
                None => Ok(()),
            }
        })
        .await
    }

    async fn stage(&self, ceremony: &CeremonyId) -> Result<CeremonyStage, PortError> {
        self.through(Call::Stage, async { Ok(self.0.engine().unwrap().keygen_stage(&peer(), ceremony).await?) }).await
    }

    async fn unfinished(&self) -> Result<Vec<CeremonyId>, PortError> {
        self.through(Call::Stage, async { Ok(self.0.engine().unwrap().keygen_unfinished(&peer())?) }).await
    }
}

fn refused(reason: Reason, problem: String) -> PortError {
    let (members, faults, complaints) = (Vec::new(), Vec::new(), Vec::new());
    PortError::Refused(Box::new(Refused { reason, problem, members, faults, complaints }))
}

fn accusing(fault: Fault) -> PortError {
    let mut error = refused(Reason::CeremonyFailed, fault.to_string());
    if let PortError::Refused(refused) = &mut error {
        refused.faults = vec![fault];
    }
    error
}

/// What a wire does with the messages that it carries, by a seed. Each message is harmed once at the most.
pub struct Tamper {
    seed: u64,
    drawn: u64,
    alters: bool,
    harmed: BTreeSet<[u8; 32]>,
    held: Vec<Vec<u8>>,
}

impl Tamper {
    pub fn new(seed: u64, alters: bool) -> Self {
        Self { seed, drawn: 0, alters, harmed: BTreeSet::new(), held: Vec::new() }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.drawn += 1;
        let hash = sha256(&[self.seed.to_be_bytes(), self.drawn.to_be_bytes()].concat());
        u64::from_be_bytes(hash[..8].try_into().unwrap()) % below
    }

    fn carry(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        let mut carried = vec![message.to_vec()];
        if self.harmed.insert(sha256(message)) {
            match self.draw(if self.alters { 18 } else { 6 }) {
                0 => carried.clear(),
                1 => carried.push(message.to_vec()),
                // Out of order: it comes with a later one, perhaps of the next round.
                2 => self.held.append(&mut carried),
                3 => carried.append(&mut self.held),
                4 if self.alters => {
                    let at = usize::try_from(self.draw(message.len() as u64)).unwrap();
                    carried[0][at] ^= 1 << self.draw(8);
                }
                _ => {}
            }
        }
        carried
    }
}

/// How the liar lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    Malformed,
    Equivocation,
    MissingEnvelope,
    WrongEnvelope,
    FalseAccusation,
    FalseProof,
    OtherTranscript,
    OtherSignature,
    Garbage,
}

impl Lie {
    pub const ALL: [Lie; 9] = [
        Self::Malformed,
        Self::Equivocation,
        Self::MissingEnvelope,
        Self::WrongEnvelope,
        Self::FalseAccusation,
        Self::FalseProof,
        Self::OtherTranscript,
        Self::OtherSignature,
        Self::Garbage,
    ];
}

enum LiarStage {
    Away,
    One(AwaitingRoundOne),
    Two(AwaitingRoundTwo),
}

/// A node whose secrets the test holds.
struct Liar {
    lie: Lie,
    identity: Arc<NodeIdentity>,
    /// Whom it tells something else behind the driver's back.
    victim: Engine,
    stage: Mutex<LiarStage>,
    told: Mutex<Option<Parameters>>,
    /// The first message of round one of member 2, who is honest.
    heard: Mutex<Option<Message>>,
    behind_the_back: Mutex<Option<Vec<u8>>>,
}

/// A ceremony message as it travels.
#[derive(serde::Serialize, serde::Deserialize)]
struct Travelling {
    ceremony: CeremonyId,
    parameters: [u8; 32],
    sender: Member,
    body: Body,
    signature: IdentitySignature,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct TravellingStatement {
    identity: IdentityKey,
    transcript: [u8; 32],
    signature: IdentitySignature,
}

impl Liar {
    /// The message with another body, signed all the same.
    fn resigned(&self, message: &Message, change: impl FnOnce(&mut Body)) -> Vec<u8> {
        let mut travelling: Travelling = postcard::from_bytes(&message.to_bytes()).unwrap();
        change(&mut travelling.body);
        let round: &[u8] = if matches!(travelling.body, Body::RoundOne { .. }) { b"one" } else { b"two" };
        let digest = Framed::new("frostkeep-keygen-message-v1")
            .part(travelling.ceremony.as_bytes())
            .part(&travelling.parameters)
            .part(round)
            .part(&travelling.sender.number().to_be_bytes())
            .part(b"to all members")
            .part(&postcard::to_allocvec(&travelling.body).unwrap())
            .finish();
        travelling.signature = self.identity.sign("frostkeep-keygen-message-signature-v1", &[&digest]);
        postcard::to_allocvec(&travelling).unwrap()
    }

    fn begin(&self, parameters: &Parameters) -> Vec<Vec<u8>> {
        let (stage, said) = keygen::begin(parameters.clone(), Arc::clone(&self.identity), &mut entropy::os()).unwrap();
        *self.stage.lock().unwrap() = LiarStage::One(stage);
        *self.told.lock().unwrap() = Some(parameters.clone());
        match self.lie {
            Lie::Malformed => {
                let truncate = |body: &mut Body| {
                    let Body::RoundOne { package, .. } = body else { panic!("a message of round one") };
                    package.truncate(5);
                };
                return vec![self.resigned(&said[0], truncate)];
            }
            Lie::Equivocation => {
                let (_, other) =
                    keygen::begin(parameters.clone(), Arc::clone(&self.identity), &mut entropy::os()).unwrap();
                *self.behind_the_back.lock().unwrap() = Some(other[0].to_bytes());
            }
            Lie::Garbage => return vec![vec![0xff; 40]],
            _ => {}
        }
        bytes(said)
    }

    async fn receive(&self, ceremony: &CeremonyId, message: &[u8]) -> Result<(), PortError> {
        let other = self.behind_the_back.lock().unwrap().take();
        if let Some(other) = other {
            // Refused or not, both messages are now with the victim, or will be.
            let _ = self.victim.keygen_receive(&peer(), ceremony, other).await;
        }
        let opened = Message::open(message, self.told.lock().unwrap().as_ref().unwrap()).unwrap();
        if opened.sender() == member(2) {
            self.heard.lock().unwrap().get_or_insert(opened);
        }
        let told = match &mut *self.stage.lock().unwrap() {
            LiarStage::One(stage) => stage.receive(message),
            LiarStage::Two(stage) => stage.receive(message),
            LiarStage::Away => panic!("it has begun"),
        };
        match told {
            Ok(_) | Err(ReceiveError::Fault(_)) => Ok(()),
            Err(error) => panic!("{error}"),
        }
    }

    fn advance(&self) -> Vec<Vec<u8>> {
        let LiarStage::One(stage) = std::mem::replace(&mut *self.stage.lock().unwrap(), LiarStage::Away) else {
            panic!("it is in round one");
        };
        let (stage, said) = stage.advance(&mut entropy::os()).unwrap();
        *self.stage.lock().unwrap() = LiarStage::Two(stage);
        let change = |body: &mut Body| {
            let Body::RoundTwo { envelopes } = body else { panic!("a message of round two") };
            match self.lie {
                Lie::MissingEnvelope => drop(envelopes.pop()),
                _ => {
                    let mut bytes = postcard::to_allocvec(&envelopes[0]).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    envelopes[0] = postcard::from_bytes(&bytes).unwrap();
                }
            }
        };
        match self.lie {
            Lie::MissingEnvelope | Lie::WrongEnvelope => vec![self.resigned(&said[0], change)],
            _ => bytes(said),
        }
    }

    fn finish(&self) -> Result<PreparedReply, PortError> {
        let LiarStage::Two(stage) = std::mem::replace(&mut *self.stage.lock().unwrap(), LiarStage::Away) else {
            panic!("it is in round two");
        };
        let prepared = stage.finish().unwrap();
        let mut transcript = prepared.transcript().clone();
        let mut statement = *prepared.statement();
        match self.lie {
            Lie::FalseAccusation => {
                return Err(accusing(Fault::Complaint { accuser: member(3), accused: member(2) }));
            }
            Lie::FalseProof => {
                let proof = Box::new(self.heard.lock().unwrap().clone().unwrap());
                return Err(accusing(Fault::RoundOne { reason: RoundOneFault::Proof, proof }));
            }
            Lie::OtherTranscript => {
                // A digest of round two differs from what everybody else has heard.
                let parameters = postcard::to_allocvec(transcript.parameters()).unwrap().len();
                let mut bytes = transcript.to_bytes();
                bytes[parameters + 1 + 40] ^= 1;
                transcript = Transcript::from_bytes(&bytes).unwrap();
                statement = self.says(&transcript);
            }
            Lie::OtherSignature => {
                let mut bytes = statement.to_bytes();
                *bytes.last_mut().unwrap() ^= 1;
                statement = Statement::from_bytes(&bytes).unwrap();
            }
            _ => {}
        }
        Ok(PreparedReply { transcript, statement })
    }

    fn says(&self, transcript: &Transcript) -> Statement {
        let (ceremony, hash) = (transcript.parameters().ceremony(), transcript.hash());
        let signature = self.identity.sign("frostkeep-keygen-transcript-signature-v1", &[ceremony.as_bytes(), &hash]);
        let travelling = TravellingStatement { identity: self.identity.public(), transcript: hash, signature };
        Statement::from_bytes(&postcard::to_allocvec(&travelling).unwrap()).unwrap()
    }
}

/// Nodes on scripted tokens, a wire to each, perhaps a liar after them.
pub struct Rig {
    pub nodes: Vec<TestNode>,
    wires: Vec<Arc<WireState>>,
    identities: Vec<IdentityKey>,
    /// Seats of the nodes that have engines.
    pub seats: BTreeMap<Member, usize>,
    holders: BTreeMap<Member, IdentityKey>,
    threshold: u16,
    pub policy: SigningPolicy,
    /// How often the nodes asked for randomness.
    pub draws: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
}

impl Rig {
    pub async fn new(seats: &[u16], threshold: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let draws = Arc::new(AtomicUsize::new(0));
        let mut nodes = Vec::new();
        for index in 0..seats.len() {
            let mut node = TestNode::new(directory.path(), Kind::Scripted, index);
            let counted = Arc::clone(&draws);
            node.config.entropy = Arc::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
                Box::new(entropy::os())
            });
            node.start_open().await;
            nodes.push(node);
        }
        let engines: Vec<Engine> = nodes.iter().map(TestNode::engine).collect();
        let identities: Vec<IdentityKey> = engines.iter().map(|engine| engine.node_identity().unwrap()).collect();
        let named = engines.into_iter().enumerate();
        let wires =
            named.map(|(index, engine)| WireState::new(format!("node-{index}"), Behind::Engine(Mutex::new(engine))));
        let wires = wires.collect();
        let held = seats.iter().enumerate().flat_map(|(index, count)| std::iter::repeat_n(index, usize::from(*count)));
        let seats: BTreeMap<Member, usize> = (1..).map(member).zip(held).collect();
        let holders = seats.iter().map(|(seat, index)| (*seat, identities[*index])).collect();
        let policy = any_message();
        Self { nodes, wires, identities, seats, holders, threshold, policy, draws, _directory: directory }
    }

    /// One more node, with the next seat, that lies.
    pub async fn with_liar(seats: &[u16], threshold: u16, lie: Lie) -> Self {
        let mut rig = Self::new(seats, threshold).await;
        let identity = Arc::new(NodeIdentity::generate(&mut entropy::os()));
        let seat = member(u16::try_from(rig.holders.len()).unwrap() + 1);
        rig.holders.insert(seat, identity.public());
        rig.identities.push(identity.public());
        let liar = Liar {
            lie,
            identity,
            victim: rig.engine(0),
            stage: Mutex::new(LiarStage::Away),
            told: Mutex::default(),
            heard: Mutex::default(),
            behind_the_back: Mutex::default(),
        };
        rig.wires.push(WireState::new("liar".into(), Behind::Liar(Box::new(liar))));
        rig
    }

    pub fn without_liar(mut self) -> Self {
        self.wires.pop();
        self.identities.pop();
        self.holders.pop_last();
        self
    }

    pub fn engine(&self, index: usize) -> Engine {
        self.wires[index].engine().unwrap()
    }

    pub fn wire(&self, index: usize) -> &WireState {
        &self.wires[index]
    }

    /// The node forgets what it has not written.
    pub async fn restart(&mut self, index: usize) {
        self.nodes[index].stop();
        let engine = self.nodes[index].start_open().await;
        if let Behind::Engine(behind) = &self.wires[index].behind {
            *behind.lock().unwrap() = engine;
        }
    }

    pub fn parameters(&self, attempts: AttemptPolicy) -> Parameters {
        let mut id = [0; 16];
        entropy::os().fill_bytes(&mut id);
        let policy = self.policy.hash().unwrap();
        Parameters::new(CeremonyId::new(id), self.threshold, self.holders.clone(), attempts, policy).unwrap()
    }

    pub fn wires(&self) -> Vec<Node<Wire>> {
        let known = self.wires.iter().zip(&self.identities);
        known
            .map(|(wire, identity)| Node { name: wire.name.clone(), identity: *identity, port: Wire(Arc::clone(wire)) })
            .collect()
    }

    /// Cuts every wire at once, from wherever it is called, the first time that it is.
    pub fn cut(&self) -> impl Fn() + Send + Sync + 'static {
        let (wires, once) = (self.wires.clone(), Once::new());
        move || once.call_once(|| wires.iter().for_each(|wire| wire.dead.store(true, Ordering::SeqCst)))
    }

    pub fn driver(&self, pace: Pace) -> Driver<Wire> {
        Driver::new(self.wires(), pace, Arc::new(|_| {}))
    }
}
