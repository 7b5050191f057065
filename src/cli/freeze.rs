//! `frostkeep freeze` and `frostkeep thaw`: the emergency stop of a key group, and its end.

use std::collections::BTreeSet;

use serde::Serialize;

use super::reach::{NETWORK_HELP, NodeArgs, TRIED_MS_MAX, Trouble, all_done, ask_all, block_on};
use super::{CliError, Output};
use crate::client::{Client, ClientError, FreezeReply, Patience};
use crate::ids::{FreezeId, KeyGroupId};
use crate::reasons::Reason;

/// The longest that one node is waited for, milliseconds: it is reached in [`crate::limits::WIRE_CONNECT_MS_MAX`] and has its
/// deny file after [`crate::limits::DENY_FILE_WAIT_MS_MAX`], or never.
const FROZEN_MS_MAX: u64 = 8_000;

const FREEZE_HELP: &str = "At once, whatever the token does. A sealed node takes a freeze on its Unix socket only. Freezing n - t + 1 members'
nodes stops the key group; freeze all of them.

Examples:
  frostkeep freeze 02ab..cd --all --reason 'unknown spend seen' --roster roster.toml --key ops.key
  frostkeep freeze 02ab..cd --socket /var/lib/frostkeep/admin.sock --reason 'key under investigation'";

const THAW_HELP: &str =
    "A thaw names the freezes that it lifts; `frostkeep keygroup show` lists those in force. With --all each node is
told those of them that it has.

Examples:
  frostkeep thaw 02ab..cd --node north --freeze 0123456789abcdef0123456789abcdef
  frostkeep thaw 02ab..cd --all --freeze 0123..ef --freeze 4567..01";

/// Arguments of `frostkeep freeze`.
#[derive(Debug, clap::Args)]
#[command(after_help = FREEZE_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{FREEZE_HELP}"))]
pub struct FreezeArgs {
    /// The key group; the node need not know it
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Why, for those who find it; at most 256 bytes
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Arguments of `frostkeep thaw`.
#[derive(Debug, clap::Args)]
#[command(after_help = THAW_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{THAW_HELP}"))]
pub struct ThawArgs {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    #[command(flatten)]
    nodes: NodeArgs,
    /// A freeze to lift; may be repeated
    #[arg(long = "freeze", value_name = "ID", required = true)]
    freezes: Vec<FreezeId>,
}

#[derive(Serialize)]
struct Report {
    key_group: String,
    nodes: Vec<Row>,
}

#[derive(Default, Serialize)]
struct Row {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    freeze: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

/// Freezes.
///
/// # Errors
/// [`CliError`] when a node has not frozen the key group, or would lose the freeze in a restart.
pub fn freeze(args: FreezeArgs, out: &Output) -> Result<(), CliError> {
    let (id, reason) = (args.key_group, args.reason);
    let work = async {
        let ask = |client: Client| {
            let reason = reason.clone();
            let client = client.with(Patience { call_ms_max: FROZEN_MS_MAX, ..Patience::within_ms(TRIED_MS_MAX) });
            async move { client.freeze(&id, &reason).await }
        };
        Ok(ask_all(args.nodes.targets()?, ask).await)
    };
    let answers = block_on(work, "nodes that were asked may have frozen it: `frostkeep keygroup show` says which")?;
    let row = |(node, answer): &(String, Result<FreezeReply, ClientError>)| match answer {
        Ok(done) => Row {
            node: node.clone(),
            freeze: Some(done.freeze.to_string()),
            durable: Some(done.not_durable.is_none()),
            ..Row::default()
        },
        Err(error) => Row { node: node.clone(), error: Some(error.into()), ..Row::default() },
    };
    if out.is_json() {
        out.object(&Report { key_group: id.to_string(), nodes: answers.iter().map(row).collect() })?;
    } else {
        for (node, answer) in &answers {
            if let Ok(done) = answer {
                out.line(format!("{node}: frozen, freeze {}", done.freeze))?;
            }
        }
    }
    all_done(&answers)?;
    let in_memory = answers.iter().filter_map(|(node, answer)| {
        let problem = answer.as_ref().ok()?.not_durable.as_ref()?;
        Some(format!("{node}: {problem}"))
    });
    let in_memory: Vec<String> = in_memory.collect();
    if in_memory.is_empty() {
        return Ok(());
    }
    let text = format!("frozen in memory alone, a restart would lose it: {}", in_memory.join("; "));
    Err(CliError::refused(Reason::FreezeNotDurable, text).with_hint("freeze again; do not restart the node before"))
}

/// Thaws.
///
/// # Errors
/// [`CliError`] when a node has not lifted the freezes.
pub fn thaw(args: ThawArgs, out: &Output) -> Result<(), CliError> {
    let (id, named) = (args.key_group, BTreeSet::from_iter(args.freezes));
    let work = async {
        let targets = args.nodes.targets()?;
        let one = targets.len() == 1;
        let ask = |client: Client| {
            let named = named.clone();
            async move { lift(&client, &id, &named, one).await }
        };
        Ok(ask_all(targets, ask).await)
    };
    let answers = block_on(work, "nodes that were asked may have lifted them: run it again")?;
    let hex = |freezes: &[FreezeId]| freezes.iter().map(FreezeId::to_string).collect::<Vec<_>>();
    let row = |(node, answer): &(String, Result<Vec<FreezeId>, ClientError>)| match answer {
        Ok(left) => Row { node: node.clone(), in_force: Some(hex(left)), ..Row::default() },
        Err(error) => Row { node: node.clone(), error: Some(error.into()), ..Row::default() },
    };
    if out.is_json() {
        out.object(&Report { key_group: id.to_string(), nodes: answers.iter().map(row).collect() })?;
    } else {
        for (node, answer) in &answers {
            match answer.as_deref() {
                Ok([]) => out.line(format!("{node}: no freeze is in force"))?,
                Ok(left) => out.line(format!("{node}: still in force: {}", hex(left).join(", ")))?,
                Err(_) => {}
            }
        }
    }
    all_done(&answers)
}

/// Lifts what was named on one node. A node alone is told all of it, and says what it does not know; of several, each has
/// freezes of its own.
async fn lift(
    client: &Client,
    id: &KeyGroupId,
    named: &BTreeSet<FreezeId>,
    alone: bool,
) -> Result<Vec<FreezeId>, ClientError> {
    if alone {
        return client.thaw(id, &Vec::from_iter(named.iter().copied())).await;
    }
    let in_force = client.key_group(id).await?.info.freezes;
    let own: Vec<FreezeId> = in_force.iter().copied().filter(|freeze| named.contains(freeze)).collect();
    if own.is_empty() { Ok(in_force) } else { client.thaw(id, &own).await }
}
