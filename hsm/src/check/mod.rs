//! `token check`: what a node needs of a token, and what this token gives, found out through the node's own agent, supervisor,
//! latch and deadlines.
//!
//! - [`report`]: what comes out; its field names are stable
//! - [`finding`]: every finding by code, with its weight and its hint
//! - `run`: who is asked next, and what happens after a failure or a hang
//! - `subject`: the token as a [`crate::token::Token`], sealing with the configured key or with one of a session
//! - `key`, `primitives`, `latency`, `recovery`, `anchors`: the examinations
//! - `pins`: which kinds of token were seen to lock, and when
//!
//! Nothing stays on the token: keys are made for a session alone, and the objects on which anchors are tried have one name of their
//! own, by which this check and the next one destroy them.

mod anchors;
pub mod finding;
mod key;
mod latency;
mod pins;
mod primitives;
mod recovery;
pub mod report;
mod run;
mod subject;

use crate::config::{ConfigError, TokenConfig};
use crate::entropy::Entropy;
use report::CheckReport;
use serde::Serialize;

/// Samples of each latency: the default.
pub const SAMPLES: u32 = 200;
/// Most samples of each latency that a check takes.
pub const SAMPLES_MAX: u32 = 10_000;
/// `CKA_LABEL` of everything that a check makes on a token.
pub const SCRATCH_LABEL: &str = "frostkeep-check-scratch";
/// `CKA_APPLICATION` of the data objects among it.
pub const SCRATCH_APPLICATION: &str = "frostkeep token check";

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Samples of each latency, 1 to [`SAMPLES_MAX`].
    pub samples: u32,
    /// Log in. Without it only what the token says of itself is looked at.
    pub login: bool,
    /// Write scratch objects, to find the kinds of anchor.
    pub write: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { samples: SAMPLES, login: true, write: true }
    }
}

/// Examines the token that `config` names. Whatever the token does is in the report; it is never an error.
///
/// # Errors
/// [`ConfigError`].
///
/// # Security
/// No other PIN than the configured one is ever tried, and that one under the rules of the latch.
pub fn check(config: &TokenConfig, options: Options, entropy: Box<dyn Entropy>) -> Result<CheckReport, ConfigError> {
    let mut run = run::Run::new(config, options, entropy)?;
    if run.reach() && run.log_in() {
        run.remove_leftovers();
        run.examine_key();
        run.prove();
        run.measure();
        run.lose();
        run.try_anchors();
    }
    Ok(run.finish())
}
