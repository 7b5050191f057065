//! `frostkeep client`: the TLS key of a command line, or of another machine that is no node.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::reach::key_failed;
use super::{CliError, Output};
use crate::engine::Role;
use crate::reasons::Reason;
use crate::roster::{ClientLine, Roster};
use crate::tls::{TlsError, TlsKey};

const INIT_HELP: &str =
    "Put the line that it prints into the roster of every node, then `frostkeep roster reload --all` with a key that
they know already, or reload on each node over its socket.

Examples:
  frostkeep client init --name ops --key ops.key
  frostkeep client init --name watch --key watch.key --role observer";

/// The verbs of `frostkeep client`.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make the TLS key of a command line, and print its line for the roster
    #[command(after_help = INIT_HELP)]
    Init(InitArgs),
}

/// The arguments of `frostkeep client init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The name that logs of the nodes show
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Where the key goes, mode 0600; its certificate goes beside it. An existing key is never replaced
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What it may ask of nodes; may be repeated. Without any: coordinator, admin and observer
    #[arg(long = "role", value_name = "ROLE", value_parser = role)]
    roles: Vec<Role>,
}

fn role(text: &str) -> Result<Role, String> {
    let all = [Role::Coordinator, Role::Peer, Role::Admin, Role::Observer];
    let found = all.into_iter().find(|role| role.name() == text);
    found.ok_or_else(|| format!("a role is one of {}", all.map(Role::name).join(", ")))
}

/// Runs a verb of `frostkeep client`.
///
/// # Errors
/// [`CliError`].
pub fn run(command: ClientCommand, out: &Output) -> Result<(), CliError> {
    match command {
        ClientCommand::Init(args) => init(args, out),
    }
}

fn init(args: InitArgs, out: &Output) -> Result<(), CliError> {
    let mut roles =
        if args.roles.is_empty() { vec![Role::Coordinator, Role::Admin, Role::Observer] } else { args.roles };
    roles.sort_unstable();
    roles.dedup();
    let key = TlsKey::generate().map_err(|error| CliError::surroundings(error.to_string()))?;
    let line = ClientLine { name: args.name, pin: key.pin(), roles };
    // What no roster would take makes no key.
    let text = line.to_toml();
    Roster::parse(&text).map_err(|error| CliError::usage(error.to_string()))?;
    key.write(&args.key).map_err(|error| match &error {
        TlsError::File { path, source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            CliError::refused(Reason::StateExists, format!("{}: there is a key already", path.display()))
                .with_hint("a key is never replaced: name another file")
        }
        _ => key_failed(&error),
    })?;
    let roles = line.roles.iter().map(|role| role.name()).collect();
    out.show(&Made {
        name: line.name,
        pin: line.pin.to_string(),
        roles,
        key: args.key.display().to_string(),
        line: text,
    })
}

#[derive(Serialize)]
struct Made {
    name: String,
    pin: String,
    roles: Vec<&'static str>,
    key: String,
    line: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
