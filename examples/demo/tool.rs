//! The `frostkeep` command, as a user runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::Failed;

/// The built command. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tool {
    program: PathBuf,
}

/// What a run of the command came to.
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) exit: i32,
    /// The object that it printed: the answer, or the error.
    pub(crate) object: Value,
}

impl Tool {
    /// The built `frostkeep` binary: two directories above the example.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn built() -> Result<Self, Failed> {
        let own = std::env::current_exe()?;
        let built = own.ancestors().nth(2).map(|directory| directory.join("frostkeep"));
        match built.filter(|program| program.is_file()) {
            Some(program) => Ok(Self { program }),
            None => Err(format!(
                "no frostkeep binary above {}: run scripts/demo, or cargo build --bins --example demo",
                own.display()
            )
            .into()),
        }
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the command with `--json` to its end.
    ///
    /// # Errors
    /// When it cannot be started, or prints no JSON.
    pub(crate) async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Ran, Failed> {
        let mut command = Command::new(&self.program);
        command.arg("--json").args(arguments);
        let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = if status.success() { &stdout } else { &stderr };
        // Progress comes first, the answer last.
        let text = String::from_utf8_lossy(text);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let object = serde_json::from_str(last).map_err(|_| format!("the command printed no JSON: {text}"))?;
        Ok(Ran { exit: status.code().unwrap_or(-1), object })
    }

    /// The same, where nothing but success will do.
    ///
    /// # Errors
    /// The command's own problem.
    pub(crate) async fn answer<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value, Failed> {
        let ran = self.run(arguments).await?;
        if ran.exit == 0 {
            return Ok(ran.object);
        }
        let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        Err(format!("frostkeep {}: exit {}: {}", words.join(" "), ran.exit, ran.object).into())
    }
}

/// A text of an answer.
///
/// # Errors
/// When it is not there.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str, Failed> {
    object.get(name).and_then(Value::as_str).ok_or_else(|| format!("no {name} in {object}").into())
}
