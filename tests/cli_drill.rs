//! Goal: an operator drills a scratch node on a real token, beside the running node, keeps the report, and can rely on the exit code;
//! a node that is killed in a drill has lost nothing. Method: the real binary on SoftHSM, directly and behind a `p11-kit` server that
//! is killed while a drill is on.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "tests write and look at plain files")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use frostkeep_fixtures::{P11KitServer, SoftToken, make_token};
use serde_json::Value;
use tempfile::TempDir;

const PIN: &str = "a-right-pin-9027";
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    directory: TempDir,
    token: SoftToken,
}

/// A token with its key, and a node's configuration.
fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "vault", PIN).unwrap();
    let bench = Bench { directory, token };
    std::fs::write(bench.at("roster.toml"), "").unwrap();
    std::fs::create_dir(bench.at("scratch")).unwrap();
    bench.configure(&bench.token.uri("frostkeep").unwrap(), &bench.token.environment());
    let (uri, latches) = (bench.token.uri("frostkeep").unwrap(), bench.token.latch_directory());
    let made = bench.run(&["token", "init", "--create", "--uri", &uri, "--latch-directory", latches.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    bench
}

impl Bench {
    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, uri: &str, environment: &BTreeMap<String, String>) {
        let environment: Vec<String> = environment.iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
        let text = format!(
            "name = \"alpha\"\nstate = \"state\"\nroster = \"roster.toml\"\nlisten = \"127.0.0.1:0\"\n\
             address = \"alpha.example:7460\"\n\n[[token]]\nuri = {uri:?}\nlatch_directory = {:?}\n\
             health_interval_ms = 200\nbackoff_ms_min = 20\nbackoff_ms_max = 100\n\
             deadlines = {{ start_ms = 2000, login_ms = 2000, call_ms = 400 }}\nenvironment = {{ {} }}\n",
            self.token.latch_directory(),
            environment.join(", ")
        );
        std::fs::write(self.at("node.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frostkeep"));
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        command.env("SOFTHSM2_CONF", self.token.configuration()).env("TMPDIR", self.at("scratch"));
        command.env_remove("NOTIFY_SOCKET").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A scratch drill on the token of the configuration.
    fn scratch(&self, more: &[&str]) -> Output {
        self.run(&[&["drill", "outage", "--scratch", "--config", "node.toml", "--json"], more].concat())
    }

    fn serve(&self) -> Served {
        let log = std::fs::File::create(self.at("log")).unwrap();
        let mut child = self.command(&["serve", "--json", "--config", "node.toml"]).stderr(log).spawn().unwrap();
        let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        assert!(line.contains("listening"), "{line}");
        let served = Served(child);
        self.until("the node is ready", |status| status["ready"] == true);
        served
    }

    /// What the node says of itself, over its socket.
    fn status(&self) -> Value {
        let out = self.run(&["status", "--config", "node.toml", "--json"]);
        serde_json::from_slice::<Value>(&out.stdout).map(|said| said["nodes"][0].clone()).unwrap_or_default()
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "never: {what}: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every file of the latch directory: name, inode, time of its last change, content.
    fn latches(&self) -> Vec<(PathBuf, u64, i64, Vec<u8>)> {
        let entries = std::fs::read_dir(self.token.latch_directory()).unwrap().map(|entry| entry.unwrap().path());
        let latch = |path: &PathBuf| path.extension().is_some_and(|name| name == "latch");
        let mut seen: Vec<_> = entries
            .filter(latch)
            .map(|path| {
                let meta = std::fs::metadata(&path).unwrap();
                (path.clone(), meta.ino(), meta.mtime_nsec(), std::fs::read(&path).unwrap())
            })
            .collect();
        seen.sort();
        assert!(!seen.is_empty());
        seen
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn report(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{} {}", text(&out.stdout), text(&out.stderr)))
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

fn unmet(report: &Value) -> Vec<String> {
    let drills = report["drills"].as_array().unwrap().iter();
    let lines = drills.flat_map(|drill| drill["expectations"].as_array().unwrap());
    lines.filter(|line| line["met"] == false).map(|line| line["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_kind_on_a_scratch_node_beside_the_running_one_costs_that_one_nothing_and_leaves_nothing() {
    let bench = bench();
    let made = bench.run(&["init", "--config", "node.toml"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let _served = bench.serve();
    let (latched, before) = (bench.latches(), bench.status());
    let out = bench.scratch(&["--kind", "all", "--seconds", "2", "--report", "report.json"]);
    assert_eq!(out.status.code(), Some(0), "{}\n{}", text(&out.stdout), text(&out.stderr));
    let report = report(&out);
    assert_eq!((&report["verdict"], &report["drilled"]["mode"]), (&"pass".into(), &"scratch node".into()));
    assert_eq!((&report["token"]["label"], &report["format"]), (&"vault".into(), &"frostkeep outage drill 1".into()));
    assert!(report["by"].as_str().unwrap().starts_with("uid "));
    assert_eq!(report["drills"].as_array().unwrap().len(), 5);
    assert_eq!(std::fs::read(bench.at("report.json")).unwrap(), out.stdout);
    assert!(is_empty(&bench.at("scratch")), "the store of the scratch node is gone");
    // The key group is its own each time: it is nobody's.
    let again = bench.scratch(&["--seconds", "1"]);
    assert_ne!(self::report(&again)["drilled"]["key_group"], report["drilled"]["key_group"]);

    assert_eq!(bench.latches(), latched, "no drill has touched the token's latch");
    let after = bench.status();
    for field in ["outages", "agents_started", "outages_drilled"] {
        assert_eq!(after["provider"][field], before["provider"][field], "{field}");
    }
    assert_eq!((&after["durable_position"], &after["ready"]), (&before["durable_position"], &true.into()));
    let text_of = text(&out.stdout);
    assert!(!text_of.contains(PIN) && !text(&out.stderr).contains(PIN));
}

#[test]
fn a_token_that_does_not_come_back_fails_the_drill_by_exit_code_and_report() {
    let bench = bench();
    let mut server = P11KitServer::start(&bench.token).unwrap();
    bench.configure(&server.uri("frostkeep").unwrap(), &server.environment());
    let arguments =
        ["drill", "outage", "--scratch", "--config", "node.toml", "--seconds", "4", "--report", "report.json"];
    let mut child = bench.command(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().map(Result::unwrap).find(|line| line.contains("drill unplug begins"));
    assert!(begun.is_some());
    server.kill();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(4), "{rest:?}");
    let told = rest.iter().find(|line| line.starts_with("error: ")).unwrap();
    assert!(told.contains("the drill failed") && told.contains("the node afterwards"), "{told}");
    let printed = text(&out.stdout);
    assert!(printed.contains("FAIL the node afterwards") && printed.contains("verdict      fail"), "{printed}");
    let kept: Value = serde_json::from_slice(&std::fs::read(bench.at("report.json")).unwrap()).unwrap();
    assert_eq!(kept["verdict"], "fail");
    let unmet = unmet(&kept);
    // What needs the token afterwards is missing; what an outage promises was kept all the same.
    for due in [
        "outages that are not the drill's",
        "the node afterwards",
        "a fresh round afterwards",
        "the session of the drill",
    ] {
        assert!(unmet.iter().any(|what| what == due), "{due}: {unmet:?}");
    }
    for kept in
        ["a durable round, asked for again", "fresh rounds after that", "the durable round afterwards", "the status"]
    {
        assert!(!unmet.iter().any(|what| what == kept), "{kept}: {unmet:?}");
    }
    assert!(is_empty(&bench.at("scratch")));
    // Without the token there is no scratch node at all.
    let out = bench.scratch(&["--seconds", "1"]);
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("key_provider_unavailable"), "{}", text(&out.stderr));
    assert!(is_empty(&bench.at("scratch")));
}

#[test]
fn a_node_that_is_killed_in_a_pin_drill_starts_without_it_and_with_the_latch_that_it_had() {
    let bench = bench();
    assert!(bench.run(&["init", "--config", "node.toml"]).status.success());
    let mut served = bench.serve();
    let latched = bench.latches();
    let arguments = ["drill", "outage", "--config", "node.toml", "--kind", "pin", "--seconds", "200"];
    let mut drill = bench.command(&arguments).stderr(Stdio::null()).spawn().unwrap();
    let drilled = bench.until("the drill is on", |status| status["provider"]["outage"]["class"] == "credential");
    assert_eq!(drilled["provider"]["drill"]["kind"], "pin");
    assert!(drilled["provider"]["outage"]["detail"].as_str().unwrap().starts_with("drill: "));
    // First the command line, without a word; then the node.
    drill.kill().unwrap();
    drill.wait().unwrap();
    assert_eq!(bench.status()["provider"]["drill"]["kind"], "pin", "the drill is the node's");
    served.0.kill().unwrap();
    served.0.wait().unwrap();
    assert_eq!(bench.latches(), latched);
    let _served = bench.serve();
    let status = bench.status();
    assert_eq!((&status["provider"]["drill"], &status["provider"]["outages_drilled"]), (&Value::Null, &0.into()));
    assert_eq!(bench.latches(), latched, "no login was refused, and none is latched");
}

#[test]
fn a_command_line_that_is_gone_does_not_leave_a_node_in_an_outage() {
    let bench = bench();
    assert!(bench.run(&["init", "--config", "node.toml"]).status.success());
    let _served = bench.serve();
    let arguments = ["drill", "outage", "--config", "node.toml", "--seconds", "4"];
    let mut drill = bench.command(&arguments).stderr(Stdio::null()).spawn().unwrap();
    bench.until("the node is in an outage", |status| status["provider"]["outage"]["class"] == "token");
    drill.kill().unwrap();
    drill.wait().unwrap();
    let healed = bench.until("the node is ready again", |status| status["ready"] == true);
    assert_eq!((&healed["provider"]["drill"], &healed["provider"]["outages_drilled"]), (&Value::Null, &1.into()));
    let log = std::fs::read_to_string(bench.at("log")).unwrap();
    for said in ["drill: begun", "drill: calls are played", "detail=drill: find_token", "drill: over"] {
        assert!(log.lines().any(|line| line.contains(said) && line.contains("WARN")), "{said}: {log}");
    }
}

#[test]
fn what_is_no_drill_is_a_usage_error_and_a_token_without_the_key_is_named() {
    let bench = bench();
    for arguments in [
        &["drill", "outage"][..],
        &["drill", "outage", "--scratch"],
        &["drill", "outage", "--node", "a", "--scratch", "--config", "node.toml"],
        &["drill", "outage", "--uri", "pkcs11:token=vault"],
        &["drill", "outage", "--scratch", "--config", "node.toml", "--seconds", "0"],
        &["drill", "outage", "--scratch", "--config", "node.toml", "--seconds", "301"],
        &["drill", "outage", "--scratch", "--config", "node.toml", "--kind", "flood"],
        &["drill", "outage", "--scratch", "--config", "node.toml", "--report", "nowhere/report.json"],
        &["drill", "outage", "--scratch", "--config", "node.toml", "--danger-live-traffic"],
        &["drill", "end"],
    ] {
        let out = bench.run(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains("hint: "), "{arguments:?}");
    }
    let (uri, latches) = (bench.token.uri("another").unwrap(), bench.token.latch_directory());
    let latches = latches.to_str().unwrap();
    let out = bench.run(&["drill", "outage", "--scratch", "--uri", &uri, "--latch-directory", latches]);
    assert_eq!(out.status.code(), Some(4), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("key_missing"), "{}", text(&out.stderr));
    assert!(is_empty(&bench.at("scratch")));
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn an_interrupted_scratch_drill_leaves_nothing_and_says_how_far_it_came() {
    let bench = bench();
    // Until a line of standard error, then as many interrupts; exit code and what was said after them.
    let interrupted = |line: &str, count: usize| {
        let arguments = ["drill", "outage", "--scratch", "--config", "node.toml", "--kind", "hang", "--seconds", "100"];
        let mut child = bench.command(&arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|told| told.contains(line)), "never: {line}");
        let mut rest = Vec::new();
        for number in 0..count {
            interrupt(&child);
            if number + 1 < count {
                rest.extend(lines.by_ref().take_while(|told| !told.contains("the drill is ended;")));
            }
        }
        rest.extend(lines);
        (child.wait_with_output().unwrap().status.code(), rest.join("\n"))
    };
    let (code, said) = interrupted("making a node of its own", 1);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("nothing was begun") && !said.contains("peer_unreachable"), "{said}");
    assert!(is_empty(&bench.at("scratch")), "{said}");
    for line in ["making a node of its own", "drill hang begins"] {
        let (code, said) = interrupted(line, 2);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("interrupted twice") && !said.contains("drill end"), "{said}");
        assert!(is_empty(&bench.at("scratch")), "{line}: {said}");
    }
}

#[test]
fn a_duration_in_which_no_hang_shows_is_refused_with_the_least_and_what_cannot_be_written_is_found_before() {
    let bench = bench();
    let config = std::fs::read_to_string(bench.at("node.toml")).unwrap();
    std::fs::write(bench.at("node.toml"), config.replace("call_ms = 400", "call_ms = 2000")).unwrap();
    for (kind, least, seconds) in [("hang", 2_300, 3), ("all", 4_300, 5)] {
        let out = bench.scratch(&["--kind", kind, "--seconds", "1"]);
        let said = text(&out.stderr);
        assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(2), ""), "{said}");
        assert!(
            said.contains(&format!("at least {least} ms")) && said.contains(&format!("--seconds {seconds}")),
            "{said}"
        );
    }
    let out = bench.scratch(&["--kind", "hang", "--seconds", "3"]);
    assert_eq!(out.status.code(), Some(0), "{}\n{}", text(&out.stdout), text(&out.stderr));

    let out = bench.scratch(&["--report", "node.toml/report.json"]);
    let said = text(&out.stderr);
    assert!(
        out.status.code() == Some(4) && said.contains("nothing was drilled") && !said.contains("printed"),
        "{said}"
    );
    for arguments in [&["drill", "outage"][..], &["drill", "end"]] {
        let out = bench.run(&[arguments, &["--config", "node.toml"]].concat());
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(4) && said.contains("is the node up, and may this user"), "{said}");
        assert!(!said.contains("roster"), "{said}");
    }
}
