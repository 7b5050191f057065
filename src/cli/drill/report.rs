//! Where a drill's report goes: standard output, and a file that an auditor keeps.

use std::path::{Path, PathBuf};

use crate::cli::{CliError, Output};
use crate::drill::Report;
use crate::store::files;

/// The file of a report, not there yet.
pub(super) struct Kept(PathBuf);

impl Kept {
    /// The file at this path. Looked at before anything is drilled: a report that cannot be kept is better known then.
    pub(super) fn at(path: &Path) -> Result<Self, CliError> {
        let taken = files::is_taken(path).map_err(|error| {
            CliError::surroundings(format!("a report at {} cannot be made", path.display()))
                .caused_by(&error)
                .with_hint("nothing was drilled: name a file in a directory that you may write to")
        })?;
        if taken {
            return Err(CliError::usage(format!("{} exists: a report is never replaced", path.display()))
                .with_hint("name another file"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(CliError::usage(format!("{} is no directory", parent.display())).with_hint("make it first"));
        }
        Ok(Self(path.to_owned()))
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::surroundings(format!("{} cannot be written", path.display()))
        .caused_by(error)
        .with_hint("the report was printed; --json prints what the file would hold")
}

/// Prints the report and keeps it.
pub(super) fn show(report: &Report, kept: Option<Kept>, out: &Output) -> Result<(), CliError> {
    let json = report.to_json().map_err(|error| CliError::surroundings("the report").caused_by(&error))?;
    if out.is_json() {
        out.line(&json)?;
    } else {
        out.line(report)?;
    }
    if let Some(Kept(path)) = &kept {
        files::write_new(path, format!("{json}\n").as_bytes()).map_err(|error| unusable(path, &error))?;
        if !out.is_json() {
            out.line(format!("report       {}", path.display()))?;
        }
    }
    if report.passed() {
        return Ok(());
    }
    let failures = report.failures();
    let text = format!("the drill failed: {}", failures.join("; "));
    Err(CliError::surroundings(text).with_hint("the report has every expectation, and what was seen"))
}
