//! Goal: an operator makes, shows and runs a node with the command alone, and is told what to do when it fails. Method: the real
//! binary on a real SoftHSM token, one node for each test.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "tests write, damage and remove plain files")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use frostkeep::client::{Client, Endpoint};
use frostkeep::engine::Role;
use frostkeep::roster::Roster;
use frostkeep::tls::TlsKey;
use frostkeep_fixtures::{Shim, SoftToken, make_token, softhsm_module};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const PIN: &str = "a-right-pin-5521";
const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    directory: TempDir,
    token: SoftToken,
}

/// A token with its key, a configuration, and an empty roster. No node yet.
fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "vault", PIN).unwrap();
    let bench = Bench { directory, token };
    std::fs::write(bench.at("roster.toml"), "").unwrap();
    bench.configure("");
    bench
}

impl Bench {
    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, more: &str) {
        self.configure_token(more, &self.token.uri("frostkeep").unwrap(), &self.token.environment());
    }

    fn configure_token(&self, more: &str, uri: &str, environment: &BTreeMap<String, String>) {
        let environment: Vec<String> = environment.iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
        let text = format!(
            "name = \"alpha\"\nstate = \"state\"\nroster = \"roster.toml\"\nlisten = \"127.0.0.1:0\"\n\
             address = \"alpha.example:7460\"\n{more}\n[[token]]\nuri = {:?}\nlatch_directory = {:?}\n\
             health_interval_ms = 200\nbackoff_ms_min = 20\nbackoff_ms_max = 100\n\
             environment = {{ {} }}\n",
            uri,
            self.token.latch_directory(),
            environment.join(", "),
        );
        std::fs::write(self.at("node.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frostkeep"));
        command.args(arguments).stdin(Stdio::null()).env_remove("SOFTHSM2_CONF").env_remove("NOTIFY_SOCKET");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).current_dir(self.directory.path()).output().unwrap()
    }

    fn key(&self) {
        let (uri, latches) = (self.token.uri("frostkeep").unwrap(), self.token.latch_directory());
        let made = self
            .command(&["token", "init", "--create", "--uri", &uri, "--latch-directory", latches.to_str().unwrap()])
            .env("SOFTHSM2_CONF", self.token.configuration())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
    }

    fn init(&self) -> String {
        let made = self.run(&["init", "--config", "node.toml"]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        text(&made.stdout)
    }

    fn serve(&self, notify: Option<&Path>) -> Served {
        let config = self.at("node.toml");
        let mut command = self.command(&["serve", "--json", "--config", config.to_str().unwrap()]);
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        let log = std::fs::File::create(self.at("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines.next().and_then(Result::ok);
        Served { child, listening: listening.map(|line| object(line.as_bytes())), log: self.at("log") }
    }
}

/// A running node. Killed when the test ends.
struct Served {
    child: Child,
    /// What it printed when it listened; none when it ended instead.
    listening: Option<Value>,
    log: PathBuf,
}

impl Served {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the node does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn object(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", text(bytes)))
}

/// The error of a verb: exit code, reason, and the whole of it.
fn refused(output: &Output) -> (i32, Option<String>, String) {
    let printed = text(&output.stderr);
    assert!(printed.lines().last().is_some_and(|line| line.starts_with("hint: ")), "{printed}");
    let reason =
        printed.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(reason, _)| reason.to_owned());
    (output.status.code().unwrap(), reason, printed)
}

/// The status of the node behind this socket, once it answers and `holds`.
async fn status(socket: &Path, holds: impl Fn(&frostkeep::client::view::NodeStatus) -> bool) {
    let client = Client::connect(&Endpoint::Socket(socket.to_owned())).unwrap();
    let begun = Instant::now();
    loop {
        match client.status().await {
            Ok(status) if holds(&status) => return,
            seen => assert!(begun.elapsed() < PATIENCE, "never came true: {:?}", seen.map(|seen| seen.message.problem)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn init_makes_a_node_prints_its_line_and_the_second_time_prints_it_again() {
    let bench = bench();
    let (exit, reason, printed) = refused(&bench.run(&["init", "--config", "node.toml"]));
    assert_eq!((exit, reason.as_deref()), (4, Some("key_provider_unavailable")), "{printed}");
    assert!(printed.contains("frostkeep token init --create"), "the key comes first: {printed}");
    bench.key();
    let first = bench.init();
    let roster = Roster::parse(&first).unwrap();
    let [line] = roster.nodes() else { panic!("{first}") };
    assert_eq!((line.name.as_str(), line.address.as_str()), ("alpha", "alpha.example:7460"));
    assert!(line.members.is_empty() && line.roles == [Role::Peer]);
    for file in ["state/serving.key", "state/serving.crt", "state/identity.toml"] {
        assert_eq!(std::fs::metadata(bench.at(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(TlsKey::read(&bench.at("state/serving.key")).unwrap().pin(), line.serving_pin);
    assert_eq!(bench.init(), first);
    let shown = bench.run(&["identity", "--config", "node.toml"]);
    assert_eq!(text(&shown.stdout), first);
    let machine = object(&bench.run(&["identity", "--json", "--config", "node.toml"]).stdout);
    assert_eq!(machine["identity"], line.identity.to_string());
    assert_eq!(machine["roster_line"], first);
    let certificate = text(&bench.run(&["identity", "--certificate", "--config", "node.toml"]).stdout);
    assert_eq!(certificate, std::fs::read_to_string(bench.at("state/serving.crt")).unwrap());
}

#[test]
fn init_completes_what_a_crash_has_left_out_and_replaces_nothing() {
    let bench = bench();
    bench.key();
    let first = bench.init();
    let pins = |text: &str| {
        let line = Roster::parse(text).unwrap().nodes()[0].clone();
        (line.identity, line.client_pin, line.serving_pin)
    };
    // It died before the line was written.
    std::fs::remove_file(bench.at("state/identity.toml")).unwrap();
    assert_eq!(bench.init(), first);
    // It died after the store was made: nobody has seen a serving key yet.
    for file in ["state/identity.toml", "state/serving.key", "state/serving.crt"] {
        std::fs::remove_file(bench.at(file)).unwrap();
    }
    let second = bench.init();
    assert_eq!((pins(&second).0, pins(&second).1), (pins(&first).0, pins(&first).1), "what is sealed stays");
    assert_ne!(pins(&second).2, pins(&first).2);
    // A key that is lost after its pin was told is no leftover of a crash.
    std::fs::remove_file(bench.at("state/serving.key")).unwrap();
    let (exit, _, printed) = refused(&bench.run(&["init", "--config", "node.toml"]));
    assert_eq!(exit, 4, "{printed}");
    assert!(!bench.at("state/serving.key").exists());
    TlsKey::generate().unwrap().write(&bench.at("state/serving.key")).unwrap();
    let (exit, reason, printed) = refused(&bench.run(&["init", "--config", "node.toml"]));
    assert_eq!((exit, reason.as_deref()), (5, Some("state_corrupt")), "{printed}");
}

#[test]
fn init_says_that_the_store_is_lost_and_sends_nobody_back_to_serve() {
    let bench = bench();
    bench.key();
    bench.init();
    std::fs::remove_file(bench.at("state/store.redb")).unwrap();
    let (_, reason, printed) = refused(&bench.run(&["init", "--config", "node.toml"]));
    assert_eq!(reason.as_deref(), Some("state_missing"), "{printed}");
    assert!(printed.contains("state directory of its own"), "{printed}");
    assert!(!bench.at("state/store.redb").exists());
}

#[tokio::test]
async fn a_node_runs_tells_the_service_manager_reads_its_roster_again_and_stops_well() {
    let bench = bench();
    bench.key();
    let line = bench.init();
    std::fs::write(bench.at("roster.toml"), &line).unwrap();
    let manager = UnixDatagram::bind(bench.at("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 4_096];
        let size = manager.recv(&mut buffer).unwrap();
        text(&buffer[..size])
    };
    let mut node = bench.serve(Some(&bench.at("notify")));
    let listening = node.listening.clone().unwrap_or_else(|| panic!("{}", node.log()));
    assert!(listening["listening"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(heard().contains("READY=1"));
    let socket = bench.at("state/admin.sock");
    assert_eq!(listening["socket"], socket.to_str().unwrap());
    status(&socket, |status| status.message.ready).await;
    assert_eq!(text(&bench.run(&["identity", "--config", "node.toml"]).stdout), line, "by its socket");
    let second = bench.run(&["serve", "--config", "node.toml"]);
    let (exit, reason, printed) = refused(&second);
    assert_eq!((exit, reason.as_deref()), (4, Some("busy")), "{printed}");

    let before = Roster::read(&bench.at("roster.toml")).unwrap().hash();
    std::fs::write(bench.at("roster.toml"), "nonsense").unwrap();
    node.signal(Signal::SIGHUP);
    while !heard().contains("RELOADING=1") {}
    assert!(heard().contains("READY=1"));
    status(&socket, |status| status.roster_hash == before).await;
    std::fs::write(bench.at("roster.toml"), format!("{line}\n")).unwrap();
    let after = Roster::read(&bench.at("roster.toml")).unwrap().hash();
    node.signal(Signal::SIGHUP);
    status(&socket, |status| status.roster_hash == after).await;

    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().code(), Some(0), "{}", node.log());
    while !heard().contains("STOPPING=1") {}
    assert!(!socket.exists());
    let log = node.log();
    assert!(log.contains("listening") && log.contains("stopped") && !log.contains('\u{1b}'), "{log}");
}

#[tokio::test]
async fn a_node_whose_token_is_away_stays_sealed_and_opens_by_itself() {
    let bench = bench();
    bench.key();
    std::fs::write(bench.at("roster.toml"), bench.init()).unwrap();
    bench.token.take_away().unwrap();
    let mut node = bench.serve(None);
    assert!(node.listening.is_some(), "{}", node.log());
    let socket = bench.at("state/admin.sock");
    let sealed = |status: &frostkeep::client::view::NodeStatus| status.phase.name() == "sealed";
    status(&socket, sealed).await;
    bench.token.bring_back().unwrap();
    status(&socket, |status| status.message.ready).await;
    node.signal(Signal::SIGINT);
    assert_eq!(node.ended().code(), Some(0));
}

#[tokio::test]
async fn a_node_lives_on_when_its_module_crashes_and_status_counts_the_agents() {
    let bench = bench();
    bench.key();
    let shim = Shim::new(bench.directory.path(), softhsm_module().unwrap()).unwrap();
    let mut environment = bench.token.environment();
    environment.extend(shim.environment());
    bench.configure_token("", &bench.token.uri_through(shim.module(), "frostkeep"), &environment);
    std::fs::write(bench.at("roster.toml"), bench.init()).unwrap();
    let mut node = bench.serve(None);
    assert!(node.listening.is_some(), "{}", node.log());
    let socket = bench.at("state/admin.sock");
    status(&socket, |status| status.message.ready).await;

    shim.set_text("* 0 * before abort").unwrap();
    let crashed = || shim.hits().unwrap().iter().map(|hit| hit.pid).collect::<BTreeSet<_>>().len();
    status(&socket, |status| {
        let outage = status.message.provider.clone().and_then(|provider| provider.outage);
        outage.is_some_and(|outage| outage.class == "module" && crashed() >= 3)
    })
    .await;
    shim.clear().unwrap();
    status(&socket, |status| status.message.ready).await;
    // Every one that has crashed, and the one that lives.
    let started = u64::try_from(crashed()).unwrap() + 1;
    let shown = object(&bench.run(&["status", "--json", "--socket", socket.to_str().unwrap()]).stdout);
    assert_eq!(shown["nodes"][0]["provider"]["agents_started"], started, "{shown}");
    node.signal(Signal::SIGINT);
    assert_eq!(node.ended().code(), Some(0), "the node that was started is the one that ends");
}

#[test]
fn what_keeps_a_node_from_running_decides_its_exit_code() {
    let bench = bench();
    let serve = || bench.run(&["serve", "--config", "node.toml"]);
    let (exit, reason, printed) = refused(&serve());
    assert_eq!((exit, reason.as_deref()), (5, Some("state_missing")), "{printed}");
    assert!(printed.contains("frostkeep init"), "{printed}");
    bench.key();
    bench.init();

    std::fs::write(bench.at("roster.toml"), "[[node]]\n").unwrap();
    let (exit, _, printed) = refused(&serve());
    assert_eq!(exit, 2, "{printed}");
    std::fs::write(bench.at("roster.toml"), "").unwrap();
    bench.configure("colour = \"blue\"");
    let (exit, _, printed) = refused(&serve());
    assert_eq!(exit, 2, "{printed}");
    assert!(printed.contains("colour"), "{printed}");
    bench.configure("");
    std::fs::set_permissions(bench.at("state/serving.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (exit, _, printed) = refused(&serve());
    assert_eq!(exit, 4, "{printed}");
    std::fs::set_permissions(bench.at("state/serving.key"), std::fs::Permissions::from_mode(0o600)).unwrap();

    // Damage that only the token can see: the node listens first, and then ends with the state's exit code.
    let containers: Vec<PathBuf> = std::fs::read_dir(bench.at("state"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "redb"))
        .collect();
    let [container] = containers.as_slice() else { panic!("{containers:?}") };
    let mut bytes = std::fs::read(container).unwrap();
    for byte in bytes.iter_mut().skip(4_096) {
        *byte ^= 0x55;
    }
    std::fs::write(container, bytes).unwrap();
    let (exit, reason, printed) = refused(&serve());
    assert_eq!((exit, reason.as_deref()), (5, Some("state_corrupt")), "{printed}");
}
