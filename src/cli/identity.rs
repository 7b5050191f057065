//! `frostkeep identity`: the node's line for the roster, or its serving certificate.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::init::{Shown, line_of, read_config};
use super::reach::{block_on, key_failed};
use super::{CliError, Output, identity_replace};
use crate::client::{Client, Endpoint, Patience};
use crate::reasons::Reason;
use crate::roster::NodeLine;
use crate::server::{SERVING_KEY, ServerConfig};
use crate::tls::TlsKey;

/// The longest that a running node is asked, milliseconds; then its files tell.
const ASK_MS_MAX: u64 = 2_000;

const HELP: &str =
    "A running node is asked over its Unix socket; otherwise the file that `frostkeep init` has written tells. With
--certificate it is the certificate that the node serves with, for clients that want one as their root.

Examples:
  frostkeep identity --config /etc/frostkeep/node.toml >> roster.toml
  frostkeep identity --config /etc/frostkeep/node.toml --certificate > node.crt";

/// Arguments of `frostkeep identity`.
#[derive(Debug, Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct IdentityArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Print the certificate that the node serves with
    #[arg(long)]
    certificate: bool,
    #[command(subcommand)]
    verb: Option<IdentityCommand>,
}

/// The verbs of `frostkeep identity`.
#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// Give a member of a key group another node identity, for one that is lost
    Replace(identity_replace::Args),
}

/// Prints the line or the certificate, or runs the verb.
///
/// # Errors
/// [`CliError`].
pub fn run(args: IdentityArgs, out: &Output) -> Result<(), CliError> {
    let path = match (args.verb, args.config) {
        (Some(IdentityCommand::Replace(replace)), _) => return identity_replace::run(replace, out),
        (None, Some(path)) => path,
        (None, None) => return Err(CliError::usage("which node?").with_hint("give --config FILE")),
    };
    let config = read_config(&path)?;
    if args.certificate {
        let key = TlsKey::read(&config.state.join(SERVING_KEY)).map_err(|error| key_failed(&error))?;
        return out.show(&Certificate { certificate: key.certificate_pem() });
    }
    let line = match running(&config)? {
        Some(line) => line,
        None => line_of(&config)?.ok_or_else(|| {
            CliError::refused(Reason::StateMissing, format!("there is no node at {}", config.state.display()))
                .with_hint("`frostkeep init` makes it")
        })?,
    };
    out.show(&Shown::of(&line))
}

/// What a running node says; none when nobody answers, or its state is not open.
fn running(config: &ServerConfig) -> Result<Option<NodeLine>, CliError> {
    if !config.socket.exists() {
        return Ok(None);
    }
    let work = async {
        let client = Client::connect(&Endpoint::Socket(config.socket.clone()));
        let Ok(client) = client else { return Ok(None) };
        let status = client.with(Patience::short_ms(ASK_MS_MAX)).status().await;
        Ok(status.ok().and_then(|status| Some((status.identity?, status.serving_pin, status.client_pin?))))
    };
    let Some((identity, serving_pin, client_pin)) = block_on(work, "nothing was changed")? else { return Ok(None) };
    // Its files know what the roster is to say of it beside that.
    let members_and_roles = line_of(config)?.map(|line| (line.members, line.roles));
    let (members, roles) = members_and_roles.unwrap_or_default();
    let (name, address) = (config.name.clone(), config.address.clone());
    Ok(Some(NodeLine { name, address, identity, serving_pin, client_pin, members, roles }))
}

#[derive(Serialize)]
struct Certificate {
    certificate: String,
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.certificate)
    }
}
