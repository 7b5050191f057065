//! A node's configuration: one TOML file. Unknown fields are refused, and relative paths are relative to the file, so that a
//! directory can be moved as a whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use frostkeep_hsm::clock::Clock;
use frostkeep_hsm::config::{ConfigError as TokenError, TokenConfig};
use frostkeep_hsm::provider::KeyProvider;
use frostkeep_hsm::tokens::{Tokens, check_tokens};
use serde::Deserialize;

use super::settings::{Bound, Limits, bounded};
use crate::engine::EngineConfig;
use crate::limits;
use crate::node::NodeConfig;
use crate::policy::{SigningPolicy, Tightening};
use crate::roast::score::Scoring;
use crate::roster::{check_address, check_name};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML of this shape.
    #[error("configuration {path}, line {line}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A setting whose value cannot be.
    #[error("configuration {path}: {setting} {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The token's settings.
    #[error("configuration {path}: [[token]]")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: TokenError,
    },
}

impl ConfigError {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "--config names the node's configuration file; the manual's page on operations has one"
            }
            Self::Syntax { .. } => "the manual's page on operations lists every setting",
            Self::Value { .. } => "correct the setting; the manual's page on operations says what it means",
            Self::Token { .. } => "`frostkeep token show` takes the same uri, and says whether a token answers to it",
        }
    }
}

/// The configuration of one node.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The node's name in the roster.
    pub name: String,
    /// The state directory.
    pub state: PathBuf,
    /// The roster file.
    pub roster: PathBuf,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others reach it: `host:port`.
    pub address: String,
    /// The Unix socket for administration.
    pub socket: PathBuf,
    /// Whether it coordinates for its callers.
    pub coordination: bool,
    /// The users who may use the Unix socket, of those whom its mode lets in: root and the user of the process.
    pub admin_uids: BTreeSet<u32>,
    /// The tokens that seal the state, the primary first.
    pub tokens: Vec<TokenConfig>,
    /// Tokens that must be there for a seal.
    pub min_wraps: usize,
    /// Settings of the engine.
    pub engine: EngineConfig,
    /// Limits of what comes in.
    pub limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    state: PathBuf,
    roster: PathBuf,
    listen: SocketAddr,
    address: String,
    socket: Option<PathBuf>,
    #[serde(default)]
    coordination: bool,
    admin_uids: Option<BTreeSet<u32>>,
    #[serde(default = "one")]
    min_wraps: usize,
    token: Vec<TokenConfig>,
    #[serde(default)]
    engine: EngineText,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EngineText {
    attempt_timeout_ms: u64,
    session_idle_ms_max: u64,
    reply_wait_ms_max: u64,
    scoring: Scoring,
    tighten: Option<Tightening>,
}

impl Default for EngineText {
    fn default() -> Self {
        let EngineConfig { attempt_timeout_ms, session_idle_ms_max, reply_wait_ms_max, scoring, .. } =
            EngineConfig::default();
        Self { attempt_timeout_ms, session_idle_ms_max, reply_wait_ms_max, scoring, tighten: None }
    }
}

impl ServerConfig {
    /// Reads the configuration at `path`, and checks all that can be checked without the token.
    ///
    /// # Errors
    /// [`ConfigError`], which names the setting.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(limits::SERVER_CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > limits::SERVER_CONFIG_BYTES_MAX {
            let problem = format!("the file has more than {} bytes", limits::SERVER_CONFIG_BYTES_MAX);
            return Err(ConfigError::Syntax { path: path.to_owned(), line: 1, problem });
        }
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        Self::parse(&text, &absolute)
    }

    /// The configuration with this text, as if it stood at `path`, which is absolute.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parsed: Text = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(text.len(), |span| span.start);
            let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
            ConfigError::Syntax { path: path.to_owned(), line, problem: error.message().to_owned() }
        })?;
        let wrong = |setting, problem: String| ConfigError::Value { path: path.to_owned(), setting, problem };
        let resolved = |name: PathBuf| path.parent().unwrap_or(Path::new("/")).join(name);

        check_name(&parsed.name).map_err(|problem| wrong("name", problem))?;
        check_address(&parsed.address).map_err(|problem| wrong("address", problem))?;
        let state = resolved(parsed.state);
        let socket = parsed.socket.map_or_else(|| state.join("admin.sock"), resolved);
        if socket.as_os_str().len() > limits::SOCKET_PATH_BYTES_MAX {
            let limit = limits::SOCKET_PATH_BYTES_MAX;
            return Err(wrong("socket", format!("{} is longer than the {limit} bytes of a socket", socket.display())));
        }
        let own = nix::unistd::geteuid().as_raw();
        let admin_uids = parsed.admin_uids.unwrap_or_else(|| BTreeSet::from([0, own]));

        let mut tokens = parsed.token;
        for token in &mut tokens {
            token.latch_directory = resolved(std::mem::take(&mut token.latch_directory));
            if let Some(agent) = &mut token.agent {
                agent.program = resolved(std::mem::take(&mut agent.program));
            }
        }
        check_tokens(&tokens, parsed.min_wraps)
            .map_err(|source| ConfigError::Token { path: path.to_owned(), source })?;

        let engine = engine(parsed.engine).map_err(|(setting, problem)| wrong(setting, problem))?;
        parsed.limits.check().map_err(|(setting, problem)| wrong(setting, problem))?;
        Ok(Self {
            path: path.to_owned(),
            name: parsed.name,
            roster: resolved(parsed.roster),
            listen: parsed.listen,
            address: parsed.address,
            socket,
            coordination: parsed.coordination,
            admin_uids,
            tokens,
            min_wraps: parsed.min_wraps,
            engine,
            limits: parsed.limits,
            state,
        })
    }

    /// The node that it describes, on the system's clock.
    pub fn node(&self) -> NodeConfig {
        NodeConfig { engine: self.engine.clone(), ..NodeConfig::new(&self.state) }
    }

    /// The key provider, on the node's clock: times of two clocks do not compare.
    ///
    /// # Errors
    /// [`ConfigError::Token`].
    pub fn provider(&self, clock: std::sync::Arc<dyn Clock>) -> Result<Box<dyn KeyProvider>, ConfigError> {
        match Tokens::from_config(&self.tokens, self.min_wraps, &clock) {
            Ok(tokens) => Ok(Box::new(tokens)),
            Err(source) => Err(ConfigError::Token { path: self.path.clone(), source }),
        }
    }
}

const fn one() -> usize {
    1
}

/// The engine's settings within their bounds. A tightening is tried on a policy here, so that no request finds it invalid.
fn engine(text: EngineText) -> Result<EngineConfig, (&'static str, String)> {
    let EngineText { attempt_timeout_ms, session_idle_ms_max, reply_wait_ms_max, scoring, tighten } = text;
    let bounds = [
        Bound { setting: "engine.attempt_timeout_ms", value: attempt_timeout_ms, min: 100, max: limits::DAY_MS },
        Bound {
            setting: "engine.session_idle_ms_max",
            value: session_idle_ms_max,
            min: 1_000,
            max: 366 * limits::DAY_MS,
        },
        Bound {
            setting: "engine.reply_wait_ms_max",
            value: reply_wait_ms_max,
            min: 100,
            max: limits::REPLY_WAIT_MS_MAX,
        },
    ];
    bounds.iter().try_for_each(bounded)?;
    if let Some(tighten) = &tighten {
        let tried = SigningPolicy::standard().tighten(tighten);
        tried.map_err(|error| ("engine.tighten", format!("cannot be applied to a policy: {error}")))?;
    }
    let defaults = EngineConfig::default();
    Ok(EngineConfig { tighten, scoring, attempt_timeout_ms, session_idle_ms_max, reply_wait_ms_max, ..defaults })
}

#[cfg(test)]
mod tests;
