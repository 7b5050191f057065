//! Names of things: newtypes without arithmetic, valid by construction.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::SESSION_ID_BYTES_MAX;

/// A value that is not a well-formed identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A member number of zero.
    #[error("member number 0 is not valid: members are 1 to 65535")]
    MemberZero,
    /// A session id of the wrong length.
    #[error("session id of {found} bytes: 1 to {SESSION_ID_BYTES_MAX} are allowed")]
    SessionLength {
        /// Bytes found.
        found: usize,
    },
    /// A byte that a session id must not hold.
    #[error(
        "session id holds byte 0x{byte:02x} at offset {offset}: printable ASCII without space, quotes, '=' and '\\' is allowed"
    )]
    SessionByte {
        /// The byte.
        byte: u8,
        /// Its offset from the start.
        offset: usize,
    },
    /// Text that is not hexadecimal of the expected length.
    #[error("{what}: expected {expected} bytes as lower or upper case hex, found {found} characters")]
    Hex {
        /// What was being read.
        what: &'static str,
        /// Bytes expected.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// Bytes that are not a compressed SEC1 point prefix.
    #[error("key group id starts with 0x{0:02x}: a compressed SEC1 point starts with 02 or 03")]
    KeyGroupPrefix(u8),
}

/// A FROST participant of a key group, `1..=65535` (RFC 9591 identifier).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Member(NonZeroU16);

impl Member {
    /// Member 1.
    pub const FIRST: Member = Member(NonZeroU16::MIN);

    /// The member with this number.
    ///
    /// # Errors
    /// [`IdError::MemberZero`] for zero.
    pub fn new(number: u16) -> Result<Self, IdError> {
        NonZeroU16::new(number).map(Self).ok_or(IdError::MemberZero)
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u16> for Member {
    type Error = IdError;
    fn try_from(number: u16) -> Result<Self, IdError> {
        Self::new(number)
    }
}

impl From<Member> for u16 {
    fn from(member: Member) -> u16 {
        member.number()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session: 1 to 128 bytes of printable ASCII without spaces, quotes, `=` or `\`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(Box<str>);

impl SessionId {
    /// The session id with this text.
    ///
    /// # Errors
    /// [`IdError`] when it is empty, too long or holds a forbidden byte.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > SESSION_ID_BYTES_MAX {
            return Err(IdError::SessionLength { found: text.len() });
        }
        for (offset, byte) in text.bytes().enumerate() {
            if !byte.is_ascii_graphic() || matches!(byte, b'"' | b'\'' | b'`' | b'=' | b'\\') {
                return Err(IdError::SessionByte { byte, offset });
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl TryFrom<String> for SessionId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        id.0.into()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0x0f] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}

/// Hexadecimal of exactly `N` bytes, either case (a caller's case never changes a fingerprint).
///
/// # Errors
/// [`IdError::Hex`] naming `what`.
pub fn from_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], IdError> {
    let wrong = || IdError::Hex { what, expected: N, found: text.chars().count() };
    if text.len() != N * 2 {
        return Err(wrong());
    }
    let mut bytes = [0u8; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let mut value = 0u8;
        for &digit in pair {
            let digit = (digit as char).to_digit(16).ok_or_else(wrong)?;
            value = value << 4 | digit as u8;
        }
        *byte = value;
    }
    Ok(bytes)
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $len]);

        impl $name {
            /// The identifier with these bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                from_hex($what, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

bytes_id!(
    /// What a session signs: 32 bytes, a BIP-341 signature hash unless policy says otherwise.
    Message, 32, "message"
);
bytes_id!(
    /// The Taproot Merkle root that tweaks the group key (BIP-341).
    MerkleRoot, 32, "taproot merkle root"
);
bytes_id!(
    /// The name of one attempt (RFC-21 attempt id, SHA-256).
    AttemptId, 32, "attempt id"
);
bytes_id!(
    /// The name of one member's answer to one attempt.
    RoundId, 32, "round id"
);
bytes_id!(
    /// The name of one freeze, random.
    FreezeId, 16, "freeze id"
);
bytes_id!(
    /// The name of one key generation, random.
    CeremonyId, 16, "ceremony id"
);
bytes_id!(
    /// The name of one outage drill, random.
    DrillId, 16, "drill id"
);

/// How attempts of a session advance (design of the `roast` module): chosen at key generation, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AttemptPolicy {
    /// One active attempt; the next needs evidence against it (RFC-21).
    Evidence,
    /// Any attempt that a member has not answered yet (ROAST, Ruffing et al. 2022).
    Roast,
}

impl fmt::Display for AttemptPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Evidence => "evidence",
            Self::Roast => "roast",
        })
    }
}

/// The 33-byte compressed SEC1 encoding of a group verifying key (the BIP-341 *internal* key with its parity).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroupId([u8; 33]);

impl KeyGroupId {
    /// The key group with this verifying key.
    ///
    /// # Errors
    /// [`IdError::KeyGroupPrefix`] unless it starts like a compressed point.
    pub fn new(bytes: [u8; 33]) -> Result<Self, IdError> {
        match bytes {
            [2 | 3, ..] => Ok(Self(bytes)),
            [other, ..] => Err(IdError::KeyGroupPrefix(other)),
        }
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 33] {
        &self.0
    }
}

impl FromStr for KeyGroupId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(from_hex("key group id", text)?)
    }
}

impl fmt::Display for KeyGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for KeyGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyGroupId({self})")
    }
}

impl Serialize for KeyGroupId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (head, tail) = self.0.split_at(1);
        (head.first().copied().unwrap_or_default(), <[u8; 32]>::try_from(tail).unwrap_or_default())
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyGroupId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (head, tail) = <(u8, [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [head; 33];
        if let Some(rest) = bytes.get_mut(1..) {
            rest.copy_from_slice(&tail);
        }
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}
