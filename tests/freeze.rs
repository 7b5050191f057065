//! Goal: I8. A freeze works at once, whatever else is full, hung or gone, drains what passed before it, and survives a
//! crash.
//!
//! Method: engines on a scripted token with a durable round, whose replay tells whether the group is frozen. Releases are
//! held inside their encoding; crashes are copies of the state directory, opened anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod kit;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use frostkeep::engine::{CommitRequest, Engine, EngineConfig, FreezeReport, Refusal, RoundReply, SignRequest};
use frostkeep::frost::SigningPackage;
use frostkeep::ids::FreezeId;
use frostkeep::node::Phase;
use frostkeep::reasons::Reason;
use frostkeep::store::{DenyDisk, DenyFiles, FreeSpace, SlotKind, VolumeSpace};
use kit::{
    Bench, Cluster, Kind, Plan, TestNode, Token, admin, coordinator, durable_part, eventually, member, session, start,
    subject,
};

/// Far above what a freeze takes, far below what it must not wait for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Three nodes; node 0 holds member 1 and a durable round.
struct Scene {
    cluster: Cluster,
    request: SignRequest,
    bytes: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::new(Plan::two_of_three(Kind::Scripted)).await;
        let (name, what) = (session("durable"), subject(7));
        let package = cluster.package(&name, &what, &[member(1), member(2)]);
        let request = cluster.request(&name, &what, 1, &package, member(1));
        let bytes = durable_part(&start(&cluster.nodes[0].engine(), &request).await.unwrap());
        Self { cluster, request, bytes }
    }

    fn node(&mut self) -> &mut TestNode {
        &mut self.cluster.nodes[0]
    }

    fn deny_directory(&self) -> PathBuf {
        self.cluster.nodes[0].state().join("deny")
    }

    /// A fresh request for member 1 at `engine`, its own first attempt.
    fn fresh(&self, engine: &Engine, name: &str, byte: u8) -> SignRequest {
        let (name, what) = (session(name), subject(byte));
        let own = self.cluster.commit(engine, &name, member(1)).unwrap();
        let other = self.cluster.commit(&self.cluster.nodes[1].engine(), &name, member(2)).unwrap();
        let package = SigningPackage::new(what.message, [(member(1), own), (member(2), other)].into()).unwrap();
        self.cluster.request(&name, &what, 1, &package, member(1))
    }

    async fn freeze(&self, engine: &Engine) -> FreezeReport {
        engine.freeze(&admin(), &self.cluster.key_group, "a test").await.unwrap()
    }

    async fn served(&self, engine: &Engine) {
        assert_eq!(durable_part(&start(engine, &self.request).await.unwrap()), self.bytes);
    }

    /// Nothing leaves: not from the cache, not fresh commitments, not a view with shares.
    async fn frozen(&self, engine: &Engine, freezes: &[FreezeId]) {
        let refusal = start(engine, &self.request).await.unwrap_err();
        let Refusal::Frozen { key_group, freezes: in_force } = &refusal else { panic!("{refusal}") };
        assert_eq!((*key_group, sorted(in_force)), (self.cluster.key_group, sorted(freezes)));
        let request = self.cluster.session_request(&self.request.session);
        let view = engine.session(&coordinator(), &request, |_| ());
        assert_eq!(view.unwrap_err().reason(), Reason::Frozen);
        let request = CommitRequest {
            session: session("another"),
            key_group: self.cluster.key_group,
            member: self.request.member,
        };
        assert_eq!(engine.commit(&coordinator(), &request).unwrap_err().reason(), Reason::Frozen);
    }

    /// What a process finds that starts after a crash at this moment: the freezes in force, after one start and after two.
    fn after_crash(&mut self) -> Vec<FreezeId> {
        let copy = tempfile::tempdir().unwrap();
        let state = copy.path().join("state");
        copy_directory(self.node().state(), &state);
        let key_group = self.cluster.key_group;
        let node = self.node();
        let at_start = node.token.scripted_handle().clone_token();
        at_start.heal();
        let token = Token::Scripted(at_start);
        let (token, state) =
            (std::mem::replace(&mut node.token, token), std::mem::replace(&mut node.config.state, state));
        let look = |node: &TestNode| {
            let bench = Bench::open(node, EngineConfig::default());
            let mut found = bench.gates.freezes(&key_group);
            found.sort();
            (found, std::fs::read_dir(node.state().join("deny")).unwrap().count())
        };
        let (found, files) = look(node);
        assert_eq!(look(node), (found.clone(), files), "the second start");
        assert_eq!(files, found.len(), "a lifted freeze leaves no file, a freeze in force keeps its own");
        (node.token, node.config.state) = (token, state);
        found
    }
}

fn sorted(freezes: &[FreezeId]) -> Vec<FreezeId> {
    let mut freezes = freezes.to_vec();
    freezes.sort();
    freezes
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Holds whoever comes until the test lets go.
#[derive(Default)]
struct Hold {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Hold {
    fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        let _open = self.changed.wait_while(state, |state| !state.1).unwrap();
    }

    fn wait_until_held(&self) {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, Duration::from_secs(20), |state| !state.0).unwrap();
        assert!(state.0, "nobody came");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// A test that fails must not wait for what it holds.
struct OpenOnDrop(Arc<Hold>);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A freeze that is asked for while a release is inside its encoding.
async fn a_freeze_waits_for(
    scene: &Scene,
    engine: &Engine,
    release: impl FnOnce(Engine, Arc<Hold>, Arc<AtomicBool>) + Send + 'static,
) {
    let (hold, handed_over) = (Arc::new(Hold::default()), Arc::new(AtomicBool::new(false)));
    let releasing = {
        let (engine, hold, handed_over) = (engine.clone(), Arc::clone(&hold), Arc::clone(&handed_over));
        tokio::task::spawn_blocking(move || release(engine, hold, handed_over))
    };
    hold.wait_until_held();
    let (engine, key_group, seen) = (engine.clone(), scene.cluster.key_group, Arc::clone(&handed_over));
    let freezing = tokio::spawn(async move {
        let report = engine.freeze(&admin(), &key_group, "a test").await.unwrap();
        (report, seen.load(Ordering::SeqCst))
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let early = freezing.is_finished();
    hold.open();
    assert!(!early, "the freeze has returned while a release was under way");
    let (_, handed_over_first) = freezing.await.unwrap();
    assert!(handed_over_first, "the freeze has returned before the release was handed over");
    releasing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_returns_only_when_every_release_that_passed_before_it_was_handed_over() {
    let mut scene = Scene::new().await;
    let bench = scene.node().open_by_hand();
    let request = scene.request.clone();
    a_freeze_waits_for(&scene, &bench.engine, move |engine, hold, handed_over| {
        let caller = coordinator();
        let released = engine.start_sign_round(&caller, &request, |reply| {
            hold.wait();
            handed_over.store(true, Ordering::SeqCst);
            reply.clone()
        });
        tokio::runtime::Handle::current().block_on(released).unwrap();
    })
    .await;
    let in_force = bench.gates.freezes(&scene.cluster.key_group);
    scene.frozen(&bench.engine, &in_force).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_waits_for_a_view_with_shares_as_for_a_share() {
    let mut scene = Scene::new().await;
    let bench = scene.node().open_by_hand();
    let request = scene.cluster.session_request(&scene.request.session);
    a_freeze_waits_for(&scene, &bench.engine, move |engine, hold, handed_over| {
        let encode = |view: &frostkeep::engine::SessionView| {
            hold.wait();
            handed_over.store(true, Ordering::SeqCst);
            view.rounds.len()
        };
        assert_eq!(engine.session(&coordinator(), &request, encode).unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_no_freeze() {
    let mut scene = Scene::new().await;
    let bench = scene.node().open_by_hand();
    // The handler has returned; the encoded reply waits for a client whose buffer is full.
    let (client, unread) = tokio::sync::mpsc::channel(1);
    client.send(Vec::new()).await.unwrap();
    let (engine, request) = (bench.engine.clone(), scene.request.clone());
    let (encoded, was_encoded) = mpsc::channel();
    let handler = tokio::spawn(async move {
        let reply = engine.start_sign_round(&coordinator(), &request, RoundReply::durable_part).await.unwrap();
        encoded.send(()).unwrap();
        client.send(reply).await
    });
    tokio::task::spawn_blocking(move || was_encoded.recv_timeout(AT_ONCE)).await.unwrap().unwrap();
    let begun = Instant::now();
    let report = scene.freeze(&bench.engine).await;
    assert!(begun.elapsed() < AT_ONCE);
    assert!(report.deny_file.is_ok() && !handler.is_finished());
    scene.frozen(&bench.engine, &[report.freeze]).await;
    drop(unread);
    assert!(handler.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_line_stops_rounds_and_no_freeze() {
    let mut scene = Scene::new().await;
    let bench = scene.node().open_by_hand();
    let fresh = scene.fresh(&bench.engine, "fresh", 8);
    let fill = |kind| std::iter::from_fn(|| bench.line.reserve(kind, 1).ok()).collect::<Vec<_>>();
    let rounds = fill(SlotKind::Round);
    let refusal = start(&bench.engine, &fresh).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::CapacityExceeded);
    assert_eq!(
        scene.cluster.commit(&bench.engine, &fresh.session, member(1)).unwrap(),
        *fresh.package.commitments_of(member(1)).unwrap(),
        "a refused round takes no nonces"
    );
    scene.served(&bench.engine).await;
    let first = scene.freeze(&bench.engine).await;
    assert!(first.deny_file.is_ok() && first.position.is_some(), "{first:?}");
    // The reserved slots are gone too: the deny file carries the freeze over to the next start.
    let freezes = fill(SlotKind::Freeze);
    let second = scene.freeze(&bench.engine).await;
    assert!(second.deny_file.is_ok() && second.position.is_none(), "{second:?}");
    scene.frozen(&bench.engine, &[first.freeze, second.freeze]).await;
    assert_eq!(scene.after_crash(), sorted(&[first.freeze, second.freeze]));
    drop((rounds, freezes));
}

/// A volume with this many bytes free.
struct Volume(Arc<AtomicU64>);

impl FreeSpace for Volume {
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_rounds_and_no_freeze() {
    let mut scene = Scene::new().await;
    scene.node().stop();
    scene.node().config.tuning.disk_reserve_bytes = 1_000;
    let free = Arc::new(AtomicU64::new(1 << 30));
    let deny = DenyFiles::open(scene.node().state()).unwrap();
    let space = Box::new(Volume(Arc::clone(&free)));
    let mut bench = Bench::over(scene.node(), EngineConfig::default(), space, deny);
    let fresh = scene.fresh(&bench.engine, "fresh", 8);
    free.store(999, Ordering::SeqCst);
    let engine = bench.engine.clone();
    let pending = tokio::spawn(async move { start(&engine, &fresh).await });
    eventually("the round is in line", || bench.line.waiting_records() == 1).await;
    bench.settle();
    let refusal = pending.await.unwrap().unwrap_err();
    assert!(matches!(refusal, Refusal::DiskFull { free: 999, reserve: 1_000, pending: true }), "{refusal}");
    let begun = Instant::now();
    let report = scene.freeze(&bench.engine).await;
    assert!(begun.elapsed() < AT_ONCE && report.deny_file.is_ok() && report.position.is_some(), "{report:?}");
    scene.frozen(&bench.engine, &[report.freeze]).await;
    assert_eq!(scene.after_crash(), [report.freeze]);
    free.store(1 << 30, Ordering::SeqCst);
    eventually("the line moves again", || {
        bench.settle();
        bench.line.waiting_records() == 0
    })
    .await;
    scene.frozen(&bench.engine, &[report.freeze]).await;
}

/// A disk for deny files that hangs until it is let go.
struct HangingDisk(Arc<Hold>);

impl DenyDisk for HangingDisk {
    fn write(&self, _temporary: &Path, name: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.wait();
        std::fs::write(name, bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_sync_holds_no_freeze_and_the_answer_says_that_it_is_not_durable() {
    let mut scene = Scene::new().await;
    scene.node().stop();
    let hold = Arc::new(Hold::default());
    let deny = DenyFiles::over(scene.node().state(), Arc::new(HangingDisk(Arc::clone(&hold)))).unwrap();
    let space = Box::new(VolumeSpace::of(scene.node().state()));
    let config = EngineConfig { deny_file_wait_ms_max: 200, ..EngineConfig::default() };
    let bench = Bench::over(scene.node(), config, space, deny);
    let _opened_at_the_end = OpenOnDrop(Arc::clone(&hold));
    let freezing = tokio::time::timeout(AT_ONCE, scene.freeze(&bench.engine));
    let report = freezing.await.expect("a freeze does not wait for its sync");
    assert_eq!(report.deny_file.as_ref().unwrap_err().reason(), Reason::FreezeNotDurable);
    scene.frozen(&bench.engine, &[report.freeze]).await;
    // The sync comes back: now a crash keeps it.
    hold.open();
    let directory = scene.deny_directory();
    eventually("the deny file is there", || {
        std::fs::read_dir(&directory).unwrap().any(|entry| entry.unwrap().metadata().unwrap().len() > 0)
    })
    .await;
    assert_eq!(scene.after_crash(), [report.freeze]);
}

/// A disk without room for a deny file.
struct FullDisk;

impl DenyDisk for FullDisk {
    fn write(&self, _: &Path, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_deny_file_a_freeze_holds_in_memory_and_its_record_carries_it_over() {
    let mut scene = Scene::new().await;
    scene.node().stop();
    let deny = DenyFiles::over(scene.node().state(), Arc::new(FullDisk)).unwrap();
    let space = Box::new(VolumeSpace::of(scene.node().state()));
    let mut bench = Bench::over(scene.node(), EngineConfig::default(), space, deny);
    let report = scene.freeze(&bench.engine).await;
    assert_eq!(report.deny_file.as_ref().unwrap_err().reason(), Reason::FreezeNotDurable);
    scene.frozen(&bench.engine, &[report.freeze]).await;
    bench.settle();
    assert!(bench.engine.status().durable >= report.position.unwrap());
    drop(bench);
    let bench = scene.node().open_by_hand();
    scene.frozen(&bench.engine, &[report.freeze]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_node_takes_a_freeze_and_opens_frozen() {
    let mut scene = Scene::new().await;
    scene.node().stop();
    scene.node().token.take_away();
    scene.node().start();
    let node = scene.cluster.nodes[0].node.as_ref().unwrap();
    eventually("the node is sealed", || matches!(node.phase(), Phase::Sealed { .. })).await;
    let begun = Instant::now();
    let report = node.freeze(&admin(), &scene.cluster.key_group, "a test").await.unwrap();
    assert!(begun.elapsed() < AT_ONCE && report.deny_file.is_ok() && report.position.is_none(), "{report:?}");
    let nobody = node.freeze(&coordinator(), &scene.cluster.key_group, "not mine").await.unwrap_err();
    assert_eq!(nobody.reason(), Reason::PermissionDenied);
    scene.node().token.bring_back();
    let engine = scene.node().opened().await;
    scene.frozen(&engine, &[report.freeze]).await;
    // The opening has recorded it: from now on it needs no file.
    scene.node().stop();
    for entry in std::fs::read_dir(scene.deny_directory()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let engine = scene.node().start_open().await;
    scene.frozen(&engine, &[report.freeze]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_token_holds_no_freeze_and_no_thaw_passes_in_the_outage() {
    let mut scene = Scene::new().await;
    let engine = scene.cluster.nodes[0].engine();
    let handle = scene.cluster.nodes[0].token.scripted_handle().clone();
    // The deadline is far away: whatever waits for the token is seen to wait.
    handle.set_deadline(Duration::from_secs(60));
    handle.hang();
    let waiting = handle.clone();
    assert!(tokio::task::spawn_blocking(move || waiting.wait_until_hanging(AT_ONCE)).await.unwrap());
    let begun = Instant::now();
    let report = scene.freeze(&engine).await;
    assert!(begun.elapsed() < AT_ONCE && report.deny_file.is_ok() && report.position.is_some(), "{report:?}");
    scene.frozen(&engine, &[report.freeze]).await;
    assert_eq!(scene.after_crash(), [report.freeze]);

    handle.fail_until_healed(frostkeep::hsm::token::FaultClass::Token);
    handle.release();
    eventually("the outage is known", || engine.status().health.outage.is_some()).await;
    let refusal = engine.thaw(&admin(), &scene.cluster.key_group, &[report.freeze]).await.unwrap_err();
    assert!(matches!(refusal, Refusal::KeyProviderUnavailable { pending: false, .. }), "{refusal}");
    scene.frozen(&engine, &[report.freeze]).await;

    handle.heal();
    eventually("the token is back", || engine.status().admits_work()).await;
    scene.frozen(&engine, &[report.freeze]).await;
    assert_eq!(engine.thaw(&admin(), &scene.cluster.key_group, &[report.freeze]).await.unwrap(), []);
    scene.served(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_thawed_and_frozen_again_a_crash_at_any_step_thaws_only_what_a_durable_thaw_named() {
    let mut scene = Scene::new().await;
    let mut bench = scene.node().open_by_hand();
    let key_group = scene.cluster.key_group;
    assert_eq!(scene.after_crash(), []);

    let first = scene.freeze(&bench.engine).await.freeze;
    assert_eq!(scene.after_crash(), [first], "deny file on disk, record in line");
    bench.settle();
    assert_eq!(scene.after_crash(), [first], "record durable");
    let kept: Vec<(PathBuf, Vec<u8>)> = std::fs::read_dir(scene.deny_directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();

    let (engine, caller) = (bench.engine.clone(), admin());
    let named = [first];
    let mut thaw = Box::pin(engine.thaw(&caller, &key_group, &named));
    assert!(tokio::time::timeout(Duration::from_millis(10), &mut thaw).await.is_err(), "a thaw waits for its record");
    assert_eq!(scene.after_crash(), [first], "thaw in line");
    scene.frozen(&bench.engine, &[first]).await;
    bench.settle();
    assert_eq!(scene.after_crash(), [], "thaw durable, nobody told yet");
    // Nobody polls the caller's side: the thaw belongs to the engine.
    eventually("the durable thaw is in force", || bench.gates.freezes(&key_group).is_empty()).await;
    assert_eq!(thaw.await.unwrap(), []);
    scene.served(&bench.engine).await;
    assert_eq!(scene.after_crash(), [], "thawed");

    let second = scene.freeze(&bench.engine).await.freeze;
    assert_eq!(scene.after_crash(), [second], "frozen again, record in line");
    bench.settle();
    assert_eq!(scene.after_crash(), [second], "frozen again, record durable");

    // A lifted id never comes back, and an old thaw lifts no newer freeze.
    for (path, bytes) in &kept {
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(scene.after_crash(), [second], "the file of a lifted freeze is back");
    let mut thaw = Box::pin(engine.thaw(&caller, &key_group, &named));
    assert!(tokio::time::timeout(Duration::from_millis(10), &mut thaw).await.is_err());
    bench.settle();
    assert_eq!(thaw.await.unwrap(), [second]);
    scene.frozen(&bench.engine, &[second]).await;
    assert_eq!(scene.after_crash(), [second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_deny_file_freezes_every_group_until_a_start_without_it() {
    let mut scene = Scene::new().await;
    scene.node().stop();
    let garbage = scene.deny_directory().join("not-one-of-ours");
    std::fs::write(&garbage, b"who knows what this was").unwrap();
    let engine = scene.node().start_open().await;
    scene.frozen(&engine, &[]).await;
    // A freeze on top of it is still taken, and thawing that one does not open the group.
    let report = scene.freeze(&engine).await;
    assert!(report.deny_file.is_ok());
    assert_eq!(engine.thaw(&admin(), &scene.cluster.key_group, &[report.freeze]).await.unwrap(), []);
    scene.frozen(&engine, &[]).await;
    scene.node().stop();
    std::fs::remove_file(&garbage).unwrap();
    let engine = scene.node().start_open().await;
    scene.served(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_wipes_the_unspent_nonces_and_spoils_nothing_that_was_durable() {
    let scene = Scene::new().await;
    let engine = scene.cluster.nodes[0].engine();
    let fresh = scene.fresh(&engine, "fresh", 8);
    let report = scene.freeze(&engine).await;
    engine.thaw(&admin(), &scene.cluster.key_group, &[report.freeze]).await.unwrap();
    let refusal = start(&engine, &fresh).await.unwrap_err();
    assert!(matches!(refusal, Refusal::CommitmentsUnknown { current: Some(_), .. }), "{refusal}");
    scene.served(&engine).await;
}
