//! `frostkeep roster`: whether a roster is one, whether the nodes agree with it, and reading it again.

use std::fmt;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::reach::{NETWORK_HELP, NetworkArgs, NodeArgs, Trouble, all_done, ask_all, block_on, select};
use super::table::table;
use super::{CliError, Output};
use crate::client::view::{KeyGroupInfo, NodePhase, NodeStatus};
use crate::client::{Client, ClientError, Patience, RosterReply};
use crate::ids::to_hex;
use crate::reasons::Reason;
use crate::roster::{NodeLine, Roster};

/// How long a node is waited for, milliseconds.
const REACHED_MS_MAX: u64 = 6_000;

const CHECK_HELP: &str = "Without --nodes only the file is read. With it, every node is asked: whether it has this very file in force, whether its
identity and its pins are those of its line, and whether its key groups agree with the members.

Examples:
  frostkeep roster check --roster roster.toml
  frostkeep roster check --nodes --roster roster.toml --key ops.key";

const RELOAD_HELP: &str = "A file that does not parse changes nothing on the node.

Examples:
  frostkeep roster reload --all --roster roster.toml --key ops.key
  frostkeep roster reload --socket /var/lib/frostkeep/admin.sock";

/// The verbs of `frostkeep roster`.
#[derive(Debug, Subcommand)]
pub enum RosterCommand {
    /// Read a roster file, and with --nodes ask the nodes whether it is theirs
    #[command(after_help = CHECK_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{CHECK_HELP}"))]
    Check(CheckArgs),
    /// Have nodes read their roster file again
    #[command(after_help = RELOAD_HELP, after_long_help = format!("{NETWORK_HELP}\n\n{RELOAD_HELP}"))]
    Reload(ReloadArgs),
}

/// The arguments of `frostkeep roster check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Ask the nodes as well
    #[arg(long)]
    nodes: bool,
}

/// The arguments of `frostkeep roster reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    nodes: NodeArgs,
}

/// Runs a verb of `frostkeep roster`.
///
/// # Errors
/// [`CliError`].
pub fn run(command: RosterCommand, out: &Output) -> Result<(), CliError> {
    match command {
        RosterCommand::Check(args) => check(&args, out),
        RosterCommand::Reload(args) => {
            let work = async {
                Ok(ask_all(args.nodes.targets()?, |client| async move { client.reload_roster().await }).await)
            };
            let answers = block_on(work, "nodes that were asked may have read it again")?;
            out.show(&Reloaded::of(&answers))?;
            all_done(&answers)
        }
    }
}

#[derive(Serialize)]
struct Reloaded {
    nodes: Vec<ReloadedNode>,
}

#[derive(Serialize)]
struct ReloadedNode {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    roster_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disagreeing_key_groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

impl Reloaded {
    fn of(answers: &[(String, Result<RosterReply, ClientError>)]) -> Self {
        let row = |(node, answer): &(String, Result<RosterReply, ClientError>)| ReloadedNode {
            node: node.clone(),
            roster_hash: answer.as_ref().ok().map(|reply| to_hex(&reply.hash)),
            lines: answer.as_ref().ok().map(|reply| (reply.nodes, reply.clients)),
            disagreeing_key_groups: answer
                .as_ref()
                .map(|reply| reply.disagreeing.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            error: answer.as_ref().err().map(Trouble::from),
        };
        Self { nodes: answers.iter().map(row).collect() }
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            let (Some(hash), Some((nodes, clients))) = (&node.roster_hash, node.lines) else { continue };
            writeln!(f, "{}: {nodes} nodes and {clients} clients, roster {hash}", node.node)?;
            for key_group in &node.disagreeing_key_groups {
                writeln!(f, "{}: contradicts the seats of key group {key_group}, which is refused now", node.node)?;
            }
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Checked {
    roster_hash: String,
    nodes: Vec<CheckedNode>,
    clients: Vec<CheckedClient>,
}

#[derive(Serialize)]
struct CheckedNode {
    name: String,
    address: String,
    identity: String,
    members: Vec<u16>,
    roles: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agrees: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Serialize)]
struct CheckedClient {
    name: String,
    pin: String,
    roles: Vec<&'static str>,
}

fn check(args: &CheckArgs, out: &Output) -> Result<(), CliError> {
    let roster = args.network.read_roster()?;
    let mut report = Checked::of(&roster);
    if args.nodes {
        let work = async {
            let network = args.network.network()?;
            let ask = |client: Client| async move {
                let client = client.with(Patience::short_ms(REACHED_MS_MAX));
                let status = client.status().await?;
                let groups = if status.phase == NodePhase::Open { client.key_groups().await? } else { Vec::new() };
                Ok((status, groups))
            };
            Ok(ask_all(select(&network, &[])?, ask).await)
        };
        let answers = block_on(work, "nothing was changed")?;
        for ((node, line), (_, answer)) in report.nodes.iter_mut().zip(roster.nodes()).zip(&answers) {
            node.problems = match answer {
                Ok((status, groups)) => contradictions(&roster, line, status, groups),
                Err(error) => vec![error.to_string()],
            };
            node.agrees = Some(node.problems.is_empty());
        }
    }
    out.show(&report)?;
    let wrong: Vec<&str> =
        report.nodes.iter().filter(|node| node.agrees == Some(false)).map(|node| node.name.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} of {} nodes do not agree, or are not reached: {}",
        wrong.len(),
        report.nodes.len(),
        wrong.join(", ")
    );
    Err(CliError::refused(Reason::RosterMismatch, text)
        .with_hint("bring the file to every node, then `frostkeep roster reload`"))
}

/// What a node says that its line, or the roster, does not.
fn contradictions(roster: &Roster, line: &NodeLine, status: &NodeStatus, groups: &[KeyGroupInfo]) -> Vec<String> {
    let mut found = Vec::new();
    if status.roster_hash != roster.hash() {
        found.push(format!("it has another roster in force, {}", to_hex(&status.roster_hash)));
    }
    if status.message.name != line.name {
        found.push(format!("it calls itself {:?}", status.message.name));
    }
    if let Some(identity) = status.identity.filter(|identity| *identity != line.identity) {
        found.push(format!("its identity is {identity}"));
    }
    if status.serving_pin != line.serving_pin {
        found.push(format!("its serving pin is {}", status.serving_pin));
    }
    if let Some(pin) = status.client_pin.filter(|pin| *pin != line.client_pin) {
        found.push(format!("its client pin is {pin}"));
    }
    if status.phase != NodePhase::Open {
        found.push(format!("it is {}: its key groups are not known", status.phase.name()));
    }
    for group in groups {
        let members = roster.disagreements(&group.seats);
        if !members.is_empty() {
            let members: Vec<String> = members.iter().map(ToString::to_string).collect();
            found.push(format!("key group {} has other holders of members {}", group.id, members.join(", ")));
        }
    }
    found
}

impl Checked {
    fn of(roster: &Roster) -> Self {
        let node = |line: &NodeLine| CheckedNode {
            name: line.name.clone(),
            address: line.address.clone(),
            identity: line.identity.to_string(),
            members: line.members.iter().map(|member| member.number()).collect(),
            roles: line.roles.iter().map(|role| role.name()).collect(),
            agrees: None,
            problems: Vec::new(),
        };
        let client = |line: &crate::roster::ClientLine| CheckedClient {
            name: line.name.clone(),
            pin: line.pin.to_string(),
            roles: line.roles.iter().map(|role| role.name()).collect(),
        };
        Self {
            roster_hash: to_hex(&roster.hash()),
            nodes: roster.nodes().iter().map(node).collect(),
            clients: roster.clients().iter().map(client).collect(),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[&str]| if items.is_empty() { "-".to_owned() } else { items.join(",") };
        let members = |node: &CheckedNode| {
            let members: Vec<String> = node.members.iter().map(u16::to_string).collect();
            if members.is_empty() { "-".to_owned() } else { members.join(",") }
        };
        writeln!(f, "roster {}", self.roster_hash)?;
        let agrees = |node: &CheckedNode| match node.agrees {
            None => "not asked",
            Some(true) => "agrees",
            Some(false) => "DOES NOT AGREE",
        };
        let row = |node: &CheckedNode| {
            [node.name.clone(), node.address.clone(), members(node), list(&node.roles), agrees(node).to_owned()]
        };
        let rows: Vec<[String; 5]> = self.nodes.iter().map(row).collect();
        writeln!(f, "{}", table(["NODE", "ADDRESS", "MEMBERS", "ROLES", "SAYS"], &rows))?;
        let rows: Vec<[String; 3]> =
            self.clients.iter().map(|client| [client.name.clone(), list(&client.roles), client.pin.clone()]).collect();
        if !rows.is_empty() {
            writeln!(f, "{}", table(["CLIENT", "ROLES", "PIN"], &rows))?;
        }
        for node in &self.nodes {
            for problem in &node.problems {
                writeln!(f, "{}: {problem}", node.name)?;
            }
        }
        Ok(())
    }
}
