//! What the rest of the node may know of the key provider.

use crate::clock::Millis;
use crate::provider::KeyDescriptor;

/// State of the outage machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderState {
    /// Not connected yet since the process started.
    Starting,
    /// The last keyed call was answered.
    Ready,
    /// One call failed in a way that a reconnection may cure; work is still admitted.
    Suspect,
    /// An outage: no work is admitted, the next probe has a time.
    Out,
    /// An outage, a probe is under way.
    Probing,
    /// Stopped by a credential, a key or the anchor; see [`OutageClass`].
    Fenced,
}

/// Why the provider cannot seal or open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutageClass {
    /// The session was lost and reopening it once did not help.
    Session,
    /// The token is gone, refuses, or failed.
    Token,
    /// The module does not load, crashed, or the agent cannot run.
    Module,
    /// A call missed its deadline.
    Deadline,
    /// The token refused the PIN, or a login is latched. Stops: see `frostkeep token unlatch`.
    Credential,
    /// The named key is missing, or another key answers under its name.
    Key,
    /// The token's answers do not hold together.
    Integrity,
    /// The token or its configuration cannot do what is asked; the operator is needed.
    Usage,
    /// The anchor belongs to another instance: a clone runs, or this is one. Ends with the process.
    Anchor,
}

impl OutageClass {
    /// The stable name, as in errors, metrics and `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Token => "token",
            Self::Module => "module",
            Self::Deadline => "deadline",
            Self::Credential => "credential",
            Self::Key => "key",
            Self::Integrity => "integrity",
            Self::Usage => "usage",
            Self::Anchor => "anchor",
        }
    }
}

/// An outage, as every error about it tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Why.
    pub class: OutageClass,
    /// Since when, on the monotonic clock.
    pub since: Millis,
    /// Since when, seconds since 1970-01-01 UTC.
    pub since_unix: u64,
    /// When the provider is tried next; none when only an operator or a new process helps.
    pub next_try: Option<Millis>,
    /// What was seen last, for people: a `CKR_*` name, a deadline, a latch. Never a secret.
    pub detail: String,
    /// Which token.
    pub token: String,
}

/// One token of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHealth {
    /// Its configured name.
    pub name: String,
    /// State of its outage machine.
    pub state: ProviderState,
    /// Its outage, in every state but `Ready` and `Suspect`.
    pub outage: Option<Outage>,
    /// Its open keys; the first one seals.
    pub keys: Vec<KeyDescriptor>,
}

/// The provider's state, cheap to copy out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// State of the outage machine.
    pub state: ProviderState,
    /// The outage, in every state but `Ready` and `Suspect`.
    pub outage: Option<Outage>,
    /// Keyed calls answered since the process started.
    pub calls: u64,
    /// Outages begun since the process started.
    pub outages: u64,
    /// Token agents started since the process started.
    pub agents_started: u64,
}

impl Health {
    /// Whether fresh rounds are admitted: in `Ready` and `Suspect` only.
    pub fn admits_work(&self) -> bool {
        matches!(self.state, ProviderState::Ready | ProviderState::Suspect)
    }
}
