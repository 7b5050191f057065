//! How a command line finds nodes: by a roster and a TLS key over the network, or by the Unix socket of one on this machine.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::CliError;
use super::init::read_config;
use crate::client::{Client, ClientError, Endpoint, Network, Patience};
use crate::reasons::Reason;
use crate::roster::{Roster, RosterError};
use crate::tls::{TlsError, TlsKey};

/// What `--help` says about it, for the verbs that go over the network.
pub const NETWORK_HELP: &str = "The nodes are those of the roster. They know this command line by its TLS key, made by
`frostkeep client init`, whose [[client]] line is in the roster of each node.";

/// How long a node that is away is tried again, milliseconds: somebody waits for what the others have done.
pub(super) const TRIED_MS_MAX: u64 = 5_000;

/// Work of a verb that talks to nodes: on the one runtime of the process, ended by an interrupt.
///
/// # Errors
/// Those of `work`; `interrupted` says what is left then.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>, interrupted: &str) -> Result<T, CliError> {
    on_runtime_within(Duration::ZERO, async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => Err(CliError::surroundings("interrupted").with_hint(interrupted)),
        }
    })
}

/// The same for work that hears of interrupts itself. What is left of it has `end` to go.
pub(super) fn on_runtime_within<T>(
    end: Duration,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = built.map_err(|error| CliError::surroundings("no threads for the network").caused_by(&error))?;
    let outcome = runtime.block_on(work);
    // A look-up of a name that hangs must not hold the end. What tasks hold is dropped with them.
    runtime.shutdown_timeout(end);
    outcome
}

/// Which roster and which key.
#[derive(Debug, clap::Args)]
pub struct NetworkArgs {
    /// The roster of the nodes
    #[arg(long, value_name = "FILE", env = "FROSTKEEP_ROSTER", hide_env_values = true)]
    roster: Option<PathBuf>,
    /// The TLS key of this command line
    #[arg(long, value_name = "FILE", env = "FROSTKEEP_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
}

impl NetworkArgs {
    /// The roster.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn read_roster(&self) -> Result<Roster, CliError> {
        let path = self
            .roster
            .as_ref()
            .ok_or_else(|| CliError::usage("which nodes?").with_hint("give --roster FILE, or set FROSTKEEP_ROSTER"))?;
        Roster::read(path).map_err(|error| match &error {
            RosterError::Unreadable { source, .. } => {
                CliError::surroundings(error.to_string()).caused_by(source).with_hint("--roster names the roster file")
            }
            _ => CliError::usage(error.to_string()).with_hint(format!("mend {}", path.display())),
        })
    }

    /// Whether a key is given.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// All nodes of the roster. Must be called on the runtime.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn network(&self) -> Result<Network, CliError> {
        let roster = self.read_roster()?;
        let path = self.key.as_ref().ok_or_else(|| {
            let hint = "give --key FILE, or set FROSTKEEP_KEY; `frostkeep client init` makes a key";
            CliError::usage("with which key?").with_hint(hint)
        })?;
        let key = TlsKey::read(path).map_err(|error| key_failed(&error))?;
        Network::new(Arc::new(roster), &Arc::new(key)).map_err(|error| failed("the network", &error))
    }
}

/// A key file that cannot be used or written.
pub fn key_failed(error: &TlsError) -> CliError {
    match error {
        TlsError::File { source, .. } => CliError::surroundings(error.to_string()).caused_by(source),
        TlsError::Exposed { path, .. } => {
            CliError::surroundings(error.to_string()).with_hint(format!("chmod 600 {}", path.display()))
        }
        _ => CliError::surroundings(error.to_string()).with_hint("`frostkeep client init` makes a key"),
    }
}

/// A node on this machine, by its Unix socket.
#[derive(Debug, clap::Args)]
pub struct LocalArgs {
    /// The Unix socket of a node on this machine
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration of a node on this machine, which says where its Unix socket is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl LocalArgs {
    /// The configuration of a node on this machine.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The node, if one is meant. Must be called on the runtime.
    ///
    /// # Errors
    /// [`CliError`] for a configuration that cannot be read.
    pub fn target(&self) -> Result<Option<Target>, CliError> {
        let (name, path) = match (&self.socket, &self.config) {
            (Some(path), _) => (path.display().to_string(), path.clone()),
            (None, Some(path)) => {
                let config = read_config(path)?;
                (config.name, config.socket)
            }
            (None, None) => return Ok(None),
        };
        let client = Client::connect(&Endpoint::Socket(path)).map_err(|error| failed_here(&name, &error))?;
        Ok(Some(Target { name, client }))
    }
}

/// Which node, or all of them.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["socket", "config", "node", "all"]))]
pub struct NodeArgs {
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    local: LocalArgs,
    /// This node of the roster; may be repeated
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// Every node of the roster
    #[arg(long)]
    all: bool,
}

/// A node that was found.
pub struct Target {
    /// Its name, or where its socket is.
    pub name: String,
    /// The way to it.
    pub client: Client,
}

impl NodeArgs {
    /// Whether a node on this machine is meant.
    pub fn is_here(&self) -> bool {
        self.local.socket.is_some() || self.local.config.is_some()
    }

    /// The nodes that are meant. Must be called on the runtime.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn targets(&self) -> Result<Vec<Target>, CliError> {
        if let Some(target) = self.local.target()? {
            return Ok(vec![target]);
        }
        select(&self.network.network()?, &self.node)
    }
}

/// The nodes of a network with these names; all of them when there are none.
///
/// # Errors
/// [`CliError`] for a name that the roster has not.
pub fn select(network: &Network, names: &[String]) -> Result<Vec<Target>, CliError> {
    let patience = Patience::within_ms(TRIED_MS_MAX);
    let of = |name: &str, client: &Client| Target { name: name.to_owned(), client: client.with(patience) };
    if names.is_empty() {
        return Ok(network.nodes().iter().map(|node| of(&node.name, &node.client)).collect());
    }
    names.iter().map(|name| named(network, name).map(|node| of(&node.name, &node.client))).collect()
}

/// The node of this name.
///
/// # Errors
/// [`CliError`] naming those that there are.
pub fn named<'a>(network: &'a Network, name: &str) -> Result<&'a crate::client::NodeClient, CliError> {
    network.node_named(name).ok_or_else(|| {
        let known: Vec<&str> = network.nodes().iter().map(|node| node.name.as_str()).collect();
        CliError::usage(format!("the roster has no node {name:?}")).with_hint(format!("it has {}", known.join(", ")))
    })
}

/// Asks all of them at once; the answers are in the order of the nodes.
pub async fn ask_all<T, F>(targets: Vec<Target>, ask: impl Fn(Client) -> F) -> Vec<(String, Result<T, ClientError>)>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let asked: Vec<_> = targets.into_iter().map(|target| (target.name, tokio::spawn(ask(target.client)))).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for (name, task) in asked {
        let defect = |error| Err(ClientError::Unreachable(format!("the call ended early: {error}")));
        answers.push((name, task.await.unwrap_or_else(defect)));
    }
    answers
}

/// The failure of a call to one node, as the operator should read it.
pub fn failed(node: &str, error: &ClientError) -> CliError {
    let text = format!("{node}: {error}");
    match error {
        ClientError::Refused(problem) => {
            let refused = CliError::refused(problem.reason, text);
            if problem.reason == Reason::PermissionDenied {
                return refused
                    .with_hint("the roles of a command line are those of its [[client]] line in the node's roster");
            }
            match problem.next_try_ms {
                Some(ms) => refused
                    .with_hint(format!("{}; the token is tried again in {ms} ms", problem.reason.retry().advice())),
                None => refused,
            }
        }
        ClientError::Unreachable(_) => CliError::refused(Reason::PeerUnreachable, text)
            .with_hint("is the node up, at the address of the roster, and is this key in the node's own roster?"),
        ClientError::Nonsense(_) => {
            CliError::surroundings(text).with_hint("is it a node of this interface, and of a version that fits?")
        }
    }
}

/// The same for a node on this machine, that is asked by its Unix socket.
pub fn failed_here(node: &str, error: &ClientError) -> CliError {
    match error {
        ClientError::Unreachable(_) => CliError::refused(Reason::PeerUnreachable, format!("{node}: {error}"))
            .with_hint("is the node up, and may this user reach its Unix socket?"),
        ClientError::Refused(_) | ClientError::Nonsense(_) => failed(node, error),
    }
}

/// The failures among several nodes: none, one as it is, or all in one line.
///
/// # Errors
/// [`CliError`] with the reason of all failures, if they share one.
pub fn all_done<T>(answers: &[(String, Result<T, ClientError>)]) -> Result<(), CliError> {
    let failures: Vec<(&str, &ClientError)> =
        answers.iter().filter_map(|(node, answer)| Some((node.as_str(), answer.as_ref().err()?))).collect();
    match failures.as_slice() {
        [] => Ok(()),
        [(node, error)] => Err(failed(node, error)),
        [(_, first), ..] => {
            let told: Vec<String> = failures.iter().map(|(node, error)| format!("{node}: {error}")).collect();
            let text = format!("{} of {} nodes have not done it: {}", told.len(), answers.len(), told.join("; "));
            let same = failures.iter().all(|(_, error)| error.reason() == first.reason());
            Err(match first.reason().filter(|_| same) {
                Some(reason) => CliError::refused(reason, text),
                None => CliError::surroundings(text).with_hint("the same command, later, does the rest"),
            })
        }
    }
}

/// A failure in JSON.
#[derive(Debug, Serialize)]
pub struct Trouble {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    problem: String,
}

impl Trouble {
    /// The problem, for people.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl From<&ClientError> for Trouble {
    fn from(error: &ClientError) -> Self {
        Self { reason: error.reason().map(Reason::name), problem: error.to_string() }
    }
}
