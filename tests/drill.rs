//! Goal: an outage drill on a running node shows what a real outage shows, costs nobody a durable round, ends whatever becomes of
//! whoever began it, and is begun by nobody who may not. Method: servers in this process over TLS and Unix sockets, on real SoftHSM
//! tokens behind their agents; the real binary as the operator.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;
mod net;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use frostkeep::client::{Client, ClientError, DrillBegun, DrillOrder, Endpoint, Patience, ServedRound};
use frostkeep::drill::judge::judge;
use frostkeep::drill::observed::Observed;
use frostkeep::drill::stand::{Freezes, Seen};
use frostkeep::drill::{Course, CourseError, Plan, Scratch, Seat, Stand};
use frostkeep::engine::{CommitRequest, SessionRequest, SignRequest, drill_subject};
use frostkeep::frost::{Commitments, SigningPackage};
use frostkeep::hash::sha256;
use frostkeep::hsm::clock::SystemClock;
use frostkeep::hsm::drill::DrillKind;
use frostkeep::ids::{AttemptPolicy, DrillId, KeyGroupId, Member, to_hex};
use frostkeep::keygen::ConfirmedKeyGroup;
use frostkeep::limits::DRILL_QUIET_MS;
use frostkeep::policy::SigningPolicy;
use frostkeep::reasons::Reason;
use frostkeep::roast::{AttemptBinding, AttemptContext};
use kit::{Token, eventually, member, session};
use net::{Net, NetPlan};
use serde_json::Value;

/// Nodes on SoftHSM that hold a 2-of-n key under the policy that allows nothing by itself.
async fn drilled(nodes: usize, attempts: AttemptPolicy) -> (Net, ConfirmedKeyGroup) {
    let net = Net::started(NetPlan { soft: true, ..NetPlan::of(nodes) }).await;
    let confirmed = net.generate_key_with(2, attempts, SigningPolicy::standard()).await;
    net.knows(&confirmed.id()).await;
    (net, confirmed)
}

fn client(net: &Net, index: usize, name: &str) -> Client {
    let node = &net.nodes[index];
    let endpoint = Endpoint::Tls {
        address: node.address().to_string(),
        key: Arc::clone(&net.clients[name]),
        pin: node.line.serving_pin,
    };
    Client::connect(&endpoint).unwrap().with(Patience::short_ms(20_000))
}

fn order(byte: u8, kind: DrillKind, duration_ms: u64) -> DrillOrder {
    DrillOrder { drill: DrillId::new([byte; 16]), kind, duration_ms, danger_live_traffic: false }
}

fn reason<T>(answer: Result<T, ClientError>) -> Reason {
    answer.err().and_then(|error| error.reason()).expect("a refusal")
}

/// A round of member 1 in a session of a drill's name: the one message that the policy lets pass, and that counts as nobody's traffic.
async fn round(net: &Net, id: KeyGroupId, drill: u8) -> (SignRequest, Result<ServedRound, ClientError>) {
    let (name, subject) = drill_subject(&id, &DrillId::new([drill; 16]));
    let mut commitments = BTreeMap::new();
    for number in [1, 2] {
        let request = CommitRequest { session: name.clone(), key_group: id, member: member(number) };
        let made = client(net, usize::from(number) - 1, "operator").commit(&request).await.unwrap();
        commitments.insert(member(number), Commitments::from_bytes(&made).unwrap());
    }
    let package = SigningPackage::new(subject.message, commitments).unwrap();
    let binding = AttemptBinding { key_group: &id, session: &name, message: &subject.message, threshold: 2 };
    let context = AttemptContext::derive(&binding, 1, &[1, 2]).unwrap().parts();
    let request = SignRequest {
        session: name,
        key_group: id,
        member: member(1),
        subject,
        context,
        package,
        evidence: Vec::new(),
    };
    let served = client(net, 0, "operator").start_sign_round(&request).await;
    (request, served)
}

/// What a run of the command left.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn report(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{} {}", self.stdout, self.stderr))
    }
}

fn command(net: &Net, who: &str, arguments: &[&str]) -> Command {
    let key = net.directory().join(format!("{who}.key"));
    if !key.exists() {
        net.clients[who].write(&key).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_frostkeep"));
    command.args(arguments).env("FROSTKEEP_ROSTER", &net.roster).env("FROSTKEEP_KEY", key);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run(net: &Net, who: &str, arguments: &[&str]) -> Ran {
    let mut command = command(net, who, arguments);
    let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: out.status.code().unwrap(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

async fn ready(net: &Net, index: usize) {
    let client = client(net, index, "observer");
    for _ in 0..3_000 {
        let status = client.status().await.unwrap();
        if status.message.ready && status.drill.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node does not heal");
}

/// Open sessions of the key group on each node.
fn open_sessions(net: &Net, id: &KeyGroupId) -> Vec<usize> {
    net.nodes.iter().map(|node| node.engine().key_group(id).unwrap().sessions).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_on_a_running_node_shows_what_an_outage_shows_and_disturbs_no_durable_round_of_others() {
    let (net, confirmed) = drilled(3, AttemptPolicy::Roast).await;
    let id = confirmed.id();
    // Somebody else's durable round, asked for all the time.
    let (request, served) = round(&net, id, 0xee).await;
    let expected = served.unwrap().durable_part();
    let (over, replays) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let others = tokio::spawn({
        let (client, over, replays) = (client(&net, 0, "coordinator"), Arc::clone(&over), Arc::clone(&replays));
        async move {
            while !over.load(Ordering::SeqCst) {
                let served = client.start_sign_round(&request).await.unwrap();
                assert_eq!(served.durable_part(), expected, "byte for byte");
                replays.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let file = net.directory().join("report.json");
    let arguments = ["drill", "outage", "--node", "node-0", "--kind", "all", "--seconds", "2", "--json", "--report"];
    let ran = run(&net, "operator", &[&arguments[..], &[file.to_str().unwrap()]].concat()).await;
    over.store(true, Ordering::SeqCst);
    others.await.unwrap();
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert!(replays.load(Ordering::SeqCst) > 100);

    let report = ran.report();
    assert_eq!((&report["verdict"], &report["by"]), (&"pass".into(), &"operator".into()));
    assert_eq!((&report["drilled"]["node"], &report["drilled"]["mode"]), (&"node-0".into(), &"running node".into()));
    assert_eq!(report["drilled"]["key_group"], id.to_string());
    assert_eq!(report["drilled"]["identity"], net.nodes[0].line.identity.to_string());
    assert_eq!((&report["token"]["label"], &report["token"]["model"]), (&"node-0".into(), &"SoftHSM v2".into()));
    let kinds: Vec<(&str, Option<&str>)> = report["drills"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| (kind["kind"].as_str().unwrap(), kind["outage_class"].as_str()))
        .collect();
    let due = [("unplug", "token"), ("hang", "deadline"), ("crash", "module"), ("pin", "credential")];
    let due: Vec<_> = due.iter().map(|(kind, class)| (*kind, Some(*class))).chain([("slow", None)]).collect();
    assert_eq!(kinds, due);
    for kind in report["drills"].as_array().unwrap() {
        let rounds = &kind["rounds"];
        assert!(rounds["replays_during"]["count"].as_u64().unwrap() > 20, "{kind}");
        assert!(kind["expectations"].as_array().unwrap().iter().all(|line| line["met"] == true), "{kind}");
        assert!(kind["timeline"].as_array().unwrap().len() >= 4, "{kind}");
        // The round that was in line came out: its id is on the node no more, its session's end is.
        let (name, _) = drill_subject(&id, &kind["drill"].as_str().unwrap().parse().unwrap());
        assert_eq!(rounds["session"], name.as_str());
        let ended = SessionRequest { session: name, key_group: id };
        assert_eq!(reason(client(&net, 0, "operator").session(&ended).await), Reason::SessionAborted);
    }
    assert_eq!(open_sessions(&net, &id), [1, 0, 0], "that of the others alone");

    // What an auditor keeps: the same line, checked without this program.
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(kept, ran.stdout);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (before, hash) = kept.trim_end().rsplit_once(",\"sha256\":\"").unwrap();
    assert_eq!(to_hex(&sha256(format!("{before}}}").as_bytes())), hash.trim_end_matches("\"}"));
    let again = run(&net, "operator", &[&arguments[..], &[file.to_str().unwrap()]].concat()).await;
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("never replaced"), "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
    let status = client(&net, 0, "observer").status().await.unwrap().message.provider.unwrap();
    assert_eq!((status.outages_drilled, status.outages), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_which_somebody_signs_is_not_drilled_unless_the_flag_says_so() {
    let (net, confirmed) = drilled(2, AttemptPolicy::Roast).await;
    let admin = client(&net, 0, "admin");
    let commit = CommitRequest { session: session("payment"), key_group: confirmed.id(), member: member(1) };
    client(&net, 0, "coordinator").commit(&commit).await.unwrap();
    let refused = admin.begin_drill(&order(1, DrillKind::Unplug, 300)).await.unwrap_err();
    let ClientError::Refused(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.reason, Reason::LiveTraffic);
    assert!((1..=DRILL_QUIET_MS).contains(&problem.left_ms.unwrap()), "{problem:?}");
    assert!(admin.status().await.unwrap().drill.is_none());
    let ran = run(&net, "operator", &["drill", "outage", "--node", "node-0", "--seconds", "1"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("[live_traffic]") && ran.stderr.contains("--danger-live-traffic"), "{}", ran.stderr);
    assert_eq!(open_sessions(&net, &confirmed.id()), [0, 0], "what was prepared is taken back");

    let insists = DrillOrder { danger_live_traffic: true, ..order(1, DrillKind::Unplug, 300) };
    assert_eq!(admin.begin_drill(&insists).await.unwrap().drill.by, "admin");
    ready(&net, 0).await;
    let arguments = ["drill", "outage", "--node", "node-0", "--seconds", "1", "--danger-live-traffic", "--json"];
    let ran = run(&net, "operator", &arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.report()["drilled"]["danger_live_traffic"], true);
    // Another node is as quiet as it was.
    client(&net, 1, "admin").begin_drill(&order(2, DrillKind::Unplug, 100)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_drill_is_on_at_a_time_is_seen_in_the_status_and_is_over_although_nobody_comes_back() {
    let (net, confirmed) = drilled(2, AttemptPolicy::Roast).await;
    let admin = client(&net, 0, "admin");
    let begun = admin.begin_drill(&order(1, DrillKind::Pin, 6_000)).await.unwrap();
    assert_eq!(begun.token.label, "node-0");
    let told = client(&net, 0, "observer").status().await.unwrap().drill.unwrap();
    assert_eq!((told.kind, told.by.as_str(), told.drill), (DrillKind::Pin, "admin", DrillId::new([1; 16])));
    assert!(told.left_ms > 0 && told.left_ms <= 6_000);
    let status = run(&net, "operator", &["status", "--node", "node-0"]).await;
    assert!(status.stdout.contains("a drill is on, pin, begun by admin"), "{}", status.stdout);
    assert_eq!(reason(admin.begin_drill(&order(2, DrillKind::Hang, 100)).await), Reason::DrillOn);
    let again = admin.begin_drill(&order(1, DrillKind::Pin, 6_000)).await.unwrap();
    assert_eq!(again.drill.since_unix, begun.drill.since_unix, "an answer that was lost is told again");

    let (_, refused) = round(&net, confirmed.id(), 0xdd).await;
    let ClientError::Refused(problem) = refused.unwrap_err() else { panic!("it is refused") };
    assert_eq!(problem.reason, Reason::KeyProviderUnavailable);
    let (class, detail) = problem.outage.unwrap();
    assert!(class == "credential" && detail.starts_with("drill: "), "{class}: {detail}");
    assert_eq!(reason(admin.begin_drill(&order(2, DrillKind::Hang, 100)).await), Reason::DrillOn);
    // Nobody does anything any more.
    ready(&net, 0).await;
    let (_, served) = round(&net, confirmed.id(), 0xde).await;
    served.unwrap();
    let over = admin.begin_drill(&order(1, DrillKind::Pin, 6_000)).await.unwrap();
    assert_eq!(over.drill.left_ms, 0, "the same id begins nothing again");
    assert!(admin.status().await.unwrap().drill.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_admin_begins_or_ends_a_drill_and_the_socket_s_user_is_one() {
    let (net, _) = drilled(2, AttemptPolicy::Roast).await;
    for who in ["coordinator", "peer", "observer", "nobody"] {
        let client = client(&net, 0, who);
        assert_eq!(
            reason(client.begin_drill(&order(1, DrillKind::Unplug, 100)).await),
            Reason::PermissionDenied,
            "{who}"
        );
        assert_eq!(reason(client.end_drill(None).await), Reason::PermissionDenied, "{who}");
    }
    let ran = run(&net, "coordinator", &["drill", "outage", "--node", "node-0", "--seconds", "1"]).await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("the role admin"), "{}", ran.stderr);
    assert!(client(&net, 0, "observer").status().await.unwrap().drill.is_none());

    let socket = Client::connect(&Endpoint::Socket(net.nodes[0].config.socket.clone())).unwrap();
    assert_eq!(socket.end_drill(None).await.unwrap(), None);
    let begun = socket.begin_drill(&order(2, DrillKind::Hang, 60_000)).await.unwrap();
    assert!(begun.drill.by.starts_with("uid "), "{begun:?}");
    let path = net.nodes[0].config.socket.display().to_string();
    let ended = run(&net, "operator", &["drill", "end", "--socket", &path, "--json"]).await;
    assert_eq!(ended.report()["nodes"][0]["ended"], "hang", "{}", ended.stderr);
    assert_eq!(socket.end_drill(None).await.unwrap(), None);
    ready(&net, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_a_real_outage_is_not_drilled_and_one_that_is_drilled_tells_a_real_outage_afterwards() {
    let (mut net, _) = drilled(2, AttemptPolicy::Roast).await;
    let admin = client(&net, 0, "admin");
    net.nodes[0].real.as_mut().unwrap().take_away();
    let engine = net.nodes[0].engine();
    eventually("the outage is seen", || !engine.status().health.admits_work()).await;
    let refused = admin.begin_drill(&order(1, DrillKind::Unplug, 300)).await.unwrap_err();
    let ClientError::Refused(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.reason, Reason::KeyProviderUnavailable);
    assert!(!problem.outage.unwrap().1.starts_with("drill: "));
    net.nodes[0].real.as_mut().unwrap().bring_back();
    ready(&net, 0).await;

    // The token goes while the drill is on, and comes back long after it.
    let arguments = ["drill", "outage", "--node", "node-0", "--seconds", "2", "--json"];
    let mut command = command(&net, "operator", &arguments);
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let server = net.nodes[0].server();
    eventually("the drill's outage is seen", || !server.is_ready()).await;
    net.nodes[0].real.as_mut().unwrap().take_away();
    let engine = net.nodes[0].engine();
    eventually("the real outage is told", || {
        engine.status().health.outage.is_some_and(|outage| !outage.detail.starts_with("drill: "))
    })
    .await;
    // Long enough for whoever looks now and then.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    net.nodes[0].real.as_mut().unwrap().bring_back();
    let out = running.await.unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["verdict"], "fail");
    let lines = report["drills"][0]["expectations"].as_array().unwrap();
    let unmet: Vec<&str> =
        lines.iter().filter(|line| line["met"] == false).map(|line| line["what"].as_str().unwrap()).collect();
    assert_eq!(unmet, ["outages that are not the drill's"], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rounds_the_report_says_why_and_shows_the_rest() {
    let (net, confirmed) = drilled(2, AttemptPolicy::Evidence).await;
    let path = net.nodes[0].config.socket.display().to_string();
    let id = confirmed.id().to_string();
    for (way, says) in [
        (&["--node", "node-0"][..], "the attempt policy evidence"),
        (&["--node", "node-0", "--key-group", &id][..], "the attempt policy evidence"),
        (&["--socket", &path][..], "the Unix socket"),
    ] {
        let arguments = [&["drill", "outage", "--seconds", "2", "--json"][..], way].concat();
        let ran = run(&net, "operator", &arguments).await;
        assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
        let report = ran.report();
        assert!(report["drilled"]["no_rounds"].as_str().unwrap().contains(says), "{report}");
        let kind = &report["drills"][0];
        assert_eq!((&kind["rounds"], &kind["outage_class"]), (&Value::Null, &"token".into()));
        assert!(kind["expectations"].as_array().unwrap().len() >= 6);
    }
}

/// A node whose own call meets the outage before anybody asks for a round.
struct SelfMet(Scratch);

impl Stand for SelfMet {
    async fn look(&self) -> Result<Seen, ClientError> {
        self.0.look().await
    }
    async fn begin(&self, order: &DrillOrder) -> Result<DrillBegun, ClientError> {
        let begun = self.0.begin(order).await?;
        while order.kind != DrillKind::Slow && self.0.look().await?.ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(begun)
    }
    async fn end(&self, drill: &DrillId) -> Result<(), ClientError> {
        self.0.end(drill).await
    }
    async fn freezes(&self, key_group: &KeyGroupId) -> Result<Freezes, ClientError> {
        self.0.freezes(key_group).await
    }
    async fn commit(&self, request: &CommitRequest) -> Result<Commitments, ClientError> {
        self.0.commit(request).await
    }
    async fn round(&self, request: &SignRequest) -> Result<ServedRound, ClientError> {
        self.0.round(request).await
    }
    async fn abort(&self, member: Member, request: &SessionRequest) -> Result<(), ClientError> {
        self.0.abort(member, request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_whose_outage_the_node_meets_by_itself_shows_the_same_but_a_round_in_line() {
    let directory = tempfile::tempdir().unwrap();
    let token = Token::soft(directory.path(), "scratched");
    let stand = Arc::new(SelfMet(Scratch::make(&[token.config()], 1).await.unwrap()));
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let plan = Plan {
        kinds: DrillKind::ALL.to_vec(),
        duration_ms: 2_500,
        danger_live_traffic: false,
        seat: Some(stand.0.seat().clone()),
    };
    let (clock, tell) = (Arc::new(SystemClock::new()), Arc::new(|_: &str, _: &str| {}));
    let course = Course { stand: Arc::clone(&stand), plan, clock, tell, stop: stopped };
    let (seen, left) = course.run().await.unwrap();
    assert!(left.is_none() && seen.len() == 5);
    for observed in &seen {
        let unmet: Vec<_> = judge(observed).into_iter().filter(|line| !line.met).collect();
        assert_eq!(unmet, [], "{}", observed.kind);
        let in_line = observed.rounds.as_ref().unwrap().first_again.is_some();
        assert!(!in_line, "{}", observed.kind);
    }
}

fn course<S: Stand>(stand: &Arc<S>, seat: &Seat, kind: DrillKind, duration_ms: u64) -> Course<S> {
    let (_, stop) = tokio::sync::watch::channel(false);
    let plan = Plan { kinds: vec![kind], duration_ms, danger_live_traffic: false, seat: Some(seat.clone()) };
    let (clock, tell) = (Arc::new(SystemClock::new()), Arc::new(|_: &str, _: &str| {}));
    Course { stand: Arc::clone(stand), plan, clock, tell, stop }
}

fn unmet(observed: &Observed) -> Vec<&'static str> {
    judge(observed).into_iter().filter(|line| !line.met).map(|line| line.what).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_token_that_is_away_is_told_by_name_before_the_drill_and_after_it_although_the_first_serves() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, mut second) = (Token::soft(one.path(), "first"), Token::soft(other.path(), "second"));
    let stand = Arc::new(Scratch::make(&[first.config(), second.config()], 1).await.unwrap());
    let seat = stand.seat().clone();
    let run = || async { course(&stand, &seat, DrillKind::Unplug, 1_500).run().await };
    let (seen, left) = run().await.unwrap();
    assert!(left.is_none());
    assert_eq!(unmet(&seen[0]), [""; 0], "both are there, before and afterwards");
    let is = |there: bool| {
        let stand = Arc::clone(&stand);
        async move {
            for _ in 0..1_000 {
                let seen = stand.look().await.unwrap();
                if seen.ready && seen.tokens[1].is_there() == there {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("never: the second token is there: {there}");
        }
    };

    // It goes while the drill is on, and does not come back.
    let (ran, ()) = tokio::join!(run(), async {
        while stand.look().await.unwrap().ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        second.take_away();
    });
    let (seen, _) = ran.unwrap();
    let told = unmet(&seen[0]);
    assert_eq!(told, ["outages that are not the drill's", "the node afterwards"]);
    assert!(seen[0].sight.real.iter().any(|real| real.contains("token second")), "{:?}", seen[0].sight.real);
    assert!(!seen[0].sight.real.iter().any(|real| real.contains("token first")), "{:?}", seen[0].sight.real);

    // It is away before.
    is(false).await;
    let refused = run().await.unwrap_err();
    assert!(matches!(&refused, CourseError::TokenAway(away) if away.len() == 1), "{refused}");
    assert!(refused.to_string().contains("token second"), "{refused}");
    assert!(stand.look().await.unwrap().drill.is_none(), "nothing was begun");
    second.bring_back();
    is(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_the_least_duration_passes_and_one_below_it_begins_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let token = Token::soft(directory.path(), "short");
    let mut config = token.config();
    config.deadlines.call_ms = 1_000;
    let stand = Arc::new(Scratch::make(&[config], 1).await.unwrap());
    let seat = stand.seat().clone();
    for (kind, least_ms) in [(DrillKind::Hang, 1_300), (DrillKind::Slow, 2_300)] {
        let refused = course(&stand, &seat, kind, least_ms - 1).run().await.unwrap_err();
        assert!(matches!(refused, CourseError::TooShort { least_ms: least, .. } if least == least_ms), "{refused}");
        assert!(stand.look().await.unwrap().drill.is_none(), "nothing was begun");
        let (seen, _) = course(&stand, &seat, kind, least_ms).run().await.unwrap();
        assert_eq!(unmet(&seen[0]), [""; 0], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_the_drill_on_the_node_and_the_report_says_so() {
    let (net, confirmed) = drilled(2, AttemptPolicy::Roast).await;
    let arguments = ["drill", "outage", "--node", "node-0", "--seconds", "200", "--json"];
    let child = command(&net, "operator", &arguments).spawn().unwrap();
    let server = net.nodes[0].server();
    eventually("the drill's outage is seen", || !server.is_ready()).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let lines = report["drills"][0]["expectations"].as_array().unwrap();
    let end = lines.iter().find(|line| line["what"] == "the end of the drill").unwrap();
    assert_eq!((&end["met"], &end["seen"]), (&false.into(), &"ended before its time".into()));
    assert!(client(&net, 0, "observer").status().await.unwrap().drill.is_none());
    ready(&net, 0).await;
    assert_eq!(open_sessions(&net, &confirmed.id()), [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_in_a_drill_writes_what_is_in_line_if_it_can_and_starts_without_it() {
    let (mut net, confirmed) = drilled(2, AttemptPolicy::Roast).await;
    let admin = client(&net, 0, "admin");
    let (durable, served) = round(&net, confirmed.id(), 0xdd).await;
    let served = served.unwrap();
    admin.begin_drill(&order(1, DrillKind::Crash, 60_000)).await.unwrap();
    let (_, refused) = round(&net, confirmed.id(), 0xde).await;
    assert_eq!(reason(refused), Reason::KeyProviderUnavailable);
    net.nodes[0].stop().await;
    net.nodes[0].start_ready().await;
    assert!(client(&net, 0, "admin").status().await.unwrap().drill.is_none());
    let again = client(&net, 0, "operator").start_sign_round(&durable).await.unwrap();
    assert_eq!(again.durable_part(), served.durable_part());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_plays_nothing_says_so_and_what_is_no_drill_is_refused() {
    let net = Net::started(NetPlan::of(1)).await;
    let admin = client(&net, 0, "admin");
    assert_eq!(reason(admin.begin_drill(&order(1, DrillKind::Unplug, 100)).await), Reason::Internal);
    let (net, _) = drilled(2, AttemptPolicy::Roast).await;
    let admin = client(&net, 0, "admin");
    for duration_ms in [0, 300_001, u64::MAX] {
        let refused = admin.begin_drill(&order(1, DrillKind::Unplug, duration_ms)).await;
        assert_eq!(reason(refused), Reason::InvalidRequest, "{duration_ms}");
    }
    assert!(admin.status().await.unwrap().drill.is_none());
}
