//! `frostkeep sign`: a signature for a message, a PSBT or a transaction. This process coordinates, or a node does.

mod approve;
mod blamed;
mod failure;
mod input;
mod transaction;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use self::failure::unsigned;
use self::input::PrevoutArgument;
use super::keygroup::{not_known, patience};
use super::progress::Reporter;
use super::reach::{NETWORK_HELP, NetworkArgs, block_on, named};
use super::{CliError, Output};
use crate::bitcoin::ScriptBytes;
use crate::client::{KnownGroup, Network, NodeClient, Signed};
use crate::engine::Subject;
use crate::ids::{KeyGroupId, MerkleRoot, Message, to_hex};

const HELP: &str = "A PSBT or a transaction is first shown to every member's node: t members must approve it, and what the policy forbids is
refused with the rule. Then every input of the key group is signed; inputs of others are left alone. A message by itself is
signed only where the policy says danger_sign_any_message, or where it is a signature hash that was approved before.

It is safe to run the command again: what is durable is collected, not made anew. Under the attempt policy evidence a node
coordinates: the first that will, or --via.

Examples:
  frostkeep sign --key-group 02ab..cd --psbt payment.psbt --out signed.psbt
  frostkeep sign --key-group 02ab..cd --psbt - --finalize < payment.psbt
  frostkeep sign --key-group 02ab..cd --transaction 0200..00 --prevout 100000:5120ab..cd
  frostkeep sign --key-group 02ab..cd --message 00112233..ff --via north";

/// Arguments of `frostkeep sign`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"),
    group = clap::ArgGroup::new("what").required(true).args(["message", "psbt", "transaction"])
)]
pub struct Args {
    #[command(flatten)]
    nodes: NetworkArgs,
    /// The key group that signs
    #[arg(long, value_name = "ID")]
    key_group: KeyGroupId,
    /// A message, 32 bytes as hex
    #[arg(long, value_name = "HEX")]
    message: Option<Message>,
    /// A PSBT, binary or base64; - is standard input
    #[arg(long, value_name = "FILE")]
    psbt: Option<PathBuf>,
    /// An unsigned transaction, hex
    #[arg(long, value_name = "HEX", requires = "prevout")]
    transaction: Option<ScriptBytes>,
    /// What an input of the transaction spends: satoshi, a colon, the script as hex. One for each input, in their order
    #[arg(long, value_name = "VALUE:SCRIPT", requires = "transaction")]
    prevout: Vec<PrevoutArgument>,
    /// The Taproot Merkle root of an output of the key group that is spent; may be repeated with --transaction. Outputs
    /// without a script tree need none, and a PSBT says its own
    #[arg(long, value_name = "HEX", conflicts_with = "psbt")]
    root: Vec<MerkleRoot>,
    /// Write the signed PSBT to this file instead of printing it
    #[arg(long, value_name = "FILE", requires = "psbt")]
    out: Option<PathBuf>,
    /// Take the final transaction out of the PSBT, which has to be complete
    #[arg(long, requires = "psbt")]
    finalize: bool,
    /// The node that coordinates
    #[arg(long, value_name = "NODE")]
    via: Option<String>,
    /// The longest that it may take, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    deadline: u64,
}

/// What the sessions of one command have in common.
struct Course {
    network: Network,
    group: KnownGroup,
    via: Option<NodeClient>,
    deadline_ms: u64,
    reporter: Arc<Reporter>,
}

/// Signs.
///
/// # Errors
/// [`CliError`].
pub fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let reporter = Arc::new(Reporter::new(out.is_json()));
    // Before anything is asked: a file that is no PSBT asks nobody.
    let what = input::read(&args)?;
    let work = async {
        let network = args.nodes.network()?;
        let via = args.via.as_ref().map(|name| named(&network, name).cloned()).transpose()?;
        let group = network.key_group(&args.key_group, patience()).await.map_err(|error| not_known(&error))?;
        let deadline_ms = args.deadline.saturating_mul(1_000);
        let course = Course { network, group, via, deadline_ms, reporter: Arc::clone(&reporter) };
        match what {
            input::What::Message(subject) => course.message(subject).await.map(Done::Message),
            input::What::Psbt(file) => transaction::sign(Arc::new(course), *file, &args).await.map(Done::Transaction),
        }
    };
    let done = block_on(work, "what is durable is kept by the nodes: run the same command again");
    reporter.clear();
    match done? {
        Done::Message(report) => {
            report.blamed.iter().for_each(|one| reporter.note(&one.to_string()));
            out.show(&report)
        }
        Done::Transaction(report) => report.show(&reporter, out),
    }
}

enum Done {
    Message(MessageReport),
    Transaction(transaction::Report),
}

impl Course {
    /// One session. `who` heads its lines of progress.
    async fn session(&self, who: &str, subject: Subject) -> Result<Signed, CliError> {
        let watch = |line: &str| self.reporter.at(who, line);
        let signed = self.network.sign(&self.group, subject, self.via.as_ref(), self.deadline_ms, &watch).await;
        signed.map_err(|error| unsigned(&self.network, &self.group, &error))
    }

    fn blamed<'a>(&self, signed: impl IntoIterator<Item = &'a Signed>) -> Vec<blamed::Shown> {
        blamed::shown(&self.network, &self.group, signed)
    }

    async fn message(&self, subject: Subject) -> Result<MessageReport, CliError> {
        let signed = self.session("message", subject).await?;
        Ok(MessageReport {
            key_group: self.group.id().to_string(),
            message: subject.message.to_string(),
            taproot_merkle_root: subject.root.map(|root| root.to_string()),
            output_key: to_hex(&self.group.certificate.group().output_key(subject.root.as_ref())),
            session: signed.session.to_string(),
            signature: to_hex(&signed.signature),
            unconfirmed: signed.unconfirmed.iter().map(|member| member.number()).collect(),
            blamed: self.blamed([&signed]),
        })
    }
}

#[derive(Serialize)]
struct MessageReport {
    key_group: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    taproot_merkle_root: Option<String>,
    output_key: String,
    session: String,
    signature: String,
    unconfirmed: Vec<u16>,
    blamed: Vec<blamed::Shown>,
}

impl fmt::Display for MessageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.signature)
    }
}
