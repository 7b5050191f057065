//! `frostkeep hardening`: what the system granted to a process started from here. Run it the way the node is started, as
//! with `systemd-run`, to see whether key material can reach a core file or swap.

use std::fmt;

use serde::Serialize;

use super::{CliError, Output};
use crate::process::{Hardening, MemoryLock};

/// Arguments of `frostkeep hardening`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints the report.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(_: Args, hardening: &Hardening, out: &Output) -> Result<(), CliError> {
    out.show(&Report::from(hardening))
}

/// The report as it is printed, here and by `status`.
#[derive(Serialize)]
pub struct Report {
    core_dumps_off: bool,
    undumpable: bool,
    memory_locked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_not_locked_because: Option<String>,
}

impl From<&Hardening> for Report {
    fn from(hardening: &Hardening) -> Self {
        let because = match &hardening.memory_locked {
            MemoryLock::Locked => None,
            MemoryLock::NotLocked { reason } => Some(reason.to_string()),
        };
        Self {
            core_dumps_off: hardening.core_dumps_off,
            undumpable: hardening.undumpable,
            memory_locked: because.is_none(),
            memory_not_locked_because: because,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |granted: bool| if granted { "yes" } else { "NO" };
        writeln!(f, "core dumps off   {}", say(self.core_dumps_off))?;
        writeln!(f, "not dumpable     {}", say(self.undumpable))?;
        write!(f, "memory locked    {}", say(self.memory_locked))?;
        match &self.memory_not_locked_because {
            Some(because) => write!(f, " ({because})"),
            None => Ok(()),
        }
    }
}
