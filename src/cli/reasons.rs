//! `frostkeep reasons`: the stable refusal reasons.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{CliError, Output};
use crate::reasons::{self, Reason};

/// Arguments of `frostkeep reasons`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the rows of the manual's table.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// Prints the table.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: Args, out: &Output) -> Result<(), CliError> {
    if args.markdown { out.line(reasons::table().trim_end()) } else { out.show(&Table { reasons: Reason::ALL }) }
}

#[derive(Serialize)]
struct Table {
    #[serde(serialize_with = "rows")]
    reasons: &'static [Reason],
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    fault: &'static str,
    retry: &'static str,
    meaning: &'static str,
}

fn rows<S: Serializer>(reasons: &&'static [Reason], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(reasons.iter().map(|reason| Row {
        name: reason.name(),
        fault: reason.fault().name(),
        retry: reason.retry().name(),
        meaning: reason.meaning(),
    }))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32}{:<14}{:<17}MEANING", "REASON", "FAULT", "RETRY")?;
        for reason in self.reasons {
            writeln!(
                f,
                "{:<32}{:<14}{:<17}{}",
                reason.name(),
                reason.fault().name(),
                reason.retry().name(),
                reason.meaning()
            )?;
        }
        Ok(())
    }
}
