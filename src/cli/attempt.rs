//! `frostkeep attempt`: attempt contexts, without a node.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::hash::sha256;
use crate::ids::{KeyGroupId, Message, SessionId, to_hex};
use crate::roast::selection::session_seed;
use crate::roast::{AttemptBinding, AttemptContext, ContextError};

/// The verbs of `frostkeep attempt`.
#[derive(Debug, Subcommand)]
pub enum AttemptCommand {
    /// Print the context of one attempt: the same for every node and every RFC-21 coordinator
    Derive(DeriveArgs),
}

/// The arguments of `frostkeep attempt derive`.
#[derive(Debug, Args)]
pub struct DeriveArgs {
    /// Key group id: the group verifying key, 33 bytes as hex
    #[arg(long, value_name = "HEX")]
    key_group: KeyGroupId,
    /// Session id
    #[arg(long, value_name = "ID")]
    session: SessionId,
    /// Message that the session signs, 32 bytes as hex
    #[arg(long, value_name = "HEX")]
    message: Message,
    /// Members that a signature needs
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..))]
    threshold: u16,
    /// Attempt number, from 1
    #[arg(long, value_name = "N")]
    number: u32,
    /// Included members, separated by commas, in any order
    #[arg(long, value_name = "M,M", value_delimiter = ',', required = true)]
    included: Vec<u16>,
}

/// The output: the names of the fields are those of RFC-21 where it has one.
#[derive(Serialize)]
struct Derived {
    key_group: String,
    session_id: String,
    message: String,
    message_digest: String,
    threshold: u16,
    shuffle_seed: String,
    attempt_number: u32,
    coordinator_identifier: u16,
    included_participants: Vec<u16>,
    included_participants_fingerprint: String,
    attempt_id: String,
}

/// Runs a verb of `frostkeep attempt` and returns what it prints, as JSON or as text, with a line feed at its end.
///
/// # Errors
/// [`ContextError`] when there is no such attempt.
pub fn run(command: &AttemptCommand, json: bool) -> Result<String, ContextError> {
    match command {
        AttemptCommand::Derive(args) => derive(args, json),
    }
}

fn derive(args: &DeriveArgs, json: bool) -> Result<String, ContextError> {
    let DeriveArgs { key_group, session, message, threshold, number, included } = args;
    let binding = AttemptBinding { key_group, session, message, threshold: *threshold };
    let context = AttemptContext::derive(&binding, *number, included)?;
    let seed = session_seed(&key_group.to_string(), session.as_str(), message.as_bytes())
        .expect("a message has 32 bytes, all of which may be significant");
    let derived = Derived {
        key_group: key_group.to_string(),
        session_id: session.to_string(),
        message: message.to_string(),
        message_digest: to_hex(&sha256(message.as_bytes())),
        threshold: *threshold,
        // Text: JSON numbers lose the low bits of 64.
        shuffle_seed: seed.to_string(),
        attempt_number: context.number(),
        coordinator_identifier: context.coordinator().number(),
        included_participants: context.parts().included,
        included_participants_fingerprint: to_hex(context.included_fingerprint()),
        attempt_id: context.id().to_string(),
    };
    Ok(if json { render_json(&derived) } else { render_text(&derived) })
}

fn render_json(derived: &Derived) -> String {
    let mut text = serde_json::to_string_pretty(derived).expect("strings and numbers always encode");
    text.push('\n');
    text
}

fn render_text(derived: &Derived) -> String {
    let members: Vec<String> = derived.included_participants.iter().map(u16::to_string).collect();
    [
        ("key group", derived.key_group.clone()),
        ("session", derived.session_id.clone()),
        ("message", derived.message.clone()),
        ("message digest", derived.message_digest.clone()),
        ("threshold", derived.threshold.to_string()),
        ("shuffle seed", derived.shuffle_seed.clone()),
        ("attempt number", derived.attempt_number.to_string()),
        ("coordinator", derived.coordinator_identifier.to_string()),
        ("included", members.join(",")),
        ("included fingerprint", derived.included_participants_fingerprint.clone()),
        ("attempt id", derived.attempt_id.clone()),
    ]
    .map(|(name, value)| format!("{name:<22}{value}\n"))
    .concat()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        command: AttemptCommand,
    }

    const SEED_VECTOR: &str = "derive --key-group 024d79b696a25e478a1c747fcaad380addbd8b2ef7c333126ab2e2c3b2533b7df2 \
        --session session-roast-seed-vector-1 \
        --message 000102030405060708090A0b0c0d0e0f101112131415161718191a1b1c1d1e1f --threshold 3";

    fn parse(more: &str) -> Result<AttemptCommand, clap::Error> {
        let words = ["attempt"].into_iter().chain(SEED_VECTOR.split_whitespace()).chain(more.split_whitespace());
        Program::try_parse_from(words).map(|program| program.command)
    }

    fn output(more: &str, json: bool) -> String {
        run(&parse(more).unwrap(), json).unwrap()
    }

    #[test]
    fn json_and_text_name_the_coordinator_of_the_vector_whatever_the_order_of_members() {
        for (number, coordinator) in [(1, 3), (2, 4), (6, 5)] {
            let json = output(&format!("--number {number} --included 5,3,1,2,4"), true);
            let fields: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(fields["coordinator_identifier"], coordinator);
            assert_eq!(fields["attempt_number"], number);
            assert_eq!(fields["shuffle_seed"], "-2028522963755751589");
            assert_eq!(fields["included_participants"], serde_json::json!([1, 2, 3, 4, 5]));
            let text = output(&format!("--number {number} --included 1,2,3,4,5"), false);
            assert!(text.contains(&format!("coordinator           {coordinator}\n")), "{text}");
            for value in fields.as_object().unwrap().values().filter_map(|value| value.as_str()) {
                assert!(text.contains(&format!("{value}\n")), "{value} is missing in {text}");
            }
            assert_eq!(text.lines().count(), fields.as_object().unwrap().len());
        }
    }

    #[test]
    fn attempts_that_cannot_be_are_refused_with_the_reason() {
        for (more, reason) in [
            ("--number 0 --included 1,2,3", "attempt_context_invalid"),
            ("--number 1 --included 1,2,2", "attempt_context_invalid"),
            ("--number 1 --included 1,2", "attempt_context_invalid"),
            ("--number 4000000000 --included 1,2,3", "attempt_exhausted"),
        ] {
            assert_eq!(run(&parse(more).unwrap(), false).unwrap_err().reason().name(), reason, "{more}");
        }
    }

    #[test]
    fn arguments_that_are_not_well_formed_are_refused() {
        for more in [
            "",
            "--number 1",
            "--number -1 --included 1,2,3",
            "--number 1 --included 1,,3",
            "--number 1 --included 1,2,65536",
            "--number 1 --included 1,2,3 --session a b",
        ] {
            assert!(parse(more).is_err(), "{more}");
        }
    }
}
