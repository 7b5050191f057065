//! One token, as the provider sees it: open it whole, derive, anchor. Everything behind this trait may hang, lie or be gone.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::drill::DrillSwitch;
use crate::provider::{AnchorRead, AnchorValue, KeyDescriptor};

/// What a failure says of the token. One step finer than an outage's class: it decides what is tried next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultClass {
    /// The session is lost or confused: open again, retry once.
    Session,
    /// The key handle is not known: a lost session, an outage or a lost key. Only a full re-initialisation tells.
    AmbiguousKey,
    /// The token is gone, refuses, or failed.
    Token,
    /// The module does not load, crashed, or the agent cannot run.
    Module,
    /// A call missed its deadline; the agent was killed.
    Deadline,
    /// The PIN was refused, or a login is latched or would risk the last try.
    Credential,
    /// After a full re-initialisation: the key is missing, is another one, or is not the only one.
    Key,
    /// The token's answers do not hold together.
    Integrity,
    /// The token or the configuration cannot do what is asked.
    Usage,
}

/// A failed call. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{operation}: {code}{}{detail}", if .detail.is_empty() { "" } else { ": " })]
pub struct TokenError {
    /// What follows from it.
    pub class: FaultClass,
    /// What was called: a `C_*` function, or a step of ours.
    pub operation: String,
    /// A `CKR_*` name, or a name of ours.
    pub code: String,
    /// For people; may be empty.
    pub detail: String,
}

impl TokenError {
    /// An error; its texts are cut to what an error frame holds.
    pub fn new(class: FaultClass, operation: &str, code: &str, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        // A boundary always exists at zero.
        let end = (0..=DETAIL_BYTES_MAX.min(detail.len())).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
        detail.truncate(end);
        Self { class, operation: operation.to_owned(), code: code.to_owned(), detail }
    }
}

/// Longest detail of a [`TokenError`], bytes: errors cross the agent's pipe in one frame.
pub const DETAIL_BYTES_MAX: usize = 512;

/// Longest input of [`Token::derive`], bytes. The layout of scheme `hmac` needs 100.
pub const DERIVE_INPUT_BYTES_MAX: usize = 256;

/// A 32-byte output of the token. Wiped on drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Derived(Box<[u8; 32]>);

impl Derived {
    /// Takes the first 32 bytes of `bytes`; none when there are not exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut boxed = Box::new([0; 32]);
        if bytes.len() != boxed.len() {
            return None;
        }
        boxed.copy_from_slice(bytes);
        Some(Self(boxed))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a token says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Label, without padding.
    pub label: String,
    /// Serial number, without padding.
    pub serial: String,
    /// Manufacturer, without padding.
    pub manufacturer: String,
    /// Model, without padding.
    pub model: String,
    /// `CKF_USER_PIN_COUNT_LOW`: a wrong PIN was entered since the last login.
    pub pin_count_low: bool,
    /// `CKF_USER_PIN_FINAL_TRY`: one more wrong PIN locks.
    pub pin_final_try: bool,
    /// `CKF_USER_PIN_LOCKED`.
    pub pin_locked: bool,
}

/// An opened token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What the token says of itself.
    pub info: TokenInfo,
    /// The keys that are open; the first one seals.
    pub keys: Vec<KeyDescriptor>,
}

/// One token.
///
/// # Security
/// An implementation returns within its deadlines whatever the token does, and creates no key, ever.
pub trait Token: Send {
    /// Its configured name, for outages.
    fn name(&self) -> &str;

    /// Everything from the start: finalize, initialize, find the token, log in, find the keys, check their values. Old handles
    /// are forgotten. With `required` empty the one key that the configuration names is opened; otherwise those of
    /// `required` that this token holds, by id and check value.
    ///
    /// # Errors
    /// [`TokenError`]; class `Key` when none of `required` is here, one has another check value, or a name is not unique.
    fn open(&mut self, required: &[KeyDescriptor]) -> Result<Opened, TokenError>;

    /// HMAC-SHA256 of `input` (at most [`DERIVE_INPUT_BYTES_MAX`]) under the open key number `key`.
    ///
    /// # Errors
    /// [`TokenError`].
    fn derive(&mut self, key: usize, input: &[u8]) -> Result<Derived, TokenError>;

    /// Reads the anchor that the token keeps.
    ///
    /// # Errors
    /// [`TokenError`].
    fn anchor_read(&mut self) -> Result<AnchorRead, TokenError>;

    /// Replaces the anchor. After an error the token may hold the old or the new one.
    ///
    /// # Errors
    /// [`TokenError`]; class `Usage` when this token cannot keep one.
    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), TokenError>;

    /// Token agents started so far.
    fn agents_started(&self) -> u64;

    /// What begins and ends drills of this token; none when it plays no outage.
    fn drills(&self) -> Option<DrillSwitch> {
        None
    }
}
