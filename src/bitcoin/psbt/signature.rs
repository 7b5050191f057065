//! Key-path signatures as they stand in a PSBT or a witness, and their check with libsecp256k1.

use std::sync::LazyLock;

use ::bitcoin::hashes::Hash;
use ::bitcoin::secp256k1::{self, Secp256k1, VerifyOnly, XOnlyPublicKey, schnorr};
use ::bitcoin::sighash::{Prevouts, SighashCache};
use ::bitcoin::{TapSighashType, Transaction};

use super::error::{InputField, PsbtError};
use super::field::FieldMap;
use crate::bitcoin::UnsignedTransaction;
use crate::ids::Message;

/// libsecp256k1 without secrets.
pub(super) static SECP: LazyLock<Secp256k1<VerifyOnly>> = LazyLock::new(Secp256k1::verification_only);

/// A signature and what it covers.
#[derive(Clone, Copy)]
pub(super) struct KeyPathSignature {
    pub(super) bytes: [u8; 64],
    pub(super) hash_type: TapSighashType,
}

impl KeyPathSignature {
    /// Reads 64 bytes, or 65 of which the last is the sighash type. Type 0 is said by its absence alone (BIP-341): with it
    /// written out there would be two encodings of one signature, and no chain accepts the longer.
    pub(super) fn read(raw: &[u8]) -> Option<Self> {
        if let Ok(bytes) = raw.try_into() {
            return Some(Self { bytes, hash_type: TapSighashType::Default });
        }
        let (last, bytes) = raw.split_last()?;
        let hash_type = TapSighashType::from_consensus_u8(*last).ok()?;
        let explicit = hash_type != TapSighashType::Default;
        bytes.try_into().ok().filter(|_| explicit).map(|bytes| Self { bytes, hash_type })
    }

    /// The bytes of a PSBT's field and of a witness.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        if self.hash_type != TapSighashType::Default {
            bytes.push(self.hash_type as u8);
        }
        bytes
    }

    /// Refuses a signature of another type than the PSBT asks for: a finaliser must not use it (BIP-174).
    pub(super) fn check_type(self, input: usize, field: InputField, fields: &FieldMap) -> Result<(), PsbtError> {
        let found = self.hash_type as u32;
        match asked_type(fields) {
            Some(asked) if asked != found => Err(PsbtError::SignatureType { input, field, asked, found }),
            _ => Ok(()),
        }
    }
}

/// The sighash type that an input asks for.
pub(super) fn asked_type(fields: &FieldMap) -> Option<u32> {
    fields.value(InputField::SighashType)?.try_into().ok().map(u32::from_le_bytes)
}

/// The signature hashes of one transaction: what all inputs have in common is hashed once.
pub(super) struct Hasher<'a> {
    transaction: &'a UnsignedTransaction,
    cache: SighashCache<&'a Transaction>,
}

impl<'a> Hasher<'a> {
    pub(super) fn new(transaction: &'a UnsignedTransaction) -> Self {
        Self { transaction, cache: SighashCache::new(&transaction.transaction) }
    }

    /// What a key-path signature of this type signs. `None`: `SIGHASH_SINGLE` for an input without an output.
    pub(super) fn message(&mut self, input: usize, hash_type: TapSighashType) -> Option<Message> {
        let prevouts = Prevouts::All(&self.transaction.prevouts);
        let hash = self.cache.taproot_key_spend_signature_hash(input, &prevouts, hash_type).ok()?;
        Some(Message::new(hash.to_byte_array()))
    }

    /// Whether `signature` spends `input`, whose output has this key.
    pub(super) fn verifies(&mut self, input: usize, output_key: &[u8; 32], signature: &KeyPathSignature) -> bool {
        let Some(message) = self.message(input, signature.hash_type) else { return false };
        let message = secp256k1::Message::from_digest(*message.as_bytes());
        XOnlyPublicKey::from_slice(output_key)
            .and_then(|key| {
                let signature = schnorr::Signature::from_slice(&signature.bytes)?;
                SECP.verify_schnorr(&signature, &message, &key)
            })
            .is_ok()
    }
}
