//! `frostkeep token`: what an operator does to a token before a node uses it, and after a refused PIN.

mod check;
mod shown;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use frostkeep_hsm::config::{ConfigError, Deadlines, TokenConfig};
use frostkeep_hsm::entropy;
use frostkeep_hsm::latch::{Latch, LatchError};
use frostkeep_hsm::pkcs11_token::{PIN_FINAL_TRY, PIN_LOCKED};
use frostkeep_hsm::provision::{self, CreateKey, ProvisionError, UnlatchReport};
use frostkeep_hsm::token::{FaultClass, TokenError};

use self::shown::{Initialised, Shown, Unlatched};
use super::{CliError, Output};
use crate::reasons::Reason;

/// Variables of well-known modules, handed from this command's environment to the token agent.
const WELL_KNOWN: [&str; 5] =
    ["SOFTHSM2_CONF", "P11_KIT_SERVER_ADDRESS", "KRYOPTIC_CONF", "TPM2_PKCS11_STORE", "TPM2_PKCS11_TCTI"];

const HELP: &str = "The URI is one of RFC 7512 and names token, key, module, and where the pin is; the pin itself is never an argument:
  pkcs11:token=LABEL;object=KEY?module-path=/PATH/MODULE.so&pin-source=file:/PATH/PIN
  pin-source=systemd:NAME reads the credential NAME of the service manager.

The module runs in a process of its own, whose environment is what --env says and, unless --env says otherwise, these variables
of the caller: SOFTHSM2_CONF, P11_KIT_SERVER_ADDRESS, KRYOPTIC_CONF, TPM2_PKCS11_STORE, TPM2_PKCS11_TCTI.";

const INIT_HELP: &str = "Examples:
  frostkeep token init --create --latch-directory /var/lib/frostkeep/latch \\
    --uri 'pkcs11:token=vault;object=frostkeep?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/frostkeep/pin'
  The second time, without --create, it finds the key and proves it again.";

const UNLATCH_HELP: &str = "Examples:
  frostkeep token unlatch --latch-directory /var/lib/frostkeep/latch --serial 38c16b2ea2df9b6c
  `frostkeep token show` prints the serial number.";

/// The verbs of `frostkeep token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Find the sealing key, or with --create make it, and prove in a fresh session that it seals
    #[command(after_help = INIT_HELP, after_long_help = format!("{HELP}\n\n{INIT_HELP}"))]
    Init(InitArgs),
    /// Show the token, its latch, and with --login its keys of the configured name
    #[command(after_help = HELP)]
    Show(ShowArgs),
    /// Find out what a node needs of the token and what it gives, before it is used. Leaves nothing behind
    #[command(after_help = check::HELP, after_long_help = format!("{HELP}\n\n{}", check::HELP))]
    Check(check::CheckArgs),
    /// Say that the pin is right now: lifts the latch that a refused pin has set
    #[command(after_help = UNLATCH_HELP)]
    Unlatch(UnlatchArgs),
}

/// How a token is reached.
#[derive(Debug, Args)]
struct TokenArgs {
    /// RFC 7512 URI of token, key, module and pin-source
    #[arg(long, value_name = "URI")]
    uri: String,
    #[command(flatten)]
    reach: ReachArgs,
}

/// How the module is run, and where the latch is.
#[derive(Debug, Args)]
struct ReachArgs {
    /// Directory of the credential latches: the same as the node's
    #[arg(long, value_name = "DIR")]
    latch_directory: PathBuf,
    /// A variable of the token agent's environment; may be repeated. Never a secret
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// Deadline of starting the agent and initialising the module, milliseconds
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().start_ms)]
    start_ms: u64,
    /// Deadline of a login, milliseconds
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().login_ms)]
    login_ms: u64,
    /// Deadline of any other call, milliseconds
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().call_ms)]
    call_ms: u64,
}

/// The arguments of `frostkeep token init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    token: TokenArgs,
    /// Make the key when the token holds none of that name. A token that is away can look empty: say this once, on purpose
    #[arg(long)]
    create: bool,
}

/// The arguments of `frostkeep token show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    token: TokenArgs,
    /// Log in and show the keys of the configured name
    #[arg(long)]
    login: bool,
}

/// The arguments of `frostkeep token unlatch`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["serial", "uri"]))]
pub struct UnlatchArgs {
    /// Serial number of the token, which is not asked then
    #[arg(long, value_name = "SERIAL")]
    serial: Option<String>,
    /// RFC 7512 URI of the token, which is asked for its serial number unless serial= says it
    #[arg(long, value_name = "URI")]
    uri: Option<String>,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give NAME=VALUE".to_owned()),
    }
}

/// The environment of a token agent: what well-known modules need of the caller's, and what is said on top.
pub(super) fn environment(said: &[(String, String)]) -> BTreeMap<String, String> {
    let known = WELL_KNOWN.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    known.chain(said.iter().cloned()).collect()
}

impl ReachArgs {
    fn config(&self, uri: &str) -> Result<TokenConfig, CliError> {
        let mut config = TokenConfig::new(uri, environment(&self.environment), self.latches()?);
        config.deadlines = Deadlines { start_ms: self.start_ms, login_ms: self.login_ms, call_ms: self.call_ms };
        Ok(config)
    }

    fn latches(&self) -> Result<PathBuf, CliError> {
        std::path::absolute(&self.latch_directory).map_err(|error| {
            CliError::usage(format!("--latch-directory {:?} names no directory", self.latch_directory))
                .caused_by(&error)
        })
    }
}

/// Runs a verb of `frostkeep token`.
///
/// # Errors
/// [`CliError`] with a stable reason, or exit code 2 for an unusable configuration.
pub fn run(command: &TokenCommand, out: &Output) -> Result<(), CliError> {
    let entropy = || Box::new(entropy::os());
    match command {
        TokenCommand::Init(args) => {
            let create = if args.create { CreateKey::IfAbsent } else { CreateKey::Never };
            let config = args.token.reach.config(&args.token.uri)?;
            let report = provision::init(&config, create, entropy()).map_err(refused)?;
            out.show(&Initialised(report))
        }
        TokenCommand::Show(args) => {
            let config = args.token.reach.config(&args.token.uri)?;
            out.show(&Shown(provision::show(&config, args.login, entropy()).map_err(refused)?))
        }
        TokenCommand::Check(args) => check::run(args, out),
        TokenCommand::Unlatch(args) => {
            let report = match (&args.serial, &args.uri) {
                (Some(serial), _) => unlatch_by_serial(&args.reach, serial)?,
                (None, Some(uri)) => provision::unlatch(&args.reach.config(uri)?, entropy()).map_err(refused)?,
                (None, None) => return Err(CliError::usage("give --serial or --uri")),
            };
            out.show(&Unlatched(report))
        }
    }
}

/// Without the token. A latch that is not there is more likely a wrong serial number than a wish.
fn unlatch_by_serial(reach: &ReachArgs, serial: &str) -> Result<UnlatchReport, CliError> {
    let directory = reach.latches()?;
    let mut latch = Latch::new(&directory, serial);
    if !latch.path().exists() {
        let problem = format!("there is no latch of a token with serial number {serial:?} in {}", directory.display());
        return Err(CliError::refused(Reason::InvalidRequest, problem)
            .with_hint("`frostkeep token show` prints the serial number and where the latch is"));
    }
    let before = provision::latch_report(&latch).map_err(|error| refused(error.into()))?;
    latch.unlatch().map_err(|error| refused(error.into()))?;
    Ok(UnlatchReport { serial: serial.to_owned(), before })
}

/// Every way in which provisioning fails, as the operator should read it.
fn refused(error: ProvisionError) -> CliError {
    let text = error.to_string();
    match error {
        ProvisionError::Config(ConfigError::NoAgent(_)) => CliError::surroundings(text),
        ProvisionError::Config(_) => CliError::usage(text).with_hint("`frostkeep token init --help` shows a whole uri"),
        ProvisionError::NoLabel => CliError::usage(text).with_hint("name the new key: object=frostkeep in the uri"),
        ProvisionError::Token(error) => token_failed(&error),
        ProvisionError::Latch(LatchError::File { .. }) => {
            CliError::surroundings(text).with_hint("the directory of --latch-directory has to be writable by this user")
        }
        ProvisionError::Latch(LatchError::Refused | LatchError::Latched | LatchError::Unanswered) => {
            CliError::refused(Reason::KeyProviderUnavailable, text).with_hint(UNLATCH_HINT)
        }
        ProvisionError::NoKey => CliError::refused(Reason::InvalidRequest, text).with_hint(
            "is it the right token, and is it whole? if it never held the key, run the same command with --create",
        ),
        ProvisionError::Extractable { .. } => CliError::refused(Reason::InvalidRequest, text)
            .with_hint("give the key another name, and make a new one under this name with --create"),
        ProvisionError::SelfTest(_) => CliError::refused(Reason::KeyProviderUnavailable, text)
            .with_hint("this key on this token cannot seal: nothing was sealed with it; use another key or token"),
    }
}

const UNLATCH_HINT: &str = "correct the pin file, then `frostkeep token unlatch`; no login is tried before";

const LOCKED_HINT: &str = "the pin file may be right: end the token's lock with its own tool (a TPM: `tpm2_dictionarylockout --clear-lockout`), or wait \
     until it ends by itself; there is nothing to unlatch";

const FINAL_TRY_HINT: &str = "log in once with the right pin and the token's own tool: that gives it its tries back; there is nothing to unlatch";

fn token_failed(error: &TokenError) -> CliError {
    let (reason, hint) = match error.class {
        FaultClass::Credential if error.code == PIN_LOCKED => (Reason::KeyProviderUnavailable, LOCKED_HINT),
        FaultClass::Credential if error.code == PIN_FINAL_TRY => (Reason::KeyProviderUnavailable, FINAL_TRY_HINT),
        FaultClass::Credential => (Reason::KeyProviderUnavailable, UNLATCH_HINT),
        FaultClass::Key => (Reason::InvalidRequest, "name exactly one key of the token: object= and id= in the uri"),
        FaultClass::Module => {
            (Reason::KeyProviderUnavailable, "does module-path= name a PKCS#11 module of this machine?")
        }
        FaultClass::Deadline => (
            Reason::KeyProviderUnavailable,
            "the token did not answer in time: is it there? a slow one needs longer deadlines",
        ),
        FaultClass::Usage => {
            (Reason::KeyProviderUnavailable, "the token or its configuration cannot do this; the error names the call")
        }
        FaultClass::Session | FaultClass::AmbiguousKey | FaultClass::Token | FaultClass::Integrity => {
            (Reason::KeyProviderUnavailable, "is the token there, and does the uri name it? then try again")
        }
    };
    CliError::refused(reason, error.to_string()).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;
    use crate::cli::output::capture;

    fn printed(error: ProvisionError) -> (Exit, String) {
        let (out, text) = capture(false);
        (refused(error).report(&out), text())
    }

    fn fault(class: FaultClass) -> ProvisionError {
        ProvisionError::Token(TokenError::new(class, "C_Sign", "CKR_X", "seen"))
    }

    #[test]
    fn every_failure_of_provisioning_has_an_exit_code_of_its_fault_and_a_hint() {
        let cause = || std::io::Error::other("no");
        let extractable =
            ProvisionError::Extractable { id: "01".into(), sensitive: Some(false), extractable: Some(true) };
        let latch_file = LatchError::File { path: "/latch".into(), cause: cause() };
        for (error, exit) in [
            (ProvisionError::Config(ConfigError::NoPin), Exit::Usage),
            (ProvisionError::NoLabel, Exit::Usage),
            (ProvisionError::NoKey, Exit::Refused),
            (extractable, Exit::Refused),
            (fault(FaultClass::Key), Exit::Refused),
            (fault(FaultClass::Credential), Exit::Surroundings),
            (fault(FaultClass::Token), Exit::Surroundings),
            (fault(FaultClass::Module), Exit::Surroundings),
            (fault(FaultClass::Deadline), Exit::Surroundings),
            (fault(FaultClass::Usage), Exit::Surroundings),
            (fault(FaultClass::Session), Exit::Surroundings),
            (fault(FaultClass::AmbiguousKey), Exit::Surroundings),
            (fault(FaultClass::Integrity), Exit::Surroundings),
            (ProvisionError::Latch(LatchError::Latched), Exit::Surroundings),
            (ProvisionError::Latch(latch_file), Exit::Surroundings),
            (ProvisionError::SelfTest("two inputs gave the same output"), Exit::Surroundings),
        ] {
            let shown = format!("{error:?}");
            let (found, text) = printed(error);
            assert_eq!(found, exit, "{shown}");
            assert!(text.lines().last().is_some_and(|line| line.starts_with("hint: ")), "{shown}: {text}");
        }
    }

    #[test]
    fn a_locked_token_is_no_wrong_pin_and_nobody_is_sent_to_unlatch() {
        let hint = |code| {
            let error = TokenError::new(FaultClass::Credential, "C_Login", code, "seen");
            printed(ProvisionError::Token(error)).1.lines().last().unwrap_or_default().to_owned()
        };
        assert!(hint(PIN_LOCKED).contains("nothing to unlatch") && hint(PIN_LOCKED).contains("clear-lockout"));
        assert!(hint(PIN_FINAL_TRY).contains("nothing to unlatch"));
        assert!(hint("CKR_PIN_INCORRECT").contains("token unlatch"));
    }

    #[test]
    fn a_variable_without_a_name_is_refused() {
        for (text, parsed) in [("A=B=C", Some(("A", "B=C"))), ("A=", Some(("A", ""))), ("=B", None), ("A", None)] {
            let found = variable(text).ok();
            assert_eq!(found.as_ref().map(|(name, value)| (name.as_str(), value.as_str())), parsed, "{text}");
        }
    }
}
