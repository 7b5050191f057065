//! Nodes as processes of their own, each with a SoftHSM token, a sealed state, a configuration and a roster line.

use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use frostkeep::client::view::{NodePhase, NodeStatus};
use frostkeep::client::{Client, Endpoint, Patience};
use frostkeep::hsm::entropy;
use frostkeep::ids::to_hex;
use frostkeep::roster::{NodeLine, Roster};
use frostkeep::tls::TlsKey;
use frostkeep_fixtures::{P11KitServer, SoftToken, make_token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand_core::RngCore;
use serde_json::Value;

use crate::Failed;
use crate::tool::{Tool, text};

/// A token call that takes longer than this is an outage, milliseconds.
pub(crate) const CALL_MS: u64 = 1_000;
/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One node and its token. Fields drop in this order: the process ends before its token does.
pub(crate) struct DemoNode {
    process: Option<Child>,
    tool: Tool,
    directory: PathBuf,
    /// Where it listens.
    address: String,
    /// The lines for the roster.
    line: String,
    server: Option<P11KitServer>,
    _token: SoftToken,
}

impl DemoNode {
    /// Makes a token with a key, a configuration and an empty state sealed under the key. `remote`: the token sits behind a
    /// `p11-kit` server, which can be killed and stopped as a network HSM can. The second value is what the command says of
    /// the key.
    pub(crate) async fn new(world: &Path, tool: &Tool, number: u16, remote: bool) -> Result<(Self, Value), Failed> {
        let directory = world.join(format!("node-{number}"));
        let mut pin = [0; 8];
        entropy::os().fill_bytes(&mut pin);
        let token = make_token(&directory, &format!("demo-{number}"), &to_hex(&pin))?;
        let server = if remote { Some(P11KitServer::start(&token)?) } else { None };
        let (uri, environment) = match &server {
            Some(server) => (server.uri("frostkeep")?, server.environment()),
            None => (token.uri("frostkeep")?, token.environment()),
        };
        // Free now; the node binds it a moment later.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut config = format!(
            "name = \"node-{number}\"\nstate = \"state\"\nroster = \"../roster.toml\"\nlisten = \"{address}\"\n\
             address = \"{address}\"\nsocket = \"admin.sock\"\n\n[[token]]\nuri = \"{uri}\"\n\
             deadlines = {{ start_ms = 5000, login_ms = 5000, call_ms = {CALL_MS} }}\n\
             # Long: the story wants to be the one that finds the token gone.\n\
             health_interval_ms = 60000\nbackoff_ms_min = 50\nbackoff_ms_max = 500\nlatch_directory = \"{}\"\n\n\
             [token.environment]\n",
            token.latch_directory().display()
        );
        for (name, value) in &environment {
            writeln!(config, "{name} = {value:?}")?;
        }
        let file = directory.join("node.toml");
        tokio::fs::write(&file, config).await?;

        let latches = token.latch_directory();
        let mut arguments = vec!["token".into(), "init".into(), "--create".into(), "--uri".into(), uri];
        arguments.extend(["--latch-directory".into(), latches.display().to_string()]);
        for (name, value) in &environment {
            arguments.extend(["--env".into(), format!("{name}={value}")]);
        }
        let report = tool.answer(&arguments).await?;
        let made = tool.answer(&["init".as_ref(), "--config".as_ref(), file.as_os_str()]).await?;
        let line = text(&made, "roster_line")?.to_owned();
        let node = Self { process: None, tool: tool.clone(), directory, address, line, server, _token: token };
        Ok((node, report))
    }

    /// Its line for the roster, as `init` printed it.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// Starts the process; the node may be sealed.
    pub(crate) fn start(&mut self) -> Result<(), Failed> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(self.tool.program());
        command.arg("serve").arg("--config").arg(self.directory.join("node.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn()?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The end of its log, for a story that failed.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let process = self.process.as_ref().ok_or("the node is not running")?;
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
    }

    async fn ended(&mut self) -> Result<Option<i32>, Failed> {
        let Some(mut process) = self.process.take() else { return Ok(None) };
        let status = tokio::task::spawn_blocking(move || process.wait()).await??;
        Ok(status.code())
    }

    /// Stops it as a service manager does; its exit code.
    pub(crate) async fn stop(&mut self) -> Result<Option<i32>, Failed> {
        self.signal(Signal::SIGTERM)?;
        self.ended().await
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) -> Result<(), Failed> {
        self.signal(Signal::SIGKILL)?;
        self.ended().await.map(|_| ())
    }

    /// The process stands still, and its connections with it.
    pub(crate) fn pause(&self) -> Result<(), Failed> {
        self.signal(Signal::SIGSTOP)
    }

    /// It goes on.
    pub(crate) fn go_on(&self) -> Result<(), Failed> {
        self.signal(Signal::SIGCONT)
    }

    /// The server before the token.
    pub(crate) fn server(&mut self) -> Result<&mut P11KitServer, Failed> {
        self.server.as_mut().ok_or_else(|| "this token has no server before it".into())
    }
}

impl Drop for DemoNode {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself, and a stopped process dies of SIGKILL as well.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The way to a node over the network, as this command line goes it.
pub(crate) fn reach(roster: &Roster, name: &str, key: &Arc<TlsKey>) -> Result<Client, Failed> {
    let line: &NodeLine = roster.node_named(name).ok_or_else(|| format!("no node {name} in the roster"))?;
    let endpoint = Endpoint::Tls { address: line.address.clone(), key: Arc::clone(key), pin: line.serving_pin };
    // The story wants to see each answer as it is.
    Ok(Client::connect(&endpoint)?.with(Patience { call_ms_max: 20_000, ..Patience::once() }))
}

/// Waits for a status that `holds`.
pub(crate) async fn until(
    what: &str,
    client: &Client,
    holds: impl Fn(&NodeStatus) -> bool,
) -> Result<NodeStatus, Failed> {
    let wait = async {
        loop {
            if let Ok(status) = client.status().await
                && holds(&status)
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| format!("never came true: {what}").into())
}

/// Waits until the node is open and would take a fresh round.
pub(crate) async fn ready(client: &Client) -> Result<NodeStatus, Failed> {
    until("the node is ready", client, |status| status.phase == NodePhase::Open && status.message.ready).await
}
