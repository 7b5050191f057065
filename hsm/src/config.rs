//! Configuration of one token.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outage::Backoff;
use crate::tokens::TOKENS_MAX;
use crate::uri::{TokenUri, UriError};

/// Variables that an agent's environment may have.
pub const ENVIRONMENT_MAX: usize = 32;
/// Longest deadline or interval, milliseconds: one day.
pub const INTERVAL_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// How the token agent is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCommand {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments. Never a secret: everybody on the machine can read them.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// Deadlines, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// Starting the agent, loading and initialising the module, finding the token.
    pub start_ms: u64,
    /// Opening a session and logging in.
    pub login_ms: u64,
    /// Any other call.
    pub call_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { start_ms: 10_000, login_ms: 10_000, call_ms: 2_000 }
    }
}

impl Deadlines {
    /// [`Deadlines::start_ms`].
    pub const fn start(&self) -> Duration {
        Duration::from_millis(self.start_ms)
    }

    /// [`Deadlines::login_ms`].
    pub const fn login(&self) -> Duration {
        Duration::from_millis(self.login_ms)
    }

    /// [`Deadlines::call_ms`].
    pub const fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// RFC 7512 URI: token, key, module, where the PIN is.
    pub uri: String,
    /// The whole environment of the agent (`SOFTHSM2_CONF`, `P11_KIT_SERVER_ADDRESS`, ...). Never a secret.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The token agent; without it, this program with the argument `token-agent`.
    #[serde(default)]
    pub agent: Option<AgentCommand>,
    /// Deadlines of calls.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// An idle node makes a keyed known-answer call this often, milliseconds.
    #[serde(default = "health_interval_ms")]
    pub health_interval_ms: u64,
    /// First and shortest wait before a probe, milliseconds.
    #[serde(default = "backoff_ms_min")]
    pub backoff_ms_min: u64,
    /// Longest wait before a probe, milliseconds.
    #[serde(default = "backoff_ms_max")]
    pub backoff_ms_max: u64,
    /// Directory of the credential latches: one small file per token serial.
    pub latch_directory: PathBuf,
}

const fn health_interval_ms() -> u64 {
    5_000
}

const fn backoff_ms_min() -> u64 {
    250
}

const fn backoff_ms_max() -> u64 {
    30_000
}

/// A configuration that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The URI.
    #[error("token uri: {0}")]
    Uri(#[from] UriError),
    /// Neither label, serial number nor slot names the token.
    #[error("token uri names no token: give token=, serial= or slot-id=")]
    NoToken,
    /// No module.
    #[error("token uri names no module: give module-path=")]
    NoModule,
    /// Neither label nor id names the key.
    #[error("token uri names no key: give object= or id=")]
    NoKey,
    /// No PIN.
    #[error("token uri does not say where the pin is: give pin-source=file:PATH or pin-source=systemd:NAME")]
    NoPin,
    /// A path that is not absolute.
    #[error("{name} is {path:?}, an absolute path is needed")]
    RelativePath {
        /// Which setting.
        name: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Fewer than one token, or too many.
    #[error("{0} tokens, 1 to {TOKENS_MAX} are allowed")]
    Tokens(usize),
    /// Two tokens of the same name.
    #[error("two tokens have the uri {0}")]
    TokenTwice(String),
    /// More wraps than tokens, or none.
    #[error("min_wraps is {min_wraps}, 1 to the number of tokens, {tokens}, is allowed")]
    MinWraps {
        /// What was given.
        min_wraps: usize,
        /// Tokens configured.
        tokens: usize,
    },
    /// The system gives no thread.
    #[error("no thread for a token: {0}")]
    NoThread(String),
    /// A time outside its bounds.
    #[error("{name} is {value} ms, {min} to {max} are allowed")]
    Interval {
        /// Which setting.
        name: &'static str,
        /// What was given, milliseconds.
        value: u64,
        /// Smallest allowed, milliseconds.
        min: u64,
        /// Largest allowed, milliseconds.
        max: u64,
    },
    /// A variable's name cannot stand in an environment.
    #[error("environment variable name {0:?} is empty or holds '=' or NUL, or its value holds NUL")]
    Variable(String),
    /// No agent is configured and this program does not know its own path.
    #[error("agent is not configured and the path of this program is unknown: {0}")]
    NoAgent(String),
    /// Too many variables.
    #[error("{0} environment variables, at most {ENVIRONMENT_MAX} are allowed")]
    Variables(usize),
}

impl TokenConfig {
    /// A configuration with every number at its default, and this program as the agent.
    pub fn new(uri: impl Into<String>, environment: BTreeMap<String, String>, latch_directory: PathBuf) -> Self {
        Self {
            uri: uri.into(),
            environment,
            agent: None,
            deadlines: Deadlines::default(),
            health_interval_ms: health_interval_ms(),
            backoff_ms_min: backoff_ms_min(),
            backoff_ms_max: backoff_ms_max(),
            latch_directory,
        }
    }

    /// Checks everything that can be checked without the token.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting, the value and the limit.
    pub fn check(&self) -> Result<TokenUri, ConfigError> {
        let uri = TokenUri::parse(&self.uri)?;
        if uri.token.is_none() && uri.serial.is_none() && uri.slot_id.is_none() {
            return Err(ConfigError::NoToken);
        }
        let module = uri.module_path.as_ref().ok_or(ConfigError::NoModule)?;
        if uri.object.is_none() && uri.id.is_none() {
            return Err(ConfigError::NoKey);
        }
        if uri.pin_source.is_none() {
            return Err(ConfigError::NoPin);
        }
        let agent = self.agent.as_ref().map(|agent| ("agent.program", &agent.program));
        let paths = [("module-path", module), ("latch_directory", &self.latch_directory)];
        for (name, path) in paths.into_iter().chain(agent) {
            if !path.is_absolute() {
                return Err(ConfigError::RelativePath { name, path: path.clone() });
            }
        }
        let interval = |name, value, min, max| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Interval { name, value, min, max }) }
        };
        interval("deadlines.start_ms", self.deadlines.start_ms, 10, INTERVAL_MS_MAX)?;
        interval("deadlines.login_ms", self.deadlines.login_ms, 10, INTERVAL_MS_MAX)?;
        interval("deadlines.call_ms", self.deadlines.call_ms, 10, INTERVAL_MS_MAX)?;
        interval("health_interval_ms", self.health_interval_ms, 10, INTERVAL_MS_MAX)?;
        interval("backoff_ms_min", self.backoff_ms_min, 1, INTERVAL_MS_MAX)?;
        interval("backoff_ms_max", self.backoff_ms_max, self.backoff_ms_min, INTERVAL_MS_MAX)?;
        if self.environment.len() > ENVIRONMENT_MAX {
            return Err(ConfigError::Variables(self.environment.len()));
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(ConfigError::Variable(name.clone()));
            }
        }
        Ok(uri)
    }

    /// How the agent is started.
    ///
    /// # Errors
    /// [`ConfigError::NoAgent`].
    pub fn agent_command(&self) -> Result<AgentCommand, ConfigError> {
        match &self.agent {
            Some(agent) => Ok(agent.clone()),
            None => Ok(AgentCommand {
                program: std::env::current_exe().map_err(|cause| ConfigError::NoAgent(cause.to_string()))?,
                arguments: vec![crate::agent::SUBCOMMAND.to_owned()],
            }),
        }
    }

    /// Bounds of the waits between probes.
    pub fn backoff(&self) -> Backoff {
        Backoff { min_ms: self.backoff_ms_min, max_ms: self.backoff_ms_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URI: &str = "pkcs11:token=a;object=b?module-path=/m.so&pin-source=file:/pin";

    fn config(uri: &str) -> TokenConfig {
        serde_json::from_value(serde_json::json!({ "uri": uri, "latch_directory": "/var/lib/frostkeep/latch" }))
            .unwrap()
    }

    #[test]
    fn the_shortest_configuration_is_complete() {
        let config = config(URI);
        assert!(config.check().is_ok());
        assert_eq!(config.deadlines, Deadlines { start_ms: 10_000, login_ms: 10_000, call_ms: 2_000 });
        assert_eq!((config.health_interval_ms, config.backoff_ms_min, config.backoff_ms_max), (5_000, 250, 30_000));
        assert_eq!(config.agent_command().unwrap().arguments, ["token-agent"]);
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused() {
        let unknown = serde_json::json!({ "uri": URI, "latch_directory": "/l", "pin": "1234" });
        assert!(serde_json::from_value::<TokenConfig>(unknown).is_err());
    }

    #[test]
    fn every_check_names_its_setting() {
        for (uri, expected) in [
            ("pkcs11:object=b?module-path=/m.so&pin-source=file:/pin", ConfigError::NoToken),
            ("pkcs11:token=a;object=b?pin-source=file:/pin", ConfigError::NoModule),
            ("pkcs11:token=a?module-path=/m.so&pin-source=file:/pin", ConfigError::NoKey),
            ("pkcs11:token=a;object=b?module-path=/m.so", ConfigError::NoPin),
            ("pkcs11:token=a;x=b", ConfigError::Uri(UriError::Unknown("x".to_owned()))),
            (
                "pkcs11:token=a;object=b?module-path=m.so&pin-source=file:/pin",
                ConfigError::RelativePath { name: "module-path", path: "m.so".into() },
            ),
        ] {
            assert_eq!(config(uri).check(), Err(expected), "{uri}");
        }
        let mut relative = config(URI);
        relative.latch_directory = "latch".into();
        assert!(matches!(relative.check(), Err(ConfigError::RelativePath { name: "latch_directory", .. })));
        let mut relative = config(URI);
        relative.agent = Some(AgentCommand { program: "agent".into(), arguments: Vec::new() });
        assert!(matches!(relative.check(), Err(ConfigError::RelativePath { name: "agent.program", .. })));
        let mut hasty = config(URI);
        hasty.deadlines.call_ms = 1;
        let expected = ConfigError::Interval { name: "deadlines.call_ms", value: 1, min: 10, max: INTERVAL_MS_MAX };
        assert_eq!(hasty.check(), Err(expected));
        let mut inverted = config(URI);
        inverted.backoff_ms_max = inverted.backoff_ms_min - 1;
        assert!(matches!(inverted.check(), Err(ConfigError::Interval { name: "backoff_ms_max", .. })));
        for (name, value) in [("", "a"), ("A=B", "a"), ("A\0", "a"), ("A", "\0")] {
            let mut odd = config(URI);
            odd.environment.insert(name.to_owned(), value.to_owned());
            assert_eq!(odd.check(), Err(ConfigError::Variable(name.to_owned())));
        }
        let mut many = config(URI);
        many.environment = (0..=ENVIRONMENT_MAX).map(|number| (format!("V{number}"), String::new())).collect();
        assert_eq!(many.check(), Err(ConfigError::Variables(ENVIRONMENT_MAX + 1)));
    }
}
