//! ROAST attempts, as a pure leaf: no clock, no disk, no curve.
//!
//! An attempt context is compatible with RFC-21 of the tBTC network, bit for bit, so that its coordinators and this signer
//! name the same attempt and the same coordinator; `tests/vectors` holds both to it.
//!
//! - [`context`]: one valid attempt, and how it stands to the active one
//! - [`selection`]: who coordinates, through Go's legacy shuffle ([`go_rand`])
//! - [`round`]: names of answers, and what the identities sign
//! - [`evidence`]: what authorises an advance
//! - [`transcript`]: the history of advances, equal on every node
//! - [`score`]: blame that adds up

pub mod context;
pub mod evidence;
pub mod go_rand;
pub mod round;
pub mod score;
pub mod selection;
pub mod transcript;

pub use context::{AgainstActive, AttemptBinding, AttemptContext, AttemptContextParts, ContextError};
pub use evidence::{
    Authorised, Evidence, EvidenceOracle, ShareVerdict, SignedRound, TimeoutVote, Transition, TransitionError,
    TransitionReason,
};
pub use round::{RequestFingerprint, RoundBinding, round_signature_message, timeout_vote_message};
