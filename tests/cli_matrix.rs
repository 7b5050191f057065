//! Goal: what an operator does with a token works on every kind of token: the key is made or found, and `token check` says that a
//! node can use it, leaving nothing behind.
//! Method: the real binary on a fixture of each kind. With `FROSTKEEP_CHECK_OUT` the reports are appended to that file, a line
//! each: `scripts/bench tokens` makes the tables of the manual from them.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, reason = "tests write plain files")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use frostkeep_fixtures::{Fixture, Kind, Launch};
use frostkeep_token_suite::{KEY, present};
use serde_json::Value;

/// Runs a verb of `frostkeep token` where this token is seen.
fn token(fixture: &dyn Fixture, verb: &str, more: &[&str]) -> Output {
    let latches = fixture.latch_directory().display().to_string();
    let uri = fixture.uri(KEY).unwrap();
    let mut arguments =
        ["--json", "token", verb, "--uri", &uri, "--latch-directory", &latches].map(str::to_owned).to_vec();
    for (name, value) in fixture.environment() {
        arguments.extend(["--env".to_owned(), format!("{name}={value}")]);
    }
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let launch = fixture.launch(Launch { program: env!("CARGO_BIN_EXE_frostkeep").into(), arguments });
    Command::new(launch.program).args(launch.arguments).stdin(Stdio::null()).output().unwrap()
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn on(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut fixture) = present(kind, directory.path(), "vault") else { return };
    let made_by_tool = fixture.make_key(KEY).unwrap();
    let create: &[&str] = if made_by_tool { &[] } else { &["--create"] };
    let made = answer(&token(fixture.as_ref(), "init", create));
    assert_eq!((&made["created"], &made["scheme"]), (&Value::Bool(!made_by_tool), &Value::from("hmac")));
    let mut report = answer(&token(fixture.as_ref(), "check", &[]));
    assert_ne!(report["verdict"], "not_usable", "{report:#}");
    let shown = answer(&token(fixture.as_ref(), "show", &["--login"]));
    assert_eq!(shown["keys"], Value::from(vec![made["key"].clone()]), "the key, and nothing beside it");
    assert_eq!(shown["latch"]["latched"], Value::Bool(false));
    if let Some(path) = std::env::var_os("FROSTKEEP_CHECK_OUT") {
        report["kind"] = Value::from(fixture.kind());
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{report}\n").as_bytes()).unwrap();
    }
}

#[test]
fn softhsm_is_provisioned_and_checked_by_the_command() {
    on(Kind::SoftHsm);
}

#[test]
fn softhsm_behind_p11_kit_is_provisioned_and_checked_by_the_command() {
    on(Kind::P11Kit);
}

#[test]
fn kryoptic_is_provisioned_and_checked_by_the_command() {
    on(Kind::Kryoptic);
}

#[test]
fn a_tpm_is_provisioned_and_checked_by_the_command() {
    on(Kind::Tpm);
}

#[test]
fn opencryptoki_is_provisioned_and_checked_by_the_command() {
    on(Kind::OpenCryptoki);
}

#[test]
fn nss_is_provisioned_and_checked_by_the_command() {
    on(Kind::Nss);
}
