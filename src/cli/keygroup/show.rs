//! `frostkeep keygroup show`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::cli::reach::{NETWORK_HELP, NetworkArgs, Trouble, block_on};
use crate::cli::table::table;
use crate::cli::{CliError, Output};
use crate::client::view::{GroupPhase, KeyGroupDetail};
use crate::client::{KnownGroup, Network, NotKnown, Patience};
use crate::identity::IdentityKey;
use crate::ids::{KeyGroupId, to_hex};
use crate::keygen::{Confirmation, ConfirmedKeyGroup};
use crate::policy::SigningPolicy;

/// How long nodes are waited for, milliseconds.
const REACHED_MS_MAX: u64 = 6_000;

const HELP: &str =
    "The address is shown when every holder of a seat has confirmed, again and signed, that it keeps the certificate.

Examples:
  frostkeep keygroup show 02ab..cd --roster roster.toml --key ops.key
  frostkeep keygroup show 02ab..cd --network testnet --json";

/// Arguments of `frostkeep keygroup show`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"))]
pub struct Args {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    #[command(flatten)]
    nodes: NetworkArgs,
    /// The network of the address
    #[arg(long, value_enum, default_value_t)]
    network: crate::cli::BitcoinNetwork,
}

pub(super) fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let work = async {
        let network = args.nodes.network()?;
        let group = network.key_group(&args.key_group, patience()).await.map_err(|error| not_known(&error))?;
        let confirmed = confirmed(&network, &group).await;
        Ok(Shown::of(&network, &group, confirmed, args.network))
    };
    out.show(&block_on(work, "nothing was changed")?)
}

/// For an answer that people wait for.
pub fn patience() -> Patience {
    Patience::short_ms(REACHED_MS_MAX)
}

/// A key group about which the nodes say too little.
pub fn not_known(error: &NotKnown) -> CliError {
    CliError::refused(error.reason, error.to_string())
}

/// The key group as every holder of a seat confirms it, or who does not. Only nodes that have the certificate already are
/// asked: their word is the one that they gave before.
async fn confirmed(network: &Network, group: &KnownGroup) -> Result<ConfirmedKeyGroup, String> {
    let bytes = group.certificate.to_bytes();
    let active: BTreeMap<&str, bool> = group
        .answers
        .iter()
        .map(|(node, answer)| {
            (node.as_str(), answer.as_ref().is_ok_and(|detail| detail.info.phase == GroupPhase::Active))
        })
        .collect();
    let mut confirmations: Vec<Confirmation> = Vec::new();
    let mut problems: BTreeMap<IdentityKey, String> = BTreeMap::new();
    let mut asked = tokio::task::JoinSet::new();
    for node in network.nodes().iter().filter(|node| active.get(node.name.as_str()) == Some(&true)) {
        let (client, bytes, identity) = (node.client.with(patience()), bytes.clone(), node.identity);
        asked.spawn(async move { (identity, client.certify(&bytes).await) });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((_, Ok(said))) if said.verify(&group.certificate).is_ok() => confirmations.push(said),
            Ok((identity, Ok(_))) => drop(problems.insert(identity, "a confirmation that it did not sign".into())),
            Ok((identity, Err(error))) => drop(problems.insert(identity, error.to_string())),
            Err(_) => {}
        }
    }
    let said = |identity| confirmations.iter().any(|confirmation| confirmation.identity() == identity);
    let holders = group.certificate.transcript().parameters().identities();
    let missing = holders.into_iter().filter(|identity| !said(*identity)).map(|identity| {
        let node = network.node_of(&identity);
        let name = node.map_or_else(|| format!("identity {identity}"), |node| node.name.clone());
        problems.get(&identity).map_or_else(|| name.clone(), |problem| format!("{name} ({problem})"))
    });
    let missing: Vec<String> = missing.collect();
    ConfirmedKeyGroup::new(group.certificate.clone(), confirmations)
        .map_err(|_| format!("not confirmed by {}", missing.join(", ")))
}

#[derive(Serialize)]
struct Shown {
    key_group: String,
    threshold: u16,
    attempt_policy: String,
    ceremony: String,
    internal_key: String,
    output_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_address_because: Option<String>,
    members: Vec<Seat>,
    nodes: Vec<Seen>,
    signing_policies: Vec<Policy>,
}

#[derive(Serialize)]
struct Seat {
    member: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    verifying_share: String,
}

/// What one node says.
#[derive(Serialize)]
struct Seen {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    said: Option<Said>,
}

#[derive(Serialize)]
struct Said {
    phase: &'static str,
    local_members: Vec<u16>,
    sessions: u64,
    frozen: bool,
    freezes: Vec<String>,
    roster_agrees: bool,
    certificate_agrees: bool,
    signing_policy_hash: String,
}

/// A policy in force, and where: more than one only while `policy set` is half done.
#[derive(Serialize)]
struct Policy {
    hash: String,
    nodes: Vec<String>,
    policy: SigningPolicy,
}

impl Shown {
    fn of(
        network: &Network,
        group: &KnownGroup,
        confirmed: Result<ConfirmedKeyGroup, String>,
        chain: crate::cli::BitcoinNetwork,
    ) -> Self {
        let key = group.certificate.group();
        let original = group.certificate.seats();
        let seat = |(member, identity): (&crate::ids::Member, &IdentityKey)| Seat {
            member: member.number(),
            node: network.node_of(identity).map(|node| node.name.clone()),
            identity: identity.to_string(),
            replaces: original.get(member).filter(|first| *first != identity).map(ToString::to_string),
            verifying_share: key.verifying_share(*member).map(|share| to_hex(&share)).unwrap_or_default(),
        };
        let mut policies: BTreeMap<[u8; 32], Policy> = BTreeMap::new();
        for (node, answer) in &group.answers {
            let Ok(KeyGroupDetail { info, policy, .. }) = answer else { continue };
            let hash = info.signing_policy_hash;
            let entry = policies.entry(hash).or_insert_with(|| Policy {
                hash: to_hex(&hash),
                nodes: Vec::new(),
                policy: policy.clone(),
            });
            entry.nodes.push(node.clone());
        }
        Self {
            key_group: group.id().to_string(),
            threshold: key.threshold(),
            attempt_policy: group.attempt_policy().to_string(),
            ceremony: group.certificate.ceremony().to_string(),
            internal_key: to_hex(&key.internal_key()),
            output_key: to_hex(&key.output_key(None)),
            address: confirmed.as_ref().ok().map(|confirmed| confirmed.address(chain.into()).to_string()),
            descriptor: confirmed.as_ref().ok().map(ConfirmedKeyGroup::descriptor),
            no_address_because: confirmed.err(),
            members: group.seats.iter().map(seat).collect(),
            nodes: group.answers.iter().map(|(node, answer)| Seen::of(group, node, answer)).collect(),
            signing_policies: policies.into_values().collect(),
        }
    }
}

impl Seen {
    fn of(group: &KnownGroup, node: &str, answer: &Result<KeyGroupDetail, crate::client::ClientError>) -> Self {
        let node = node.to_owned();
        match answer {
            Err(error) => Self { node, error: Some(error.into()), said: None },
            Ok(KeyGroupDetail { info, certificate, .. }) => {
                let said = Said {
                    phase: info.phase.name(),
                    local_members: info.local_members.iter().map(|member| member.number()).collect(),
                    sessions: info.sessions,
                    frozen: info.frozen,
                    freezes: info.freezes.iter().map(ToString::to_string).collect(),
                    roster_agrees: info.roster_agrees,
                    certificate_agrees: certificate.as_ref() == Some(&group.certificate) && info.seats == group.seats,
                    signing_policy_hash: to_hex(&info.signing_policy_hash),
                };
                Self { node, error: None, said: Some(said) }
            }
        }
    }

    fn cells(&self) -> [String; 6] {
        let Some(said) = &self.said else {
            let problem = self.error.as_ref().map_or("", |error| error.problem());
            return [self.node.clone(), problem.to_owned(), "-".into(), "-".into(), "-".into(), "-".into()];
        };
        let yes = |holds: bool| if holds { "yes".to_owned() } else { "NO".to_owned() };
        let members: Vec<String> = said.local_members.iter().map(u16::to_string).collect();
        let freezes = match (said.frozen, said.freezes.as_slice()) {
            (false, _) => "-".to_owned(),
            (true, []) => "frozen by an unreadable deny file".to_owned(),
            (true, freezes) => freezes.join(","),
        };
        let agrees = yes(said.certificate_agrees);
        [self.node.clone(), said.phase.into(), members.join(","), agrees, yes(said.roster_agrees), freezes]
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key group    {}", self.key_group)?;
        writeln!(f, "needs        {} of {} members", self.threshold, self.members.len())?;
        writeln!(f, "attempts     {}", self.attempt_policy)?;
        writeln!(f, "ceremony     {}", self.ceremony)?;
        writeln!(f, "output key   {}", self.output_key)?;
        match (&self.address, &self.descriptor) {
            (Some(address), Some(descriptor)) => {
                writeln!(f, "address      {address}")?;
                writeln!(f, "descriptor   {descriptor}")?;
            }
            _ => writeln!(f, "address      none: {}", self.no_address_because.as_deref().unwrap_or_default())?,
        }
        let seat = |seat: &Seat| {
            let replaces = seat.replaces.as_ref().map_or_else(|| "-".into(), Clone::clone);
            let node = seat.node.clone().unwrap_or_else(|| "not in the roster".into());
            [seat.member.to_string(), node, seat.identity.clone(), seat.verifying_share.clone(), replaces]
        };
        let rows: Vec<[String; 5]> = self.members.iter().map(seat).collect();
        writeln!(f, "\n{}", table(["MEMBER", "NODE", "IDENTITY", "VERIFYING SHARE", "REPLACES"], &rows))?;
        let rows: Vec<[String; 6]> = self.nodes.iter().map(Seen::cells).collect();
        writeln!(f, "\n{}", table(["NODE", "STATE", "MEMBERS", "SEATS AGREE", "ROSTER AGREES", "FREEZES"], &rows))?;
        for policy in &self.signing_policies {
            let json = serde_json::to_string_pretty(&policy.policy).unwrap_or_default();
            write!(f, "\nsigning policy {} on {}:\n{json}\n", policy.hash, policy.nodes.join(", "))?;
        }
        Ok(())
    }
}
