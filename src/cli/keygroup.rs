//! `frostkeep keygroup`: which key groups there are, what their nodes say of them, and their end.

mod list;
mod show;

pub use show::{not_known, patience};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::reach::{NETWORK_HELP, NodeArgs, Trouble, all_done, ask_all, block_on};
use super::{CliError, Output};
use crate::client::ClientError;
use crate::ids::KeyGroupId;
use crate::reasons::Reason;

const RETIRE_HELP: &str =
    "The node wipes its shares. When more than n - t members have done so, nobody signs with the key any more: what is
paid to it is lost.

Examples:
  frostkeep keygroup retire 02ab..cd --all --danger-wipe-shares";

const DROP_HELP: &str = "A prepared share is kept for ever, because a node cannot know that the others will never complete the certificate. Where
they do complete it, this node's seats are lost with the share.

Examples:
  frostkeep keygroup danger-drop-prepared 02ab..cd --node north";

/// The verbs of `frostkeep keygroup`.
#[derive(Debug, Subcommand)]
pub enum KeyGroupCommand {
    /// The key groups of the nodes, a line each
    List(list::Args),
    /// One key group: certificate, seats, address, policy, freezes, and what each node says of it
    Show(show::Args),
    /// End a key group for ever: its shares are wiped
    #[command(after_help = RETIRE_HELP)]
    Retire(RetireArgs),
    /// Drop a share that waits for its certificate
    #[command(after_help = DROP_HELP)]
    DangerDropPrepared(DropArgs),
}

/// The arguments of `frostkeep keygroup retire`.
#[derive(Debug, Args)]
#[command(after_long_help = format!("{NETWORK_HELP}\n\n{RETIRE_HELP}"))]
pub struct RetireArgs {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Say that the shares are to be wiped
    #[arg(long)]
    danger_wipe_shares: bool,
}

/// The arguments of `frostkeep keygroup danger-drop-prepared`.
#[derive(Debug, Args)]
pub struct DropArgs {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    #[command(flatten)]
    nodes: NodeArgs,
}

/// Runs a verb of `frostkeep keygroup`.
///
/// # Errors
/// [`CliError`].
pub fn run(command: KeyGroupCommand, out: &Output) -> Result<(), CliError> {
    match command {
        KeyGroupCommand::List(args) => list::run(args, out),
        KeyGroupCommand::Show(args) => show::run(args, out),
        KeyGroupCommand::Retire(args) => {
            if !args.danger_wipe_shares {
                let problem = "nothing is wiped before you say so";
                return Err(CliError::usage(problem).with_hint("add --danger-wipe-shares; it cannot be undone"));
            }
            let id = args.key_group;
            let work = async {
                Ok(ask_all(args.nodes.targets()?, |client| async move { client.retire_key_group(&id).await }).await)
            };
            recorded(&id, "retired", block_on(work, RERUN)?, out)
        }
        KeyGroupCommand::DangerDropPrepared(args) => {
            let id = args.key_group;
            let work = async {
                Ok(ask_all(args.nodes.targets()?, |client| async move { client.danger_drop_prepared(&id).await }).await)
            };
            recorded(&id, "dropped", block_on(work, RERUN)?, out)
        }
    }
}

const RERUN: &str = "some nodes may have done it: `frostkeep keygroup show` says which";

/// What several nodes have recorded, or why not.
#[derive(Serialize)]
pub struct Recorded {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

#[derive(Serialize)]
struct Report<'a> {
    key_group: String,
    nodes: &'a [Recorded],
}

/// Prints at which position each node has recorded what it was told. `what` is the word for it.
///
/// # Errors
/// [`CliError`] when a node has not.
pub fn recorded(
    key_group: &KeyGroupId,
    what: &str,
    answers: Vec<(String, Result<u64, ClientError>)>,
    out: &Output,
) -> Result<(), CliError> {
    // The answer of an earlier run was lost: it is done.
    let answers: Vec<_> = answers.into_iter().map(|(node, answer)| (node, done_before(what, answer))).collect();
    let row = |(node, answer): &(String, Result<u64, ClientError>)| Recorded {
        node: node.clone(),
        position: answer.as_ref().ok().copied().filter(|position| *position > 0),
        error: answer.as_ref().err().map(Trouble::from),
    };
    let rows: Vec<Recorded> = answers.iter().map(row).collect();
    if out.is_json() {
        out.object(&Report { key_group: key_group.to_string(), nodes: &rows })?;
    } else {
        for row in rows.iter().filter(|row| row.error.is_none()) {
            match row.position {
                Some(position) => out.line(format!("{}: {what}, recorded at position {position}", row.node))?,
                None => out.line(format!("{}: {what} already", row.node))?,
            }
        }
    }
    all_done(&answers)
}

fn done_before(what: &str, answer: Result<u64, ClientError>) -> Result<u64, ClientError> {
    match answer {
        Err(error) if what == "retired" && error.reason() == Some(Reason::KeyGroupRetired) => Ok(0),
        answer => answer,
    }
}
