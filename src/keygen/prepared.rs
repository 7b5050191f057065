//! A node's result, before the others have said the same: one record.

use zeroize::Zeroizing;

use super::{Certificate, EncodingError, Statement, Transcript};
use crate::frost::{DecodeError, KEY_SHARE_BYTES_MAX, KeyShare};
use crate::identity::{IdentityError, IdentityKey, NodeIdentity};
use crate::ids::{CeremonyId, KeyGroupId, Member};
use crate::limits::RECORD_BYTES_MAX;

/// Length of a statement, bytes.
const STATEMENT_BYTES: usize = 128;

/// Why bytes are not a prepared key group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreparedError {
    /// Not an encoding of one.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A key share that is none.
    #[error(transparent)]
    Share(#[from] DecodeError),
    /// The node's signature is not one.
    #[error(transparent)]
    Statement(#[from] IdentityError),
    /// The node signed another transcript than the one beside it.
    #[error("the node signed another transcript than the one it holds")]
    OtherTranscript,
    /// The shares are not those of exactly the node's seats.
    #[error("key shares of {found} seats, the node {identity} holds {expected}")]
    Seats {
        /// The node.
        identity: IdentityKey,
        /// Seats of the node.
        expected: usize,
        /// Shares found.
        found: usize,
    },
    /// A key share that does not fit the group key.
    #[error("key share of member {member} does not belong to key group {key_group}")]
    OtherGroup {
        /// The member.
        member: Member,
        /// The key group.
        key_group: KeyGroupId,
    },
}

/// Why a certificate does not activate a prepared key group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    /// It certifies another ceremony.
    #[error("certificate of ceremony {found}, the prepared key group is of {expected}")]
    OtherCeremony {
        /// Ours.
        expected: CeremonyId,
        /// Its.
        found: CeremonyId,
    },
    /// It certifies another transcript of the same ceremony: somebody signed twice.
    #[error("certificate of another transcript of the same ceremony; members {} said different things", .differences.iter().map(Member::to_string).collect::<Vec<_>>().join(", "))]
    OtherTranscript {
        /// Members whose messages differ.
        differences: Vec<Member>,
    },
}

/// Key shares of all of a node's seats, with its signature on the transcript: prepared and has-signed are one state, and one
/// record. It does not sign anything until a complete [`Certificate`] activates it.
///
/// # Security
/// The statement must not leave before the record is durable. A prepared share is never dropped by a restart or a timeout:
/// the others may complete the certificate at any time.
pub struct Prepared {
    shares: Vec<KeyShare>,
    transcript: Transcript,
    statement: Statement,
}

impl Prepared {
    pub(super) fn new(shares: Vec<KeyShare>, transcript: Transcript, identity: &NodeIdentity) -> Self {
        let statement = Statement::sign(&transcript, identity);
        Self { shares, transcript, statement }
    }

    /// The ceremony.
    pub fn ceremony(&self) -> CeremonyId {
        self.transcript.parameters().ceremony()
    }

    /// What was said.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// The node's signature on the transcript.
    ///
    /// # Security
    /// For the others, and only when the record that holds this value is durable.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The encoding, in a wiped buffer of exactly its length:
    /// `u32 length, transcript | statement (128) | u16 count | (u8 length, key share)*`, big-endian.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let transcript = self.transcript.to_bytes();
        let encoded: Vec<_> = self.shares.iter().map(KeyShare::encode).collect();
        let shares: usize = encoded.iter().map(|share| 1 + share.as_bytes().len()).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + transcript.len() + STATEMENT_BYTES + 2 + shares));
        bytes.extend(u32::try_from(transcript.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(transcript);
        bytes.extend(self.statement.to_bytes());
        bytes.extend(u16::try_from(encoded.len()).unwrap_or(u16::MAX).to_be_bytes());
        for share in &encoded {
            bytes.push(u8::try_from(share.as_bytes().len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(share.as_bytes());
        }
        bytes
    }

    /// Reads [`Prepared::encode`], and checks every share and signature in it.
    ///
    /// # Errors
    /// [`PreparedError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PreparedError> {
        const WHAT: &str = "prepared key group";
        let malformed = EncodingError::Malformed { what: WHAT };
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(EncodingError::Length { what: WHAT, found: bytes.len(), limit: RECORD_BYTES_MAX }.into());
        }
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or(malformed)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| malformed)?;
        let (transcript, rest) = rest.split_at_checked(len).ok_or(malformed)?;
        let (statement, rest) = rest.split_at_checked(STATEMENT_BYTES).ok_or(malformed)?;
        let (count, mut rest) = rest.split_first_chunk::<2>().ok_or(malformed)?;
        let transcript = Transcript::from_bytes(transcript)?;
        let statement = Statement::from_bytes(statement)?;
        statement.verify(transcript.parameters())?;
        if statement.transcript() != transcript.hash() {
            return Err(PreparedError::OtherTranscript);
        }
        let seats = transcript.parameters().seats_of(statement.identity());
        let count = usize::from(u16::from_be_bytes(*count));
        let wrong_seats =
            || PreparedError::Seats { identity: statement.identity(), expected: seats.len(), found: count };
        if count != seats.len() || seats.is_empty() {
            return Err(wrong_seats());
        }
        let mut shares = Vec::with_capacity(count);
        for &seat in &seats {
            let (&len, tail) = rest.split_first().ok_or(malformed)?;
            let (encoded, tail) = tail
                .split_at_checked(usize::from(len))
                .filter(|_| usize::from(len) <= KEY_SHARE_BYTES_MAX)
                .ok_or(malformed)?;
            let share = KeyShare::decode(encoded)?;
            if share.member() != seat {
                return Err(wrong_seats());
            }
            let group = transcript.group();
            if share.key_group() != group.id()
                || share.threshold() != group.threshold()
                || Some(share.verifying_share()) != group.verifying_share(seat)
            {
                return Err(PreparedError::OtherGroup { member: seat, key_group: group.id() });
            }
            shares.push(share);
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(EncodingError::NotCanonical { what: WHAT }.into());
        }
        Ok(Self { shares, transcript, statement })
    }

    /// Takes the key shares out: the certificate says that every node holds the same.
    ///
    /// # Errors
    /// [`ActivateError`], with the prepared value given back: it is kept for ever.
    pub fn activate(self, certificate: &Certificate) -> Result<Vec<KeyShare>, (Box<Self>, ActivateError)> {
        let theirs = certificate.transcript();
        if *theirs == self.transcript {
            return Ok(self.shares);
        }
        let (expected, found) = (self.ceremony(), theirs.parameters().ceremony());
        let error = if expected == found {
            ActivateError::OtherTranscript { differences: self.transcript.differences(theirs) }
        } else {
            ActivateError::OtherCeremony { expected, found }
        };
        Err((Box::new(self), error))
    }
}
