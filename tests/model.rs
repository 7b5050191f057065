//! Goal: no order of actions, outages and crashes breaks a promise. Method: seeded random actions on one node whose persister
//! the test steps, against a model that knows nothing but what was promised. On a failure the seed and the log are printed;
//! `FROSTKEEP_MODEL_SEED` runs one seed, `FROSTKEEP_MODEL_SEEDS` and `FROSTKEEP_MODEL_STEPS` run more or longer.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use frostkeep::engine::{
    Engine, EngineConfig, FinalizeRequest, Finish, Refusal, RoundReply, SessionRequest, SignRequest, SubmittedShare,
};
use frostkeep::frost::{Nonces, Signature, SignatureShare, SigningPackage};
use frostkeep::hsm::clock::ManualClock;
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::{AttemptPolicy, FreezeId, SessionId};
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use frostkeep::store::{Position, SnapshotSource};
use kit::outsider::Outsider;
use kit::{Bench, Cluster, admin, any_message, coordinator, durable_part, member, session, subject, submitted};

const SESSIONS: u64 = 5;

/// SplitMix64: one seed, one run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// A request that has not been answered.
enum Waiting {
    Round(usize, Answer<RoundReply>),
    End(SessionId, Answer<Option<[u8; 64]>>),
    Abort(SessionId, Answer<()>),
    Policy(Answer<Position>),
    Thaw(Vec<FreezeId>, Answer<Vec<FreezeId>>),
}

/// How a session ended, as far as anybody was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Finalized([u8; 64]),
    Aborted,
}

/// One request that was ever made.
struct Asked {
    request: SignRequest,
    nonces: Option<Nonces>,
    /// The member's own commitments in the package.
    own: [u8; 71],
    served: Option<Vec<u8>>,
    reply: Option<RoundReply>,
}

struct World {
    cluster: Cluster,
    outsider: Outsider,
    clock: ManualClock,
}

struct Run<'a> {
    world: &'a World,
    dice: Dice,
    bench: Option<Bench>,
    waiting: Vec<Waiting>,
    asked: Vec<Asked>,
    /// Attempts that exist, by session: each number is used once.
    numbers: BTreeMap<SessionId, u32>,
    ends: BTreeMap<SessionId, End>,
    /// Sessions with an end that was asked for: until it is known, either may be true.
    ending: BTreeSet<SessionId>,
    frozen: BTreeSet<FreezeId>,
    /// Freezes whose thaw was asked for and not answered.
    thawing: BTreeSet<FreezeId>,
    /// Shares that left, by the commitments that they spent.
    spent: BTreeMap<[u8; 71], Vec<u8>>,
    outage: bool,
    log: Vec<String>,
    epoch: String,
}

fn poll<T>(answer: &mut Answer<T>) -> Poll<Result<T, Refusal>> {
    answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

impl Run<'_> {
    fn engine(&self) -> Engine {
        self.bench.as_ref().unwrap().engine.clone()
    }

    fn say(&mut self, what: String) {
        self.log.push(what);
    }

    fn a_session(&mut self) -> SessionId {
        session(&format!("{}-{}", self.epoch, self.dice.below(SESSIONS)))
    }

    fn action(&mut self) {
        match self.dice.below(100) {
            0..22 => self.ask_fresh(),
            22..44 => self.ask_again(),
            44..50 => self.ask_another_package(),
            50..58 => self.finalize(),
            58..62 => self.abort(),
            62..66 => self.freeze(),
            66..72 => self.thaw(),
            72..74 => self.set_policy(),
            74..80 => self.toggle_outage(),
            80..84 => self.crash(),
            84..87 => self.pass_time(),
            _ => self.step(),
        }
        self.collect();
    }

    fn step(&mut self) {
        self.say("step".into());
        let bench = self.bench.as_mut().unwrap();
        bench.settle();
    }

    fn ask_fresh(&mut self) {
        let id = self.a_session();
        let what = subject(7);
        let own = match self.world.cluster.commit(&self.engine(), &id, member(1)) {
            Ok(own) => own,
            Err(refusal) => {
                self.say(format!("commit {id}: {}", refusal.reason()));
                // An end that is in line shows nothing, and no new pair is made behind it.
                if refusal.reason() == Reason::Busy && self.ending.contains(&id) {
                    return;
                }
                return self.refused_by_right(&id, &refusal);
            }
        };
        let (nonces, theirs) = self.world.outsider.commit(member(2));
        let package =
            SigningPackage::new(what.message, [(member(1), own.clone()), (member(2), theirs)].into()).unwrap();
        let number = self.numbers.entry(id.clone()).or_insert(0);
        *number += 1;
        let request = self.world.cluster.request(&id, &what, *number, &package, member(1));
        self.asked.push(Asked { request, nonces: Some(nonces), own: *own.as_bytes(), served: None, reply: None });
        self.ask(self.asked.len() - 1);
    }

    fn ask_again(&mut self) {
        if !self.asked.is_empty() {
            let index = usize::try_from(self.dice.below(self.asked.len() as u64)).unwrap();
            self.ask(index);
        }
    }

    fn ask(&mut self, index: usize) {
        let request = self.asked[index].request.clone();
        self.say(format!("ask #{index} {} attempt {}", request.session, request.context.number));
        let engine = self.engine();
        let answer = Box::pin(async move { kit::start(&engine, &request).await });
        self.waiting.push(Waiting::Round(index, answer));
    }

    /// The same attempt with another package: never a second share.
    fn ask_another_package(&mut self) {
        let served: Vec<usize> = (0..self.asked.len()).filter(|index| self.asked[*index].served.is_some()).collect();
        if served.is_empty() {
            return;
        }
        let index = served[usize::try_from(self.dice.below(served.len() as u64)).unwrap()];
        let old = &self.asked[index].request;
        let own = old.package.commitments_of(member(1)).unwrap().clone();
        let theirs = self.world.outsider.commit(member(2)).1;
        let package = SigningPackage::new(old.subject.message, [(member(1), own), (member(2), theirs)].into()).unwrap();
        let request = SignRequest { package, ..old.clone() };
        let engine = self.engine();
        let mut answer: Answer<RoundReply> = Box::pin(async move { kit::start(&engine, &request).await });
        match poll(&mut answer) {
            Poll::Ready(Err(refusal)) => self.say(format!("another package for #{index}: {}", refusal.reason())),
            Poll::Ready(Ok(_)) => panic!("a second package got a share for the attempt of #{index}"),
            Poll::Pending => panic!("a second package is being computed for the attempt of #{index}"),
        }
    }

    fn finalize(&mut self) {
        let done: Vec<usize> = (0..self.asked.len()).filter(|index| self.asked[*index].reply.is_some()).collect();
        if done.is_empty() {
            return;
        }
        let index = done[usize::try_from(self.dice.below(done.len() as u64)).unwrap()];
        let world = self.world;
        let asked = &mut self.asked[index];
        let Some(nonces) = asked.nonces.take() else { return };
        let reply = asked.reply.clone().unwrap();
        let request = asked.request.clone();
        let share = world.outsider.sign(member(2), nonces, &world.cluster.group, &request.package, &request.subject);
        let other = SubmittedShare { member: member(2), share, round_signature: None };
        let finish = Finish::Shares { attempt: reply.attempt(), shares: vec![submitted(&reply), other] };
        let id = request.session.clone();
        let finish =
            FinalizeRequest { session: id.clone(), key_group: request.key_group, subject: request.subject, finish };
        let engine = self.engine();
        self.say(format!("finalize {id} by #{index}"));
        self.ending.insert(id.clone());
        let answer = Box::pin(async move {
            let done = engine.finalize_sign_round(&coordinator(), &finish).await?;
            Ok(done.map(|finalized| *finalized.signature()))
        });
        self.waiting.push(Waiting::End(id, answer));
    }

    fn abort(&mut self) {
        let id = self.a_session();
        let request = SessionRequest { session: id.clone(), key_group: self.world.cluster.key_group };
        let engine = self.engine();
        self.say(format!("abort {id}"));
        self.ending.insert(id.clone());
        let answer = Box::pin(async move { engine.abort_session(&coordinator(), &request).await });
        self.waiting.push(Waiting::Abort(id, answer));
    }

    fn freeze(&mut self) {
        let (engine, key_group) = (self.engine(), self.world.cluster.key_group);
        let report = tokio::runtime::Handle::current().block_on(engine.freeze(&admin(), &key_group, "model")).unwrap();
        self.say(format!("freeze {}", report.freeze));
        self.frozen.insert(report.freeze);
    }

    fn thaw(&mut self) {
        if self.frozen.is_empty() {
            return;
        }
        let named: Vec<FreezeId> = self.frozen.iter().copied().collect();
        let (engine, key_group) = (self.engine(), self.world.cluster.key_group);
        self.say("thaw".into());
        self.thawing.extend(&named);
        let freezes = named.clone();
        let answer = Box::pin(async move { engine.thaw(&admin(), &key_group, &freezes).await });
        self.waiting.push(Waiting::Thaw(named, answer));
    }

    fn set_policy(&mut self) {
        let policy = SigningPolicy { fee_sat_max: self.dice.next(), ..any_message() };
        let (engine, key_group) = (self.engine(), self.world.cluster.key_group);
        self.say("policy".into());
        let answer = Box::pin(async move { engine.set_policy(&admin(), &key_group, &policy).await });
        self.waiting.push(Waiting::Policy(answer));
    }

    fn toggle_outage(&mut self) {
        let token = self.world.cluster.nodes[0].token.scripted_handle();
        self.outage = !self.outage;
        self.say(format!("token {}", if self.outage { "gone" } else { "back" }));
        match self.outage {
            true => token.fail_until_healed(FaultClass::Token),
            false => token.heal(),
        }
    }

    fn pass_time(&mut self) {
        self.say("an hour".into());
        self.world.clock.advance(Duration::from_secs(60 * 60));
        let _ = self.engine().tick();
    }

    /// Everything in memory is gone, and every record that was not stepped.
    fn crash(&mut self) {
        self.say("crash".into());
        self.waiting.clear();
        let before = self.image();
        self.bench = None;
        self.world.cluster.nodes[0].token.scripted_handle().heal();
        self.outage = false;
        self.bench = Some(Bench::open(&self.world.cluster.nodes[0], EngineConfig::default()));
        // What was named for a thaw may be lifted or not; a freeze that nobody tried to lift is in force.
        let in_force: BTreeSet<FreezeId> = self.gates().into_iter().collect();
        for freeze in self.frozen.difference(&self.thawing) {
            assert!(in_force.contains(freeze), "I8: freeze {freeze} was lost in a crash");
        }
        assert!(in_force.is_subset(&self.frozen), "a lifted freeze is back");
        // An opening records a freeze that only a deny file knew: then there is one more in the state.
        let in_force_was_recorded = self.frozen.is_empty();
        self.frozen = in_force;
        self.thawing.clear();
        if in_force_was_recorded {
            assert!(self.image() == before, "what snapshot and records add up to is not the state that was durable");
        }
        self.every_promise_is_kept("after a crash");
    }

    fn gates(&self) -> Vec<FreezeId> {
        self.bench.as_ref().unwrap().gates.freezes(&self.world.cluster.key_group)
    }

    /// Takes the answers that are there.
    fn collect(&mut self) {
        for _ in 0..3 {
            let waiting = std::mem::take(&mut self.waiting);
            for mut one in waiting {
                match &mut one {
                    Waiting::Round(index, answer) => match poll(answer) {
                        Poll::Pending => self.waiting.push(one),
                        Poll::Ready(result) => {
                            let index = *index;
                            self.round(index, result);
                        }
                    },
                    Waiting::End(id, answer) => match poll(answer) {
                        Poll::Pending => self.waiting.push(one),
                        Poll::Ready(result) => {
                            let id = id.clone();
                            self.say(format!(
                                "  finalized {id}: {:?}",
                                result.as_ref().map_err(Refusal::reason).map(|_| ())
                            ));
                            if let Ok(Some(signature)) = result {
                                self.ended(id, End::Finalized(signature));
                            }
                        }
                    },
                    Waiting::Abort(id, answer) => match poll(answer) {
                        Poll::Pending => self.waiting.push(one),
                        Poll::Ready(result) => {
                            let id = id.clone();
                            self.say(format!("  aborted {id}: {:?}", result.as_ref().map_err(Refusal::reason)));
                            if result.is_ok() {
                                self.ended(id, End::Aborted);
                            }
                        }
                    },
                    Waiting::Policy(answer) => match poll(answer) {
                        Poll::Pending => self.waiting.push(one),
                        Poll::Ready(result) => self.say(format!("  policy: {:?}", result.map_err(|e| e.reason()))),
                    },
                    Waiting::Thaw(named, answer) => match poll(answer) {
                        Poll::Pending => self.waiting.push(one),
                        Poll::Ready(result) => {
                            let named = named.clone();
                            self.say(format!("  thawed: {}", result.is_ok()));
                            if result.is_ok() {
                                self.frozen.retain(|freeze| !named.contains(freeze));
                                self.thawing.retain(|freeze| !named.contains(freeze));
                            }
                        }
                    },
                }
            }
            if self.waiting.is_empty() {
                return;
            }
            // Computations run beside: give them a moment.
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn round(&mut self, index: usize, result: Result<RoundReply, Refusal>) {
        let id = self.asked[index].request.session.clone();
        match result {
            Ok(reply) => {
                self.say(format!("  #{index} served"));
                let part = durable_part(&reply);
                let durable = self.engine().status().durable;
                assert!(reply.position() <= durable, "I1: #{index} left at {} above {durable}", reply.position());
                if let Some(before) = &self.asked[index].served {
                    assert_eq!(*before, part, "I2: #{index} was served again with other bytes");
                }
                let share = reply.share().to_vec();
                if let Some(other) = self.spent.insert(self.asked[index].own, share.clone()) {
                    assert_eq!(other, share, "I6: one pair of commitments gave two shares");
                }
                SignatureShare::from_bytes(&share).unwrap();
                self.asked[index].served = Some(part);
                self.asked[index].reply = Some(reply);
                assert!(!self.ends.contains_key(&id), "{id} has ended, and #{index} is served");
            }
            Err(refusal) => {
                self.say(format!("  #{index}: {}", refusal.reason()));
                if self.asked[index].served.is_some() {
                    self.refused_by_right(&id, &refusal);
                }
                assert_ne!(refusal.reason(), Reason::Internal, "#{index}: {refusal}");
            }
        }
    }

    /// What was served is refused only when its session has ended or its key group is frozen.
    fn refused_by_right(&self, id: &SessionId, refusal: &Refusal) {
        match refusal.reason() {
            Reason::Frozen => assert!(!self.frozen.is_empty(), "frozen without a freeze"),
            Reason::SessionFinalized | Reason::SessionAborted => {
                assert!(self.ending.contains(id) || self.ends.contains_key(id), "{id} ended by itself");
            }
            Reason::SessionClosed => {}
            other => panic!("{id}: refused as {other}: {refusal}"),
        }
    }

    fn ended(&mut self, id: SessionId, end: End) {
        if let End::Finalized(signature) = &end {
            let group = &self.world.cluster.group;
            group.verify(subject(7).message, None, &Signature::new(*signature)).unwrap();
        }
        if let Some(before) = self.ends.insert(id.clone(), end.clone()) {
            assert_eq!(before, end, "{id} ended twice, in two ways");
        }
    }

    /// Asks for every round that was ever served, now; nothing may wait.
    fn every_promise_is_kept(&mut self, when: &str) {
        for index in 0..self.asked.len() {
            let Some(before) = self.asked[index].served.clone() else { continue };
            let (engine, request) = (self.engine(), self.asked[index].request.clone());
            let mut answer: Answer<RoundReply> = Box::pin(async move { kit::start(&engine, &request).await });
            let id = self.asked[index].request.session.clone();
            match poll(&mut answer) {
                Poll::Ready(Ok(reply)) => {
                    assert_eq!(durable_part(&reply), before, "{when}: #{index} came out with other bytes");
                }
                Poll::Ready(Err(refusal)) => self.refused_by_right(&id, &refusal),
                Poll::Pending => panic!("{when}: the durable round #{index} was not served from memory"),
            }
        }
        for (id, end) in &self.ends {
            let Some(asked) = self.asked.iter().find(|asked| asked.request.session == *id) else { continue };
            let (engine, request) = (self.engine(), asked.request.clone());
            let mut answer: Answer<RoundReply> = Box::pin(async move { kit::start(&engine, &request).await });
            let Poll::Ready(Err(refusal)) = poll(&mut answer) else { panic!("{when}: {id} has ended and answers") };
            match (&refusal, end) {
                (Refusal::Frozen { .. }, _) | (Refusal::SessionAborted(_), End::Aborted) => {}
                (Refusal::SessionFinalized { signature, .. }, End::Finalized(known)) => assert_eq!(**signature, *known),
                _ => panic!("{when}: {id} ended as {end:?} and says {refusal}"),
            }
        }
    }

    /// The durable state, as a snapshot would hold it; without its position.
    fn image(&self) -> Vec<Vec<u8>> {
        self.engine().snapshot().items.skip(1).map(|item| item.to_vec()).collect()
    }

    fn finish(&mut self) {
        self.say("the end: token back, everything written".into());
        if self.outage {
            self.toggle_outage();
        }
        for _ in 0..2_000 {
            self.bench.as_mut().unwrap().settle();
            self.collect();
            let status = self.engine().status();
            if self.waiting.is_empty() && status.health.admits_work() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(self.waiting.is_empty(), "I4, I5: with the token back everything in line is answered");
        self.every_promise_is_kept("at the end");
        self.crash();
    }
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_of_actions_outages_and_crashes_breaks_a_promise() {
    let (mut cluster, outsider) = Cluster::with_outsider(1, 1, 2, AttemptPolicy::Roast, any_message()).await;
    let clock = ManualClock::default();
    cluster.nodes[0].stop();
    cluster.nodes[0].config.clock = Arc::new(clock.clone());
    cluster.nodes[0].config.tuning.snapshot_floor_bytes = 1;
    let world = World { cluster, outsider, clock };
    let one = std::env::var("FROSTKEEP_MODEL_SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => (1..=number("FROSTKEEP_MODEL_SEEDS", 24)).collect(),
    };
    let steps = number("FROSTKEEP_MODEL_STEPS", 80);
    tokio::task::spawn_blocking(move || {
        let (mut served, mut ended, mut crashed) = (0, 0, 0);
        for seed in seeds {
            let run = play(&world, seed, steps);
            served += run.asked.iter().filter(|asked| asked.served.is_some()).count();
            ended += run.ends.len();
            crashed += run.log.iter().filter(|line| *line == "crash").count();
        }
        assert!(served > 0 && ended > 0 && crashed > 0, "runs in which nothing happens prove nothing");
    })
    .await
    .unwrap();
}

fn play(world: &World, seed: u64, steps: u64) -> Run<'_> {
    let bench = Bench::open(&world.cluster.nodes[0], EngineConfig::default());
    let mut run = Run {
        world,
        dice: Dice(seed),
        bench: Some(bench),
        waiting: vec![],
        asked: vec![],
        numbers: BTreeMap::new(),
        ends: BTreeMap::new(),
        ending: BTreeSet::new(),
        frozen: BTreeSet::new(),
        thawing: BTreeSet::new(),
        spent: BTreeMap::new(),
        outage: false,
        log: vec![],
        epoch: format!("seed{seed}"),
    };
    let played = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            run.action();
        }
        run.finish();
        // The next run begins without freezes.
        let left: Vec<FreezeId> = run.gates();
        if !left.is_empty() {
            run.frozen = left.into_iter().collect();
            run.thaw();
            run.finish();
        }
        assert!(run.gates().is_empty());
    }));
    if let Err(panic) = played {
        // The report of a failed run.
        let report = format!("seed {seed}, FROSTKEEP_MODEL_SEED={seed} runs it again\n{}\n", run.log.join("\n"));
        std::io::Write::write_all(&mut std::io::stderr(), report.as_bytes()).unwrap();
        resume_unwind(panic);
    }
    run.bench = None;
    run
}
