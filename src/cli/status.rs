//! `frostkeep status`: how the nodes stand, a line each.

use std::fmt;

use serde::Serialize;

use super::reach::{LocalArgs, NETWORK_HELP, NetworkArgs, Trouble, ask_all, block_on, select};
use super::table::table;
use super::{CliError, Output};
use crate::client::Patience;
use crate::client::view::{KeyGroupInfo, NodePhase, NodeStatus};
use crate::ids::to_hex;
use crate::wire::v1;

/// How long a node is waited for, milliseconds.
const REACHED_MS_MAX: u64 = 6_000;

const HELP: &str =
    "A node needs attention when it is not reached, when its state is not open, or when it would take no fresh work:
then the exit code is 4. FROZEN counts key groups that release nothing.

Examples:
  frostkeep status --roster roster.toml --key ops.key
  frostkeep status --node north --json
  frostkeep status --config /etc/frostkeep/node.toml";

/// Arguments of `frostkeep status`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"))]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Only this node; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["socket", "config"])]
    node: Vec<String>,
    #[command(flatten)]
    local: LocalArgs,
}

/// Prints how the nodes stand.
///
/// # Errors
/// [`CliError`] with exit code 4 when some node needs attention; the table is printed all the same.
pub fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let report = block_on(asked(&args), "nothing was changed")?;
    out.show(&report)?;
    let attention: Vec<String> =
        report.nodes.iter().filter(|node| node.needs_attention()).map(|node| node.name.clone()).collect();
    if attention.is_empty() {
        return Ok(());
    }
    let text = format!("{} of {} nodes need attention: {}", attention.len(), report.nodes.len(), attention.join(", "));
    Err(CliError::surroundings(text).with_hint("`--json` says all that each node says of itself"))
}

async fn asked(args: &Args) -> Result<Report, CliError> {
    let (targets, roster_hash) = match args.local.target()? {
        Some(target) => (vec![target], None),
        None => {
            let network = args.network.network()?;
            let hash = network.roster().hash();
            (select(&network, &args.node)?, Some(hash))
        }
    };
    let answers = ask_all(targets, |client| async move {
        // A node that is down says so at once.
        let client = client.with(Patience { call_ms_max: REACHED_MS_MAX, ..Patience::once() });
        let status = client.status().await?;
        // Only an open node knows its key groups.
        let groups = if status.phase == NodePhase::Open { client.key_groups().await? } else { Vec::new() };
        Ok((status, groups))
    });
    let nodes = answers.await.into_iter().map(|(name, answer)| match answer {
        Ok((status, groups)) => Row::of(name, &status, &groups, roster_hash),
        Err(error) => Row { name, error: Some((&error).into()), ..Row::default() },
    });
    Ok(Report { nodes: nodes.collect() })
}

#[derive(Serialize)]
struct Report {
    nodes: Vec<Row>,
}

/// One node. Fields that are not known are left out.
#[derive(Default, Serialize)]
struct Row {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    said: Option<Said>,
}

#[derive(Serialize)]
struct Said {
    version: String,
    phase: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    ready: bool,
    coordination: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    serving_pin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_pin: Option<String>,
    roster_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    roster_is_ours: Option<bool>,
    provider: Provider,
    storage: Storage,
    anchor: Anchor,
    epoch: u64,
    durable_position: u64,
    counters: Counters,
    connections: Connections,
    key_groups: Vec<Group>,
}

#[derive(Serialize)]
struct Provider {
    state: String,
    calls: u64,
    outages: u64,
    agents_started: u64,
    outages_drilled: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    outage: Option<Outage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drill: Option<Drill>,
}

#[derive(Serialize)]
struct Token {
    name: String,
    state: String,
    current: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    outage: Option<Outage>,
}

#[derive(Serialize)]
struct Drill {
    id: String,
    kind: &'static str,
    by: String,
    since_unix: u64,
    left_ms: u64,
}

#[derive(Serialize)]
struct Outage {
    class: String,
    detail: String,
    token: String,
    since_unix: u64,
    lasted_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try_ms: Option<u64>,
}

impl From<v1::Outage> for Outage {
    fn from(outage: v1::Outage) -> Self {
        let v1::Outage { class, detail, token, since_unix, lasted_ms, next_try_ms } = outage;
        Self { class, detail, token, since_unix, lasted_ms, next_try_ms }
    }
}

impl Provider {
    /// Tokens that are away or that do not open everything alone yet, while others do the work.
    fn degraded(&self) -> impl Iterator<Item = &Token> {
        let others = self.outage.is_none() && self.tokens.len() > 1;
        self.tokens.iter().filter(move |token| others && (token.outage.is_some() || !token.current))
    }

    fn cell(&self) -> String {
        let away = self.degraded().count();
        match &self.outage {
            Some(outage) => format!("{} ({})", self.state, outage.class),
            None if away > 0 => {
                format!("{} ({} of {} tokens)", self.state, self.tokens.len() - away, self.tokens.len())
            }
            None => self.state.clone(),
        }
    }
}

#[derive(Serialize)]
struct Storage {
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    releases: String,
}

#[derive(Serialize)]
struct Anchor {
    strength: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_records: Option<u64>,
}

#[derive(Serialize)]
struct Counters {
    rounds_fresh: u64,
    rounds_replayed: u64,
    records: u64,
    seals: u64,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Connections {
    open: u64,
    accepted: u64,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Refused {
    reason: String,
    count: u64,
}

#[derive(Serialize)]
struct Group {
    id: String,
    phase: &'static str,
    frozen: bool,
    roster_agrees: bool,
    sessions: u64,
}

fn refused(counts: &[v1::RefusalCount]) -> Vec<Refused> {
    counts.iter().map(|one| Refused { reason: one.reason.clone(), count: one.count }).collect()
}

impl Row {
    fn of(name: String, status: &NodeStatus, groups: &[KeyGroupInfo], ours: Option<[u8; 32]>) -> Self {
        let message = &status.message;
        let (provider, storage) =
            (message.provider.clone().unwrap_or_default(), message.storage.clone().unwrap_or_default());
        let (anchor, counters) =
            (message.anchor.clone().unwrap_or_default(), message.counters.clone().unwrap_or_default());
        let connections = message.connections.clone().unwrap_or_default();
        let token = |token: v1::TokenStatus| Token {
            name: token.name,
            state: token.state,
            current: token.current,
            outage: token.outage.map(Outage::from),
        };
        let group = |group: &KeyGroupInfo| Group {
            id: group.id.to_string(),
            phase: group.phase.name(),
            frozen: group.frozen,
            roster_agrees: group.roster_agrees,
            sessions: group.sessions,
        };
        let said = Said {
            version: message.version.clone(),
            phase: status.phase.name(),
            reason: message.reason.clone(),
            problem: message.problem.clone(),
            ready: message.ready,
            coordination: message.coordination,
            identity: status.identity.map(|identity| identity.to_string()),
            serving_pin: status.serving_pin.to_string(),
            client_pin: status.client_pin.map(|pin| pin.to_string()),
            roster_hash: to_hex(&status.roster_hash),
            roster_is_ours: ours.map(|hash| hash == status.roster_hash),
            provider: Provider {
                state: provider.state,
                calls: provider.calls,
                outages: provider.outages,
                agents_started: provider.agents_started,
                outage: provider.outage.map(Outage::from),
                tokens: provider.tokens.into_iter().map(token).collect(),
                outages_drilled: provider.outages_drilled,
                drill: status.drill.as_ref().map(|drill| Drill {
                    id: drill.drill.to_string(),
                    kind: drill.kind.name(),
                    by: drill.by.clone(),
                    since_unix: drill.since_unix,
                    left_ms: drill.left_ms,
                }),
            },
            storage: Storage { state: storage.state, detail: storage.detail, releases: storage.releases },
            anchor: Anchor { strength: anchor.strength, window_records: anchor.window_records },
            epoch: message.epoch,
            durable_position: message.durable_position,
            counters: Counters {
                rounds_fresh: counters.rounds_fresh,
                rounds_replayed: counters.rounds_replayed,
                records: counters.records,
                seals: counters.seals,
                refused: refused(&counters.refused),
            },
            connections: Connections {
                open: connections.open,
                accepted: connections.accepted,
                refused: refused(&connections.refused),
            },
            key_groups: groups.iter().map(group).collect(),
        };
        Self { name, error: None, said: Some(said) }
    }

    fn needs_attention(&self) -> bool {
        let away = |said: &Said| said.provider.tokens.iter().any(|token| token.outage.is_some());
        self.said.as_ref().is_none_or(|said| !said.ready || away(said))
    }

    fn cells(&self) -> [String; 8] {
        let Some(said) = &self.said else {
            let cells = [self.name.as_str(), "unreachable", "no", "-", "-", "-", "-", "-"];
            return cells.map(str::to_owned);
        };
        let frozen = said.key_groups.iter().filter(|group| group.frozen).count();
        [
            self.name.clone(),
            said.phase.to_owned(),
            if said.ready { "yes" } else { "no" }.to_owned(),
            said.provider.cell(),
            said.storage.state.clone(),
            said.durable_position.to_string(),
            format!("{frozen} of {}", said.key_groups.len()),
            match said.roster_is_ours {
                Some(true) => "same",
                Some(false) => "DIFFERS",
                None => "-",
            }
            .to_owned(),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 8]> = self.nodes.iter().map(Row::cells).collect();
        let headings = ["NODE", "STATE", "READY", "PROVIDER", "STORAGE", "POSITION", "FROZEN", "ROSTER"];
        writeln!(f, "{}", table(headings, &rows))?;
        for node in &self.nodes {
            match (&node.error, &node.said) {
                (Some(error), _) => writeln!(f, "{}: {}", node.name, error.problem())?,
                (None, Some(said)) if !said.problem.is_empty() => writeln!(f, "{}: {}", node.name, said.problem)?,
                _ => {}
            }
            let drill = node.said.as_ref().and_then(|said| said.provider.drill.as_ref());
            if let Some(Drill { kind, by, left_ms, .. }) = drill {
                writeln!(f, "{}: a drill is on, {kind}, begun by {by}: over in {left_ms} ms", node.name)?;
            }
            let outage = node.said.as_ref().and_then(|said| said.provider.outage.as_ref());
            if let Some(outage) = outage {
                let seconds = outage.lasted_ms / 1_000;
                writeln!(f, "{}: token {} is out for {seconds} s: {}", node.name, outage.token, outage.detail)?;
            }
            for token in node.said.iter().flat_map(|said| said.provider.degraded()) {
                let (node, name) = (&node.name, &token.name);
                match &token.outage {
                    Some(Outage { lasted_ms, detail, .. }) => {
                        let seconds = lasted_ms / 1_000;
                        writeln!(
                            f,
                            "{node}: degraded: token {name} is out for {seconds} s, the others serve: {detail}"
                        )?;
                    }
                    None => writeln!(f, "{node}: token {name} is back and is being caught up")?,
                }
            }
        }
        Ok(())
    }
}
