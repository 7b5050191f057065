//! `frostkeep init`: makes a node: its sealed state with identity and client key, its serving key, and its line for the roster.
//! Each step is durable before the next, and a second run completes what a crash has left out; nothing is ever replaced.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, SystemClock};
use serde::Serialize;

use super::reach::{block_on, key_failed};
use super::{CliError, Output};
use crate::engine::{Engine, Role};
use crate::identity::IdentityKey;
use crate::limits::ROSTER_BYTES_MAX;
use crate::node::{Node, NodeConfig, Phase, init};
use crate::reasons::Reason;
use crate::roster::{NodeLine, Pin, Roster};
use crate::server::{ConfigError, SERVING_KEY, ServerConfig};
use crate::store::{CreateError, OpenError, files, is_made};
use crate::tls::TlsKey;

/// The node's line for the roster, in the state directory: `frostkeep identity` shows it while the node is down.
pub(super) const IDENTITY: &str = "identity.toml";

/// The longest that the first opening may take.
const OPENING: Duration = Duration::from_secs(60);

const HELP: &str = "The token's sealing key has to be there: `frostkeep token init --create` makes it. The line that is printed goes into the
roster of every node, with the node's members and with the roles that it is to have.

Safe to run again: what a crash has left out is completed, and nothing is replaced.

Examples:
  frostkeep init --config /etc/frostkeep/node.toml";

/// Arguments of `frostkeep init`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Makes the node, and prints its line for the roster.
///
/// # Errors
/// [`CliError`]; what was made so far is completed by the next run.
pub fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let config = read_config(&args.config)?;
    let line = match line_of(&config)? {
        Some(line) => {
            check_store(&config)?;
            line
        }
        None => complete(&config)?,
    };
    out.show(&Shown::of(&line))
}

/// The configuration of a verb.
pub(super) fn read_config(path: &Path) -> Result<ServerConfig, CliError> {
    ServerConfig::read(path).map_err(|error| config_failed(&error))
}

pub(super) fn config_failed(error: &ConfigError) -> CliError {
    let failed = match error {
        ConfigError::Unreadable { source, .. } => CliError::surroundings(error.to_string()).caused_by(source),
        ConfigError::Token { source, .. } => CliError::usage(error.to_string()).caused_by(source),
        ConfigError::Syntax { .. } | ConfigError::Value { .. } => CliError::usage(error.to_string()),
    };
    failed.with_hint(error.hint())
}

/// The line of a node that is whole already: by its files, without its token, and while it runs as well. Name and address are
/// those of the configuration, which may have changed since.
pub(super) fn line_of(config: &ServerConfig) -> Result<Option<NodeLine>, CliError> {
    let (path, key) = (config.state.join(IDENTITY), config.state.join(SERVING_KEY));
    let failed =
        |error: &std::io::Error| CliError::surroundings(format!("{} cannot be read", path.display())).caused_by(error);
    if !files::is_taken(&path).map_err(|error| failed(&error))? {
        return Ok(None);
    }
    let read = files::read_bounded(&path, ROSTER_BYTES_MAX).map_err(|error| failed(&error))?;
    let text = read.and_then(|(bytes, _)| String::from_utf8(bytes.to_vec()).ok());
    let roster = text.and_then(|text| Roster::parse(&text).ok());
    let damaged = || {
        CliError::refused(Reason::StateCorrupt, format!("{} is no line of a roster", path.display()))
            .with_hint("it holds nothing that is secret or lost: move it away, and run `frostkeep init` again")
    };
    let line = roster.and_then(|roster| roster.nodes().first().cloned()).ok_or_else(damaged)?;
    let lost = "the roster names the pin of this key: bring it back; or move identity.toml away, run `frostkeep init`, and change the roster";
    let serving = TlsKey::read(&key).map_err(|error| key_failed(&error).with_hint(lost))?;
    if serving.pin() != line.serving_pin {
        let problem = format!("{} is not the key that {} names", key.display(), path.display());
        return Err(CliError::refused(Reason::StateCorrupt, problem)
            .with_hint("one of the two is of another node; nothing is replaced"));
    }
    Ok(Some(NodeLine { name: config.name.clone(), address: config.address.clone(), ..line }))
}

/// A node whose line was told has a store: one that is lost is not made anew under the same name.
fn check_store(config: &ServerConfig) -> Result<(), CliError> {
    let state = config.state.display();
    let unseen =
        |error: std::io::Error| CliError::surroundings(format!("{state} cannot be looked at")).caused_by(&error);
    if is_made(&config.state).map_err(unseen)? {
        return Ok(());
    }
    Err(CliError::refused(Reason::StateMissing, format!("{state} has the files of a node, and no store")).with_hint(
        "bring the store back; a new node needs a state directory of its own: nothing is made over a lost one",
    ))
}

/// Makes what is missing.
fn complete(config: &ServerConfig) -> Result<NodeLine, CliError> {
    let node = config.node();
    let provider = || config.provider(Arc::clone(&node.clock)).map_err(|error| config_failed(&error));
    match init(&node, provider()?.as_mut()) {
        Ok(_) | Err(CreateError::Exists { .. }) => {}
        Err(error) => return Err(not_created(&error)),
    }
    let opened = open(node.clone(), provider()?);
    let (identity, client_pin) = block_on(opened, "run it again: it goes on where it was")?;
    let key = serving_key(&config.state.join(SERVING_KEY))?;
    let line = NodeLine {
        name: config.name.clone(),
        address: config.address.clone(),
        identity,
        serving_pin: key.pin(),
        client_pin,
        members: Vec::new(),
        roles: if config.coordination { vec![Role::Coordinator, Role::Peer] } else { vec![Role::Peer] },
    };
    let path = config.state.join(IDENTITY);
    let unwritten = |error| CliError::surroundings(format!("{} cannot be written", path.display())).caused_by(&error);
    files::write_synced(&path, line.to_toml().as_bytes()).map_err(unwritten)?;
    Ok(line)
}

/// The serving key, made if there is none.
fn serving_key(path: &Path) -> Result<TlsKey, CliError> {
    let failed = |error| key_failed(&error);
    let unseen = |error| CliError::surroundings(format!("{} cannot be looked at", path.display())).caused_by(&error);
    if files::is_taken(path).map_err(unseen)? {
        return TlsKey::read(path).map_err(failed);
    }
    let key = TlsKey::generate().map_err(failed)?;
    key.write(path).map_err(failed)?;
    Ok(key)
}

/// Opens the state once: the first start makes identity and client key, and both are durable when this returns.
async fn open(
    config: NodeConfig,
    provider: Box<dyn frostkeep_hsm::provider::KeyProvider>,
) -> Result<(IdentityKey, Pin), CliError> {
    let node = Node::start(config, provider).map_err(|error| not_opened(&error))?;
    let clock = SystemClock::new();
    let late = u64::try_from(OPENING.as_millis()).unwrap_or(u64::MAX);
    let made = loop {
        match node.phase() {
            Phase::Open(engine) => {
                if let Some(made) = made_by(&engine)? {
                    break made;
                }
            }
            Phase::Sealed { error, .. } | Phase::Failed(error) => return Err(not_opened(&error)),
            Phase::Opening => {}
        }
        if clock.now().0 > late {
            let problem = format!("identity and client key were not durable within {} s", OPENING.as_secs());
            return Err(CliError::surroundings(problem).with_hint("is there room on the disk? run it again"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // The last batch and the anchor are written: the node starts from a state that was closed well.
    let stopped = tokio::task::spawn_blocking(move || node.stop()).await;
    stopped.map_err(|error| CliError::surroundings("the state was not closed well").caused_by(&error))?;
    Ok(made)
}

fn made_by(engine: &Engine) -> Result<Option<(IdentityKey, Pin)>, CliError> {
    let (Ok(identity), Ok(key)) = (engine.node_identity(), engine.client_key()) else { return Ok(None) };
    let key = TlsKey::from_pkcs8(key).map_err(|error| key_failed(&error))?;
    Ok(Some((identity, key.pin())))
}

fn not_created(error: &CreateError) -> CliError {
    let refused = CliError::refused(error.reason(), error.to_string());
    match error {
        CreateError::Outage(_) | CreateError::Provider { .. } => refused.with_hint(
            "is the token there, and has it the key? `frostkeep token init --create` makes it, `token show` looks",
        ),
        CreateError::AnchorHeld { .. } => {
            refused.with_hint("a token keeps the anchor of one state: give this node another token")
        }
        CreateError::Io { .. } => {
            refused.with_hint("the directory above the state has to exist, and be writable by this user")
        }
        CreateError::Busy { .. } => refused.with_hint("a node runs on this state: stop it first"),
        CreateError::Exists { .. } => refused,
    }
}

/// A state that does not open.
pub(super) fn not_opened(error: &OpenError) -> CliError {
    let refused = CliError::refused(error.reason(), error.to_string());
    match error {
        OpenError::Missing { .. } => {
            refused.with_hint("`frostkeep init` makes the state; is `state` in the configuration right?")
        }
        OpenError::Busy { .. } => refused.with_hint("another process has this state open: a node runs already"),
        OpenError::Outage(_) => refused.with_hint("is the token there? `frostkeep token show` looks"),
        OpenError::WrongKey { .. } => {
            refused.with_hint("is it the token of this node, and the key that its uri names?")
        }
        OpenError::Corrupt { .. } | OpenError::RolledBack { .. } | OpenError::AnchorMissing { .. } => refused
            .with_hint("keep the directory as it is; the manual's page on operations says what each of these means"),
        OpenError::UnsupportedVersion { .. } => refused.with_hint("start the release that wrote it, or a newer one"),
        OpenError::Io { .. } => refused.with_hint("the error names the file; is it readable by this user?"),
    }
}

/// A line as it is printed.
#[derive(Serialize)]
pub(super) struct Shown {
    name: String,
    address: String,
    identity: String,
    serving_pin: String,
    client_pin: String,
    roster_line: String,
}

impl Shown {
    pub(super) fn of(line: &NodeLine) -> Self {
        Self {
            name: line.name.clone(),
            address: line.address.clone(),
            identity: line.identity.to_string(),
            serving_pin: line.serving_pin.to_string(),
            client_pin: line.client_pin.to_string(),
            roster_line: line.to_toml(),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.roster_line)
    }
}
