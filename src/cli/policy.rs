//! `frostkeep policy`: what a key group may sign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::keygroup::recorded;
use super::reach::{NETWORK_HELP, NodeArgs, all_done, ask_all, block_on};
use super::{CliError, Output};
use crate::ids::{KeyGroupId, to_hex};
use crate::limits::POLICY_BYTES_MAX;
use crate::policy::SigningPolicy;
use crate::store::files;
use crate::wire::ceremony::signing_policy;

const SHOW_HELP: &str = "Nodes that have different policies in force are shown apart, and the exit code is 4 then.

Examples:
  frostkeep policy show 02ab..cd --all
  frostkeep policy show 02ab..cd --node north --json";

const SET_HELP: &str = "Each node keeps its own copy. A session needs t of them to allow what it signs, so set all.

Examples:
  frostkeep policy set 02ab..cd policy.json --all
  frostkeep policy set 02ab..cd policy.json --socket /var/lib/frostkeep/admin.sock";

const TEMPLATE_HELP: &str = "Examples:
  frostkeep policy template > policy.json
  frostkeep policy template --deny-all > policy.json";

/// The verbs of `frostkeep policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// The policy in force
    #[command(after_help = SHOW_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{SHOW_HELP}"))]
    Show(ShowArgs),
    /// Replace the policy
    #[command(after_help = SET_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{SET_HELP}"))]
    Set(SetArgs),
    /// Print a policy to begin with: the one that a key generation takes when it is given none
    #[command(after_help = TEMPLATE_HELP)]
    Template(TemplateArgs),
}

/// The arguments of `frostkeep policy show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    #[command(flatten)]
    nodes: NodeArgs,
}

/// The arguments of `frostkeep policy set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    /// The policy, JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    nodes: NodeArgs,
}

/// The arguments of `frostkeep policy template`.
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// The policy that allows nothing
    #[arg(long)]
    deny_all: bool,
}

/// A policy in force, and on which nodes.
#[derive(Serialize)]
struct InForce {
    hash: String,
    nodes: Vec<String>,
    policy: SigningPolicy,
}

#[derive(Serialize)]
struct Report<'a> {
    key_group: String,
    signing_policies: &'a [InForce],
}

/// Runs a verb of `frostkeep policy`.
///
/// # Errors
/// [`CliError`].
pub fn run(command: PolicyCommand, out: &Output) -> Result<(), CliError> {
    match command {
        PolicyCommand::Show(args) => show(&args, out),
        PolicyCommand::Set(args) => {
            let (id, policy) = (args.key_group, read(&args.file)?);
            let work = async {
                let ask = |client: crate::client::Client| {
                    let policy = policy.clone();
                    async move { client.set_policy(&id, &policy).await }
                };
                Ok(ask_all(args.nodes.targets()?, ask).await)
            };
            let interrupted = "some nodes may have the new policy: `frostkeep policy show --all` says which";
            recorded(&id, "policy set", block_on(work, interrupted)?, out)
        }
        PolicyCommand::Template(args) => {
            let policy = if args.deny_all { SigningPolicy::default() } else { SigningPolicy::standard() };
            if out.is_json() { out.object(&policy) } else { out.line(pretty(&policy)) }
        }
    }
}

/// The policy in a file.
///
/// # Errors
/// [`CliError`].
pub fn read(path: &Path) -> Result<SigningPolicy, CliError> {
    let unreadable = |error: std::io::Error| {
        CliError::surroundings(format!("{}: the policy cannot be read", path.display())).caused_by(&error)
    };
    let read = files::read_bounded(path, POLICY_BYTES_MAX).map_err(unreadable)?;
    let (bytes, _) = read
        .ok_or_else(|| CliError::usage(format!("{}: a policy has at most {POLICY_BYTES_MAX} bytes", path.display())))?;
    let hint = "`frostkeep policy template` prints one";
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| CliError::usage(format!("{}: not UTF-8", path.display())).with_hint(hint))?;
    signing_policy(text).map_err(|error| CliError::usage(format!("{}: {error}", path.display())).with_hint(hint))
}

fn pretty(policy: &SigningPolicy) -> String {
    serde_json::to_string_pretty(policy).unwrap_or_default()
}

fn show(args: &ShowArgs, out: &Output) -> Result<(), CliError> {
    let id = args.key_group;
    let work = async { Ok(ask_all(args.nodes.targets()?, |client| async move { client.key_group(&id).await }).await) };
    let answers = block_on(work, "nothing was changed")?;
    let mut found: BTreeMap<[u8; 32], InForce> = BTreeMap::new();
    for (node, answer) in &answers {
        let Ok(detail) = answer else { continue };
        let hash = detail.info.signing_policy_hash;
        let entry = found.entry(hash).or_insert_with(|| InForce {
            hash: to_hex(&hash),
            nodes: Vec::new(),
            policy: detail.policy.clone(),
        });
        entry.nodes.push(node.clone());
    }
    let found: Vec<InForce> = found.into_values().collect();
    match found.as_slice() {
        _ if out.is_json() => out.object(&Report { key_group: id.to_string(), signing_policies: &found })?,
        // One policy everywhere: what is printed can be given to `policy set` again.
        [only] => out.line(pretty(&only.policy))?,
        several => {
            for one in several {
                out.line(format!("{} on {}:\n{}", one.hash, one.nodes.join(", "), pretty(&one.policy)))?;
            }
        }
    }
    all_done(&answers)?;
    if found.len() > 1 {
        let text = format!("the nodes have {} different policies in force", found.len());
        return Err(CliError::surroundings(text).with_hint("`frostkeep policy set --all` gives every node the same"));
    }
    Ok(())
}
