//! A cluster whose first node is stepped by hand.

use std::time::{Duration, Instant};

use frostkeep::engine::{
    Caller, Engine, EngineConfig, Refusal, RoundReply, SessionRequest, SessionView, SignRequest, Subject, VoteRequest,
};
use frostkeep::frost::SigningPackage;
use frostkeep::ids::{AttemptId, AttemptPolicy, Member, SessionId};
use frostkeep::roast::{AttemptContext, TimeoutVote};
use frostkeep::store::Status;
use tokio::task::JoinHandle;

use crate::kit::{
    Bench, Cluster, Kind, Plan, any_message, at_once, coordinator, coordinator_as, eventually, member, peer, session,
    subject,
};

pub(crate) type Answer = Result<RoundReply, Refusal>;

/// Nobody has to wait before a vote.
pub(crate) fn impatient() -> EngineConfig {
    EngineConfig { attempt_timeout_ms: 0, ..EngineConfig::default() }
}

/// Members 1 and 2 on the first node, 3 and 4 on others; advances need evidence.
pub(crate) fn evidence(kind: Kind) -> Plan {
    Plan { seats: vec![2, 1, 1], attempts: AttemptPolicy::Evidence, policy: any_message(), ..Plan::two_of_three(kind) }
}

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    bench: Option<Bench>,
}

impl Stage {
    pub(crate) async fn new(plan: Plan) -> Self {
        let mut cluster = Cluster::configured(plan, &impatient()).await;
        cluster.nodes[0].stop();
        let bench = Bench::open(&cluster.nodes[0], impatient());
        Self { cluster, bench: Some(bench) }
    }

    pub(crate) fn bench(&mut self) -> &mut Bench {
        self.bench.as_mut().unwrap()
    }

    /// Takes the node out, for a thread of the test's own.
    pub(crate) fn take(&mut self) -> Bench {
        self.bench.take().unwrap()
    }

    pub(crate) fn replace(&mut self, bench: Bench) {
        self.bench = Some(bench);
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.bench.as_ref().unwrap().engine
    }

    /// The process is gone: nothing is flushed.
    pub(crate) fn crash(&mut self) {
        self.bench = None;
    }

    pub(crate) fn restart(&mut self) {
        self.crash();
        self.bench = Some(Bench::open(&self.cluster.nodes[0], impatient()));
    }

    pub(crate) fn take_away(&mut self) {
        self.cluster.nodes[0].token.take_away();
    }

    pub(crate) fn bring_back(&mut self) {
        self.cluster.nodes[0].token.bring_back();
    }

    fn engine_of(&self, seat: Member) -> Engine {
        match self.cluster.seats[&seat] {
            0 => self.engine().clone(),
            _ => self.cluster.engine_of(seat),
        }
    }

    pub(crate) fn package(&self, session: &SessionId, subject: &Subject, included: &[Member]) -> SigningPackage {
        let commitments = included
            .iter()
            .map(|seat| (*seat, self.cluster.commit(&self.engine_of(*seat), session, *seat).unwrap()))
            .collect();
        SigningPackage::new(subject.message, commitments).unwrap()
    }

    /// Who may drive an attempt.
    pub(crate) fn driver(&self, context: &AttemptContext) -> Caller {
        coordinator_as(self.cluster.identities[self.cluster.seats[&context.coordinator()]])
    }

    /// A session whose first attempt of `included` is led by `leader`.
    pub(crate) fn session_led_by(&self, leader: Member, subject: &Subject, included: &[Member]) -> SessionId {
        (0..10_000)
            .map(|number| session(&format!("led-{number}")))
            .find(|name| self.cluster.context(name, subject, 1, included).coordinator() == leader)
            .unwrap()
    }

    pub(crate) fn vote(
        &self,
        session: &SessionId,
        subject: &Subject,
        context: &AttemptContext,
        voter: Member,
    ) -> TimeoutVote {
        let request = VoteRequest {
            session: session.clone(),
            key_group: self.cluster.key_group,
            member: voter,
            subject: *subject,
            context: context.parts(),
            evidence: Vec::new(),
        };
        at_once(self.engine_of(voter).vote_timeout(&peer(), &request)).unwrap()
    }

    pub(crate) fn ask(&self, caller: &Caller, request: &SignRequest) -> JoinHandle<Answer> {
        let (engine, caller, request) = (self.engine().clone(), caller.clone(), request.clone());
        tokio::spawn(async move { engine.start_sign_round(&caller, &request, RoundReply::clone).await })
    }

    /// Asks while the persister does nothing: an answer that needs it never comes.
    pub(crate) async fn at_once(&self, caller: &Caller, request: &SignRequest) -> Answer {
        let answer = tokio::time::timeout(Duration::from_secs(10), self.ask(caller, request)).await;
        answer.expect("it is answered without the persister").unwrap()
    }

    /// Asks and steps the persister until there is an answer.
    pub(crate) async fn answer(&mut self, caller: &Caller, request: &SignRequest) -> Answer {
        let task = self.ask(caller, request);
        self.finish(task).await
    }

    pub(crate) async fn finish<T>(&mut self, task: JoinHandle<T>) -> T {
        let start = Instant::now();
        while !task.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(20), "no answer");
            self.bench().persister.step();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        task.await.unwrap()
    }

    /// Waits until this many records wait for the persister.
    pub(crate) async fn in_line(&self, records: usize) {
        let line = self.bench.as_ref().unwrap().line.clone();
        eventually("the records are in line", || line.waiting_records() == records).await;
    }

    pub(crate) async fn step_until(&mut self, what: &str, holds: impl Fn(&Status) -> bool) {
        let bench = self.bench.as_mut().unwrap();
        eventually(what, || {
            bench.persister.step();
            holds(&bench.line.status())
        })
        .await;
    }

    /// The token is gone and the node knows it.
    pub(crate) async fn outage(&mut self) {
        self.take_away();
        self.step_until("the outage is known", |status| !status.health.admits_work()).await;
    }

    /// The token is back and all that waited is durable.
    pub(crate) async fn heal(&mut self) {
        self.bring_back();
        self.step_until("the token is back", |status| status.admits_work()).await;
        self.bench().settle();
        self.in_line(0).await;
    }

    /// A first attempt of members 1 and 2, for member 1, which is on the first node.
    pub(crate) fn opening_request(&self, name: &str, byte: u8) -> SignRequest {
        let (name, what) = (session(name), subject(byte));
        let package = self.package(&name, &what, &[member(1), member(2)]);
        self.cluster.request(&name, &what, 1, &package, member(1))
    }

    /// The same, answered and durable.
    pub(crate) async fn durable_round(&mut self, name: &str, byte: u8) -> (SignRequest, RoundReply) {
        let request = self.opening_request(name, byte);
        let reply = self.answer(&coordinator(), &request).await.unwrap();
        (request, reply)
    }

    /// A round whose record is in line when the token fails: its caller has its refusal.
    pub(crate) async fn round_caught_by_an_outage(&mut self, name: &str, byte: u8) -> (SignRequest, Refusal) {
        let request = self.opening_request(name, byte);
        let before = self.bench().line.waiting_records();
        let task = self.ask(&coordinator(), &request);
        self.in_line(before + 1).await;
        self.outage().await;
        let refusal = self.finish(task).await.unwrap_err();
        (request, refusal)
    }

    pub(crate) fn view<R>(&self, session: &SessionId, see: impl FnOnce(&SessionView) -> R) -> Result<R, Refusal> {
        let request = SessionRequest { session: session.clone(), key_group: self.cluster.key_group };
        self.engine().session(&coordinator(), &request, see)
    }

    pub(crate) fn active(&self, session: &SessionId) -> Option<(u32, AttemptId)> {
        self.view(session, |view| view.active).unwrap()
    }
}
