//! An agent that lies: it stands between node and real agent, hands everything on, and at a chosen request hangs, dies, or answers
//! something else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use frostkeep_hsm::agent::anchor::Anchored;
use frostkeep_hsm::agent::examine::Examined;
use frostkeep_hsm::agent::protocol::{Frame, Reply, Request};
use frostkeep_hsm::config::{AgentCommand, TokenConfig};
use frostkeep_hsm::token::{FaultClass, TokenError};
use serde::{Deserialize, Serialize};

const PLAN: &str = "FROSTKEEP_TEST_LIE";
const JOURNAL: &str = "FROSTKEEP_TEST_ASKED";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lie {
    /// Never answers, once; later requests are answered.
    Hang,
    /// Ends.
    Crash,
    /// Flips a bit of a derived value.
    Flip,
    /// Answers that it is done, and does nothing.
    Nothing,
    /// Answers that the token cannot do it.
    Refuse,
    /// Answers late.
    Delay,
    /// Says of every key that it cannot be extracted.
    NotExtractable,
    /// Says of every key that it is not private.
    Public,
    /// Reads the anchor before the last one.
    Stale,
    /// Fails, in every process that itself was asked what the plan waits for.
    Broken,
}

/// What is lied about: the requests of one name, after the first `skip`, `count` of them. `after` counts only from the first request of
/// another name on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub operation: &'static str,
    pub after: Option<&'static str>,
    pub skip: usize,
    pub count: usize,
    pub lie: Lie,
}

#[derive(Deserialize)]
struct Read {
    operation: String,
    after: Option<String>,
    skip: usize,
    count: usize,
    lie: Lie,
}

/// `config` with an agent that follows `plans`. What was asked is counted in a file of `directory`, so that it outlives the agent.
pub fn lying(config: &TokenConfig, directory: &Path, plans: &[Plan]) -> TokenConfig {
    let journal = directory.join("asked");
    let _ = fs::remove_file(&journal);
    let real = &config.agent.as_ref().unwrap().program;
    let mut environment: BTreeMap<String, String> = config.environment.clone();
    environment.insert(PLAN.to_owned(), serde_json::to_string(plans).unwrap());
    environment.insert(JOURNAL.to_owned(), journal.display().to_string());
    environment.insert("FROSTKEEP_TEST_AGENT".to_owned(), real.display().to_string());
    // The test runner prints to stdout, where the pipe is.
    let script = "exec 3>&1 >/dev/null; exec \"$0\" --exact --ignored --nocapture proxy::an_agent_for_another_test";
    let itself = std::env::current_exe().unwrap().display().to_string();
    let arguments = vec!["-c".to_owned(), script.to_owned(), itself];
    TokenConfig { environment, agent: Some(AgentCommand { program: "/bin/sh".into(), arguments }), ..config.clone() }
}

/// How often the lie was told.
pub fn told(directory: &Path) -> usize {
    fs::read_to_string(directory.join("asked"))
        .unwrap_or_default()
        .lines()
        .filter(|line| line.ends_with(" lie"))
        .count()
}

/// Not a law: the agent that lies.
#[test]
#[ignore = "started by another test"]
fn an_agent_for_another_test() {
    let Ok(plan) = std::env::var(PLAN) else { return };
    let plans: Vec<Read> = serde_json::from_str(&plan).unwrap();
    let journal = std::env::var(JOURNAL).unwrap();
    let mut node = (File::open("/dev/fd/0").unwrap(), File::options().write(true).open("/dev/fd/3").unwrap());
    let mut agent = Command::new(std::env::var("FROSTKEEP_TEST_AGENT").unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
    let mut seen = Vec::new();
    while let Ok(frame) = Frame::read_from(&mut node.0) {
        let (mut request, tail): (Request, _) = frame.decode().unwrap();
        if let Request::Hello { parent, .. } = &mut request {
            *parent = std::process::id();
        }
        let lie = lie_about(&plans, &journal, request.operation(), &seen);
        seen.push(request.operation());
        match lie {
            Some(Lie::Crash) => std::process::exit(9),
            Some(Lie::Hang) => loop {
                sleep(Duration::from_secs(60));
            },
            Some(Lie::Delay) => sleep(Duration::from_millis(60)),
            Some(Lie::Nothing) => {
                Frame::new(&nothing(&request), &[]).unwrap().write_to(&mut node.1).unwrap();
                continue;
            }
            Some(Lie::Refuse) => {
                let error = TokenError::new(FaultClass::Usage, "C_Lie", "CKR_FUNCTION_NOT_SUPPORTED", "");
                Frame::new(&Reply::Failed(error), &[]).unwrap().write_to(&mut node.1).unwrap();
                continue;
            }
            Some(Lie::Broken) => {
                let error = TokenError::new(FaultClass::Token, "C_Lie", "CKR_GENERAL_ERROR", "");
                Frame::new(&Reply::Failed(error), &[]).unwrap().write_to(&mut node.1).unwrap();
                continue;
            }
            Some(Lie::Flip | Lie::NotExtractable | Lie::Public | Lie::Stale) | None => {}
        }
        Frame::new(&request, tail).unwrap().write_to(&mut to).unwrap();
        let Ok(answer) = Frame::read_from(&mut from) else { break };
        let (mut reply, tail): (Reply, _) = answer.decode().unwrap();
        let mut tail = tail.to_vec();
        match (lie, &mut reply) {
            (Some(Lie::Flip), Reply::Derived) => tail[0] ^= 1,
            (Some(Lie::NotExtractable), Reply::Keys(keys)) => {
                keys.iter_mut().for_each(|key| key.extractable = Some(false));
            }
            (Some(Lie::Public), Reply::Examined(Examined::Attributes(keys))) => {
                keys.iter_mut().for_each(|key| key.private = Some(false));
            }
            (Some(Lie::Stale), Reply::Anchored(Anchored::Values(values))) => {
                values.iter_mut().flatten().for_each(|byte| *byte -= 1);
            }
            _ => {}
        }
        Frame::new(&reply, &tail).unwrap().write_to(&mut node.1).unwrap();
    }
    // Without the summary of a test run, which nobody reads.
    std::process::exit(0);
}

/// What is to be done about this request, which is counted.
fn lie_about(plans: &[Read], journal: &str, operation: &str, seen: &[&str]) -> Option<Lie> {
    let asked = fs::read_to_string(journal).unwrap_or_default();
    let names: Vec<&str> = asked.lines().map(|line| line.trim_end_matches(" lie")).collect();
    let here = |plan: &Read| plan.lie != Lie::Broken || plan.after.as_deref().is_some_and(|name| seen.contains(&name));
    let lie = plans.iter().find(|plan| plan.is_met(&names, operation) && here(plan)).map(|plan| plan.lie);
    let mut journal = File::options().append(true).create(true).open(journal).unwrap();
    writeln!(journal, "{operation}{}", if lie.is_some() { " lie" } else { "" }).unwrap();
    lie
}

impl Read {
    fn is_met(&self, asked: &[&str], operation: &str) -> bool {
        let since = match &self.after {
            None => Some(0),
            Some(after) => asked.iter().position(|name| name == after).map(|at| at + 1),
        };
        let Some(since) = since else { return false };
        let before = asked.iter().skip(since).filter(|name| **name == self.operation).count();
        operation == self.operation && (self.skip..self.skip.saturating_add(self.count)).contains(&before)
    }
}

fn nothing(request: &Request) -> Reply {
    match request {
        Request::Examine(_) => Reply::Examined(Examined::Done),
        Request::Anchor(request) => Reply::Anchored(match request.act.operation() {
            "anchor_destroy" => Anchored::Destroyed(1),
            _ => Anchored::Done,
        }),
        _ => Reply::Done,
    }
}
