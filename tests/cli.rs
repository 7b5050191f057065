//! Goal: the command's frame is what scripts rely on: exit codes, JSON, problem and hint.
//! Method: the real binary, its standard output and error piped.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::{Command, Output, Stdio};

fn frostkeep(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_frostkeep")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_reason_is_printed_for_machines_and_for_people() {
    let machine = frostkeep(&["reasons", "--json"]);
    assert_eq!(machine.status.code(), Some(0));
    let object: serde_json::Value = serde_json::from_slice(&machine.stdout).unwrap();
    let rows = object["reasons"].as_array().unwrap();
    assert_eq!(rows.len(), frostkeep::reasons::Reason::ALL.len());

    let people = frostkeep(&["reasons"]);
    let people = text(&people.stdout);
    for row in rows {
        assert!(people.contains(row["name"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn a_pipe_gets_no_colours() {
    for arguments in [&["--help"][..], &["reasons"], &["nonsense"]] {
        let out = frostkeep(arguments);
        assert!(!out.stdout.contains(&0x1b) && !out.stderr.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn a_wrong_command_line_exits_2_with_a_problem_and_a_hint() {
    for arguments in [&["nonsense"][..], &[], &["reasons", "--nonsense"], &["reasons", "--json", "--markdown"]] {
        let out = frostkeep(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}");
        assert!(out.stdout.is_empty());
        if arguments.contains(&"--json") {
            let object: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
            assert_eq!(object["error"]["exit"], 2);
            assert!(object["error"]["hint"].is_string());
            continue;
        }
        let printed = text(&out.stderr);
        let lines: Vec<_> = printed.lines().collect();
        assert!(lines.first().is_some_and(|line| line.starts_with("error: ")), "{arguments:?}: {printed}");
        assert!(lines.last().is_some_and(|line| line.starts_with("hint: ")), "{arguments:?}: {printed}");
    }
}

#[test]
fn help_and_version_exit_0_and_help_documents_the_exit_codes() {
    let help = frostkeep(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains(frostkeep::cli::Exit::TABLE));
    let version = frostkeep(&["--version"]);
    assert_eq!(text(&version.stdout), format!("frostkeep {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_frostkeep"))
        .arg("reasons")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()));
}

#[test]
fn the_command_hardens_itself_before_anything_else() {
    let out = frostkeep(&["hardening", "--json"]);
    assert_eq!(out.status.code(), Some(0));
    let object: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(object["core_dumps_off"], true);
    assert_eq!(object["undumpable"], true);
    assert_eq!(object["memory_locked"] == false, object["memory_not_locked_because"].is_string());
}

#[test]
fn the_manual_documents_the_exit_codes_of_the_command() {
    let page = include_str!("../src/manual/operations.md");
    for line in frostkeep::cli::Exit::TABLE.lines().skip(1) {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        assert!(page.contains(&format!("| {code} | {meaning} |")), "{line}");
    }
}
