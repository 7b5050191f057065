//! The command: one file per verb, one way to print, one way to fail.
//!
//! To add a verb: a file beside this one with `pub struct Args` (clap) and `pub fn run(Args, &Output) -> Result<(), CliError>`,
//! a `mod` line, a variant of `Verb`, and an arm of `dispatch`. A verb that is not for people carries `#[command(hide = true)]`.

pub mod attempt;
mod chain;
pub mod client;
pub mod completions;
pub mod drill;
mod error;
pub mod freeze;
pub mod hardening;
pub mod identity;
pub mod identity_replace;
pub mod init;
pub mod keygen;
pub mod keygroup;
mod output;
pub mod policy;
mod progress;
pub mod reach;
pub mod reasons;
pub mod roster;
pub mod serve;
pub mod session;
pub mod sign;
pub mod status;
mod table;
pub mod token;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use chain::BitcoinNetwork;
pub use error::{CliError, Exit};
pub use output::{Colour, Output};

use crate::process::Hardening;

/// A threshold Schnorr signer for Bitcoin Taproot whose state is sealed under a PKCS#11 token.
#[derive(Debug, Parser)]
#[command(name = "frostkeep", version, after_help = Exit::TABLE, disable_help_subcommand = true)]
struct Cli {
    /// Print one JSON object for machines instead of text for people; errors too, on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the table of the stable refusal reasons.
    Reasons(reasons::Args),
    /// Attempt contexts, without a node.
    #[command(subcommand)]
    Attempt(attempt::AttemptCommand),
    /// The token that seals a node's state: its key, its latch.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Make a node: its sealed state, its keys, its line for the roster
    Init(init::Args),
    /// Run a node
    Serve(serve::Args),
    /// Print a node's line for the roster, or its certificate
    Identity(identity::IdentityArgs),
    /// The TLS key of a command line
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Make a key: every node of the roster takes part, nobody ever holds it
    Keygen(keygen::Args),
    /// Sign a message, a PSBT or a transaction
    Sign(sign::Args),
    /// How the nodes stand
    Status(status::Args),
    /// Key groups: what they are, where they stand, their end
    #[command(subcommand, name = "keygroup")]
    KeyGroup(keygroup::KeyGroupCommand),
    /// Stop every release of a key group at once
    Freeze(freeze::FreezeArgs),
    /// Lift freezes of a key group
    Thaw(freeze::ThawArgs),
    /// What a key group may sign
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The roster: who is who between nodes
    #[command(subcommand)]
    Roster(roster::RosterCommand),
    /// Sessions
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Outage drills: what a node does when its token is away, on purpose
    #[command(subcommand)]
    Drill(drill::DrillCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(completions::ManArgs),
    /// Show what the system granted of the process hardening, to a process started like this one.
    Hardening(hardening::Args),
}

fn dispatch(verb: Verb, hardening: &Hardening, out: &Output) -> Result<(), CliError> {
    match verb {
        Verb::Hardening(args) => hardening::run(args, hardening, out),
        Verb::Attempt(command) => {
            let text = attempt::run(&command, out.is_json())
                .map_err(|error| CliError::refused(error.reason(), error.to_string()))?;
            out.line(text.trim_end())
        }
        Verb::Reasons(args) => reasons::run(args, out),
        Verb::Token(command) => token::run(&command, out),
        Verb::Init(args) => init::run(args, out),
        Verb::Serve(args) => serve::run(&args, hardening, out),
        Verb::Identity(args) => identity::run(args, out),
        Verb::Client(command) => client::run(command, out),
        Verb::Keygen(args) => keygen::run(args, out),
        Verb::Sign(args) => sign::run(args, out),
        Verb::Status(args) => status::run(args, out),
        Verb::KeyGroup(command) => keygroup::run(command, out),
        Verb::Freeze(args) => freeze::freeze(args, out),
        Verb::Thaw(args) => freeze::thaw(args, out),
        Verb::Policy(command) => policy::run(command, out),
        Verb::Roster(command) => roster::run(command, out),
        Verb::Session(command) => session::run(command, out),
        Verb::Drill(command) => drill::run(command, out),
        Verb::Completions(args) => completions::completions(&args, Cli::command(), out),
        Verb::Man(args) => completions::man(&args, Cli::command(), out),
    }
}

/// Parses `arguments` (the first is the program's name), runs the verb, prints, and gives the exit code.
/// `hardening` is what the process was granted at its start.
pub fn main(arguments: impl IntoIterator<Item = OsString>, hardening: &Hardening) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Before the parse, so that a usage error is JSON as well.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let out = Output::new(Box::new(std::io::stdout()), json, !plain && std::io::stdout().is_terminal());
    let errors = Output::new(Box::new(std::io::stderr()), json, !plain && std::io::stderr().is_terminal());
    let outcome = parse(arguments, &out).and_then(|verb| verb.map_or(Ok(()), |verb| dispatch(verb, hardening, &out)));
    match outcome.and_then(|()| out.flush()) {
        Ok(()) => Exit::Done.into(),
        Err(error) => error.report(&errors).into(),
    }
}

/// The verb; none when the arguments asked for help or the version, which is printed.
fn parse(arguments: Vec<OsString>, out: &Output) -> Result<Option<Verb>, CliError> {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Ok(Some(cli.verb)),
        Err(error) if !error.use_stderr() => {
            let text = error.render();
            let text = if out.is_coloured() { text.ansi().to_string() } else { text.to_string() };
            out.line(text.trim_end()).map(|()| None)
        }
        Err(error) => Err(CliError::from_clap(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_in_itself() {
        Cli::command().debug_assert();
    }
}
