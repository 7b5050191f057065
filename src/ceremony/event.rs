//! What happens, node by node and step by step, for whoever watches.

use std::fmt;
use std::sync::Arc;

/// A step of a ceremony with one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Token, disk, room, peers.
    Preflight,
    /// Secrets and round-one messages are made.
    Begin,
    /// The others' round-one messages are handed over.
    RelayOne,
    /// Round-two messages are made.
    Advance,
    /// The others' round-two messages are handed over.
    RelayTwo,
    /// The shares are prepared.
    Finish,
    /// The certificate is handed over.
    Certify,
    /// The ceremony is given up.
    Abandon,
    /// Where the ceremony stands is asked.
    Stage,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preflight => "pre-flight",
            Self::Begin => "begin",
            Self::RelayOne => "relay of round one",
            Self::Advance => "advance",
            Self::RelayTwo => "relay of round two",
            Self::Finish => "finish",
            Self::Certify => "certificate",
            Self::Abandon => "abandon",
            Self::Stage => "stage",
        })
    }
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The node was asked.
    Started,
    /// It did not do it yet, and is asked again.
    Retrying {
        /// Why.
        problem: String,
    },
    /// Done.
    Done,
    /// Given up.
    Failed {
        /// Why.
        problem: String,
    },
}

/// One line of progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The node's name.
    pub node: String,
    /// The step.
    pub step: Step,
    /// How it stands.
    pub progress: Progress,
}

/// Whoever watches. It is called between two calls of the network and must not block.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;
