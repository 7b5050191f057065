//! What a check reports. The names of the fields are stable: tables are filled from them. What was not found out is null.

use serde::Serialize;

use super::Options;
use super::finding::{Finding, Level};
use crate::provision::LatchReport;

/// Version of the report: raised when a field changes its meaning or goes. New fields may come at any time.
pub const REPORT_VERSION: u32 = 1;

/// Whether a node can use the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Usable,
    /// Yes, and the operator should read the findings first.
    UsableWithWarnings,
    /// No, or it could not be found out.
    NotUsable,
}

impl Verdict {
    /// As in JSON, with spaces.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::UsableWithWarnings => "usable with warnings",
            Self::NotUsable => "not usable",
        }
    }
}

/// What came of something that was to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was tried and works.
    Yes,
    /// It was tried and does not.
    No,
    /// It was not tried.
    #[default]
    NotTried,
}

impl From<bool> for Outcome {
    fn from(works: bool) -> Self {
        if works { Self::Yes } else { Self::No }
    }
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// [`REPORT_VERSION`].
    pub report_version: u32,
    /// What was asked for.
    pub options: Options,
    /// The judgement of the findings.
    pub verdict: Verdict,
    /// What the operator should know, the worst first.
    pub findings: Vec<Finding>,
    /// The token.
    pub token: Option<Identity>,
    /// The module.
    pub module: ModuleReport,
    /// The PIN.
    pub pin: PinReport,
    /// The latch, after the check.
    pub latch: Option<LatchReport>,
    /// The configured key.
    pub key: KeyReport,
    /// What scheme `hmac` needs.
    pub primitives: Primitives,
    /// Measured times against the configured deadlines.
    pub deadlines: Deadlines,
    /// Latencies; none when there was no key to seal with.
    pub latency: Option<Latency>,
    /// Losses on purpose, and their cure.
    pub recovery: Recovery,
    /// Kinds of anchor.
    pub anchor: AnchorReport,
    /// Requests that were not answered in time.
    pub hung: Vec<String>,
    /// Token agents started.
    pub agents_started: u64,
}

impl CheckReport {
    /// The worst of the findings.
    pub fn worst(&self) -> Option<Level> {
        self.findings.iter().map(Finding::level).max()
    }
}

/// What a token says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Label.
    pub label: String,
    /// Serial number.
    pub serial: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Hardware version.
    pub hardware_version: Option<String>,
    /// Firmware version.
    pub firmware_version: Option<String>,
    /// Whether it takes no writes.
    pub write_protected: Option<bool>,
}

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ModuleReport {
    /// Its file.
    pub path: String,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Version of the PKCS#11 interface.
    pub cryptoki_version: Option<String>,
}

/// The PIN, as far as it can be known without risking a lock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PinReport {
    /// A login with the configured PIN.
    pub login: Outcome,
    /// Why there was none, or why it failed.
    pub login_error: Option<String>,
    /// Logins that the token was asked for. Those after the first had a PIN that had just succeeded.
    pub logins: u64,
    /// A wrong PIN was entered since the last login.
    pub count_low: Option<bool>,
    /// One more wrong PIN locks.
    pub final_try: Option<bool>,
    /// Locked.
    pub locked: Option<bool>,
    /// A PIN was set.
    pub initialized: Option<bool>,
    /// The token wants another PIN before it works on.
    pub to_be_changed: Option<bool>,
    /// Nothing private is shown without a login.
    pub login_required: Option<bool>,
    /// The PIN is typed at the token itself.
    pub protected_path: Option<bool>,
    /// Shortest PIN.
    pub bytes_min: Option<u64>,
    /// Longest PIN; null also when there is no bound.
    pub bytes_max: Option<u64>,
    /// What is known of this kind of token. Nothing was tried for it.
    pub known: Option<KnownLock>,
}

/// A kind of token whose lock was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KnownLock {
    /// Which kind.
    pub kind: &'static str,
    /// The wrong PIN in a row that locks; null when none did.
    pub locks_at: Option<u8>,
    /// Where that is from.
    pub source: &'static str,
}

/// The configured key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KeyReport {
    /// Keys of the configured name.
    pub found: Option<u32>,
    /// Whether it is one.
    pub unique: Option<bool>,
    /// Whether a node would seal under it.
    pub accepted: Outcome,
    /// Why not.
    pub refusal: Option<String>,
    /// Label.
    pub label: Option<String>,
    /// `CKA_ID`, hex.
    pub id: Option<String>,
    /// Check value, hex.
    pub check_value: Option<String>,
    /// `CKA_KEY_TYPE`.
    pub key_type: Option<String>,
    /// `CKA_VALUE_LEN`.
    pub value_bytes: Option<u64>,
    /// `CKA_SENSITIVE`.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`.
    pub extractable: Option<bool>,
    /// `CKA_ALWAYS_SENSITIVE`.
    pub always_sensitive: Option<bool>,
    /// `CKA_NEVER_EXTRACTABLE`.
    pub never_extractable: Option<bool>,
    /// `CKA_LOCAL`.
    pub local: Option<bool>,
    /// `CKA_SIGN`.
    pub sign: Option<bool>,
    /// `CKA_DERIVE`.
    pub derive: Option<bool>,
    /// `CKA_MODIFIABLE`.
    pub modifiable: Option<bool>,
    /// `CKA_COPYABLE`.
    pub copyable: Option<bool>,
    /// `CKA_DESTROYABLE`.
    pub destroyable: Option<bool>,
    /// `CKA_PRIVATE`.
    pub private: Option<bool>,
    /// `CKA_TOKEN`.
    pub token: Option<bool>,
}

/// What scheme `hmac` needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Primitives {
    /// `CKM_SHA256_HMAC` with `C_Sign`.
    pub hmac_sha256: Primitive,
    /// Whether its output is that of the host, for a key of a known value.
    pub hmac_equals_host: Outcome,
    /// Why it was not compared.
    pub hmac_equals_host_error: Option<String>,
    /// `CKM_GENERIC_SECRET_KEY_GEN`: what `token init --create` needs.
    pub generic_secret_key_gen: Primitive,
}

/// One mechanism: what the token says of it, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Primitive {
    /// Whether the list of mechanisms has it.
    pub listed: Option<bool>,
    /// Whether its information says that it does what is needed.
    pub told: Option<bool>,
    /// Smallest key, in bits or bytes: tokens differ.
    pub key_size_min: Option<u64>,
    /// Largest key.
    pub key_size_max: Option<u64>,
    /// Whether the token says that hardware does it.
    pub hardware: Option<bool>,
    /// Whether it was seen to work.
    pub proved: Outcome,
    /// With which key.
    pub proved_with: Option<SealedWith>,
    /// Why not.
    pub error: Option<String>,
}

/// A key that a check seals with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SealedWith {
    /// The one that the URI names.
    ConfiguredKey,
    /// One that ends with its session.
    SessionKey,
}

/// Measured times against the configured deadlines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Deadlines {
    /// Starting the agent, initialising the module.
    pub start: Deadline,
    /// Opening a session and logging in.
    pub login: Deadline,
    /// Every other request, making a key or an object apart.
    pub call: Deadline,
}

/// One deadline, and the answered requests that it bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Deadline {
    /// As configured.
    pub deadline_ms: u64,
    /// How long they took.
    pub taken: Option<Percentiles>,
    /// Whether the 99th percentile is above a quarter of it.
    pub near: bool,
}

/// Durations, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile: the largest, of fewer than 100.
    pub p99_us: u64,
    /// Largest.
    pub max_us: u64,
}

/// Latencies, the pipe to the agent included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Under which key.
    pub sealed_with: SealedWith,
    /// Wrapping a data key, through the whole provider.
    pub seal: Option<Percentiles>,
    /// Unwrapping it.
    pub open: Option<Percentiles>,
    /// The token's part of both, without the provider.
    pub derive: Option<Percentiles>,
}

/// Losses on purpose, and their cure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Recovery {
    /// Every session ended behind the node's back.
    pub session_loss: Option<Loss>,
    /// Logged out behind the node's back.
    pub logout: Option<Loss>,
    /// A full re-initialisation: finalize, initialise, open, log in, find the key.
    pub reinitialisation: Option<Percentiles>,
}

/// One loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// What the next call answered.
    pub answer: String,
    /// How that is classified; null when it was no error.
    pub class: Option<&'static str>,
    /// Whether the provider sealed again.
    pub cured: Outcome,
    /// How: within the very call that met the loss, or by a later probe.
    pub cured_in: Option<CuredIn>,
    /// How long the caller waited for that.
    pub cure_us: Option<u64>,
}

/// Where a loss was cured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CuredIn {
    /// In the call that met it: nobody was refused.
    Call,
    /// By a probe: callers were refused meanwhile.
    Probe,
}

/// Kinds of anchor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AnchorReport {
    /// Setting `CKA_VALUE` of a data object.
    pub update_data: AnchorKindReport,
    /// Creating a data object and destroying the old one.
    pub replace_data: AnchorKindReport,
    /// Setting `CKA_ID` of a key that can do nothing.
    pub set_id: AnchorKindReport,
    /// Times that this check has written to the token: objects made, changed and destroyed.
    pub token_writes: u32,
    /// Scratch objects of an earlier check that were found.
    pub leftovers_found: Option<u32>,
    /// How many of them were removed.
    pub leftovers_removed: u32,
    /// Scratch objects that a fresh session found after the check.
    pub left_behind: Option<u32>,
}

/// One kind of anchor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AnchorKindReport {
    /// Whether a value was written and read back, at last in a fresh session.
    pub works: Outcome,
    /// Why not.
    pub error: Option<String>,
    /// Making the object.
    pub create_us: Option<u64>,
    /// Replacing its value.
    pub write: Option<Percentiles>,
    /// Reading it back.
    pub read_us: Option<u64>,
}
