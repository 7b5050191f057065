//! What the store asks of a key provider: to wrap and unwrap data keys, to anchor, to heal.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::drill::DrillSwitch;
use crate::health::{Health, Outage, TokenHealth};

/// A fresh 32-byte AEAD key for one sealed object. Wiped on drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct DataKey(Box<[u8; 32]>);

impl DataKey {
    /// A key with these bytes; the caller's copy is the caller's to wipe.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(Box::new(*bytes))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// What a data key seals: bound into its wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedObject {
    /// Which store.
    pub store: [u8; 16],
    /// What kind of row: the store's numbering.
    pub kind: u8,
    /// Which one of its kind.
    pub id: u64,
}

/// The name of a token key: the first 16 bytes of a framed SHA-256 over scheme, `CKA_ID` and check value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyName(pub [u8; 16]);

/// A token key that a state needs, as the state names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDescriptor {
    /// The sealing scheme: 1 is `hmac`.
    pub scheme: u8,
    /// `CKA_ID` of the key.
    pub id: Vec<u8>,
    /// Key check value: the first 8 bytes of a keyed call with a known input.
    pub check_value: [u8; 8],
    /// Label of the token, without padding.
    pub token_label: String,
    /// Serial number of the token, without padding.
    pub token_serial: String,
}

/// A data key, wrapped under one token key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrap {
    /// Which token key.
    pub key: KeyName,
    /// The sealing scheme: 1 is `hmac`.
    pub scheme: u8,
    /// Scheme `hmac`: 32-byte salt, 32-byte ciphertext, 16-byte tag.
    pub blob: Vec<u8>,
}

/// The provider cannot seal or open now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key provider unavailable: {} ({})", .0.class.name(), .0.detail)]
pub struct Unavailable(pub Outage);

/// Why a data key does not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The provider cannot open now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The object has wraps, but none for a key of a configured token. An outage that names the keys.
    #[error("none of the {found} wraps of this object belongs to a reachable token key")]
    NoReachableKey {
        /// How many wraps there are.
        found: usize,
        /// The keys that would open it.
        keys: Vec<KeyName>,
    },
    /// The token answered and the wrap did not open: the row is damaged.
    #[error("the wrap does not open under the key that it names")]
    Corrupt,
}

/// The authenticated value that a token keeps: where the chain was when it was last anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorValue {
    /// Which store.
    pub store: [u8; 16],
    /// Epoch of the writer.
    pub epoch: u64,
    /// Durable position.
    pub position: u64,
    /// Chain head at that position.
    pub head: [u8; 32],
}

/// What a token says of its anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorRead {
    /// This token keeps none for us, and could.
    Absent,
    /// This kind of token cannot keep one.
    Unsupported,
    /// The value.
    Value(AnchorValue),
}

/// Told when something has changed that those who wait may wait for.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A key provider: one or more tokens behind an outage machine. Owned by the persister's thread; every call has a
/// deadline, and every failure is an [`Outage`].
pub trait KeyProvider: Send {
    /// Names the keys that the state needs. From now on another key under the same name is an outage of class `key`.
    fn require(&mut self, keys: &[KeyDescriptor]);

    /// The keys that seal now, to be named by a new state. Empty until the first connection.
    fn keys(&self) -> Vec<KeyDescriptor>;

    /// The state of the outage machine.
    fn health(&self) -> Health;

    /// Each of its tokens, the primary first.
    fn tokens(&self) -> Vec<TokenHealth>;

    /// Waits until the first connection to each of its tokens was tried.
    fn connect_all(&mut self) {
        self.tick();
    }

    /// Who is told when a token has come or gone. A provider that only works when it is asked has nothing to tell.
    fn set_waker(&mut self, _waker: Waker) {}

    /// Does what is due: the first connection, a probe, the health call. Returns the time until something is due again
    /// (at most a health interval).
    fn tick(&mut self) -> Duration;

    /// Wraps `key` under every reachable token key: at least one wrap.
    ///
    /// # Errors
    /// [`Unavailable`] when no token can; nothing was written then.
    fn wrap(&mut self, object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable>;

    /// Wraps `key` under the open token key `name` alone: so is caught up what was sealed while its token was away.
    ///
    /// # Errors
    /// [`Unavailable`], also when no token has that key open.
    fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable>;

    /// Opens one of the wraps.
    ///
    /// # Errors
    /// [`UnwrapError`].
    fn unwrap(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError>;

    /// Reads the anchor.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn anchor_read(&mut self) -> Result<AnchorRead, Unavailable>;

    /// Writes the anchor. After an error the token may hold the old or the new value.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), Unavailable>;

    /// Fences the provider for the life of the process: the anchor belongs to another instance.
    fn fence_by_anchor(&mut self, detail: String);

    /// A number that changes with every reconnection: the anchor is read again after each. A `wrap` may reconnect within itself:
    /// compare before and after it, and read the anchor again before what it sealed is written.
    fn connection(&self) -> u64;

    /// What begins and ends drills of this provider; none when it plays no outage.
    fn drills(&self) -> Option<DrillSwitch> {
        None
    }
}
