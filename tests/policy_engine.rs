//! Goal: a key group signs what its policy approved, and nothing else. Method: real transactions that spend the group's
//! outputs, on one node with a persister that the test steps, and one member that the test holds.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod kit;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, consensus};
use frostkeep::bitcoin::{Prevout, ScriptBytes, ScriptClass, SighashFlag, UnsignedTransaction, key_path_script};
use frostkeep::engine::{
    ApprovalReply, BuildRequest, Engine, EngineConfig, Refusal, RoundReply, SessionRequest, SignRequest, Subject,
};
use frostkeep::frost::SigningPackage;
use frostkeep::hash::sha256;
use frostkeep::hsm::clock::{Clock, Millis, SystemClock};
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::{AttemptPolicy, Member, MerkleRoot, Message, SessionId};
use frostkeep::policy::{Rate, SigningPolicy, Tightening};
use frostkeep::reasons::Reason;
use kit::outsider::Outsider;
use kit::{Bench, Cluster, admin, coordinator, durable_part, member, session};

/// A wall clock that steps as the test says; the monotonic one stands still.
#[derive(Clone, Default)]
struct Wall(Arc<AtomicU64>, Arc<SystemClock>);

impl Clock for Wall {
    /// Real: outages begin and end by it.
    fn now(&self) -> Millis {
        self.1.now()
    }
    fn unix_seconds(&self) -> u64 {
        1_800_000_000 + self.0.load(Ordering::SeqCst)
    }
}

struct Room {
    cluster: Cluster,
    outsider: Outsider,
    bench: Option<Bench>,
    config: EngineConfig,
    wall: Wall,
}

impl Room {
    async fn new(policy: SigningPolicy) -> Self {
        let (mut cluster, outsider) = Cluster::with_outsider(1, 1, 2, AttemptPolicy::Roast, policy).await;
        let wall = Wall::default();
        cluster.nodes[0].config.clock = Arc::new(wall.clone());
        let bench = Some(cluster.nodes[0].open_by_hand());
        Self { cluster, outsider, bench, config: EngineConfig::default(), wall }
    }

    fn engine(&self) -> Engine {
        self.bench.as_ref().unwrap().engine.clone()
    }

    fn bench(&mut self) -> &mut Bench {
        self.bench.as_mut().unwrap()
    }

    fn reopen(&mut self) {
        self.bench = None;
        self.bench = Some(Bench::open(&self.cluster.nodes[0], self.config.clone()));
    }

    async fn stepping<T, F: Future<Output = T>>(&mut self, work: impl FnOnce(Engine) -> F) -> T {
        let work = work(self.engine());
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(1)) => self.bench().settle(),
            }
        }
    }

    /// A spend of the group's output `number` under `root`, `paid_sat` to somebody, the fee a thousand.
    fn spend(&self, number: u8, root: Option<&MerkleRoot>, value_sat: u64, paid_sat: u64) -> UnsignedTransaction {
        let own = key_path_script(&self.cluster.group.output_key(root)).to_vec();
        let back = key_path_script(&self.cluster.group.output_key(None)).to_vec();
        let output = |value_sat, script: Vec<u8>| TxOut {
            value: Amount::from_sat(value_sat),
            script_pubkey: ScriptBuf::from_bytes(script),
        };
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::new(Txid::from_byte_array([number; 32]), 0),
                script_sig: ScriptBuf::new(),
                sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                witness: Witness::new(),
            }],
            output: vec![output(paid_sat, p2wpkh()), output(60_000 - 1_000 - paid_sat, back)],
        };
        let prevouts = [Prevout { value_sat, script: ScriptBytes::new(own) }];
        UnsignedTransaction::from_parts(&consensus::serialize(&transaction), &prevouts).unwrap()
    }

    async fn build(
        &mut self,
        transaction: &UnsignedTransaction,
        roots: &[MerkleRoot],
    ) -> Result<ApprovalReply, Refusal> {
        let request = self.build_request(transaction, roots);
        self.stepping(|engine| async move { engine.build_taproot_tx(&coordinator(), &request).await }).await
    }

    fn build_request(&self, transaction: &UnsignedTransaction, roots: &[MerkleRoot]) -> BuildRequest {
        BuildRequest { key_group: self.cluster.key_group, transaction: transaction.clone(), roots: roots.to_vec() }
    }

    fn request(&self, id: &SessionId, what: &Subject) -> SignRequest {
        let pair: [Member; 2] = [member(1), member(2)];
        let own = self.cluster.commit(&self.engine(), id, pair[0]).unwrap();
        let (_, other) = self.outsider.commit(pair[1]);
        let package = SigningPackage::new(what.message, [(pair[0], own), (pair[1], other)].into()).unwrap();
        self.cluster.request(id, what, 1, &package, pair[0])
    }

    async fn sign(&mut self, name: &str, message: Message, root: Option<MerkleRoot>) -> Result<RoundReply, Refusal> {
        let request = self.request(&session(name), &Subject { message, root });
        self.stepping(|engine| async move { kit::start(&engine, &request).await }).await
    }

    async fn set_policy(&mut self, policy: &SigningPolicy) {
        let (key_group, policy) = (self.cluster.key_group, policy.clone());
        self.stepping(|engine| async move { engine.set_policy(&admin(), &key_group, &policy).await }).await.unwrap();
    }

    /// Records the policy again until the journal is worth a snapshot, and opens from that.
    async fn through_a_snapshot(&mut self, policy: &SigningPolicy) {
        let before = self.engine().status().counters.snapshots;
        for _ in 0..500 {
            self.set_policy(policy).await;
            self.bench().settle();
            if self.engine().status().counters.snapshots > before {
                return self.reopen();
            }
        }
        panic!("no snapshot was ever due");
    }

    async fn outage(&mut self, there: bool) {
        match there {
            true => self.cluster.nodes[0].token.scripted_handle().heal(),
            false => self.cluster.nodes[0].token.scripted_handle().fail_until_healed(FaultClass::Token),
        }
        for _ in 0..300 {
            self.bench().settle();
            if self.engine().status().health.admits_work() == there {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the token's state never showed");
    }
}

fn p2wpkh() -> Vec<u8> {
    let mut script = vec![0; 22];
    script[1] = 20;
    script
}

fn reason<T>(result: Result<T, Refusal>) -> Reason {
    result.err().unwrap().reason()
}

fn standard() -> SigningPolicy {
    SigningPolicy::standard()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_transaction_is_served_again_after_a_restart_and_a_snapshot_and_in_an_outage() {
    let mut room = Room::new(standard()).await;
    room.cluster.nodes[0].config.tuning.snapshot_floor_bytes = 1;
    room.reopen();
    let transaction = room.spend(1, None, 60_000, 10_000);
    let first = room.build(&transaction, &[]).await.unwrap();
    assert_eq!(first.id(), transaction.id());
    assert!(
        first
            .sighashes()
            .iter()
            .any(|(message, input)| *input == 0 && *message == transaction.sighash(0, SighashFlag::Default).unwrap())
    );
    let mut snapshots = 0;
    for _ in 0..3 {
        assert_eq!(room.build(&transaction, &[]).await.unwrap(), first);
        room.bench().settle();
        snapshots += room.engine().status().counters.snapshots;
        room.reopen();
    }
    assert!(snapshots > 0);
    let message = transaction.sighash(0, SighashFlag::Default).unwrap();
    room.sign("spends", message, None).await.unwrap();
    room.outage(false).await;
    assert_eq!(room.build(&transaction, &[]).await.unwrap(), first, "served from memory");
    let fresh = room.spend(2, None, 60_000, 10_000);
    assert_eq!(reason(room.build(&fresh, &[]).await), Reason::KeyProviderUnavailable);
    room.outage(true).await;
    room.build(&fresh, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_12_a_session_signs_a_sighash_of_an_approved_input_of_its_group_under_its_root_and_nothing_else() {
    let mut room = Room::new(standard()).await;
    let (root, other_root) = (MerkleRoot::new([4; 32]), MerkleRoot::new([5; 32]));
    let plain = room.spend(1, None, 60_000, 10_000);
    let tree = room.spend(2, Some(&root), 60_000, 10_000);
    room.build(&plain, &[]).await.unwrap();
    room.build(&tree, &[root]).await.unwrap();
    let unapproved = room.spend(3, None, 60_000, 10_000);
    let sighash = |transaction: &UnsignedTransaction, flag| transaction.sighash(0, flag).unwrap();
    for (index, (message, root, allowed)) in [
        (sighash(&plain, SighashFlag::Default), None, true),
        (sighash(&plain, SighashFlag::All), None, true),
        (sighash(&plain, SighashFlag::Default), Some(root), false),
        (sighash(&tree, SighashFlag::Default), Some(root), true),
        (sighash(&tree, SighashFlag::Default), None, false),
        (sighash(&tree, SighashFlag::Default), Some(other_root), false),
        (sighash(&unapproved, SighashFlag::Default), None, false),
        (Message::new(*plain.id().as_bytes()), None, false),
        (Message::new(sha256(&plain.raw())), None, false),
        (Message::new([0; 32]), None, false),
    ]
    .into_iter()
    .enumerate()
    {
        let signed = room.sign(&format!("s{index}"), message, root).await;
        match allowed {
            true => drop(signed.unwrap()),
            false => assert_eq!(reason(signed), Reason::MessageNotApproved, "case {index}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebodys_wrong_amounts_do_not_block_the_right_ones() {
    let mut room = Room::new(standard()).await;
    // The same txid; the prevout is said to be worth a little more.
    let (wrong, right) = (room.spend(1, None, 60_001, 10_000), room.spend(1, None, 60_000, 10_000));
    assert_eq!(wrong.id(), right.id());
    room.build(&wrong, &[]).await.unwrap();
    room.build(&right, &[]).await.unwrap();
    let messages = [&wrong, &right].map(|transaction| transaction.sighash(0, SighashFlag::Default).unwrap());
    assert_ne!(messages[0], messages[1], "a signature covers the amounts");
    room.reopen();
    room.sign("right", messages[1], None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_charged_once_a_txid_and_neither_restarts_nor_a_clock_that_steps_back_widen_them() {
    let rate = Rate { window_s: 1_000, value_sat_max: 1_000_000, transactions_max: 2 };
    let policy = SigningPolicy { rates: BTreeSet::from([rate]), ..standard() };
    let mut room = Room::new(policy).await;
    room.cluster.nodes[0].config.tuning.snapshot_floor_bytes = 1;
    room.reopen();
    let first = room.spend(1, None, 60_000, 10_000);
    room.wall.0.store(500, Ordering::SeqCst);
    for value_sat in [60_000, 60_001, 60_002] {
        room.build(&room.spend(1, None, value_sat, 10_000), &[]).await.unwrap();
    }
    room.build(&room.spend(2, None, 60_000, 10_000), &[]).await.unwrap();
    let third = room.spend(3, None, 60_000, 10_000);
    for (wall, restart) in [(500, false), (0, false), (0, true), (1_499, true)] {
        room.wall.0.store(wall, Ordering::SeqCst);
        if restart {
            room.bench().settle();
            room.reopen();
        }
        assert_eq!(reason(room.build(&third, &[]).await), Reason::PolicyDenied, "at {wall}");
        room.build(&first, &[]).await.unwrap();
    }
    room.wall.0.store(1_500, Ordering::SeqCst);
    room.build(&third, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_forgets_no_charge_that_a_rate_window_still_counts() {
    let window_s = frostkeep::limits::POLICY_WINDOW_S_MAX;
    let rate = Rate { window_s, value_sat_max: u64::MAX, transactions_max: 2 };
    let policy = SigningPolicy { rates: BTreeSet::from([rate]), ..standard() };
    let mut room = Room::new(policy.clone()).await;
    room.cluster.nodes[0].config.tuning.snapshot_floor_bytes = 1;
    room.reopen();
    room.build(&room.spend(1, None, 60_000, 10_000), &[]).await.unwrap();
    room.wall.0.store(window_s - 1, Ordering::SeqCst);
    room.build(&room.spend(2, None, 60_000, 10_000), &[]).await.unwrap();
    let third = room.spend(3, None, 60_000, 10_000);
    for _ in 0..2 {
        assert_eq!(reason(room.build(&third, &[]).await), Reason::PolicyDenied, "the first one counts still");
        room.through_a_snapshot(&policy).await;
    }
    room.wall.0.store(window_s, Ordering::SeqCst);
    room.build(&third, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_tightened_policy_is_checked_again_at_every_serve() {
    let mut room = Room::new(standard()).await;
    let transaction = room.spend(1, None, 60_000, 10_000);
    let message = transaction.sighash(0, SighashFlag::Default).unwrap();
    room.build(&transaction, &[]).await.unwrap();
    let request = room.request(&session("cached"), &Subject { message, root: None });
    let asked = request.clone();
    let served = room.stepping(|engine| async move { kit::start(&engine, &asked).await }).await.unwrap();

    let tighter = SigningPolicy { value_sat_max: 9_999, ..standard() };
    room.set_policy(&tighter).await;
    for _ in 0..2 {
        assert_eq!(reason(room.build(&transaction, &[]).await), Reason::PolicyDenied);
        assert_eq!(reason(kit::start(&room.engine(), &request).await), Reason::PolicyDenied, "also from the cache");
        let view = room.engine().session(
            &coordinator(),
            &SessionRequest { session: session("cached"), key_group: room.cluster.key_group },
            |_| (),
        );
        assert_eq!(reason(view), Reason::PolicyDenied);
        room.reopen();
    }
    room.set_policy(&standard()).await;
    let again = kit::start(&room.engine(), &request).await.unwrap();
    assert_eq!(durable_part(&again), durable_part(&served));

    // The configuration tightens and never widens.
    let classes = BTreeSet::from([ScriptClass::P2tr]);
    room.config.tighten = Some(Tightening { script_classes: Some(classes), ..Tightening::default() });
    room.reopen();
    assert_eq!(reason(kit::start(&room.engine(), &request).await), Reason::PolicyDenied);
    room.config.tighten = Some(Tightening { value_sat_max: Some(u64::MAX), ..Tightening::default() });
    room.reopen();
    kit::start(&room.engine(), &request).await.unwrap();
    let large = room.spend(2, None, 60_000, 10_000);
    room.set_policy(&tighter).await;
    assert_eq!(reason(room.build(&large, &[]).await), Reason::PolicyDenied, "a higher value widens nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_danger_policy_signs_anything_until_the_configuration_forbids_it() {
    let mut room = Room::new(kit::any_message()).await;
    room.sign("any", Message::new([1; 32]), None).await.unwrap();
    room.config.tighten = Some(Tightening { refuse_any_message: true, ..Tightening::default() });
    room.reopen();
    assert_eq!(reason(room.sign("any-more", Message::new([2; 32]), None).await), Reason::MessageNotApproved);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_in_line_shows_nothing_and_a_crash_forgets_it() {
    let mut room = Room::new(standard()).await;
    let transaction = room.spend(1, None, 60_000, 10_000);
    let message = transaction.sighash(0, SighashFlag::Default).unwrap();
    for crash in [true, false] {
        let (engine, request) = (room.engine(), room.build_request(&transaction, &[]));
        let waiting = tokio::spawn(async move { engine.build_taproot_tx(&coordinator(), &request).await });
        let line = room.bench().line.clone();
        kit::eventually("the approval is in line", || line.waiting_records() > 0).await;
        assert!(!waiting.is_finished());
        let early = room.request(&session("early"), &Subject { message, root: None });
        let refused = kit::start(&room.engine(), &early).await;
        assert_eq!(reason(refused), Reason::MessageNotApproved, "nothing signs by an approval in line");
        if crash {
            waiting.abort();
            room.reopen();
            let refused = kit::start(&room.engine(), &early).await;
            assert_eq!(reason(refused), Reason::MessageNotApproved);
        } else {
            room.bench().settle();
            waiting.await.unwrap().unwrap();
        }
    }
    room.sign("late", message, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_caught_in_flight_by_an_outage_is_named_pending_and_comes_out_when_the_token_is_back() {
    let mut room = Room::new(standard()).await;
    let transaction = room.spend(1, None, 60_000, 10_000);
    room.cluster.nodes[0].token.scripted_handle().fail_until_healed(FaultClass::Token);
    let refusal = room.build(&transaction, &[]).await.unwrap_err();
    let Refusal::KeyProviderUnavailable { pending, .. } = refusal else { panic!("{refusal}") };
    assert!(pending);
    assert_eq!(reason(room.build(&transaction, &[]).await), Reason::RoundNotDurable);
    room.outage(true).await;
    room.build(&transaction, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_out_of_bounds_is_refused_and_the_old_one_stays() {
    let mut room = Room::new(standard()).await;
    let key_group = room.cluster.key_group;
    let endless = Rate { window_s: 0, value_sat_max: 1, transactions_max: 1 };
    let too_long = Rate { window_s: frostkeep::limits::POLICY_WINDOW_S_MAX + 1, ..endless };
    let many: BTreeSet<Rate> = (1..=9).map(|window_s| Rate { window_s, ..endless }).collect();
    let position = room.engine().status().durable;
    for rates in [BTreeSet::from([endless]), BTreeSet::from([too_long]), many] {
        let policy = SigningPolicy { rates, ..standard() };
        let set = room.stepping(|engine| async move { engine.set_policy(&admin(), &key_group, &policy).await }).await;
        assert_eq!(set.err().map(|refusal| refusal.reason()), Some(Reason::InvalidRequest));
    }
    assert_eq!(room.engine().status().durable, position);
    let transaction = room.spend(1, None, 60_000, 10_000);
    let roots: Vec<MerkleRoot> = (0..=64).map(|byte| MerkleRoot::new([byte; 32])).collect();
    assert_eq!(reason(room.build(&transaction, &roots).await), Reason::InvalidRequest, "too many roots");
    room.build(&transaction, &roots[..64]).await.unwrap();
    let foreign = {
        let mut prevouts = transaction.prevouts();
        prevouts[0].script = ScriptBytes::new(p2wpkh());
        UnsignedTransaction::from_parts(&transaction.raw(), &prevouts).unwrap()
    };
    assert_eq!(reason(room.build(&foreign, &[]).await), Reason::PolicyDenied, "it spends nothing of the group");
}
