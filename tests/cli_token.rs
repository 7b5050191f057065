//! Goal: an operator makes, finds and unlatches a sealing key with the command alone, and is told what to do when it fails.
//! Method: the real binary on a real SoftHSM token, a token for each test.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, reason = "tests remove plain files")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use frostkeep_fixtures::{SoftToken, make_token, softhsm_module};
use frostkeep_hsm::check::finding::Code;
use serde_json::Value;
use tempfile::TempDir;

const PIN: &str = "a-right-pin-5521";

struct Bench {
    directory: TempDir,
    token: SoftToken,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "vault", PIN).unwrap();
    Bench { directory, token }
}

impl Bench {
    fn latches(&self) -> String {
        self.token.latch_directory().display().to_string()
    }

    fn uri(&self) -> String {
        self.token.uri("frostkeep").unwrap()
    }

    /// Runs a verb with the token's URI; the module's variable comes from the caller's environment.
    fn token(&self, verb: &str, more: &[&str]) -> Output {
        let (uri, latches) = (self.uri(), self.latches());
        let arguments = [&["token", verb, "--uri", &uri, "--latch-directory", &latches], more].concat();
        self.command(&arguments).env("SOFTHSM2_CONF", self.token.configuration()).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frostkeep"));
        command.args(arguments).stdin(Stdio::null()).env_remove("SOFTHSM2_CONF").current_dir(self.directory.path());
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn object(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The words of a text with what differs between tokens replaced.
fn golden(output: &Output, replace: &[(&str, &str)]) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    replace.iter().fold(text(&output.stdout), |text, (from, to)| text.replace(from, to))
}

#[test]
fn init_creates_the_key_when_told_to_and_finds_it_the_second_time() {
    let bench = bench();
    let first = object(&bench.token("init", &["--create", "--json"]).stdout);
    assert_eq!(first["created"], true);
    assert_eq!(first["scheme"], "hmac");
    assert_eq!((&first["key"]["sensitive"], &first["key"]["extractable"]), (&Value::Bool(true), &Value::Bool(false)));
    for more in [&["--json"][..], &["--json", "--create"]] {
        let again = object(&bench.token("init", more).stdout);
        assert_eq!(again["created"], false, "{more:?}");
        assert_eq!(again["key"], first["key"], "{more:?}");
        assert_eq!(again["token"]["serial"], first["token"]["serial"]);
    }
    let value = |name: &str| first["key"][name].as_str().unwrap().to_owned();
    let (id, check, serial) = (value("id"), value("check_value"), first["token"]["serial"].as_str().unwrap());
    assert_eq!(
        golden(&bench.token("init", &[]), &[(&id, "ID"), (&check, "CHECK"), (serial, "SERIAL")]),
        "token        vault (SoftHSM project SoftHSM v2), serial SERIAL\n\
         key          frostkeep, id ID\n\
         check value  CHECK\n\
         sensitive    yes\n\
         extractable  no\n\
         created      before: it was found\n\
         scheme       hmac, proved in a fresh session\n"
    );
}

#[test]
fn an_empty_token_is_refused_without_create_and_nothing_is_made() {
    let bench = bench();
    for _ in 0..2 {
        let out = bench.token("init", &[]);
        assert_eq!(out.status.code(), Some(3));
        assert!(out.stdout.is_empty());
        let printed = text(&out.stderr);
        assert!(
            printed.starts_with("error: [invalid_request] the token holds no key of the configured name"),
            "{printed}"
        );
        assert!(printed.lines().last().unwrap().starts_with("hint: ") && printed.contains("--create"), "{printed}");
    }
    let machine = object(&bench.token("init", &["--json"]).stderr);
    assert_eq!(machine["error"]["reason"], "invalid_request");
    assert_eq!(machine["error"]["exit"], 3);
}

#[test]
fn a_wrong_pin_latches_after_one_try_and_unlatch_lifts_it() {
    let bench = bench();
    assert_eq!(bench.token("init", &["--create"]).status.code(), Some(0));
    bench.token.write_pin("a-wrong-pin").unwrap();
    let refused = bench.token("init", &["--json"]);
    assert_eq!(refused.status.code(), Some(4));
    let refused = object(&refused.stderr);
    assert_eq!(refused["error"]["reason"], "key_provider_unavailable");
    assert!(refused["error"]["problem"].as_str().unwrap().contains("CKR_PIN_INCORRECT"), "{refused}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("token unlatch"), "{refused}");

    // The right pin does not help across processes: no login is tried.
    bench.token.write_pin(PIN).unwrap();
    let latched = object(&bench.token("init", &["--json"]).stderr);
    assert!(latched["error"]["problem"].as_str().unwrap().contains("latched"), "{latched}");
    let shown = object(&bench.token("show", &["--json"]).stdout);
    assert_eq!(shown["latch"]["latched"], true);
    assert_eq!(shown["keys"], Value::Null);

    let serial = shown["token"]["serial"].as_str().unwrap();
    let latches = bench.latches();
    let lifted =
        bench.command(&["token", "unlatch", "--serial", serial, "--latch-directory", &latches]).output().unwrap();
    let path = shown["latch"]["path"].as_str().unwrap();
    assert_eq!(
        golden(&lifted, &[(serial, "SERIAL"), (path, "PATH")]),
        "token        serial SERIAL\nlatch        was latched; lifted: PATH\n"
    );
    assert_eq!(bench.token("init", &[]).status.code(), Some(0));
    let again = object(&bench.token("unlatch", &["--json"]).stdout);
    assert_eq!((&again["serial"], &again["before"]["latched"]), (&shown["token"]["serial"], &Value::Bool(false)));
}

#[test]
fn a_serial_number_without_a_latch_is_refused_and_makes_none() {
    let bench = bench();
    let latches = bench.latches();
    let out = bench.command(&["token", "unlatch", "--serial", "0123", "--latch-directory", &latches]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(!Path::new(&latches).exists());
}

#[test]
fn show_asks_for_no_pin_unless_it_is_told_to_log_in() {
    let bench = bench();
    assert_eq!(bench.token("init", &["--create"]).status.code(), Some(0));
    std::fs::remove_file(bench.token.pin_file()).unwrap();
    let shown = bench.token("show", &[]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("keys         not asked for"));
    let out = bench.token("show", &["--login"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(text(&out.stderr).contains("pin file"), "{}", text(&out.stderr));
    bench.token.write_pin(PIN).unwrap();
    let keys = object(&bench.token("show", &["--login", "--json"]).stdout);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
}

/// The text with every number replaced, and columns one space apart.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    for line in text.lines() {
        let words: Vec<String> = line.split_whitespace().map(without_numbers).collect();
        shape.push_str(&words.join(" "));
        shape.push('\n');
    }
    shape
}

fn without_numbers(word: &str) -> String {
    let mut text = String::new();
    for character in word.chars() {
        match character {
            '0'..='9' if text.ends_with('N') => {}
            '0'..='9' => text.push('N'),
            other => text.push(other),
        }
    }
    text
}

#[test]
fn check_tells_an_operator_what_the_token_gives() {
    let bench = bench();
    let made = object(&bench.token("init", &["--create", "--json"]).stdout);
    let value = |of: &str, name: &str| made[of][name].as_str().unwrap().to_owned();
    let (id, check, serial) = (value("key", "id"), value("key", "check_value"), value("token", "serial"));
    let shown = object(&bench.token("show", &["--json"]).stdout);
    let latch = shown["latch"]["path"].as_str().unwrap();
    // What no loaded machine comes near.
    let ample = ["--samples", "20", "--start-ms", "60000", "--login-ms", "60000", "--call-ms", "60000"];
    let out = bench.token("check", &ample);
    let module = softhsm_module().unwrap().display().to_string();
    let replaced =
        golden(&out, &[(&id, "ID"), (&check, "CHECK"), (&serial, "SERIAL"), (latch, "PATH"), (&module, "MODULE")]);
    assert_eq!(
        shape(&replaced),
        "token vault (SoftHSM project SoftHSM vN), serial SERIAL\n\
         versions firmware N.N, hardware N.N\n\
         module MODULE (Implementation of PKCSN N.N, PKCS#N N.N)\n\
         pin nothing unusual, says the token; N to N bytes\n\
         locks never seen, SoftHSM (measured by the project: manual, operations)\n\
         login accepted, N in this check\n\
         latch open, a login has succeeded: PATH\n\
         key frostkeep, id ID\n\
         check value CHECK\n\
         accepted yes\n\
         kind CKK_GENERIC_SECRET, N bytes\n\
         is sensitive, always sensitive, never extractable, local, private, token, sign, modifiable, copyable, \
         destroyable\n\
         is not extractable, derive\n\
         \n\
         PRIMITIVE LISTED SEEN\n\
         CKM_SHAN_HMAC yes works with the configured key\n\
         of a known key - the same as on the host\n\
         CKM_GENERIC_SECRET_KEY_GEN yes works\n\
         \n\
         LOST NEXT ANSWER CURED\n\
         sessions C_SignInit: CKR_SESSION_HANDLE_INVALID in the same call, N us\n\
         login C_SignInit: CKR_OBJECT_HANDLE_INVALID in the same call, N us\n\
         full re-initialisation - N us (median of N)\n\
         \n\
         ANCHOR CREATE US WRITE PN US MAX US READ US WORKS\n\
         update_data N - - - no: C_SetAttributeValue: CKR_ATTRIBUTE_READ_ONLY\n\
         replace_data N N N N yes\n\
         set_id N N N N yes\n\
         N writes to the token; nothing is left. Each anchor is such a write: flash wears out.\n\
         \n\
         LATENCY COUNT PN US PN US PN US MAX US\n\
         seal N N N N N\n\
         open N N N N N\n\
         derive alone N N N N N\n\
         \n\
         DEADLINE MS COUNT PN US MAX US MARGIN\n\
         start N N N N ample\n\
         login N N N N ample\n\
         call N N N N ample\n\
         \n\
         note pin_locks: SoftHSM was not seen to lock, however many wrong pins were tried\n\
         hint nothing was tried for this: it was measured on tokens of this kind\n\
         \n\
         verdict usable\n"
    );
    let report = object(&bench.token("check", &[&ample[..], &["--json", "--no-write"]].concat()).stdout);
    assert_eq!((&report["verdict"], &report["report_version"]), (&Value::from("usable"), &Value::from(1)));
    assert_eq!(report["options"], serde_json::json!({"samples": 20, "login": true, "write": false}));
    assert_eq!(report["latency"]["seal"]["count"], 20);
    assert_eq!(report["anchor"]["set_id"]["works"], "not_tried");
    assert_eq!(report["key"]["check_value"], check);
}

#[test]
fn check_exits_by_whose_fault_it_is_and_prints_the_report_all_the_same() {
    let bench = bench();
    let few = ["--samples", "2", "--json"];
    // Without a key a token is usable, with a warning.
    let out = bench.token("check", &few);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(object(&out.stdout)["verdict"], "usable_with_warnings");
    let codes = |report: &Value| -> Vec<String> {
        report["findings"].as_array().unwrap().iter().map(|found| found["code"].as_str().unwrap().to_owned()).collect()
    };
    assert!(codes(&object(&out.stdout)).contains(&"key_missing".to_owned()));

    // Two keys: the token is at fault.
    let away = bench.directory.path().join("away");
    bench.token("init", &["--create"]);
    bench.token.take_objects(&away).unwrap();
    bench.token("init", &["--create"]);
    bench.token.put_objects(&away).unwrap();
    let out = bench.token("check", &few);
    assert_eq!(out.status.code(), Some(3));
    assert_eq!(object(&out.stdout)["verdict"], "not_usable");
    let refused = object(&out.stderr);
    assert_eq!(refused["error"]["reason"], "invalid_request");
    assert!(refused["error"]["problem"].as_str().unwrap().contains("key_not_unique"), "{refused}");

    // A wrong pin: the surroundings are, once.
    bench.token.write_pin("a-wrong-pin").unwrap();
    for (code, logins) in [("pin_refused", 1), ("login_latched", 0)] {
        let out = bench.token("check", &few);
        assert_eq!(out.status.code(), Some(4), "{code}");
        let report = object(&out.stdout);
        assert_eq!((&report["latch"]["latched"], &report["pin"]["logins"]), (&Value::Bool(true), &Value::from(logins)));
        assert!(codes(&report).contains(&code.to_owned()), "{report}");
        assert!(object(&out.stderr)["error"]["hint"].as_str().unwrap().contains("token unlatch"));
        assert!(!text(&out.stdout).contains("a-wrong-pin") && !text(&out.stderr).contains("a-wrong-pin"));
    }
    // What needs no pin is still told.
    let out = bench.token("check", &["--no-login"]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).contains("\nlogin        not tried: not asked for\n"), "{}", text(&out.stdout));

    for samples in ["0", "10001"] {
        assert_eq!(bench.token("check", &["--samples", samples]).status.code(), Some(2));
    }
}

#[test]
fn the_manual_has_every_finding_of_a_check() {
    let manual = include_str!("../src/manual/operations.md");
    for code in Code::ALL {
        let (level, fault) = (serde_json::json!(code.level()), serde_json::json!(code.fault()));
        let (level, fault) = (level.as_str().unwrap(), fault.as_str().unwrap());
        let row = format!("| `{}` | {level} | {fault} | {} |", code.name(), code.hint());
        assert!(manual.contains(&row), "the manual has no row {row}");
    }
}

#[test]
fn a_token_that_is_not_there_is_an_outage_and_a_missing_module_names_the_setting() {
    let bench = bench();
    bench.token.take_away().unwrap();
    let out = bench.token("init", &["--create", "--json"]);
    assert_eq!(out.status.code(), Some(4));
    assert_eq!(object(&out.stderr)["error"]["reason"], "key_provider_unavailable");
    bench.token.bring_back().unwrap();

    let uri = bench.token.uri_through(Path::new("/nonexistent/module.so"), "frostkeep");
    let latches = bench.latches();
    let out = bench.command(&["token", "init", "--uri", &uri, "--latch-directory", &latches]).output().unwrap();
    assert_eq!(out.status.code(), Some(4));
    assert!(text(&out.stderr).contains("module-path="), "{}", text(&out.stderr));
}

#[test]
fn a_named_variable_outweighs_the_caller_s() {
    let bench = bench();
    let configuration = format!("SOFTHSM2_CONF={}", bench.token.configuration().display());
    let (uri, latches) = (bench.uri(), bench.latches());
    let arguments = ["token", "show", "--uri", &uri, "--latch-directory", &latches, "--env", &configuration];
    let out = bench.command(&arguments).env("SOFTHSM2_CONF", "/nonexistent/softhsm2.conf").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
}

#[test]
fn a_pin_in_the_uri_or_a_uri_without_one_is_a_usage_error_that_repeats_no_pin() {
    let bench = bench();
    let latches = bench.latches();
    for (uri, says) in [
        ("pkcs11:token=vault;object=k?module-path=/m.so&pin-value=very-secret", "pin-value"),
        ("pkcs11:token=vault;object=k?module-path=/m.so", "pin-source"),
        ("pkcs11:object=k?module-path=/m.so&pin-source=file:/p", "token="),
    ] {
        let out = bench.command(&["token", "init", "--uri", uri, "--latch-directory", &latches]).output().unwrap();
        let printed = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{printed}");
        assert!(printed.contains(says) && !printed.contains("very-secret"), "{printed}");
    }
    for arguments in [&["token", "init"][..], &["token"], &["token", "unlatch", "--latch-directory", &latches]] {
        assert_eq!(bench.command(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
}
