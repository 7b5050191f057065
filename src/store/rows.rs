//! The rows beside the frames: plain rows with a checksum, the sealed head, store records.

use frostkeep_hsm::entropy::Entropy;
use frostkeep_hsm::provider::{AnchorValue, DataKey, KeyDescriptor, Wrap};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::frame::{FORMAT_VERSION, Reader};
use super::seal::{NONCE_BYTES, TAG_BYTES, decrypt, encrypt, fresh_nonce};
use crate::hash::Framed;
use crate::limits::{HEAD_BYTES_MAX, STORE_KEYS_MAX, WRAPS_BYTES_MAX, WRAPS_MAX};

/// A row that is not well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum RowError {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// Its checksum does not match.
    #[error("checksum does not match")]
    Checksum,
    /// Intact, and of a newer format.
    #[error("row version {found}: this release reads up to {FORMAT_VERSION}")]
    Version {
        /// The version.
        found: u16,
    },
    /// Intact, and not what it should hold.
    #[error("is malformed: {0}")]
    Malformed(&'static str),
    /// The seal does not verify.
    #[error("does not open under its key")]
    NotAuthentic,
}

/// What a plain row holds; its tag is part of the checksum, so that rows cannot change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum RowKind {
    Meta = 1,
    Key = 2,
    FrameWraps = 3,
    BundleWraps = 4,
    SnapshotWraps = 5,
}

const CHECKSUM_BYTES: usize = 32;

fn checksum(kind: RowKind, id: u64, row: &[u8]) -> [u8; CHECKSUM_BYTES] {
    Framed::new("frostkeep/store/row/v1").part(&[kind as u8]).part(&id.to_be_bytes()).part(row).finish()
}

/// A plain row: version, body, checksum.
pub(in crate::store) fn plain(kind: RowKind, id: u64, body: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(2 + body.len() + CHECKSUM_BYTES);
    row.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    row.extend_from_slice(body);
    let sum = checksum(kind, id, &row);
    row.extend_from_slice(&sum);
    row
}

/// The body of a plain row. The checksum comes first in every version: a flipped bit is damage, never a newer format.
pub(in crate::store) fn open_plain(kind: RowKind, id: u64, row: &[u8]) -> Result<&[u8], RowError> {
    let (rest, sum) = row.split_last_chunk::<CHECKSUM_BYTES>().ok_or(RowError::Checksum)?;
    if checksum(kind, id, rest) != *sum {
        return Err(RowError::Checksum);
    }
    let (version, body) = rest.split_first_chunk::<2>().ok_or(RowError::Malformed("no version"))?;
    match u16::from_be_bytes(*version) {
        FORMAT_VERSION => Ok(body),
        found => Err(RowError::Version { found }),
    }
}

/// The whole of `bytes` as one postcard value.
pub(in crate::store) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RowError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(RowError::Malformed("bytes left over")),
        Err(_) => Err(RowError::Malformed("does not decode")),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data into memory: no serialiser of ours fails")
}

/// Which store: random, made once.
pub(in crate::store) fn meta_row(store: &[u8; 16]) -> Vec<u8> {
    plain(RowKind::Meta, 0, store)
}

pub(in crate::store) fn open_meta(row: &[u8]) -> Result<[u8; 16], RowError> {
    open_plain(RowKind::Meta, 0, row)?.try_into().map_err(|_| RowError::Malformed("16 bytes of store id"))
}

/// Where a token key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) enum KeyState {
    /// Seals new frames; old ones may lack its wrap.
    Active,
    /// Opens old frames until the last wrap that only it opens is gone; seals none.
    Retiring,
    /// Opens nothing any more.
    Retired,
}

/// A token key that the store names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct KeyRow {
    pub(in crate::store) state: KeyState,
    pub(in crate::store) descriptor: KeyDescriptor,
}

pub(in crate::store) fn key_row(number: u64, key: &KeyRow) -> Vec<u8> {
    plain(RowKind::Key, number, &encode(key))
}

pub(in crate::store) fn open_key(number: u64, row: &[u8]) -> Result<KeyRow, RowError> {
    decode(open_plain(RowKind::Key, number, row)?)
}

/// The digest of all key rows: the sealed head holds it, so that a key row cannot be added, changed or removed.
pub(in crate::store) fn keys_digest(rows: &[(u64, Vec<u8>)]) -> [u8; 32] {
    rows.iter()
        .fold(Framed::new("frostkeep/store/keys/v1"), |hash, (number, row)| hash.part(&number.to_be_bytes()).part(row))
        .finish()
}

/// The bounds of what a provider gave; what is written can be read (trap 8).
pub(in crate::store) fn wraps_row(kind: RowKind, id: u64, wraps: &[Wrap]) -> Result<Vec<u8>, RowError> {
    let body = encode(&wraps);
    check_wraps(wraps.len(), body.len())?;
    Ok(plain(kind, id, &body))
}

pub(in crate::store) fn open_wraps(kind: RowKind, id: u64, row: &[u8]) -> Result<Vec<Wrap>, RowError> {
    let body = open_plain(kind, id, row)?;
    let wraps: Vec<Wrap> = decode(body)?;
    check_wraps(wraps.len(), body.len())?;
    Ok(wraps)
}

fn check_wraps(count: usize, bytes: usize) -> Result<(), RowError> {
    match (count, bytes) {
        (0, _) => Err(RowError::Malformed("no wrap at all")),
        (1..=WRAPS_MAX, ..=WRAPS_BYTES_MAX) => Ok(()),
        _ => Err(RowError::Malformed("more or larger wraps than the bound")),
    }
}

/// The snapshot that recovery starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct SnapshotHead {
    pub(in crate::store) id: u64,
    pub(in crate::store) position: u64,
    /// Chain hash of the frame that ends at `position`.
    pub(in crate::store) chain: [u8; 32],
    pub(in crate::store) chunks: u32,
    /// Bytes of all its chunk rows.
    pub(in crate::store) bytes: u64,
}

/// What is known of one token's anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct AnchorNote {
    /// The number of a key row: the token is the one that its descriptor names.
    pub(in crate::store) key: u64,
    pub(in crate::store) confirmed: Option<AnchorValue>,
    /// Noted before the token is asked to keep it.
    pub(in crate::store) intended: Option<AnchorValue>,
}

/// The head: the end of the chain and all that is needed to walk to it. Sealed under the bundle key that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Head {
    pub(in crate::store) epoch: u64,
    pub(in crate::store) last: u64,
    pub(in crate::store) chain: [u8; 32],
    pub(in crate::store) bundle: u64,
    /// Frames of that bundle.
    pub(in crate::store) bundle_frames: u64,
    pub(in crate::store) keys_digest: [u8; 32],
    pub(in crate::store) snapshot: Option<SnapshotHead>,
    pub(in crate::store) anchors: Vec<AnchorNote>,
}

impl Head {
    /// Position and chain hash before the first frame that is kept.
    pub(in crate::store) fn base(&self, store: &[u8; 16]) -> (u64, [u8; 32]) {
        self.snapshot
            .as_ref()
            .map_or_else(|| (0, super::frame::genesis(store)), |snapshot| (snapshot.position, snapshot.chain))
    }
}

const HEAD_MAGIC: [u8; 4] = *b"FKHD";
const HEAD_HEADER_BYTES: usize = 4 + 2 + 16 + 8 + NONCE_BYTES;

/// Seals the head under the key of the bundle that it names.
pub(in crate::store) fn head_row(store: &[u8; 16], head: &Head, key: &DataKey, entropy: &mut dyn Entropy) -> Vec<u8> {
    let mut text = Zeroizing::new(encode(head));
    let nonce = fresh_nonce(entropy);
    let mut row = Vec::with_capacity(HEAD_HEADER_BYTES + text.len() + TAG_BYTES);
    row.extend_from_slice(&HEAD_MAGIC);
    row.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    row.extend_from_slice(store);
    row.extend_from_slice(&head.bundle.to_be_bytes());
    row.extend_from_slice(&nonce);
    let tag = encrypt(key, &nonce, &row, &mut text);
    row.extend_from_slice(&text);
    row.extend_from_slice(&tag);
    row
}

/// The bundle whose key opens the head. Not proved until [`open_head`].
pub(in crate::store) fn head_bundle(store: &[u8; 16], row: &[u8]) -> Result<u64, RowError> {
    let short = RowError::Malformed("shorter than a head");
    let mut reader = Reader(row);
    if reader.array().ok_or(short.clone())? != HEAD_MAGIC {
        return Err(RowError::Malformed("not a head"));
    }
    // The meta row told the version; one that differs here is damage.
    if reader.array().ok_or(short.clone())? != FORMAT_VERSION.to_be_bytes() {
        return Err(RowError::Malformed("version differs from the meta row's"));
    }
    if reader.array::<16>().ok_or(short.clone())? != *store {
        return Err(RowError::Malformed("of another store"));
    }
    reader.u64().ok_or(short)
}

pub(in crate::store) fn open_head(row: &[u8], key: &DataKey) -> Result<Head, RowError> {
    if row.len() > HEAD_HEADER_BYTES + HEAD_BYTES_MAX + TAG_BYTES {
        return Err(RowError::Malformed("longer than the bound"));
    }
    let (header, sealed) = row.split_at_checked(HEAD_HEADER_BYTES).ok_or(RowError::Malformed("shorter than a head"))?;
    let nonce = header.last_chunk::<NONCE_BYTES>().ok_or(RowError::Malformed("shorter than a head"))?;
    let head: Head = decode(&decrypt(key, nonce, header, sealed).map_err(|_| RowError::NotAuthentic)?)?;
    if head.anchors.len() > STORE_KEYS_MAX {
        return Err(RowError::Malformed("more anchors than the bound"));
    }
    Ok(head)
}

/// A record of the store itself. The numbers are the format: 2 key retired, 3 anchor adopted are reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) enum StoreRecord {
    /// 0: a process opened the store; the first record that it writes.
    Epoch { number: u64, started_unix: u64 },
    /// 1: a token key is named from here on.
    KeyAdded { number: u64, descriptor: KeyDescriptor },
}

impl StoreRecord {
    pub(in crate::store) fn encoded(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(encode(self))
    }
}
