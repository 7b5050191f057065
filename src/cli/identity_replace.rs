//! `frostkeep identity replace`: gives a member of a key group another node identity, for one that is lost.

use super::keygroup::recorded;
use super::reach::{NETWORK_HELP, NodeArgs, ask_all, block_on};
use super::{CliError, Output};
use crate::identity::IdentityKey;
use crate::ids::{KeyGroupId, Member};

const HELP: &str = "Every node of the key group has to know it, and the roster has to agree: change the roster's line first, then say it to all
nodes. The key share of a lost node does not come back by it; its seat only speaks under the new identity again when its state
was restored.

Examples:
  frostkeep identity replace 02ab..cd --member 3 --identity 5f1e..9a --all";

/// Arguments of `frostkeep identity replace`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, after_long_help = format!("{NETWORK_HELP}\n\n{HELP}"))]
pub struct Args {
    /// The key group
    #[arg(value_name = "KEYGROUP")]
    key_group: KeyGroupId,
    /// The member
    #[arg(long, value_name = "M", value_parser = member)]
    member: Member,
    /// The new identity: 64 hex digits, as `frostkeep identity` prints it
    #[arg(long, value_name = "HEX")]
    identity: IdentityKey,
    #[command(flatten)]
    nodes: NodeArgs,
}

fn member(text: &str) -> Result<Member, String> {
    let number = text.parse::<u16>().map_err(|error| error.to_string())?;
    Member::new(number).map_err(|error| error.to_string())
}

/// Replaces the identity.
///
/// # Errors
/// [`CliError`] when a node has not recorded it.
pub fn run(args: Args, out: &Output) -> Result<(), CliError> {
    let (id, member, identity) = (args.key_group, args.member, args.identity);
    let work = async {
        let ask = |client: crate::client::Client| async move { client.replace_identity(&id, member, &identity).await };
        Ok(ask_all(args.nodes.targets()?, ask).await)
    };
    let interrupted = "some nodes may have recorded it: run it again";
    recorded(&id, "identity replaced", block_on(work, interrupted)?, out)
}
