//! What the suite measured, as lines of JSON for `scripts/bench tokens`.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// Names the file that rows are appended to.
const OUT: &str = "FROSTKEEP_MATRIX_OUT";

/// What one outage of one token did.
#[derive(Debug, Clone)]
pub struct Row {
    /// The kind of token.
    pub token: &'static str,
    /// What happened to it.
    pub outage: &'static str,
    /// The class that the first refusal told; empty when nothing was refused.
    pub class: &'static str,
    /// How long the first call in the outage took to be refused.
    pub refused: Option<Duration>,
    /// How long a later one took.
    pub again: Option<Duration>,
    /// From the end of the outage until the provider was ready; for what is no outage, how long the call took that met it.
    pub healed: Duration,
    /// The part of that in which the token was opened again; the rest is the wait for a probe.
    pub reopened: Duration,
}

impl Row {
    /// Appends the row to the file that `FROSTKEEP_MATRIX_OUT` names, if it names one.
    ///
    /// # Errors
    /// Those of the file.
    pub fn append(&self) -> io::Result<()> {
        let Some(path) = std::env::var_os(OUT) else { return Ok(()) };
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let line = serde_json::json!({
            "token": self.token,
            "scheme": "hmac",
            "outage": self.outage,
            "class": self.class,
            "refused_ms": self.refused.map(ms),
            "again_ms": self.again.map(ms),
            "healed_ms": ms(self.healed),
            "reopened_ms": ms(self.reopened),
        });
        // One write a line: tests of several processes append to it.
        File::options().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())
    }
}
