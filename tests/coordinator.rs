//! Goal: a coordinator without a disk signs over real engines: large groups, a member that lies, nodes that are gone, a
//! coordinator that dies, sessions that were aborted, and RFC-21's order with a silent coordinator. Method: the driver over
//! engines in one process, on the scripted token. Figures are printed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use frostkeep::coordinator::ask::AttemptAsk;
use frostkeep::coordinator::{
    Blame, Done, DriveConfig, DriveError, EvidenceMachine, Hindrance, Machine, Port, PortError, Progress, RoundAnswer,
    SessionReport, Setting, drive, session_id, sign, sign_by_evidence,
};
use frostkeep::engine::{
    Caller, CommitRequest, Engine, EngineConfig, FinalizeRequest, RoundReply, SessionRequest, SignRequest, Subject,
    VoteRequest, trial_session, trial_subject,
};
use frostkeep::frost::Nonces;
use frostkeep::hsm::entropy;
use frostkeep::identity::IdentityKey;
use frostkeep::ids::{AttemptPolicy, Member};
use kit::outsider::{Outsider, altered};
use kit::{Cluster, Kind, Plan, any_message, coordinator, coordinator_as, member, subject};

/// A seat whose secrets the test holds: it signs its shares, and they are bad.
struct Liar {
    outsider: Outsider,
    setting: Setting,
    live: Mutex<BTreeMap<Member, Nonces>>,
}

/// Engines in this process, each called as its node's channel would.
#[derive(Clone)]
struct EnginePort {
    engines: BTreeMap<Member, Engine>,
    liar: Option<Arc<Liar>>,
    caller: Caller,
    /// Seats and identity of every node, for those that are asked to drive.
    holders: BTreeMap<Member, IdentityKey>,
    calls: Arc<AtomicUsize>,
    /// Nodes that are gone.
    gone: Arc<Mutex<BTreeSet<Member>>>,
    /// Nodes that go once their session was read.
    going: BTreeSet<Member>,
}

impl EnginePort {
    fn of(cluster: &Cluster) -> Self {
        Self {
            engines: cluster.seats.keys().map(|seat| (*seat, cluster.engine_of(*seat))).collect(),
            liar: None,
            caller: coordinator(),
            holders: cluster.confirmed.certificate().seats().clone(),
            calls: Arc::default(),
            gone: Arc::default(),
            going: BTreeSet::new(),
        }
    }

    fn engine(&self, member: Member) -> Result<&Engine, PortError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let gone = self.gone.lock().unwrap().contains(&member);
        self.engines
            .get(&member)
            .filter(|_| !gone)
            .ok_or_else(|| PortError::Unreachable(format!("the node of member {member} is gone")))
    }

    fn liar(&self, member: Member) -> Option<&Arc<Liar>> {
        self.liar.as_ref().filter(|liar| liar.outsider.shares.contains_key(&member))
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Liar {
    fn commit(&self, member: Member) -> Vec<u8> {
        let mut live = self.live.lock().unwrap();
        let nonces = live.entry(member).or_insert_with(|| self.outsider.commit(member).0);
        nonces.commitments().as_bytes().to_vec()
    }

    fn round(&self, request: &SignRequest) -> RoundAnswer {
        let seat = request.member;
        let nonces = self.live.lock().unwrap().remove(&seat).unwrap();
        let good = self.outsider.sign(seat, nonces, self.setting.group(), &request.package, &request.subject);
        let bad = altered(&good.to_bytes());
        let included: Vec<Member> = request.package.members().collect();
        let context = self.setting.derive(request.context.number, &included).unwrap();
        let round = self.setting.round_id(&context, seat, &request.package);
        let hash = frostkeep::roast::round_signature_message(&round, seat, &bad);
        let signature = self.outsider.identity.sign(kit::outsider::SIGNED_HASH_DOMAIN, &[&hash]);
        RoundAnswer {
            round,
            share: bad.to_vec(),
            round_signature: signature.as_bytes().to_vec(),
            next: Some(self.commit(seat)),
        }
    }
}

impl Port for EnginePort {
    async fn session(&self, member: Member, request: SessionRequest) -> Result<SessionReport, PortError> {
        if self.liar(member).is_some() {
            return Ok(SessionReport { subject: subject(SUBJECT), active: None, rounds: Vec::new() });
        }
        let engine = self.engine(member)?;
        if self.going.contains(&member) {
            self.gone.lock().unwrap().insert(member);
        }
        let view = engine.session(&self.caller, &request, |view| SessionReport::from(view));
        view.map_err(|refusal| PortError::from(&refusal))
    }

    async fn commit(&self, member: Member, request: CommitRequest) -> Result<Vec<u8>, PortError> {
        if let Some(liar) = self.liar(member) {
            return Ok(liar.commit(member));
        }
        let commitments = self.engine(member)?.commit(&self.caller, &request);
        commitments.map(|one| one.as_bytes().to_vec()).map_err(|refusal| PortError::from(&refusal))
    }

    async fn start_sign_round(&self, member: Member, request: SignRequest) -> Result<RoundAnswer, PortError> {
        if let Some(liar) = self.liar(member) {
            self.gone.lock().unwrap().clear();
            return Ok(liar.round(&request));
        }
        let engine = self.engine(member)?;
        let answer = engine.start_sign_round(&self.caller, &request, |reply: &RoundReply| RoundAnswer::from(reply));
        answer.await.map_err(|refusal| PortError::from(&refusal))
    }

    async fn finalize(&self, member: Member, request: FinalizeRequest) -> Result<Option<Vec<u8>>, PortError> {
        if self.liar(member).is_some() {
            return Ok(None);
        }
        let finalized = self.engine(member)?.finalize_sign_round(&self.caller, &request).await;
        finalized
            .map(|one| one.map(|finalized| finalized.signature().to_vec()))
            .map_err(|refusal| PortError::from(&refusal))
    }

    async fn abort(&self, member: Member, request: SessionRequest) -> Result<(), PortError> {
        let aborted = self.engine(member)?.abort_session(&self.caller, &request).await;
        aborted.map_err(|refusal| PortError::from(&refusal))
    }

    async fn vote_timeout(&self, member: Member, request: VoteRequest) -> Result<Vec<u8>, PortError> {
        let vote = self.engine(member)?.vote_timeout(&self.caller, &request).await;
        vote.map(|vote| vote.signature).map_err(|refusal| PortError::from(&refusal))
    }

    fn drive(
        &self,
        member: Member,
        session: SessionRequest,
        subject: Subject,
        ask: &AttemptAsk,
    ) -> impl Future<Output = Result<Vec<u8>, PortError>> + Send {
        let reached = self.engine(member).map(|_| ());
        let identity = self.holders[&member];
        let own: BTreeSet<Member> =
            self.holders.iter().filter(|(_, holder)| **holder == identity).map(|(seat, _)| *seat).collect();
        let there = Arc::new(Self { caller: coordinator_as(identity), ..self.clone() });
        let group = self.engines.keys().copied().collect::<Vec<_>>();
        assert!(!group.is_empty());
        let setting = SETTING.lock().unwrap().clone().unwrap().in_session(session.session);
        assert_eq!(*setting.subject(), subject);
        let mut machine = EvidenceMachine::of_attempt(setting.clone(), own, ask);
        // Boxed: a node that drives may ask another one to.
        let run: Pin<Box<dyn Future<Output = Result<Vec<u8>, PortError>> + Send>> = Box::pin(async move {
            reached?;
            let done = run(&there, &setting, &mut machine, &quick(), &mut |_| {}).await;
            done.map(|done| done.signature.as_bytes().to_vec())
                .map_err(|error| PortError::Unreachable(error.to_string()))
        });
        run
    }
}

/// What a node that is asked to drive knows of its key group.
static SETTING: Mutex<Option<Setting>> = Mutex::new(None);
const SUBJECT: u8 = 0x51;

fn quick() -> DriveConfig {
    DriveConfig {
        deadline_ms: 120_000,
        call_ms: 30_000,
        attempt_ms: 1_000,
        pause_ms_min: 10,
        pause_ms_max: 200,
        handover_ms: 2_000,
    }
}

async fn run(
    port: &Arc<EnginePort>,
    setting: &Setting,
    machine: &mut dyn Machine,
    config: &DriveConfig,
    watch: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Done, DriveError> {
    drive(port, setting, machine, config, &mut entropy::os(), watch).await
}

fn setting(cluster: &Cluster, byte: u8) -> Setting {
    let certificate = cluster.confirmed.certificate();
    let subject = subject(byte);
    Setting::new(certificate.group().clone(), certificate.seats().clone(), session_id(&subject, 0), subject)
}

async fn signed(port: &Arc<EnginePort>, setting: &Setting, log: &mut Vec<Progress>) -> Result<Done, DriveError> {
    let done = sign(port, setting, &quick(), &mut entropy::os(), &mut |progress| log.push(progress.clone())).await;
    if let Ok(done) = &done {
        setting.group().verify(setting.subject().message, None, &done.signature).unwrap();
    }
    done
}

fn attempts(log: &[Progress]) -> usize {
    log.iter().filter(|progress| matches!(progress, Progress::Started { .. })).count()
}

async fn large(threshold: u16, nodes: usize) {
    let started = Instant::now();
    let plan = Plan {
        kind: Kind::Scripted,
        seats: vec![1; nodes],
        threshold,
        attempts: AttemptPolicy::Roast,
        policy: any_message(),
    };
    let cluster = Cluster::new(plan).await;
    let keygen_ms = started.elapsed().as_millis();
    let port = Arc::new(EnginePort::of(&cluster));
    let setting = setting(&cluster, SUBJECT);
    let mut log = Vec::new();
    let started = Instant::now();
    let done = signed(&port, &setting, &mut log).await.unwrap();
    println!(
        "{threshold} of {nodes}: nodes and key generation {keygen_ms} ms, signing and handing over {} ms, {} attempts, {} calls",
        started.elapsed().as_millis(),
        attempts(&log),
        port.calls()
    );
    assert!(done.unconfirmed.is_empty());
    assert!(attempts(&log) <= nodes - usize::from(threshold) + 1);
    assert!(!log.iter().any(|progress| matches!(progress, Progress::Blamed { .. })));
    // A second run finds the first one's signature, in the same session.
    let again = signed(&port, &setting, &mut Vec::new()).await.unwrap();
    assert_eq!((again.session, again.signature), (done.session, done.signature));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_7_of_10_group_generates_its_key_and_signs() {
    large(7, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "campaign: a hundred nodes in one process take minutes"]
async fn a_51_of_100_group_generates_its_key_and_signs() {
    large(51, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_bad_shares_is_named_with_proof_and_the_signature_still_comes_out() {
    let (cluster, outsider) = Cluster::with_outsider(3, 1, 3, AttemptPolicy::Roast, any_message()).await;
    let setting = setting(&cluster, SUBJECT);
    let liar = Liar { outsider, setting: setting.in_session(session_id(setting.subject(), 0)), live: Mutex::default() };
    let port = Arc::new(EnginePort { liar: Some(Arc::new(liar)), ..EnginePort::of(&cluster) });
    // The third honest one comes when the liar has answered: the first attempt is the liar's.
    port.gone.lock().unwrap().insert(member(3));
    let mut log = Vec::new();
    signed(&port, &setting, &mut log).await.unwrap();
    let blamed: Vec<_> = log
        .iter()
        .filter_map(|progress| match progress {
            Progress::Blamed { member, blame } => Some((*member, blame.clone())),
            _ => None,
        })
        .collect();
    let [(named, Blame::Proved(round))] = blamed.as_slice() else { panic!("one is blamed, with proof: {blamed:?}") };
    assert_eq!((*named, attempts(&log)), (member(4), 2));
    let engine = cluster.engine_of(member(1));
    let session = session_id(setting.subject(), 0);
    let verdict = engine.verify_signature_share(&coordinator(), &cluster.key_group, &session, setting.subject(), round);
    assert_eq!(verdict.unwrap(), frostkeep::roast::ShareVerdict::Invalid, "a node agrees with the proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_coordinator_died_is_finished_by_another_from_what_is_durable() {
    let cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let setting = setting(&cluster, SUBJECT);
    let port = Arc::new(EnginePort::of(&cluster));
    // The first coordinator dies after one answer: the other member of its attempt has not been asked.
    port.gone.lock().unwrap().insert(member(3));
    let session = session_id(setting.subject(), 0);
    let package = cluster.package(&session, setting.subject(), &[member(1), member(2)]);
    let request = cluster.request(&session, setting.subject(), 1, &package, member(1));
    kit::start(&cluster.engine_of(member(1)), &request).await.unwrap();
    let mut log = Vec::new();
    let done = signed(&port, &setting, &mut log).await.unwrap();
    assert_eq!(done.session, session);
    assert!(
        log.iter()
            .any(|progress| matches!(progress, Progress::Adopted { number: 1, member } if *member == kit::member(2))),
        "the attempt of the dead coordinator is taken up: {log:?}"
    );
    assert_eq!(attempts(&log), 0, "no new attempt was needed");
    assert_eq!(done.unconfirmed, [member(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_is_cancelled_loses_nothing() {
    let cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let setting = setting(&cluster, SUBJECT);
    let port = Arc::new(EnginePort::of(&cluster));
    for ms in [0, 1, 2, 4, 8, 16] {
        let mut log = Vec::new();
        let cut = tokio::time::timeout(std::time::Duration::from_millis(ms), signed(&port, &setting, &mut log)).await;
        println!("cut after {ms} ms: {}", if cut.is_ok() { "finished" } else { "cancelled" });
    }
    let mut log = Vec::new();
    signed(&port, &setting, &mut log).await.unwrap();
    assert!(!log.iter().any(|progress| matches!(progress, Progress::Blamed { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_aborted_gives_way_to_the_next_try() {
    let cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
    let setting = setting(&cluster, SUBJECT);
    let port = Arc::new(EnginePort::of(&cluster));
    let first = session_id(setting.subject(), 0);
    let seats = [member(1), member(2), member(3)];
    let package = cluster.package(&first, setting.subject(), &seats);
    for seat in seats {
        let request = cluster.request(&first, setting.subject(), 1, &package, seat);
        kit::start(&cluster.engine_of(seat), &request).await.unwrap();
        cluster.engine_of(seat).abort_session(&coordinator(), &cluster.session_request(&first)).await.unwrap();
    }
    let done = signed(&port, &setting, &mut Vec::new()).await.unwrap();
    assert_eq!(done.session, session_id(setting.subject(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_waiting_does_not_change_ends_the_run_with_its_reason() {
    let plan = Plan { policy: frostkeep::policy::SigningPolicy::standard(), ..Plan::two_of_three(Kind::Scripted) };
    let cluster = Cluster::new(plan).await;
    let port = Arc::new(EnginePort::of(&cluster));
    let error = signed(&port, &setting(&cluster, SUBJECT), &mut Vec::new()).await.unwrap_err();
    let DriveError::Stuck { members, .. } = error else { panic!("{error}") };
    let refused = |hindrance: &Hindrance| {
        matches!(hindrance, Hindrance::Refused { reason: frostkeep::reasons::Reason::MessageNotApproved, .. })
    };
    assert!(members.iter().filter(|(_, hindrance)| refused(hindrance)).count() >= 2, "{members:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_message_is_signed_in_trial_sessions_under_the_policy_that_allows_nothing_whoever_drives() {
    for attempts in [AttemptPolicy::Roast, AttemptPolicy::Evidence] {
        let policy = frostkeep::policy::SigningPolicy::default();
        let cluster = Cluster::new(Plan { attempts, policy, ..Plan::two_of_three(Kind::Scripted) }).await;
        let certificate = cluster.confirmed.certificate();
        let (first, subject) = trial_subject(&cluster.key_group, &certificate.ceremony());
        let of = |subject: Subject| {
            let (group, seats) = (certificate.group().clone(), certificate.seats().clone());
            Setting::new(group, seats, session_id(&subject, 0), subject).of_ceremony(certificate.ceremony())
        };
        let setting = of(subject);
        *SETTING.lock().unwrap() = Some(setting.clone());
        // The first trial was aborted by two of its members.
        let port = Arc::new(EnginePort::of(&cluster));
        let included = [member(1), member(2)];
        let package = cluster.package(&first, &subject, &included);
        for seat in included {
            let request = cluster.request(&first, &subject, 1, &package, seat);
            let engine = cluster.engine_of(seat);
            let selected = cluster.context(&first, &subject, 1, &included).coordinator();
            let caller = coordinator_as(certificate.seats()[&selected]);
            engine.start_sign_round(&caller, &request, |_: &RoundReply| ()).await.unwrap();
            engine.abort_session(&coordinator(), &cluster.session_request(&first)).await.unwrap();
        }
        let mut watch = |_: &Progress| {};
        let mut entropy = entropy::os();
        let done = match attempts {
            AttemptPolicy::Roast => sign(&port, &setting, &quick(), &mut entropy, &mut watch).await,
            AttemptPolicy::Evidence => {
                sign_by_evidence(&port, &setting, &BTreeSet::new(), &quick(), &mut entropy, &mut watch).await
            }
        };
        let done = done.unwrap();
        assert_eq!(Some(done.session), trial_session(&certificate.ceremony(), 1), "{attempts}");
        setting.group().verify(subject.message, None, &done.signature).unwrap();
        // Any other message is named by itself, and refused.
        assert_eq!(of(kit::subject(1)).tries()[0], session_id(&kit::subject(1), 0));
    }
}

async fn evidence_cluster(timeout_ms: u64) -> (Cluster, Setting, Arc<EnginePort>) {
    let plan = Plan { attempts: AttemptPolicy::Evidence, ..Plan::two_of_three(Kind::Scripted) };
    let config = EngineConfig { attempt_timeout_ms: timeout_ms, ..EngineConfig::default() };
    let cluster = Cluster::configured(plan, &config).await;
    let setting = setting(&cluster, SUBJECT);
    *SETTING.lock().unwrap() = Some(setting.clone());
    let port = Arc::new(EnginePort::of(&cluster));
    (cluster, setting, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_evidence_the_selected_node_drives_and_a_silent_one_is_voted_away() {
    let mut given_up = 0;
    for going in [None, Some(1), Some(2), Some(3)] {
        let (_cluster, setting, port) = evidence_cluster(150).await;
        let going: BTreeSet<Member> = going.map(member).into_iter().collect();
        let port = Arc::new(EnginePort { going: going.clone(), ..(*port).clone() });
        let mut log = Vec::new();
        let watch = &mut |progress: &Progress| log.push(progress.clone());
        let signed = sign_by_evidence(&port, &setting, &BTreeSet::new(), &quick(), &mut entropy::os(), watch).await;
        let done = signed.unwrap_or_else(|error| panic!("{error}: {log:?}"));
        setting.group().verify(setting.subject().message, None, &done.signature).unwrap();
        assert_eq!(done.unconfirmed, going.iter().copied().collect::<Vec<_>>());
        assert!(!log.iter().any(|progress| matches!(progress, Progress::Blamed { .. })), "{log:?}");
        given_up += log.iter().filter(|progress| matches!(progress, Progress::GivenUp { .. })).count();
        println!("going {going:?}: {} attempts, session {}", attempts(&log), done.session);
    }
    println!("{given_up} attempts were given up by votes");
}
