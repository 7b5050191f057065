//! The persister stands still after a record was installed: the old is served, nothing of the new shows. Then it goes on,
//! or it fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, WPubkeyHash, Witness, consensus};
use frostkeep::bitcoin::{Prevout, ScriptBytes, SighashFlag, UnsignedTransaction, key_path_script};
use frostkeep::engine::{BuildRequest, FinalizeRequest, Finish, Refusal, SessionRequest, SignRequest, Subject};
use frostkeep::frost::Signature;
use frostkeep::policy::SigningPolicy;
use frostkeep::store::{Opening, VolumeSpace};
use redb::StorageBackend;
use tokio::task::JoinHandle;

use crate::kit::{
    Bench, Kind, Plan, coordinator, durable_part, member, session, start, subject, submitted, timeout_step,
};
use crate::stage::{Stage, evidence, impatient};

/// How a pause ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    GoesOn,
    TokenFails,
    DiskFails,
}

/// The container's file; writes and syncs fail when told to.
#[derive(Debug)]
struct Flaky {
    file: File,
    broken: Arc<AtomicBool>,
}

impl Flaky {
    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) { Err(io::Error::other("the test says so")) } else { Ok(()) }
    }
}

impl StorageBackend for Flaky {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write_all_at(data, offset)
    }
}

impl Stage {
    /// The same state on a disk that can be broken.
    fn on_a_flaky_disk(&mut self) -> Arc<AtomicBool> {
        self.crash();
        let node = &self.cluster.nodes[0];
        let broken = Arc::new(AtomicBool::new(false));
        let file = OpenOptions::new().read(true).write(true).open(node.state().join("store.redb")).unwrap();
        let environment = Bench::environment(node, Box::new(VolumeSpace::of(node.state())));
        let backend = Flaky { file, broken: Arc::clone(&broken) };
        let opening = Opening::over(backend, node.token.provider(), environment, node.config.tuning).unwrap();
        let mut bench = Bench::unsettled(node, impatient(), opening);
        bench.settle();
        self.replace(bench);
        broken
    }

    /// Lets the pause end badly and says what the caller in flight hears.
    async fn fail<T>(&mut self, end: End, broken: &AtomicBool, task: JoinHandle<Result<T, Refusal>>) {
        match end {
            End::GoesOn => unreachable!(),
            End::TokenFails => self.outage().await,
            End::DiskFails => broken.store(true, Ordering::SeqCst),
        }
        let Err(refusal) = self.finish(task).await else { panic!("{end:?}: it was answered as if it were durable") };
        match end {
            End::DiskFails => assert!(matches!(refusal, Refusal::StorageFailed { pending: true, .. }), "{refusal}"),
            _ => assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: true, .. }), "{refusal}"),
        }
    }

    /// A new process, with the token and the disk in order.
    fn come_back(&mut self, end: End, broken: &AtomicBool) {
        self.crash();
        broken.store(false, Ordering::SeqCst);
        if end == End::TokenFails {
            self.bring_back();
        }
        self.restart();
    }

    async fn serves(
        &self,
        request: &SignRequest,
        reply: &frostkeep::engine::RoundReply,
        caller: &frostkeep::engine::Caller,
    ) {
        let served = self.at_once(caller, request).await;
        let served = served.unwrap_or_else(|refusal| panic!("the durable round is not served: {refusal}"));
        assert_eq!(durable_part(&served), durable_part(reply));
    }
}

/// It waits for the persister, which stands still: nothing may come of it, however long.
async fn stays_unanswered<T>(task: &JoinHandle<T>) {
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!task.is_finished());
}

async fn nothing_of_a_pending_advance_shows(end: End) {
    let mut stage = Stage::new(evidence(Kind::Scripted)).await;
    let broken = stage.on_a_flaky_disk();
    let (all, rest) = ([1, 2, 3, 4].map(member), [1, 2, 3].map(member));
    let what = subject(2);
    let name = stage.session_led_by(member(4), &what, &all);
    let (first, second) = (stage.cluster.context(&name, &what, 1, &all), stage.cluster.context(&name, &what, 2, &rest));
    let (old_driver, driver) = (stage.driver(&first), stage.driver(&second));
    let package = stage.package(&name, &what, &all);
    let request = stage.cluster.request(&name, &what, 1, &package, member(1));
    let unanswered = stage.cluster.request(&name, &what, 1, &package, member(2));
    let reply = stage.answer(&old_driver, &request).await.unwrap();
    let votes = [1, 3].map(|voter| stage.vote(&name, &what, &first, member(voter))).to_vec();
    let next = stage.package(&name, &what, &rest);
    let mut advance = stage.cluster.request(&name, &what, 2, &next, member(1));
    advance.evidence = vec![timeout_step(&first, &second, votes)];

    let task = stage.ask(&driver, &advance);
    stage.in_line(1).await;
    let replay = stage.ask(&driver, &advance);
    stage.serves(&request, &reply, &old_driver).await;
    let seen =
        |stage: &Stage| stage.view(&name, |view| (view.active, view.rounds.len(), view.transcript.len())).unwrap();
    assert_eq!(seen(&stage), (Some((1, first.id())), 1, 0));
    let refusal = stage.at_once(&old_driver, &unanswered).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Busy(_)), "a fresh round of the attempt that gives way: {refusal}");
    stays_unanswered(&replay).await;

    if end == End::GoesOn {
        let advanced = stage.finish(task).await.unwrap();
        assert_eq!(durable_part(&advanced), durable_part(&stage.finish(replay).await.unwrap()));
        assert_eq!(seen(&stage), (Some((2, second.id())), 1, 1));
        let stale = stage.at_once(&old_driver, &request).await.unwrap_err();
        assert!(matches!(stale, Refusal::AttemptStale { number: 1, active: 2 }), "{stale}");
        return;
    }
    stage.fail(end, &broken, task).await;
    assert!(stage.finish(replay).await.is_err());
    stage.serves(&request, &reply, &old_driver).await;
    assert_eq!(seen(&stage), (Some((1, first.id())), 1, 0));
    let refusal = stage.at_once(&driver, &advance).await.unwrap_err();
    assert!(matches!(refusal, Refusal::RoundNotDurable { .. }), "{refusal}");
    stage.come_back(end, &broken);
    stage.serves(&request, &reply, &old_driver).await;
    assert_eq!(seen(&stage), (Some((1, first.id())), 1, 0));
    let refusal = stage.at_once(&driver, &advance).await.unwrap_err();
    assert!(matches!(refusal, Refusal::CommitmentsUnknown { .. }), "the lost round's nonces are gone: {refusal}");
    advance.package = stage.package(&name, &what, &rest);
    stage.answer(&driver, &advance).await.unwrap();
    assert_eq!(seen(&stage), (Some((2, second.id())), 1, 1));
}

async fn nothing_of_a_pending_finalisation_shows(end: End) {
    let mut stage = Stage::new(Plan::two_of_three(Kind::Scripted)).await;
    let broken = stage.on_a_flaky_disk();
    let (request, reply) = stage.durable_round("paused", 1).await;
    let (name, what, key_group) = (request.session.clone(), request.subject, request.key_group);
    let theirs = SignRequest { member: member(2), ..request.clone() };
    let theirs = start(&stage.cluster.engine_of(member(2)), &theirs).await.unwrap();
    let finish = Finish::Shares { attempt: reply.attempt(), shares: vec![submitted(&reply), submitted(&theirs)] };
    let finalize = FinalizeRequest { session: name.clone(), key_group, subject: what, finish };
    let ask = |stage: &Stage| {
        let (engine, finalize) = (stage.engine().clone(), finalize.clone());
        tokio::spawn(async move { engine.finalize_sign_round(&coordinator(), &finalize).await })
    };

    let task = ask(&stage);
    stage.in_line(1).await;
    let replay = ask(&stage);
    stage.serves(&request, &reply, &coordinator()).await;
    assert_eq!(stage.view(&name, |view| view.rounds.len()).unwrap(), 1);
    let not_yet =
        |refusal: Refusal| assert!(matches!(refusal, Refusal::Busy(_)), "what it shows is pending: {refusal}");
    let again = stage.cluster.request(&name, &what, 2, &request.package, member(1));
    not_yet(stage.at_once(&coordinator(), &again).await.unwrap_err());
    not_yet(stage.cluster.commit(stage.engine(), &name, member(1)).unwrap_err());
    let abort = SessionRequest { session: name.clone(), key_group };
    not_yet(stage.engine().abort_session(&coordinator(), &abort).await.unwrap_err());
    stays_unanswered(&replay).await;

    if end != End::GoesOn {
        stage.fail(end, &broken, task).await;
        assert!(stage.finish(replay).await.is_err());
        stage.serves(&request, &reply, &coordinator()).await;
        assert_eq!(stage.view(&name, |view| view.rounds.len()).unwrap(), 1);
        not_yet(stage.cluster.commit(stage.engine(), &name, member(1)).unwrap_err());
        stage.come_back(end, &broken);
        // Open as before: its end was never durable.
        stage.serves(&request, &reply, &coordinator()).await;
        let task = ask(&stage);
        let finalized = stage.finish(task).await.unwrap().unwrap();
        stage.cluster.group.verify(what.message, None, &Signature::new(*finalized.signature())).unwrap();
        return;
    }
    let finalized = stage.finish(task).await.unwrap().unwrap();
    assert_eq!(stage.finish(replay).await.unwrap().unwrap(), finalized);
    stage.cluster.group.verify(what.message, None, &Signature::new(*finalized.signature())).unwrap();
    let ended = stage.at_once(&coordinator(), &request).await.unwrap_err();
    assert!(matches!(ended, Refusal::SessionFinalized { signature, .. } if *signature == *finalized.signature()));
}

/// A payment out of an output of the group's.
fn payment(stage: &Stage, number: u8) -> UnsignedTransaction {
    let own = key_path_script(&stage.cluster.group.output_key(None)).to_vec();
    let out = |value, script| TxOut { value: Amount::from_sat(value), script_pubkey: script };
    let transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([number; 32]), 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![
            out(50_000, ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([number; 20]))),
            out(49_000, ScriptBuf::from_bytes(own.clone())),
        ],
    };
    let prevout = Prevout { value_sat: 100_000, script: ScriptBytes::new(own) };
    UnsignedTransaction::from_parts(&consensus::serialize(&transaction), &[prevout]).unwrap()
}

async fn nothing_of_a_pending_approval_shows(end: End) {
    let plan = Plan { policy: SigningPolicy::standard(), ..Plan::two_of_three(Kind::Scripted) };
    let mut stage = Stage::new(plan).await;
    let broken = stage.on_a_flaky_disk();
    let ask = |stage: &Stage, transaction: &UnsignedTransaction| {
        let (engine, transaction) = (stage.engine().clone(), transaction.clone());
        let request = BuildRequest { key_group: stage.cluster.key_group, transaction, roots: Vec::new() };
        tokio::spawn(async move { engine.build_taproot_tx(&coordinator(), &request).await })
    };
    let signing = |stage: &Stage, name: &str, transaction: &UnsignedTransaction| {
        let what = Subject { message: transaction.sighash(0, SighashFlag::Default).unwrap(), root: None };
        let package = stage.package(&session(name), &what, &[member(1), member(2)]);
        stage.cluster.request(&session(name), &what, 1, &package, member(1))
    };
    let (old, new) = (payment(&stage, 1), payment(&stage, 2));
    let task = ask(&stage, &old);
    stage.finish(task).await.unwrap();
    let request = signing(&stage, "old", &old);
    let reply = stage.answer(&coordinator(), &request).await.unwrap();

    let task = ask(&stage, &new);
    stage.in_line(1).await;
    let replay = ask(&stage, &new);
    stage.serves(&request, &reply, &coordinator()).await;
    let fresh = signing(&stage, "new", &new);
    let not_approved = |refusal: Refusal| assert!(matches!(refusal, Refusal::MessageNotApproved), "{refusal}");
    not_approved(stage.at_once(&coordinator(), &fresh).await.unwrap_err());
    stays_unanswered(&replay).await;

    if end == End::GoesOn {
        assert_eq!(stage.finish(task).await.unwrap(), stage.finish(replay).await.unwrap());
        stage.answer(&coordinator(), &fresh).await.unwrap();
        return;
    }
    stage.fail(end, &broken, task).await;
    assert!(stage.finish(replay).await.is_err());
    stage.serves(&request, &reply, &coordinator()).await;
    not_approved(stage.at_once(&coordinator(), &fresh).await.unwrap_err());
    let again = ask(&stage, &new);
    let refusal = stage.finish(again).await.unwrap_err();
    assert!(matches!(refusal, Refusal::RoundNotDurable { .. }), "{refusal}");
    stage.come_back(end, &broken);
    stage.serves(&request, &reply, &coordinator()).await;
    not_approved(stage.at_once(&coordinator(), &fresh).await.unwrap_err());
    let task = ask(&stage, &new);
    stage.finish(task).await.unwrap();
    let fresh = signing(&stage, "new", &new);
    stage.answer(&coordinator(), &fresh).await.unwrap();
}

macro_rules! ends {
    ($($law:ident: $goes_on:ident, $token_fails:ident, $disk_fails:ident;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $goes_on() {
                $law(End::GoesOn).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $token_fails() {
                $law(End::TokenFails).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $disk_fails() {
                $law(End::DiskFails).await;
            }
        )+
    };
}

ends! {
    nothing_of_a_pending_advance_shows:
        nothing_of_a_pending_advance_shows_and_then_it_is_served,
        nothing_of_a_pending_advance_shows_and_the_old_attempt_outlives_an_outage,
        nothing_of_a_pending_advance_shows_and_the_old_attempt_outlives_a_failed_disk;
    nothing_of_a_pending_finalisation_shows:
        no_signature_of_a_pending_finalisation_is_handed_out_and_then_it_is,
        no_signature_of_a_pending_finalisation_is_handed_out_and_the_session_outlives_an_outage,
        no_signature_of_a_pending_finalisation_is_handed_out_and_the_session_outlives_a_failed_disk;
    nothing_of_a_pending_approval_shows:
        nothing_is_signed_under_a_pending_approval_and_then_it_is,
        nothing_is_signed_under_a_pending_approval_that_an_outage_holds,
        nothing_is_signed_under_a_pending_approval_that_a_failed_disk_lost;
}
