//! A frame: one batch of records, sealed and chained. The bytes are in the manual, `store_format`.

use frostkeep_hsm::entropy::Entropy;
use frostkeep_hsm::provider::DataKey;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::durable::Position;
use super::line::{RECORD_HEAD_BYTES, RecordKind, Waiting};
use super::seal::{NONCE_BYTES, TAG_BYTES, decrypt, encrypt, fresh_nonce};
use crate::hash::Framed;
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

/// The version of every row that this release writes.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"FKFR";

/// Bytes of a frame's header, which is the associated data of its ciphertext.
pub(in crate::store) const HEADER_BYTES: usize = 4 + 2 + 16 + 8 + 8 + 8 + 32 + NONCE_BYTES + 4;

/// A frame that is not well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum FrameError {
    /// Fewer bytes than a header.
    #[error("{found} bytes: a frame has at least {HEADER_BYTES}")]
    Short {
        /// Bytes found.
        found: usize,
    },
    /// Not a frame.
    #[error("does not start with the magic of a frame")]
    Magic,
    /// A newer format, or damage.
    #[error("frame version {found}: this release reads up to {FORMAT_VERSION}")]
    Version {
        /// The version.
        found: u16,
    },
    /// Length field and bytes differ, or exceed the bound.
    #[error("ciphertext of {found} bytes where the header says {stated} (at most {max})")]
    Length {
        /// Bytes found.
        found: usize,
        /// Bytes that the header states.
        stated: usize,
        /// The bound.
        max: usize,
    },
    /// First and last position cannot be a batch.
    #[error("positions {first} to {last}: a batch holds 1 to {BATCH_RECORDS_MAX} records")]
    Positions {
        /// First position.
        first: u64,
        /// Last position.
        last: u64,
    },
    /// The ciphertext does not verify.
    #[error("does not open under its data key")]
    NotAuthentic,
    /// The batch inside is not well-formed.
    #[error("record {index} of the batch is malformed: {what}")]
    Record {
        /// Its index in the batch.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Header {
    pub(in crate::store) store: [u8; 16],
    pub(in crate::store) epoch: u64,
    pub(in crate::store) first: Position,
    pub(in crate::store) last: Position,
    /// Chain hash of the frame before, or the genesis.
    pub(in crate::store) previous: [u8; 32],
}

/// The chain hash before the first frame.
pub(in crate::store) fn genesis(store: &[u8; 16]) -> [u8; 32] {
    Framed::new("frostkeep/store/genesis/v1").part(store).finish()
}

/// The chain hash of a frame: over all its bytes.
pub(in crate::store) fn chain_hash(frame: &[u8]) -> [u8; 32] {
    Sha256::digest(frame).into()
}

/// Seals `batch` under `key`. The batch must not be empty, and must be what [`super::line::Line::batch`] gives.
pub(in crate::store) fn seal(header: &Header, batch: &[Waiting], key: &DataKey, entropy: &mut dyn Entropy) -> Vec<u8> {
    let text_bytes: usize = batch.iter().map(|waiting| RECORD_HEAD_BYTES + waiting.bytes.len()).sum();
    let sealed_bytes = u32::try_from(text_bytes + TAG_BYTES).unwrap_or(u32::MAX);
    let nonce = fresh_nonce(entropy);
    // Wiped should anything unwind between here and the encryption.
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + text_bytes + TAG_BYTES));
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    frame.extend_from_slice(&header.store);
    frame.extend_from_slice(&header.epoch.to_be_bytes());
    frame.extend_from_slice(&header.first.number().to_be_bytes());
    frame.extend_from_slice(&header.last.number().to_be_bytes());
    frame.extend_from_slice(&header.previous);
    frame.extend_from_slice(&nonce);
    frame.extend_from_slice(&sealed_bytes.to_be_bytes());
    for waiting in batch {
        frame.push(match waiting.kind {
            RecordKind::Store => 0,
            RecordKind::Engine => 1,
        });
        let length = u32::try_from(waiting.bytes.len()).unwrap_or(u32::MAX);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&waiting.bytes);
    }
    let (head, text) = frame.split_at_mut(HEADER_BYTES);
    let tag = encrypt(key, &nonce, head, text);
    frame.extend_from_slice(&tag);
    std::mem::take(&mut *frame)
}

/// A frame whose structure was read; nothing of it is proved yet.
#[derive(Clone, Copy)]
pub(in crate::store) struct Frame<'a> {
    pub(in crate::store) header: Header,
    nonce: [u8; NONCE_BYTES],
    associated: &'a [u8],
    sealed: &'a [u8],
}

/// Reads the structure of a frame.
pub(in crate::store) fn parse(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let short = FrameError::Short { found: bytes.len() };
    let mut reader = Reader(bytes);
    if reader.array::<4>().ok_or(short.clone())? != MAGIC {
        return Err(FrameError::Magic);
    }
    let version = u16::from_be_bytes(reader.array().ok_or(short.clone())?);
    if version != FORMAT_VERSION {
        return Err(FrameError::Version { found: version });
    }
    let header = Header {
        store: reader.array().ok_or(short.clone())?,
        epoch: reader.u64().ok_or(short.clone())?,
        first: Position::new(reader.u64().ok_or(short.clone())?),
        last: Position::new(reader.u64().ok_or(short.clone())?),
        previous: reader.array().ok_or(short.clone())?,
    };
    let nonce = reader.array().ok_or(short.clone())?;
    let stated = u32::from_be_bytes(reader.array().ok_or(short)?) as usize;
    let sealed = reader.0;
    let max = BATCH_BYTES_MAX + TAG_BYTES;
    if sealed.len() != stated || stated > max || stated < TAG_BYTES {
        return Err(FrameError::Length { found: sealed.len(), stated, max });
    }
    let (first, last) = (header.first.number(), header.last.number());
    if first == 0 || last < first || last - first >= BATCH_RECORDS_MAX as u64 {
        return Err(FrameError::Positions { first, last });
    }
    let associated = bytes.get(..HEADER_BYTES).unwrap_or_default();
    Ok(Frame { header, nonce, associated, sealed })
}

impl Frame<'_> {
    /// The batch inside.
    pub(in crate::store) fn open(&self, key: &DataKey) -> Result<Batch, FrameError> {
        let text = decrypt(key, &self.nonce, self.associated, self.sealed).map_err(|_| FrameError::NotAuthentic)?;
        Ok(Batch { first: self.header.first, last: self.header.last, text })
    }
}

/// The opened text of a frame.
pub(in crate::store) struct Batch {
    first: Position,
    last: Position,
    text: Zeroizing<Vec<u8>>,
}

impl Batch {
    /// Gives every record with its position to `each`, in order; exactly as many as the header says.
    pub(in crate::store) fn records<E: From<FrameError>>(
        &self,
        mut each: impl FnMut(Position, RecordKind, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = Reader(&self.text);
        let count = usize::try_from(self.last.number() - self.first.number() + 1).unwrap_or(BATCH_RECORDS_MAX);
        let mut position = self.first;
        for index in 0..count {
            let wrong = |what| FrameError::Record { index, what };
            let [kind] = reader.array().ok_or(wrong("missing"))?;
            let kind = match kind {
                0 => RecordKind::Store,
                1 => RecordKind::Engine,
                _ => return Err(wrong("unknown kind").into()),
            };
            let length = u32::from_be_bytes(reader.array().ok_or(wrong("no length"))?) as usize;
            if length == 0 || length > RECORD_BYTES_MAX {
                return Err(wrong("length out of bounds").into());
            }
            each(position, kind, reader.take(length).ok_or(wrong("cut off"))?)?;
            position = position.next();
        }
        if !reader.0.is_empty() {
            return Err(FrameError::Record { index: count, what: "bytes left over" }.into());
        }
        Ok(())
    }
}

/// Reads fixed fields off the front of a slice.
pub(in crate::store) struct Reader<'a>(pub(in crate::store) &'a [u8]);

impl<'a> Reader<'a> {
    pub(in crate::store) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(in crate::store) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(in crate::store) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}
