//! What node and agent say to each other: one request, one reply, in order, over the agent's stdin and stdout.
//!
//! A frame is `length 4 bytes, little-endian || header || tail`; the length counts header and tail and is at most
//! [`FRAME_BYTES_MAX`]. The header is postcard; the tail is raw bytes and the only place where a secret stands (the PIN of a
//! login, the output of a derivation), so that no secret goes through an encoder. Buffers have a fixed size and are wiped.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::anchor::{AnchorRequest, Anchored};
use super::examine::{Examine, Examined};
use crate::token::{TokenError, TokenInfo};

/// Header and tail of one frame, bytes. The largest is a list of [`KEYS_FOUND_MAX`] keys.
pub const FRAME_BYTES_MAX: usize = 8 << 10;
/// Keys that one search reports, and that an agent holds open. Exactly one should match.
pub const KEYS_FOUND_MAX: usize = 8;
/// Longest `CKA_ID` or label that is looked at, bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 128;
/// Version of this protocol. Node and agent come from one build; a stale binary is refused by name.
pub const VERSION: u16 = 3;

/// How one token is told from others. Texts are compared without padding.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenSelector {
    /// Label.
    pub label: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Slot number, for tokens whose information does not parse.
    pub slot: Option<u64>,
}

/// From the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first request: who speaks.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Process id of the node.
        parent: u32,
    },
    /// Finalize, load, initialize, find the token. Forgets sessions and keys.
    Connect {
        /// Path of the module.
        module: String,
        /// Which token.
        token: TokenSelector,
    },
    /// Open a session and log in. The tail is the PIN.
    Login {
        /// A file that is locked during the call.
        lock: PathBuf,
    },
    /// Search secret keys. Found ones get the next numbers.
    Find {
        /// `CKA_LABEL`.
        label: Option<String>,
        /// `CKA_ID`.
        id: Option<Vec<u8>>,
    },
    /// HMAC-SHA256 of the tail under key number `key`. The reply's tail is the output.
    Derive {
        /// Number of the key, from `Find`.
        key: u32,
    },
    /// Make a 32-byte generic secret: sensitive, not extractable, private, for signing. Only provisioning asks for it.
    CreateKey {
        /// `CKA_LABEL`.
        label: String,
        /// `CKA_ID`.
        id: Vec<u8>,
    },
    /// In a drill, in place of another request: answers as a token in this outage would. Does not touch the module.
    Play {
        /// The outage.
        outage: PlayedOutage,
        /// The request in whose place it stands.
        call: PlayedCall,
    },
    /// In a drill, before another request: answers after this time. Does not touch the module.
    Delay {
        /// The time, milliseconds.
        ms: u64,
    },
    /// What only `token check` asks.
    Examine(Examine),
    /// An anchor object. The tail is its value, if the act has one.
    Anchor(AnchorRequest),
}

impl Request {
    /// Its name in errors.
    pub const fn operation(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "start",
            Self::Connect { .. } => "connect",
            Self::Login { .. } => "login",
            Self::Find { .. } => "find",
            Self::Derive { .. } => "derive",
            Self::CreateKey { .. } => "create_key",
            Self::Play { call, .. } => call.name(),
            Self::Delay { .. } => "delay",
            Self::Examine(request) => request.operation(),
            Self::Anchor(request) => request.act.operation(),
        }
    }
}

/// An outage that the agent plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlayedOutage {
    /// The token is gone.
    Unplug,
    /// No call returns.
    Hang,
    /// Every call ends the process.
    Crash,
    /// The session is gone, and logins are refused.
    Pin {
        /// What the token said of itself when it was last asked.
        token: TokenInfo,
    },
}

/// A request that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlayedCall {
    /// [`Request::Connect`].
    Connect,
    /// [`Request::Login`], without the PIN.
    Login,
    /// [`Request::Find`].
    Find,
    /// [`Request::Derive`], without its input.
    Derive,
}

impl PlayedCall {
    /// Its name in errors, that of the request itself.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Login => "login",
            Self::Find => "find",
            Self::Derive => "derive",
        }
    }
}

/// A key that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundKey {
    /// Its number in this connection.
    pub key: u32,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// `CKA_LABEL`, as text.
    pub label: String,
    /// Its check value.
    pub check_value: [u8; 8],
    /// `CKA_SENSITIVE`, when the token tells.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`, when the token tells.
    pub extractable: Option<bool>,
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// `Hello` and `Login` and `CreateKey` succeeded.
    Done,
    /// `Connect` found the token.
    Token(TokenInfo),
    /// What `Find` found, at most [`KEYS_FOUND_MAX`].
    Keys(Vec<FoundKey>),
    /// `Derive`: the output is the tail.
    Derived,
    /// The request failed.
    Failed(TokenError),
    /// `Examine`.
    Examined(Examined),
    /// `Anchor`.
    Anchored(Anchored),
}

/// One frame, wiped on drop; its buffer never grows.
pub struct Frame {
    bytes: Box<[u8]>,
    // What may hold anything: all of it until the true length is known.
    length: usize,
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.bytes.get_mut(..self.length).unwrap_or_default().zeroize();
    }
}

impl Frame {
    fn empty() -> Self {
        Self { bytes: vec![0; FRAME_BYTES_MAX].into_boxed_slice(), length: FRAME_BYTES_MAX }
    }

    /// Encodes `header` and puts `tail` behind it.
    ///
    /// # Errors
    /// `InvalidInput` when they are longer than [`FRAME_BYTES_MAX`].
    pub fn new(header: &impl Serialize, tail: &[u8]) -> io::Result<Self> {
        let mut frame = Self::empty();
        let used = postcard::to_slice(header, &mut frame.bytes).map_err(|_| too_long())?.len();
        let length = used + tail.len();
        frame.bytes.get_mut(used..length).ok_or_else(too_long)?.copy_from_slice(tail);
        frame.length = length;
        Ok(frame)
    }

    /// Header and tail.
    ///
    /// # Errors
    /// `InvalidData` when the header does not decode.
    pub fn decode<T: DeserializeOwned>(&self) -> io::Result<(T, &[u8])> {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        postcard::take_from_bytes(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed header"))
    }

    /// Writes length and frame.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn write_to(&self, pipe: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.length).map_err(|_| too_long())?;
        pipe.write_all(&length.to_le_bytes())?;
        pipe.write_all(self.bytes.get(..self.length).unwrap_or_default())?;
        pipe.flush()
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// Those of the pipe, `UnexpectedEof` at its end, `InvalidData` for a length above [`FRAME_BYTES_MAX`].
    pub fn read_from(pipe: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        pipe.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| too_long())?;
        let mut frame = Self::empty();
        let room = frame.bytes.get_mut(..length).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of {length} bytes, at most {FRAME_BYTES_MAX} are read"),
            )
        })?;
        let read = pipe.read_exact(room);
        frame.length = length;
        read?;
        Ok(frame)
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("frame longer than {FRAME_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Request {
        Request::Login { lock: "lock".into() }
    }
    use crate::agent::anchor::ANCHOR_BYTES_MAX;
    use crate::agent::examine::KeyAttributes;
    use crate::token::{DETAIL_BYTES_MAX, FaultClass};
    use proptest::prelude::*;

    #[test]
    fn a_frame_comes_back_with_its_tail() {
        let frame = Frame::new(&login(), b"1234").unwrap();
        let mut pipe = Vec::new();
        frame.write_to(&mut pipe).unwrap();
        let frame = Frame::read_from(&mut pipe.as_slice()).unwrap();
        let (request, tail): (Request, _) = frame.decode().unwrap();
        assert_eq!((request, tail), (login(), b"1234".as_slice()));
    }

    #[test]
    fn the_largest_honest_replies_fit_a_frame() {
        let key = FoundKey {
            key: u32::MAX,
            id: vec![255; ATTRIBUTE_BYTES_MAX],
            label: "x".repeat(ATTRIBUTE_BYTES_MAX * 3),
            check_value: [255; 8],
            sensitive: Some(true),
            extractable: Some(true),
        };
        assert!(Frame::new(&Reply::Keys(vec![key; KEYS_FOUND_MAX]), &[]).is_ok());
        let told = KeyAttributes {
            id: vec![255; ATTRIBUTE_BYTES_MAX],
            label: "x".repeat(ATTRIBUTE_BYTES_MAX * 3),
            key_type: Some("x".repeat(64)),
            value_bytes: Some(u64::MAX),
            ..KeyAttributes::default()
        };
        assert!(Frame::new(&Reply::Examined(Examined::Attributes(vec![told; KEYS_FOUND_MAX])), &[]).is_ok());
        let values = vec![vec![255; ANCHOR_BYTES_MAX]; KEYS_FOUND_MAX];
        assert!(Frame::new(&Reply::Anchored(Anchored::Values(values)), &[]).is_ok());
        let error = TokenError::new(FaultClass::Usage, "operation", "code", "d".repeat(5_000));
        assert_eq!(error.detail.len(), DETAIL_BYTES_MAX);
        assert!(Frame::new(&Reply::Failed(error), &[]).is_ok());
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_it_is_read() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 64]);
        let error = Frame::read_from(&mut bytes.as_slice()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(Frame::new(&login(), &[0; FRAME_BYTES_MAX]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut framed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            framed.extend(&bytes);
            let frame = Frame::read_from(&mut framed.as_slice()).unwrap();
            let _ = frame.decode::<Request>();
            let _ = frame.decode::<Reply>();
            let _ = Frame::read_from(&mut bytes.as_slice());
        }
    }
}
