//! Clients that ask one node, each over a connection of its own, and the book that they keep: every answer with its time, every
//! round with its bytes, every nonce with what it signed, and every law that was broken.
//!
//! *Readers* ask for durable rounds again and again. The *control* is the same question to another node, whose token is there: it
//! knows the noise of the machine, and nothing of the outage. *Signers* open sessions and ask for fresh rounds; a request that is refused
//! in an outage is asked again, unchanged, until it is served.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use frostkeep::client::{Client, ClientError, ServedRound};
use frostkeep::engine::SignRequest;
use frostkeep::reasons::Reason;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::Failed;
use crate::group::{Group, MEMBERS, Session};
use crate::node::{ServedNode, ready};

/// Between two requests of one reader.
const READER_PAUSE: Duration = Duration::from_millis(4);
/// Clients that ask the control.
pub(crate) const CONTROL_READERS: usize = 2;
/// Between two tries of a request that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A signer that is told to stop still waits for the round that it has asked for, but not for ever.
const LAST_ROUND: Duration = Duration::from_secs(60);
/// What is told of broken laws: the first ones.
const BROKEN_TOLD_MAX: usize = 20;

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Clients that ask for durable rounds.
    pub readers: usize,
    /// Clients that ask for fresh ones.
    pub signers: usize,
    /// Between two sessions of one signer.
    pub between_sessions: Duration,
    /// Durable rounds that readers choose from. Older sessions are finished; none for never.
    pub open_rounds: Option<usize>,
}

impl Pace {
    /// As much as two processors answer without queues.
    pub const fn usual() -> Self {
        Self { readers: 4, signers: 3, between_sessions: Duration::from_millis(10), open_rounds: None }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A durable round of the control.
    Control,
    /// A durable round, with the bytes that it had before.
    Again,
    /// A fresh round.
    Fresh,
    /// A fresh round is refused because of an outage; `pending`: it is in line.
    Refused { pending: bool },
    /// A round that is in line is refused because of an outage.
    NotDurable,
    /// A session has ended with a signature.
    Finished,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub asked: Instant,
    pub took: Duration,
    pub what: What,
}

impl Answer {
    pub fn came(&self) -> Instant {
        self.asked + self.took
    }
}

/// A share that was handed out, for the extractor.
pub struct Emitted {
    pub member: u16,
    pub package: Vec<u8>,
    pub share: [u8; 32],
}

/// A durable round: what was asked for it and what it is.
struct Kept {
    request: SignRequest,
    bytes: Vec<u8>,
    /// Its session is being finished: it may be refused as such from now on.
    ends: AtomicBool,
}

/// A node whose token is there, with a durable round.
pub struct Control {
    node: ServedNode,
    kept: Arc<Kept>,
}

impl Control {
    /// Has `node` answer a round of `group`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn of(node: ServedNode, group: &Group) -> Result<Self, Failed> {
        let client = node.client()?;
        let session = group.session(&client, "control").await?;
        let request = group.request(&session, MEMBERS[0]);
        let bytes = client.start_sign_round(&request).await?.durable_part();
        Ok(Self { node, kept: Arc::new(Kept { request, bytes, ends: AtomicBool::new(false) }) })
    }
}

/// A session whose rounds are all durable.
struct Done {
    session: Session,
    served: Vec<ServedRound>,
    kept: Vec<Arc<Kept>>,
}

#[derive(Default)]
struct Book {
    answers: Vec<Answer>,
    kept: Vec<Arc<Kept>>,
    done: VecDeque<Done>,
    /// By x coordinate, so that a negated or swapped pair is the same: what the nonce signed.
    nonces: HashMap<[u8; 32], u64>,
    positions: HashSet<u64>,
    emitted: Vec<Emitted>,
    keeps_emitted: bool,
    broken: Vec<String>,
    breaches: u64,
}

impl Book {
    fn breach(&mut self, said: String) {
        self.breaches += 1;
        if self.broken.len() < BROKEN_TOLD_MAX {
            self.broken.push(said);
        }
    }

    /// A share left the node. One that was seen before is no news.
    fn emission(&mut self, request: &SignRequest, served: &ServedRound) {
        let mut hasher = DefaultHasher::new();
        (request.package.as_bytes(), served.share).hash(&mut hasher);
        let signed = hasher.finish();
        let own = request.package.commitments_of(request.member).expect("a package of both members").as_bytes();
        // Two compressed points at the end: a byte of sign and 32 of x, each.
        let points = &own[own.len() - 66..];
        for x in [&points[1..33], &points[34..66]] {
            let x: [u8; 32] = x.try_into().expect("32 bytes");
            if self.nonces.insert(x, signed).is_some_and(|before| before != signed) {
                self.breach(format!("a nonce of session {} signed twice", request.session));
            }
        }
        if self.keeps_emitted {
            let package = request.package.as_bytes().to_vec();
            self.emitted.push(Emitted { member: request.member.number(), package, share: served.share });
        }
    }
}

struct Shared {
    group: Group,
    pace: Pace,
    book: Mutex<Book>,
    stop: AtomicBool,
    sessions: AtomicU64,
}

/// The load, from its beginning to its end.
pub struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    probe: Client,
}

impl Load {
    /// Begins to ask. `seed` decides what is asked when.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn begin(
        runtime: Runtime,
        node: &ServedNode,
        group: Group,
        pace: Pace,
        control: &Control,
        seed: u64,
    ) -> Result<Self, Failed> {
        let shared = Arc::new(Shared {
            group,
            pace,
            book: Mutex::new(Book { keeps_emitted: pace.open_rounds.is_none(), ..Book::default() }),
            stop: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
        });
        let entered = runtime.enter();
        let mut dice = Dice(seed);
        let mut clients = Vec::new();
        for number in 0..pace.readers + pace.signers {
            let (shared, client, dice) = (Arc::clone(&shared), node.client()?, Dice(dice.roll()));
            clients.push(if number < pace.readers {
                runtime.spawn(async move { shared.read(&client, dice).await })
            } else {
                runtime.spawn(async move { shared.sign(&client, dice).await })
            });
        }
        let probe = node.client()?;
        for _ in 0..CONTROL_READERS {
            let (shared, client, kept) = (Arc::clone(&shared), control.node.client()?, Arc::clone(&control.kept));
            clients.push(runtime.spawn(async move { shared.control(&client, &kept).await }));
        }
        drop(entered);
        Ok(Self { runtime, shared, clients, probe })
    }

    /// A runtime for a load.
    ///
    /// # Errors
    /// When there are no threads to have.
    pub fn runtime() -> Result<Runtime, Failed> {
        Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
    }

    fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.shared.book.lock().unwrap())
    }

    /// Waits until so many rounds are durable.
    pub fn warm(&self, rounds: usize) {
        self.until("the first rounds are durable", Duration::from_secs(60), |book| {
            (book.kept.len() >= rounds).then_some(())
        });
    }

    /// Waits for the first fresh round that was handed out after `moment`; when that was.
    pub fn fresh_after(&self, moment: Instant, patience: Duration) -> Instant {
        self.until("a fresh round after the outage", patience, |book| {
            let fresh = book.answers.iter().rev().take_while(|answer| answer.came() > moment);
            fresh.filter(|answer| answer.what == What::Fresh).map(Answer::came).min()
        })
    }

    fn until<T>(&self, what: &str, patience: Duration, mut seen: impl FnMut(&mut Book) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(seen) = self.book(&mut seen) {
                return seen;
            }
            let broken = self.book(|book| book.broken.clone());
            assert!(begun.elapsed() < patience, "never came true within {patience:?}: {what}; broken: {broken:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The laws that were broken up to now: how often, and the first ones in words.
    pub fn broken(&self) -> (u64, Vec<String>) {
        self.book(|book| (book.breaches, book.broken.clone()))
    }

    /// Takes the answers out of the book: those since the last time.
    pub fn take_answers(&self) -> Vec<Answer> {
        self.book(|book| std::mem::take(&mut book.answers))
    }

    /// Rounds that were handed out.
    pub fn rounds(&self) -> usize {
        self.book(|book| book.positions.len())
    }

    /// The node's own word on how it stands.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<frostkeep::client::view::NodeStatus, Failed> {
        Ok(self.runtime.block_on(self.probe.status())?)
    }

    fn audit(&self) {
        self.runtime.block_on(async {
            ready(&self.probe).await.expect("the node is ready at the end");
            let kept = self.shared.book.lock().unwrap().kept.clone();
            for kept in kept {
                self.shared.again(&self.probe, &kept).await;
            }
        });
    }

    /// Stops, when every round that was asked for is there; asks for every durable round once more; and again of the node started
    /// anew, which knows only what its disk does.
    ///
    /// # Panics
    /// When a client did not come to its end, or the node does not stop well, start, and become ready.
    pub fn end(mut self, node: &mut ServedNode) -> (Vec<Answer>, Vec<Emitted>, Verdict) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            self.runtime.block_on(client).expect("a client does not panic");
        }
        let answers = self.take_answers();
        self.audit();
        assert_eq!(node.stop().expect("it runs"), Some(0), "the node ends well");
        node.start().expect("it starts again");
        self.audit();
        let emitted = self.book(|book| std::mem::take(&mut book.emitted));
        let verdict = self.book(|book| Verdict {
            rounds: book.positions.len(),
            breaches: book.breaches,
            broken: book.broken.clone(),
        });
        (answers, emitted, verdict)
    }
}

/// What a load came to.
pub struct Verdict {
    /// Rounds that were handed out, each at a position of its own.
    pub rounds: usize,
    /// How often a law was broken.
    pub breaches: u64,
    /// The first breaches, in words.
    pub broken: Vec<String>,
}

impl Verdict {
    /// # Panics
    /// When a law was broken.
    pub fn holds(&self) {
        assert!(self.breaches == 0, "{} breaches: {:#?}", self.breaches, self.broken);
    }
}

impl Shared {
    fn note(&self, asked: Instant, what: What) {
        let took = asked.elapsed();
        self.book.lock().unwrap().answers.push(Answer { asked, took, what });
    }

    fn breach(&self, said: String) {
        self.book.lock().unwrap().breach(said);
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    async fn read(&self, client: &Client, mut dice: Dice) {
        while !self.stops() {
            let chosen = {
                let book = self.book.lock().unwrap();
                let rounds = book.kept.len() as u64;
                if rounds == 0 { None } else { book.kept.get(dice.below(rounds) as usize).cloned() }
            };
            if let Some(kept) = chosen {
                self.again(client, &kept).await;
            }
            tokio::time::sleep(READER_PAUSE).await;
        }
    }

    async fn control(&self, client: &Client, kept: &Kept) {
        while !self.stops() {
            self.ask_again(client, kept, What::Control).await;
            tokio::time::sleep(READER_PAUSE).await;
        }
    }

    /// A durable round is served whatever the token does, and is the same bytes.
    async fn again(&self, client: &Client, kept: &Kept) {
        self.ask_again(client, kept, What::Again).await;
    }

    async fn ask_again(&self, client: &Client, kept: &Kept, what: What) {
        let asked = Instant::now();
        match client.start_sign_round(&kept.request).await {
            Ok(served) => {
                self.note(asked, what);
                if served.durable_part() != kept.bytes {
                    self.breach(format!("session {}: other bytes for a durable round", kept.request.session));
                    self.book.lock().unwrap().emission(&kept.request, &served);
                }
            }
            Err(error) if error.reason() == Some(Reason::SessionFinalized) && kept.ends.load(Ordering::SeqCst) => {}
            Err(error) => {
                let (session, member) = (&kept.request.session, kept.request.member);
                self.breach(format!("session {session}: the durable round of member {member} is not served: {error}"));
            }
        }
    }

    async fn sign(&self, client: &Client, mut dice: Dice) {
        while !self.stops() {
            let name = format!("outage-{}", self.sessions.fetch_add(1, Ordering::SeqCst));
            if let Err(error) = self.one_session(client, &name, &mut dice).await {
                // Nothing durable is promised by commitments: the token is not asked for them.
                self.breach(format!("session {name}: no commitments: {error}"));
            }
            self.finish_old(client).await;
            tokio::time::sleep(self.pace.between_sessions).await;
        }
    }

    async fn one_session(&self, client: &Client, name: &str, dice: &mut Dice) -> Result<(), ClientError> {
        let session = self.group.session(client, name).await?;
        let (mut all, mut rounds) = (Vec::new(), Vec::new());
        for member in MEMBERS {
            let request = self.group.request(&session, member);
            let Some(served) = self.insist(client, &request).await else { return Ok(()) };
            let kept = Arc::new(Kept { request, bytes: served.durable_part(), ends: AtomicBool::new(false) });
            self.book.lock().unwrap().kept.push(Arc::clone(&kept));
            if dice.below(4) == 0 {
                self.abuse(client, &session, member).await?;
            }
            all.push(served);
            rounds.push(kept);
        }
        self.book.lock().unwrap().done.push_back(Done { session, served: all, kept: rounds });
        Ok(())
    }

    /// Asks for a fresh round until it is there; none when that takes for ever, or is refused for no outage.
    async fn insist(&self, client: &Client, request: &SignRequest) -> Option<ServedRound> {
        let mut stopped = None;
        let (mut caught, mut tries) = (false, 0_u64);
        loop {
            let asked = Instant::now();
            let error = match client.start_sign_round(request).await {
                Ok(served) => {
                    self.note(asked, What::Fresh);
                    return self.received(request, served);
                }
                Err(error) => error,
            };
            let ClientError::Refused(problem) = &error else {
                self.breach(format!("session {}: {error}", request.session));
                return None;
            };
            let told = problem.outage.is_some() && problem.next_try_ms.is_some() && problem.durable_served;
            match problem.reason {
                Reason::KeyProviderUnavailable if told && !(caught && problem.pending) => {
                    caught |= problem.pending;
                    self.note(asked, What::Refused { pending: problem.pending });
                }
                Reason::RoundNotDurable if caught => self.note(asked, What::NotDurable),
                _ => {
                    self.breach(format!(
                        "session {}: try {tries} of a round (caught in flight: {caught}) is refused as {}: {error}",
                        request.session, problem.reason
                    ));
                    return None;
                }
            }
            tries += 1;
            if self.stops() && stopped.get_or_insert_with(Instant::now).elapsed() > LAST_ROUND {
                self.breach(format!("session {}: lost, the last try said: {error}", request.session));
                return None;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A fresh round is the share of the package that was asked for, at a position that no other round has.
    fn received(&self, request: &SignRequest, served: ServedRound) -> Option<ServedRound> {
        let is_the_share = self.group.is_the_share_of(request, &served);
        let mut book = self.book.lock().unwrap();
        book.emission(request, &served);
        if !is_the_share {
            book.breach(format!("session {}: the share of another package", request.session));
        }
        if !book.positions.insert(served.position) {
            book.breach(format!("session {}: position {} comes twice", request.session, served.position));
        }
        is_the_share.then_some(served)
    }

    /// Tries to get a second share out of what a round has spent: in its own attempt, and with its commitments in another.
    async fn abuse(&self, client: &Client, session: &Session, member: u16) -> Result<(), ClientError> {
        let again = self.group.other_package(client, session, member).await?;
        let elsewhere = self.group.other_attempt(session, member);
        for (request, reason) in [(again, Reason::AttemptConflict), (elsewhere, Reason::CommitmentsUnknown)] {
            match client.start_sign_round(&request).await {
                Ok(served) => self.book.lock().unwrap().emission(&request, &served),
                Err(error) if error.reason() == Some(reason) => {}
                Err(error) => self.breach(format!("session {}: not {reason}: {error}", request.session)),
            }
        }
        Ok(())
    }

    /// Ends the oldest sessions, so that what is open stays bounded.
    async fn finish_old(&self, client: &Client) {
        let Some(open) = self.pace.open_rounds else { return };
        loop {
            let old = {
                let mut book = self.book.lock().unwrap();
                if book.done.len() * MEMBERS.len() <= open {
                    return;
                }
                let old = book.done.pop_front().expect("it is not empty");
                for kept in &old.kept {
                    kept.ends.store(true, Ordering::SeqCst);
                }
                book.kept.retain(|kept| !kept.ends.load(Ordering::SeqCst));
                old
            };
            self.finish(client, &old).await;
        }
    }

    async fn finish(&self, client: &Client, done: &Done) {
        let request = self.group.finish(&done.session, &done.served);
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            match client.finalize_sign_round(&request).await {
                Ok(Some(_)) => return self.note(asked, What::Finished),
                Ok(None) => return self.breach(format!("session {}: the node has lost it", request.session)),
                Err(ClientError::Refused(problem)) if problem.reason == Reason::KeyProviderUnavailable => {}
                Err(ClientError::Refused(problem)) if problem.reason == Reason::RoundNotDurable => {}
                Err(error) => return self.breach(format!("session {}: not finished: {error}", request.session)),
            }
            if self.stops() && begun.elapsed() > LAST_ROUND {
                return self.breach(format!("session {}: never finished", request.session));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// A seeded generator (splitmix64): the choices of a run can be made again.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}
