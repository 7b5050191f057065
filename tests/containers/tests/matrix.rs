//! The suite of `hsm/tests/matrix.rs` on SoftHSM in a container, by its socket and over a network.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use frostkeep_container_tests::Failed;
use frostkeep_container_tests::container::{Plan, SoftHsmContainer};
use frostkeep_container_tests::leftovers;
use frostkeep_fixtures::{Fixture, Launch, Outage, Shows};
use frostkeep_token_suite::{KEY, conforms};
use serde_json::Value;

/// The command, which is its own token agent.
const PROGRAM: &str = env!("CARGO_BIN_EXE_frostkeep-under-test");

const PAUSED: Outage = Outage { name: "container paused", shows: Shows::InACall, classes: &["deadline"] };
const KILLED: Outage =
    Outage { name: "container killed", shows: Shows::InACall, classes: &["token", "module", "deadline"] };
const FROZEN: Outage = Outage { name: "network frozen", shows: Shows::InACall, classes: &["deadline"] };
const CUT: Outage = Outage { name: "network cut", shows: Shows::InACall, classes: &["deadline", "token"] };

struct InContainer {
    container: SoftHsmContainer,
    directory: PathBuf,
    pin: String,
    bridged: bool,
}

impl InContainer {
    fn start(directory: &Path, plan: Plan) -> Self {
        let (pin, bridged) = (plan.pin.clone(), plan.bridged);
        let container = SoftHsmContainer::start(directory, plan).unwrap();
        Self { container, directory: directory.to_owned(), pin, bridged }
    }
}

fn told(done: Result<(), Failed>) -> io::Result<()> {
    done.map_err(io::Error::other)
}

impl Fixture for InContainer {
    fn kind(&self) -> &'static str {
        if self.bridged { "container-tcp" } else { "container" }
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn uri(&self, object: &str) -> io::Result<String> {
        self.container.uri(object).map_err(io::Error::other)
    }

    fn environment(&self) -> BTreeMap<String, String> {
        self.container.environment()
    }

    fn pin(&self) -> &str {
        &self.pin
    }

    fn pin_file(&self) -> PathBuf {
        self.container.pin_file()
    }

    fn launch(&self, agent: Launch) -> Launch {
        Launch { arguments: vec!["token-agent".to_owned()], ..agent }
    }

    fn outages(&self) -> &'static [Outage] {
        if self.bridged { &[FROZEN, CUT] } else { &[PAUSED, KILLED] }
    }

    fn begin(&mut self, outage: &str) -> io::Result<()> {
        told(match outage {
            "container paused" => self.container.pause(),
            "container killed" => self.container.kill(),
            "network frozen" => self.container.bridge().freeze(),
            "network cut" => self.container.bridge().cut(),
            other => Err(format!("there is no outage {other:?}").into()),
        })
    }

    fn end(&mut self, outage: &str) -> io::Result<()> {
        told(match outage {
            "container paused" => self.container.unpause(),
            "container killed" => self.container.start_again(),
            "network frozen" => self.container.bridge().thaw(),
            "network cut" => self.container.bridge().mend(),
            other => Err(format!("there is no outage {other:?}").into()),
        })
    }
}

fn on(plan: Plan) {
    let directory = leftovers::directory().unwrap();
    let mut token = InContainer::start(directory.path(), plan);
    conforms(&mut token, Path::new(PROGRAM));
    let report = checked(&token);
    assert_ne!(report["verdict"], "not_usable", "{report:#}");
    if let Some(path) = std::env::var_os("FROSTKEEP_CHECK_OUT") {
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{report}\n").as_bytes()).unwrap();
    }
}

/// What `frostkeep token check` says of it.
fn checked(token: &InContainer) -> Value {
    let (uri, latches) = (token.uri(KEY).unwrap(), token.latch_directory());
    let mut command = Command::new(PROGRAM);
    command.args(["--json", "token", "check", "--uri", &uri, "--latch-directory"]).arg(latches);
    for (name, value) in token.environment() {
        command.arg("--env").arg(format!("{name}={value}"));
    }
    // Enough to see that it works; the table takes what a check takes by itself.
    if std::env::var_os("FROSTKEEP_CHECK_OUT").is_none() {
        command.args(["--samples", "20"]);
    }
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    let mut report: Value = serde_json::from_slice(&out.stdout).unwrap();
    report["kind"] = Value::from(token.kind());
    report
}

#[test]
fn softhsm_in_a_container_seals_and_heals_from_every_outage() {
    on(Plan::local("matrix"));
}

#[test]
fn softhsm_behind_a_network_seals_and_heals_from_every_outage() {
    on(Plan::bridged("matrix-tcp"));
}
