//! `frostkeep session`: ends sessions.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::reach::{NETWORK_HELP, NodeArgs, Trouble, all_done, ask_all, block_on};
use super::{CliError, Output};
use crate::client::ClientError;
use crate::engine::SessionRequest;
use crate::ids::{KeyGroupId, SessionId};
use crate::reasons::Reason;

const HELP: &str = "Nonces are wiped at once, and the end is recorded. What is signed already stays signed: a session that has its signature
says so. The next signing of the same message takes another session.

Examples:
  frostkeep session abort 02ab..cd 0f5a..77-0 --all";

/// The verbs of `frostkeep session`.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// End a session without a signature
    #[command(after_help = HELP, after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"))]
    Abort(AbortArgs),
}

/// The arguments of `frostkeep session abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    /// The session
    #[arg(value_name = "SESSION")]
    session: SessionId,
    #[command(flatten)]
    nodes: NodeArgs,
}

#[derive(Serialize)]
struct Report {
    key_group: String,
    session: String,
    nodes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    node: String,
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

/// Runs a verb of `frostkeep session`.
///
/// # Errors
/// [`CliError`].
pub fn run(command: SessionCommand, out: &Output) -> Result<(), CliError> {
    let SessionCommand::Abort(args) = command;
    let request = SessionRequest { session: args.session, key_group: args.key_group };
    let work = async {
        let ask = |client: crate::client::Client| {
            let request = request.clone();
            async move {
                match client.abort_session(&request).await {
                    // Ended before, or never begun there: it holds nothing.
                    Err(error)
                        if matches!(
                            error.reason(),
                            Some(Reason::SessionAborted | Reason::SessionClosed | Reason::SessionUnknown)
                        ) =>
                    {
                        Ok(())
                    }
                    answer => answer,
                }
            }
        };
        Ok(ask_all(args.nodes.targets()?, ask).await)
    };
    let answers = block_on(work, "some nodes may have ended it: run it again")?;
    if out.is_json() {
        let row = |(node, answer): &(String, Result<(), ClientError>)| Row {
            node: node.clone(),
            ended: answer.is_ok(),
            error: answer.as_ref().err().map(Trouble::from),
        };
        out.object(&Report {
            key_group: request.key_group.to_string(),
            session: request.session.to_string(),
            nodes: answers.iter().map(row).collect(),
        })?;
    } else {
        for (node, _) in answers.iter().filter(|(_, answer)| answer.is_ok()) {
            out.line(format!("{node}: ended"))?;
        }
    }
    all_done(&answers)
}
