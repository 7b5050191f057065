//! A node in a process of its own, to be killed: the test binary starts itself again, and both talk in lines of text.
//!
//! `N commit SESSION`, `N start SESSION ATTEMPT PACKAGE`, `N snapshots` are answered by `@N commitments HEX`,
//! `@N round DURABLE-PART NEXT-COMMITMENTS`, `@N refused REASON TEXT`, `@N snapshots COUNT`, in any order. `@ready` comes
//! when the state is open, `@failed TEXT` when it is not. A line without its end was never received.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use frostkeep::engine::{CommitRequest, Engine, Refusal, SignRequest, Subject};
use frostkeep::frost::{Commitments, SigningPackage};
use frostkeep::hsm::clock::SystemClock;
use frostkeep::hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep::hsm::sealer::Provider;
use frostkeep::ids::{KeyGroupId, SessionId, from_hex, to_hex};
use frostkeep::node::{Node, NodeConfig, Phase};
use frostkeep::roast::{AttemptBinding, AttemptContext};
use frostkeep::store::{Position, Tuning};

use crate::kit::{Slow, TestNode, Token, coordinator, member, start};

/// Where the node's state and token are. Goes to the child in its environment.
pub struct Settings {
    state: PathBuf,
    latch: PathBuf,
    uri: String,
    softhsm: String,
    key_group: String,
    /// What the token takes to seal, beside its own time: a share that leaves too early is then received.
    pub seal_ms: u64,
}

const STATE: &str = "FROSTKEEP_VICTIM_STATE";
const LATCH: &str = "FROSTKEEP_VICTIM_LATCH";
const URI: &str = "FROSTKEEP_VICTIM_URI";
const SOFTHSM: &str = "FROSTKEEP_VICTIM_SOFTHSM";
const KEY_GROUP: &str = "FROSTKEEP_VICTIM_KEY_GROUP";
const SEAL_MS: &str = "FROSTKEEP_VICTIM_SEAL_MS";

impl Settings {
    pub fn of(node: &TestNode, key_group: &KeyGroupId) -> Self {
        let Token::Soft(soft) = &node.token else { panic!("a victim has a SoftHSM token") };
        Self {
            state: node.state().to_owned(),
            latch: soft.latch_directory(),
            uri: soft.uri("frostkeep").unwrap(),
            softhsm: soft.configuration().display().to_string(),
            key_group: key_group.to_string(),
            seal_ms: 0,
        }
    }

    /// None in the parent.
    pub fn from_environment() -> Option<Self> {
        let state = std::env::var_os(STATE)?;
        let text = |name| std::env::var(name).unwrap();
        Some(Self {
            state: state.into(),
            latch: text(LATCH).into(),
            uri: text(URI),
            softhsm: text(SOFTHSM),
            key_group: text(KEY_GROUP),
            seal_ms: text(SEAL_MS).parse().unwrap(),
        })
    }

    fn token(&self) -> TokenConfig {
        TokenConfig {
            uri: self.uri.clone(),
            environment: [("SOFTHSM2_CONF".to_owned(), self.softhsm.clone())].into(),
            agent: Some(AgentCommand {
                program: env!("CARGO_BIN_EXE_frostkeep").into(),
                arguments: vec!["token-agent".into()],
            }),
            // A loaded machine is no outage: what is tested here is the kill.
            deadlines: Deadlines { start_ms: 20_000, login_ms: 20_000, call_ms: 20_000 },
            health_interval_ms: 200,
            backoff_ms_min: 20,
            backoff_ms_max: 100,
            latch_directory: self.latch.clone(),
        }
    }
}

/// The child's side: serves until its input ends.
pub fn run(settings: &Settings) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    say("");
    let mut config = NodeConfig::new(&settings.state);
    // Every snapshot that can be made is made.
    config.tuning = Tuning { disk_reserve_bytes: 0, snapshot_floor_bytes: 1, ..Tuning::default() };
    let provider = Provider::from_config(&settings.token(), Arc::new(SystemClock::new())).unwrap();
    let node = match Node::start(config, Box::new(Slow { provider: Box::new(provider), seal_ms: settings.seal_ms })) {
        Ok(node) => node,
        Err(error) => return say(&format!("@failed {error}")),
    };
    let mut last = String::new();
    let opened = async {
        loop {
            match tokio::time::timeout(Duration::from_secs(5), node.opened()).await {
                Ok(opened) => return opened,
                Err(_) => {
                    // Why it waits, for whoever reads the failure.
                    if let Phase::Sealed { error, health } = node.phase() {
                        let now = format!("sealed: {error}: {health:?}");
                        if now != last {
                            eprintln!("{now}");
                            last = now;
                        }
                    }
                }
            }
        }
    };
    let engine = match runtime.block_on(opened) {
        Ok(engine) => engine,
        Err(error) => return say(&format!("@failed {error}")),
    };
    while !engine.status().epoch_recorded || engine.status().durable < Position::new(2) {
        std::thread::sleep(Duration::from_millis(1));
    }
    say("@ready");
    let key_group = KeyGroupId::new(from_hex("key group", &settings.key_group).unwrap()).unwrap();
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        let engine = engine.clone();
        runtime.spawn(async move {
            let (id, request) = line.split_once(' ').unwrap();
            let answer = answer(&engine, key_group, request).await;
            say(&format!("@{id} {answer}"));
        });
    }
    node.stop();
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The other side may be gone; so are we then, soon.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

async fn answer(engine: &Engine, key_group: KeyGroupId, request: &str) -> String {
    let words: Vec<&str> = request.split(' ').collect();
    match words.as_slice() {
        ["commit", session] => {
            let request = CommitRequest { session: SessionId::new(session).unwrap(), key_group, member: member(1) };
            match engine.commit(&coordinator(), &request) {
                Ok(commitments) => format!("commitments {}", to_hex(commitments.as_bytes())),
                Err(refusal) => refused(&refusal),
            }
        }
        ["start", session, number, package] => {
            let session = SessionId::new(session).unwrap();
            let package = SigningPackage::from_bytes(&unhex(package)).unwrap();
            let included: Vec<u16> = package.members().map(|member| member.number()).collect();
            let message = package.message();
            let binding = AttemptBinding { key_group: &key_group, session: &session, message: &message, threshold: 2 };
            let context = AttemptContext::derive(&binding, number.parse().unwrap(), &included).unwrap().parts();
            let request = SignRequest {
                session,
                key_group,
                member: member(1),
                subject: Subject { message, root: None },
                context,
                package,
                evidence: Vec::new(),
            };
            match start(engine, &request).await {
                Ok(reply) => {
                    let next = reply.next_commitments().map_or("-".into(), |next| to_hex(next.as_bytes()));
                    format!("round {} {next}", to_hex(&reply.durable_part()))
                }
                Err(refusal) => refused(&refusal),
            }
        }
        ["snapshots"] => format!("snapshots {}", engine.status().counters.snapshots),
        other => panic!("no such request: {other:?}"),
    }
}

fn refused(refusal: &Refusal) -> String {
    format!("refused {} {refusal}", refusal.reason().name())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// What came back for a `start`.
pub enum Answer {
    Round {
        bytes: Vec<u8>,
        next: Option<Box<Commitments>>,
    },
    /// Reason, space, text.
    Refused(String),
}

type Waiting = Arc<Mutex<Option<HashMap<u64, Sender<String>>>>>;

/// The parent's side.
pub struct Victim {
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    /// None when the child's output has ended.
    waiting: Waiting,
    ready: Mutex<Receiver<String>>,
    next: AtomicU64,
}

impl Victim {
    /// Starts this binary again, in its test `test`.
    pub fn spawn(settings: &Settings, test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(STATE, &settings.state)
            .env(LATCH, &settings.latch)
            .env(URI, &settings.uri)
            .env(SOFTHSM, &settings.softhsm)
            .env(KEY_GROUP, &settings.key_group)
            .env(SEAL_MS, settings.seal_ms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = Mutex::new(child.stdin.take().unwrap());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (opened, ready) = channel();
        let answers = Arc::clone(&waiting);
        std::thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
                let whole = line.trim_end();
                if whole == "@ready" || whole.starts_with("@failed") {
                    // Nobody may be waiting for it.
                    let _ = opened.send(whole.to_owned());
                } else if let Some((id, answer)) = whole.strip_prefix('@').and_then(|rest| rest.split_once(' '))
                    && let Some(sender) =
                        answers.lock().unwrap().as_mut().and_then(|all| all.remove(&id.parse().unwrap()))
                {
                    sender.send(answer.to_owned()).unwrap();
                }
                line.clear();
            }
            answers.lock().unwrap().take();
        });
        Self { child: Mutex::new(child), input, waiting, ready: Mutex::new(ready), next: AtomicU64::new(0) }
    }

    /// Waits until the state is open. A store that does not open is what must never be.
    pub fn ready(&self) {
        let said = self.ready.lock().unwrap().recv_timeout(Duration::from_secs(60));
        assert_eq!(said.as_deref(), Ok("@ready"), "the state does not open after a kill");
    }

    /// `kill -9`, and the end of the process. Idempotent.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// None when the process died first.
    fn ask(&self, request: &str) -> Option<String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = channel();
        self.waiting.lock().unwrap().as_mut()?.insert(id, sender);
        self.input.lock().unwrap().write_all(format!("{id} {request}\n").as_bytes()).ok()?;
        receiver.recv().ok()
    }

    pub fn commit(&self, session: &SessionId) -> Option<Commitments> {
        let answer = self.ask(&format!("commit {session}"))?;
        let hex = answer.strip_prefix("commitments ").unwrap_or_else(|| panic!("commit: {answer}"));
        Some(Commitments::from_bytes(&unhex(hex)).unwrap())
    }

    pub fn start(&self, session: &SessionId, number: u32, package: &SigningPackage) -> Option<Answer> {
        let answer = self.ask(&format!("start {session} {number} {}", to_hex(package.as_bytes())))?;
        if let Some(refusal) = answer.strip_prefix("refused ") {
            return Some(Answer::Refused(refusal.to_owned()));
        }
        let (bytes, next) = answer.strip_prefix("round ").and_then(|rest| rest.split_once(' ')).unwrap();
        let next = (next != "-").then(|| Box::new(Commitments::from_bytes(&unhex(next)).unwrap()));
        Some(Answer::Round { bytes: unhex(bytes), next })
    }

    pub fn snapshots(&self) -> Option<u64> {
        let answer = self.ask("snapshots")?;
        Some(answer.strip_prefix("snapshots ").unwrap().parse().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}
