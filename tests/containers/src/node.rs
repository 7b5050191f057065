//! The command, and a node as a process of its own whose token is what a test gives it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frostkeep::client::view::{NodePhase, NodeStatus};
use frostkeep::client::{Client, Endpoint, Patience};
use frostkeep::policy::SigningPolicy;
use frostkeep::roster::Roster;
use frostkeep::tls::TlsKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Failed;
use crate::group::Group;

/// Deadlines and waits of the node. After a token is back, the node waits for the end of the probe that the outage has caught,
/// then for the pause before the next: `START_MS + BACKOFF_MS_MAX`, and the reconnection itself.
pub const CALL_MS: u64 = 1_000;
pub const START_MS: u64 = 3_000;
pub const BACKOFF_MS_MAX: u64 = 500;

/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the node reaches its token.
#[derive(Debug, Clone)]
pub struct TokenPlace {
    /// RFC 7512 URI of the key.
    pub uri: String,
    /// The token agent's environment.
    pub environment: BTreeMap<String, String>,
    /// The directory of its latches.
    pub latch_directory: PathBuf,
}

/// A node with a key group of its own: it holds members 1 and 2, and both sign.
pub struct ServedNode {
    process: Option<Child>,
    program: PathBuf,
    directory: PathBuf,
    key: Arc<TlsKey>,
}

impl ServedNode {
    /// Makes the token's key, a state that is sealed under it, and the roster; starts the node, and has it generate a key group.
    ///
    /// # Errors
    /// The problem of the command that refused.
    pub async fn new(program: &Path, directory: &Path, token: &TokenPlace) -> Result<(Self, Group), Failed> {
        let directory = directory.join("node");
        fs::create_dir(&directory)?;
        let path = |name: &str| directory.join(name).display().to_string();
        // Free now; the node binds it a moment later.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        fs::write(directory.join("node.toml"), configuration(&address.to_string(), token)?)?;
        let run = |arguments: &[&str]| answer(program, arguments);

        let latches = token.latch_directory.display().to_string();
        let mut arguments = vec!["token", "init", "--create", "--uri", &token.uri, "--latch-directory", &latches];
        let environment: Vec<String> =
            token.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        arguments.extend(environment.iter().flat_map(|one| ["--env", one]));
        run(&arguments)?;
        let made = run(&["init", "--config", &path("node.toml")])?;
        let node = text(&made, "roster_line")?.replace("members = []", "members = [1, 2]");
        let (operator, key) = (path("operator.key"), directory.join("operator.key"));
        let roles = ["coordinator", "admin", "observer"].iter().flat_map(|role| ["--role", role]);
        let client = run(&["client", "init", "--name", "operator", "--key", &operator]
            .into_iter()
            .chain(roles)
            .collect::<Vec<_>>())?;
        let roster = directory.join("roster.toml");
        fs::write(&roster, format!("{node}\n\n{}\n", text(&client, "roster_line")?))?;

        let key = Arc::new(TlsKey::read(&key)?);
        let mut served = Self { process: None, program: program.to_owned(), directory: directory.clone(), key };
        served.start()?;
        let client = served.client()?;
        ready(&client).await?;
        let policy = SigningPolicy { danger_sign_any_message: true, ..SigningPolicy::standard() };
        fs::write(directory.join("policy.json"), serde_json::to_string(&policy)?)?;
        let (policy, roster) = (path("policy.json"), path("roster.toml"));
        let keygen =
            ["keygen", "--threshold", "2", "--signing-policy", &policy, "--roster", &roster, "--key", &operator];
        let made = run(&keygen)?;
        let group = Group::new(text(&made, "key_group")?, &client).await?;
        Ok((served, group))
    }

    /// Starts the process; the node may be sealed.
    ///
    /// # Errors
    /// Those of the process.
    pub fn start(&mut self) -> Result<(), Failed> {
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(self.directory.join("node.toml"));
        // A refusal is an answer here, and there are thousands; how the token stands is what a failure is read by.
        command.env("FROSTKEEP_LOG", "error,frostkeep_hsm=info");
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        Ok(())
    }

    /// A way to the node with a connection of its own, on which every answer is seen as it is.
    ///
    /// # Errors
    /// Those of the roster.
    pub fn client(&self) -> Result<Client, Failed> {
        let roster = Roster::read(&self.directory.join("roster.toml"))?;
        let line = roster.node_named("node").ok_or("the node is not in its roster")?;
        let key = Arc::clone(&self.key);
        let endpoint = Endpoint::Tls { address: line.address.clone(), key, pin: line.serving_pin };
        Ok(Client::connect(&endpoint)?.with(Patience { call_ms_max: 75_000, ..Patience::once() }))
    }

    /// The process, which is the node's own and never another's.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&mut self) -> Result<u32, Failed> {
        let process = self.process.as_mut().ok_or("the node is not running")?;
        match process.try_wait()? {
            None => Ok(process.id()),
            Some(status) => Err(format!("the node ended: {status}\n{}", self.last_words()).into()),
        }
    }

    /// Stops it as a service manager does; its exit code.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop(&mut self) -> Result<Option<i32>, Failed> {
        let pid = self.pid()?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        let mut process = self.process.take().ok_or("the node is not running")?;
        Ok(process.wait()?.code())
    }

    /// The end of its log, for a test that failed.
    pub fn last_words(&self) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for ServedNode {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("-- the node's last words\n{}", self.last_words());
        }
    }
}

fn configuration(address: &str, token: &TokenPlace) -> Result<String, Failed> {
    let mut text = format!(
        "name = \"node\"\nstate = \"state\"\nroster = \"roster.toml\"\nlisten = \"{address}\"\naddress = \"{address}\"\n\
         socket = \"admin.sock\"\n\n[[token]]\nuri = {:?}\nlatch_directory = {:?}\n\
         deadlines = {{ start_ms = {START_MS}, login_ms = {START_MS}, call_ms = {CALL_MS} }}\n\
         health_interval_ms = 500\nbackoff_ms_min = 50\nbackoff_ms_max = {BACKOFF_MS_MAX}\n\n[token.environment]\n",
        token.uri, token.latch_directory,
    );
    for (name, value) in &token.environment {
        writeln!(text, "{name} = {value:?}")?;
    }
    Ok(text)
}

/// Runs the command with `--json`; what it answers.
fn answer<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> Result<Value, Failed> {
    let ran = Command::new(program).arg("--json").args(arguments).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(if ran.status.success() { &ran.stdout } else { &ran.stderr }).into_owned();
    if !ran.status.success() {
        let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        return Err(format!("frostkeep {}: {}: {text}", words.join(" "), ran.status).into());
    }
    // Progress comes first, the answer last.
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Ok(serde_json::from_str(last).map_err(|_| format!("the command printed no JSON: {text}"))?)
}

fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str, Failed> {
    object.get(name).and_then(Value::as_str).ok_or_else(|| format!("no {name} in {object}").into())
}

/// Waits until the node is open and would take a fresh round.
///
/// # Errors
/// When that takes too long; what the node says of itself then.
pub async fn ready(client: &Client) -> Result<NodeStatus, Failed> {
    let begun = Instant::now();
    loop {
        let said = match client.status().await {
            Ok(status) if status.phase == NodePhase::Open && status.message.ready => return Ok(status),
            Ok(status) => format!("{}, {}", status.phase.name(), status.message.problem),
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > PATIENCE {
            return Err(format!("the node is not ready: {said}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
