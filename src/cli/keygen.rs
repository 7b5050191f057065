//! `frostkeep keygen`: the nodes make a key together, prove it with a trial signature, and only then it has an address.

mod failure;
mod unfinished;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use frostkeep_hsm::entropy;
use rand_core::RngCore;
use serde::Serialize;

use self::failure::{failed, unproved};
use self::unfinished::Unfinished;
use super::progress::Reporter;
use super::reach::{NETWORK_HELP, NetworkArgs, ask_all, block_on, select};
use super::{BitcoinNetwork, CliError, Output, policy};
use crate::ceremony::{CeremonyError, Driver, Event, Pace, Progress, Stands};
use crate::client::{KnownGroup, Network, NodeClient, Patience};
use crate::engine::trial_subject;
use crate::identity::IdentityKey;
use crate::ids::{AttemptPolicy, CeremonyId, Member, to_hex};
use crate::keygen::{ConfirmedKeyGroup, Parameters};
use crate::policy::SigningPolicy;
use crate::reasons::Reason;

/// How long nodes are asked whether they coordinate, milliseconds.
const REACHED_MS_MAX: u64 = 6_000;

const HELP: &str = "Every node of the roster that has members takes part. A pre-flight asks all of them before any secret exists, and everybody
who stands in the way is named. It is safe to run the command again: what an earlier run has left unfinished, with the same
parameters, is completed first.

The address is printed when every node has confirmed that it keeps the key, and a trial signature has proved it. Under
--policy evidence the trial needs nodes that coordinate.

Examples:
  frostkeep keygen --roster roster.toml --key ops.key --threshold 2
  frostkeep keygen --threshold 5 --policy evidence --signing-policy policy.json --network testnet
  frostkeep keygen --resume 00112233445566778899aabbccddeeff --threshold 2";

/// How attempts advance, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attempts {
    /// Any t members that are ready; a signature as long as t honest members answer
    Roast,
    /// One attempt after the other, each step proved (RFC-21)
    Evidence,
}

impl From<Attempts> for AttemptPolicy {
    fn from(attempts: Attempts) -> Self {
        match attempts {
            Attempts::Roast => Self::Roast,
            Attempts::Evidence => Self::Evidence,
        }
    }
}

/// Arguments of `frostkeep keygen`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"))]
pub struct Args {
    #[command(flatten)]
    nodes: NetworkArgs,
    /// Members that must sign together, from 2
    #[arg(long, value_name = "T")]
    threshold: u16,
    /// How attempts of a session advance
    #[arg(long, value_enum, default_value = "roast")]
    policy: Attempts,
    /// What the key may sign, JSON; without it, what `frostkeep policy template` prints
    #[arg(long, value_name = "FILE")]
    signing_policy: Option<PathBuf>,
    /// The network of the address
    #[arg(long, value_enum, default_value_t)]
    network: BitcoinNetwork,
    /// Complete the key generation of this id, which an earlier run with the same threshold and policies has left
    #[arg(long, value_name = "CEREMONY")]
    resume: Option<CeremonyId>,
    /// The longest that the trial signature may take, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    trial_deadline: u64,
}

/// Makes a key.
///
/// # Errors
/// [`CliError`] naming everybody who stood in the way.
pub fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let reporter = Arc::new(Reporter::new(out.is_json()));
    let interrupted = "run the same command again: what is unfinished is completed then";
    let made = block_on(make(&args, &reporter), interrupted);
    reporter.clear();
    out.show(&made?)
}

async fn make(args: &Args, reporter: &Arc<Reporter>) -> Result<Made, CliError> {
    let network = args.nodes.network()?;
    let driver = driver(&network, reporter);
    let signing_policy = match &args.signing_policy {
        Some(path) => policy::read(path)?,
        None => SigningPolicy::standard(),
    };
    let parameters = parameters(&network, args.threshold, args.policy.into(), &signing_policy)?;
    let confirmed = match args.resume {
        // No node is asked what the key was to be: the one that answers may be the one that lies.
        Some(ceremony) => {
            let resumed = driver.resume(&parameters.with_ceremony(ceremony)).await;
            resumed.map_err(|error| failed(&error))?
        }
        None => generate(&network, &driver, &parameters, &signing_policy, reporter).await?,
    };
    let group = KnownGroup::certified(confirmed.certificate().clone());
    let (id, ceremony) = (confirmed.id(), confirmed.certificate().ceremony());
    reporter.note("every node has confirmed the key; a trial signature proves it");
    let (_, subject) = trial_subject(&id, &ceremony);
    let told = Arc::clone(reporter);
    let watch = move |line: &str| told.at("trial", line);
    let deadline_ms = args.trial_deadline.saturating_mul(1_000);
    let trial = network.sign(&group, subject, None, deadline_ms, &watch).await;
    let trial = trial.map_err(|error| unproved(&id, &ceremony, &error))?;
    Ok(Made::of(&network, &confirmed, args.network, &trial))
}

fn driver(network: &Network, reporter: &Arc<Reporter>) -> Driver<NodeClient> {
    let told = Arc::clone(reporter);
    let observer = move |event: Event| {
        let Event { node, step, progress } = event;
        match progress {
            Progress::Started => told.at(&node, &format!("{step}")),
            Progress::Done => told.at(&node, &format!("{step}: done")),
            Progress::Retrying { problem } => told.at(&node, &format!("{step}: tried again: {problem}")),
            Progress::Failed { problem } => told.at(&node, &format!("{step}: failed: {problem}")),
        }
    };
    Driver::new(network.ceremony_nodes(), Pace::default(), Arc::new(observer))
}

async fn generate(
    network: &Network,
    driver: &Driver<NodeClient>,
    parameters: &Parameters,
    signing_policy: &SigningPolicy,
    reporter: &Reporter,
) -> Result<ConfirmedKeyGroup, CliError> {
    if parameters.attempt_policy() == AttemptPolicy::Evidence {
        somebody_coordinates(network).await?;
    }
    let (same, others): (Vec<Unfinished>, Vec<Unfinished>) =
        unfinished::find(network).await.into_iter().partition(|left| left.is_of(parameters));
    for left in others {
        let same = "with the threshold and the policies that it was begun with";
        reporter.note(&format!("{left}: `frostkeep keygen --resume {}`, {same}, completes it", left.ceremony));
    }
    for left in same {
        reporter.note(&format!("{left}, with the same parameters: it is completed first"));
        match driver.resume(&parameters.with_ceremony(left.ceremony)).await {
            Ok(confirmed) => return Ok(confirmed),
            Err(CeremonyError::Failed(over)) if over.stands == Stands::Over => {
                reporter.note(&over.to_string());
                reporter.note(&left.over_for_good());
            }
            Err(error @ CeremonyError::Setup(_)) => reporter.note(&error.to_string()),
            Err(error) => return Err(failed(&error)),
        }
    }
    reporter.note(&format!("key generation {} begins", parameters.ceremony()));
    driver.run(parameters, signing_policy).await.map_err(|error| failed(&error))
}

/// Under `evidence` nobody else can prove the key: better said before there is one. Nodes that do not answer are the
/// pre-flight's affair.
async fn somebody_coordinates(network: &Network) -> Result<(), CliError> {
    let asked = ask_all(select(network, &[])?, |client| async move {
        client.with(Patience::short_ms(REACHED_MS_MAX)).status().await
    });
    let answers = asked.await;
    let mut said = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).peekable();
    if said.peek().is_none() || said.any(|status| status.message.coordination) {
        return Ok(());
    }
    let text = "no node coordinates, which the attempt policy evidence needs: nothing was begun";
    Err(CliError::refused(Reason::CoordinationOff, text)
        .with_hint("`coordination = true` in the configuration of the members' nodes"))
}

/// A new ceremony of the members of the roster.
fn parameters(
    network: &Network,
    threshold: u16,
    attempts: AttemptPolicy,
    policy: &SigningPolicy,
) -> Result<Parameters, CliError> {
    let seats: BTreeMap<Member, IdentityKey> =
        network.nodes().iter().flat_map(|node| node.members.iter().map(|member| (*member, node.identity))).collect();
    let hash = policy.hash().map_err(|error| CliError::usage(error.to_string()))?;
    let mut id = [0; 16];
    entropy::os().fill_bytes(&mut id);
    Parameters::new(CeremonyId::new(id), threshold, seats, attempts, hash).map_err(|error| {
        CliError::usage(error.to_string()).with_hint("the members are those of the roster's [[node]] lines")
    })
}

#[derive(Serialize)]
struct Made {
    key_group: String,
    ceremony: String,
    threshold: u16,
    members: Vec<Seat>,
    attempt_policy: String,
    signing_policy_hash: String,
    address: String,
    descriptor: String,
    trial: Trial,
}

#[derive(Serialize)]
struct Seat {
    member: u16,
    node: String,
    identity: String,
}

#[derive(Serialize)]
struct Trial {
    session: String,
    signature: String,
}

impl Made {
    fn of(
        network: &Network,
        confirmed: &ConfirmedKeyGroup,
        chain: BitcoinNetwork,
        trial: &crate::client::Signed,
    ) -> Self {
        let certificate = confirmed.certificate();
        let parameters = certificate.transcript().parameters();
        let seat = |(member, identity): (&Member, &IdentityKey)| Seat {
            member: member.number(),
            node: network.node_of(identity).map(|node| node.name.clone()).unwrap_or_default(),
            identity: identity.to_string(),
        };
        Self {
            key_group: confirmed.id().to_string(),
            ceremony: certificate.ceremony().to_string(),
            threshold: parameters.threshold(),
            members: certificate.seats().iter().map(seat).collect(),
            attempt_policy: parameters.attempt_policy().to_string(),
            signing_policy_hash: to_hex(&parameters.signing_policy()),
            address: confirmed.address(chain.into()).to_string(),
            descriptor: confirmed.descriptor(),
            trial: Trial { session: trial.session.to_string(), signature: to_hex(&trial.signature) },
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key group    {}", self.key_group)?;
        writeln!(f, "needs        {} of {} members", self.threshold, self.members.len())?;
        for seat in &self.members {
            writeln!(f, "member {:<6}{}", seat.member, seat.node)?;
        }
        writeln!(f, "attempts     {}", self.attempt_policy)?;
        writeln!(f, "ceremony     {}", self.ceremony)?;
        writeln!(f, "proved       by the trial signature of session {}", self.trial.session)?;
        writeln!(f, "address      {}", self.address)?;
        write!(f, "descriptor   {}", self.descriptor)
    }
}
