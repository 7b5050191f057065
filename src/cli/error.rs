//! How a verb fails: a problem, a hint, an exit code that scripts can rely on.

use std::error::Error;
use std::process::ExitCode;

use serde::Serialize;

use super::output::{Colour, Output};
use crate::reasons::{Fault, Reason};

/// The exit codes. They are part of the interface and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// A defect of this program.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Refused: the request is at fault.
    Refused = 3,
    /// The token, the disk or another node is at fault; the same request may pass later.
    Surroundings = 4,
    /// The state cannot be trusted or opened: an operator has to look.
    State = 5,
}

impl Exit {
    /// The codes as `--help` and the manual show them.
    pub const TABLE: &'static str = "Exit codes:
  0  done
  1  internal error: a defect of this program
  2  usage: the command line is wrong
  3  refused: the request is at fault
  4  surroundings: token, disk or another node; the same request may pass later
  5  state: missing, corrupt, rolled back, sealed under another key, or of a newer format";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl From<Reason> for Exit {
    fn from(reason: Reason) -> Exit {
        match reason {
            Reason::StateMissing
            | Reason::StateCorrupt
            | Reason::StateRolledBack
            | Reason::AnchorMissing
            | Reason::WrongKey
            | Reason::UnsupportedVersion
            | Reason::Fenced => Exit::State,
            other => match other.fault() {
                Fault::Caller => Exit::Refused,
                Fault::Surroundings => Exit::Surroundings,
                Fault::Bug => Exit::Internal,
            },
        }
    }
}

/// Why a verb failed. Carries no secrets: it is printed.
#[derive(Debug)]
pub struct CliError(Box<Failure>);

#[derive(Debug)]
enum Failure {
    /// The reader of standard output has gone, as `head` does. Nothing to say, and nobody to say it to.
    ReaderGone,
    Problem {
        exit: Exit,
        reason: Option<Reason>,
        problem: String,
        cause: Option<String>,
        hint: Option<String>,
        /// For machines: what the problem says, field by field.
        details: Option<serde_json::Value>,
    },
}

impl CliError {
    /// Refused with a stable reason: it decides the exit code, and its advice is the hint.
    pub fn refused(reason: Reason, problem: impl Into<String>) -> Self {
        Self(Box::new(Failure::Problem {
            exit: reason.into(),
            reason: Some(reason),
            problem: problem.into(),
            cause: None,
            hint: Some(reason.retry().advice().to_owned()),
            details: None,
        }))
    }

    /// The command line is wrong in a way that the parser cannot see.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self::without_reason(Exit::Usage, problem.into())
    }

    /// Something outside this program failed, and no stable reason says it better.
    pub fn surroundings(problem: impl Into<String>) -> Self {
        Self::without_reason(Exit::Surroundings, problem.into())
    }

    fn without_reason(exit: Exit, problem: String) -> Self {
        Self(Box::new(Failure::Problem { exit, reason: None, problem, cause: None, hint: None, details: None }))
    }

    /// Says what to do next, in place of the reason's advice.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Failure::Problem { hint, .. } = &mut *self.0 {
            *hint = Some(text.into());
        }
        self
    }

    /// Adds what machines read of the problem, field by field.
    #[must_use]
    pub fn with_details(mut self, value: serde_json::Value) -> Self {
        if let Failure::Problem { details, .. } = &mut *self.0 {
            *details = Some(value);
        }
        self
    }

    /// Adds the chain of causes, which is printed once, after the problem.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn Error) -> Self {
        if let Failure::Problem { cause, .. } = &mut *self.0 {
            let mut text = error.to_string();
            let mut next = error.source();
            while let Some(source) = next {
                text.push_str(": ");
                text.push_str(&source.to_string());
                next = source.source();
            }
            *cause = Some(text);
        }
        self
    }

    pub(super) fn from_output(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self(Box::new(Failure::ReaderGone));
        }
        Self::surroundings("standard output cannot be written").caused_by(error)
    }

    pub(super) fn from_clap(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let text = text.trim_end();
        let text = text.strip_prefix("error: ").unwrap_or(text);
        let (problem, rest) = text.split_once("\n\n").unwrap_or((text, ""));
        let usage = rest.lines().find_map(|line| line.strip_prefix("Usage: "));
        let hint = usage.map_or_else(|| "try `frostkeep --help`".to_owned(), |usage| format!("usage: {usage}"));
        Self::usage(problem.trim()).with_hint(hint)
    }

    /// Prints the error and gives the exit code. An error of the printing itself has nowhere to go.
    pub(super) fn report(self, errors: &Output) -> Exit {
        let Failure::Problem { exit, reason, problem, cause, hint, details } = *self.0 else {
            return Exit::Done;
        };
        if errors.is_json() {
            let shown = Shown { reason: reason.map(Reason::name), exit: exit as u8, problem, cause, hint, details };
            let _ = errors.object(&Wrapper { error: shown });
            return exit;
        }
        let name = reason.map(|reason| format!(" [{reason}]")).unwrap_or_default();
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let _ = errors.line(format!("{}{name} {problem}{cause}", errors.paint(Colour::Red, "error:")));
        if let Some(hint) = hint {
            let _ = errors.line(format!("{} {hint}", errors.paint(Colour::Cyan, "hint:")));
        }
        exit
    }
}

#[derive(Serialize)]
struct Wrapper {
    error: Shown,
}

#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    exit: u8,
    problem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::capture;

    fn printed(error: CliError, json: bool) -> (Exit, String) {
        let (out, text) = capture(json);
        let exit = error.report(&out);
        (exit, text())
    }

    #[test]
    fn an_error_is_a_problem_line_and_then_a_hint_line() {
        let (exit, text) = printed(CliError::refused(Reason::Busy, "the state is held by process 7"), false);
        assert_eq!(exit, Exit::Surroundings);
        assert_eq!(
            text,
            "error: [busy] the state is held by process 7\nhint: send the same request again, unchanged\n"
        );
    }

    #[test]
    fn an_error_in_json_is_one_object_on_one_line() {
        let cause = std::io::Error::other("no such thing");
        let (exit, text) = printed(CliError::surroundings("tried it").caused_by(&cause), true);
        assert_eq!(exit, Exit::Surroundings);
        assert_eq!(text, "{\"error\":{\"exit\":4,\"problem\":\"tried it\",\"cause\":\"no such thing\"}}\n");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(printed(CliError::from_output(&gone), false), (Exit::Done, String::new()));
    }

    #[test]
    fn every_reason_has_an_exit_code_of_its_fault_and_no_reason_reads_as_done_or_usage() {
        for &reason in Reason::ALL {
            let exit = Exit::from(reason);
            match reason.fault() {
                Fault::Caller => assert_eq!(exit, Exit::Refused, "{reason}"),
                Fault::Surroundings => {
                    assert!(matches!(exit, Exit::Surroundings | Exit::State), "{reason}")
                }
                Fault::Bug => assert_eq!(exit, Exit::Internal, "{reason}"),
            }
        }
    }
}
