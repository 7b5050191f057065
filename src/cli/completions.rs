//! `frostkeep completions` and `frostkeep man`: what other programs know of the command line.

use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{CliError, Output};
use crate::store::files;

const HELP: &str = "Examples:
  frostkeep completions bash > /etc/bash_completion.d/frostkeep
  frostkeep completions zsh > ~/.zfunc/_frostkeep";

/// Arguments of `frostkeep completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Arguments of `frostkeep man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The directory for the pages, which must be there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints the completions of `command` for a shell.
///
/// # Errors
/// When standard output cannot be written.
pub fn completions(args: &CompletionsArgs, mut command: Command, out: &Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "frostkeep", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())
}

/// Writes a page for `command` and for each of its verbs that is for people.
///
/// # Errors
/// [`CliError`] when a page cannot be written.
pub fn man(args: &ManArgs, command: Command, out: &Output) -> Result<(), CliError> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages);
    for (name, page) in pages {
        let path = args.out.join(format!("{name}.1"));
        files::write_synced(&path, &page).map_err(|error| {
            CliError::surroundings(format!("{} cannot be written", path.display())).caused_by(&error)
        })?;
        if !out.is_json() {
            out.line(path.display())?;
        }
    }
    Ok(())
}

/// The page of a command and those of its verbs, each by the name that `man` finds it under.
fn collect(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    // A vector takes all that is written.
    let _ = Man::new(command.clone()).render(&mut page);
    pages.push((name, page));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        collect(verb, pages);
    }
}
