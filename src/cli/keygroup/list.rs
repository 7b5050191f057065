//! `frostkeep keygroup list`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::cli::reach::{NETWORK_HELP, NodeArgs, Trouble, all_done, ask_all, block_on};
use crate::cli::table::table;
use crate::cli::{CliError, Output};
use crate::client::ClientError;
use crate::client::view::KeyGroupInfo;
use crate::ids::KeyGroupId;

const HELP: &str = "Examples:
  frostkeep keygroup list --all --roster roster.toml --key ops.key
  frostkeep keygroup list --socket /var/lib/frostkeep/admin.sock --json";

/// Arguments of `frostkeep keygroup list`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"))]
pub struct Args {
    #[command(flatten)]
    nodes: NodeArgs,
}

pub(super) fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let work = async { Ok(ask_all(args.nodes.targets()?, |client| async move { client.key_groups().await }).await) };
    let answers = block_on(work, "nothing was changed")?;
    out.show(&Report::of(&answers))?;
    all_done(&answers)
}

#[derive(Serialize)]
struct Report {
    key_groups: Vec<Group>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    node: String,
    error: Trouble,
}

#[derive(Serialize)]
struct Group {
    id: String,
    threshold: u16,
    members: usize,
    attempt_policy: String,
    ceremony: String,
    nodes: Vec<Seen>,
}

/// How one node sees it.
#[derive(Serialize)]
struct Seen {
    node: String,
    phase: &'static str,
    local_members: Vec<u16>,
    frozen: bool,
    roster_agrees: bool,
    sessions: u64,
}

impl Report {
    fn of(answers: &[(String, Result<Vec<KeyGroupInfo>, ClientError>)]) -> Self {
        let mut groups: BTreeMap<KeyGroupId, Group> = BTreeMap::new();
        let mut failed = Vec::new();
        for (node, answer) in answers {
            match answer {
                Ok(held) => {
                    for group in held {
                        groups.entry(group.id).or_insert_with(|| Group::of(group)).nodes.push(Seen::of(node, group));
                    }
                }
                Err(error) => failed.push(Failed { node: node.clone(), error: error.into() }),
            }
        }
        Self { key_groups: groups.into_values().collect(), failed }
    }
}

impl Group {
    fn of(group: &KeyGroupInfo) -> Self {
        Self {
            id: group.id.to_string(),
            threshold: group.threshold,
            members: group.seats.len(),
            attempt_policy: group.attempt_policy.to_string(),
            ceremony: group.ceremony.to_string(),
            nodes: Vec::new(),
        }
    }

    /// The nodes for which `test` holds; a dash for none.
    fn where_<'a>(&'a self, test: impl Fn(&Seen) -> bool + 'a) -> String {
        let names: Vec<&str> = self.nodes.iter().filter(|seen| test(seen)).map(|seen| seen.node.as_str()).collect();
        if names.is_empty() { "-".into() } else { names.join(",") }
    }
}

impl Seen {
    fn of(node: &str, group: &KeyGroupInfo) -> Self {
        Self {
            node: node.to_owned(),
            phase: group.phase.name(),
            local_members: group.local_members.iter().map(|member| member.number()).collect(),
            frozen: group.frozen,
            roster_agrees: group.roster_agrees,
            sessions: group.sessions,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key_groups.is_empty() {
            return f.write_str("no key groups");
        }
        let row = |group: &Group| {
            [
                group.id.clone(),
                format!("{} of {}", group.threshold, group.members),
                group.attempt_policy.clone(),
                group.where_(|seen| seen.phase == "active"),
                group.where_(|seen| seen.phase != "active"),
                group.where_(|seen| seen.frozen),
                group.where_(|seen| !seen.roster_agrees),
            ]
        };
        let rows: Vec<[String; 7]> = self.key_groups.iter().map(row).collect();
        let headings = ["KEY GROUP", "NEEDS", "POLICY", "ACTIVE ON", "OTHERWISE ON", "FROZEN ON", "ROSTER DIFFERS ON"];
        f.write_str(&table(headings, &rows))
    }
}
