//! The inputs that a key group can sign, and its signatures put back.

use std::collections::BTreeMap;

use ::bitcoin::consensus;
use ::bitcoin::hashes::Hash;
use ::bitcoin::key::TapTweak;
use ::bitcoin::secp256k1::XOnlyPublicKey;
use ::bitcoin::{TapNodeHash, Witness};

use super::PsbtFile;
use super::error::{InputField, PsbtError};
use super::field::FieldMap;
use super::signature::{Hasher, KeyPathSignature, SECP, asked_type};
use crate::bitcoin::{SighashFlag, TransactionError};
use crate::ids::{KeyGroupId, MerkleRoot, Message};
use crate::limits::PSBT_BYTES_MAX;

/// The first byte of an annex (BIP-341).
const ANNEX_TAG: u8 = 0x50;

/// An input that a key group can sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInput {
    /// Its number.
    pub input: usize,
    /// The root that tweaks the group's key to the output key.
    pub root: Option<MerkleRoot>,
    /// What the signature has to cover.
    pub flag: SighashFlag,
    /// What a session has to sign (BIP-341 signature hash).
    pub message: Message,
    /// The output key that it spends.
    pub output_key: [u8; 32],
    /// The signature that is there already. It verifies.
    pub signature: Option<[u8; 64]>,
}

impl PsbtFile {
    /// Every input that spends an output of the key group, ascending. Its root is what BIP-371's fields say, proved by the
    /// tweak; without them it can only be none.
    ///
    /// # Errors
    /// [`PsbtError::Contradiction`] for a field that does not lead to the output spent, [`PsbtError::SignatureInvalid`] and
    /// [`PsbtError::SignatureType`] for a wrong signature that is there already, [`PsbtError::Transaction`] for an input of
    /// the group that asks for something else than `SIGHASH_DEFAULT` or `SIGHASH_ALL` by the key path.
    pub fn group_inputs(&self, key_group: &KeyGroupId) -> Result<Vec<GroupInput>, PsbtError> {
        let keys = GroupKeys::of(key_group)?;
        let mut hasher = Hasher::new(&self.transaction);
        let mut found = Vec::new();
        for (input, fields, output_key) in self.inputs() {
            let Some(OwnOutput { root, output_key }) = keys.find(input, fields, output_key)? else { continue };
            let asked = check_asked(input, fields)?;
            let existing = existing(input, fields, &output_key, &mut hasher)?;
            let flag = match existing {
                Some(signature) => SighashFlag::from_hash_type(input, signature.hash_type as u32)?,
                None => asked.unwrap_or(SighashFlag::Default),
            };
            // Taproot and in range: it has a signature hash.
            let Some(message) = hasher.message(input, flag.hash_type()) else { continue };
            let signature = existing.map(|signature| signature.bytes);
            found.push(GroupInput { input, root, flag, message, output_key, signature });
        }
        Ok(found)
    }

    /// Puts the key group's signatures into its inputs, by input: each is verified first, and either all go in or none. An
    /// input that is signed already keeps the signature that it has. Nothing else changes by a byte.
    ///
    /// # Errors
    /// Those of [`Self::group_inputs`]; [`PsbtError::NotOwn`], [`PsbtError::SignatureRefused`]; and
    /// [`TransactionError::PsbtTooLong`] when the result could not be read again.
    pub fn put_signatures(
        &mut self,
        key_group: &KeyGroupId,
        signatures: &BTreeMap<usize, [u8; 64]>,
    ) -> Result<(), PsbtError> {
        let own = self.group_inputs(key_group)?;
        let mut hasher = Hasher::new(&self.transaction);
        let mut fresh = BTreeMap::new();
        for (&input, &bytes) in signatures {
            let asked = own.iter().find(|own| own.input == input).ok_or(PsbtError::NotOwn { input })?;
            let signature = KeyPathSignature { bytes, hash_type: asked.flag.hash_type() };
            if !hasher.verifies(input, &asked.output_key, &signature) {
                return Err(PsbtError::SignatureRefused { input });
            }
            if asked.signature.is_none() {
                fresh.insert(input, signature);
            }
        }
        let mut signed = self.clone();
        for (input, fields) in signed.inputs.iter_mut().enumerate() {
            if let Some(signature) = fresh.get(&input) {
                fields.add(InputField::TapKeySig, signature.to_bytes());
            }
        }
        let found = signed.to_binary().len();
        if found > PSBT_BYTES_MAX {
            return Err(TransactionError::PsbtTooLong { found }.into());
        }
        *self = signed;
        Ok(())
    }
}

/// The keys of a key group: computed here with libsecp256k1, not by the room that signs.
pub(super) struct GroupKeys {
    pub(super) internal: XOnlyPublicKey,
    rootless: [u8; 32],
}

/// An output of the group, proved by the tweak.
struct OwnOutput {
    root: Option<MerkleRoot>,
    output_key: [u8; 32],
}

impl GroupKeys {
    pub(super) fn of(key_group: &KeyGroupId) -> Result<Self, PsbtError> {
        let [_, x_only @ ..] = key_group.as_bytes();
        let internal = XOnlyPublicKey::from_slice(x_only).map_err(|_| PsbtError::KeyGroup { key_group: *key_group })?;
        Ok(Self { rootless: tweaked(&internal, None), internal })
    }

    /// The group's output that an input spends; `None` if it spends somebody else's.
    fn find(&self, input: usize, fields: &FieldMap, spent: Option<[u8; 32]>) -> Result<Option<OwnOutput>, PsbtError> {
        let contradiction = |field| PsbtError::Contradiction { input, field };
        let internal = fields.value(InputField::TapInternalKey);
        let root = fields.value(InputField::TapMerkleRoot).and_then(|root| root.try_into().ok()).map(MerkleRoot::new);
        let named = internal.map(|internal| internal == self.internal.serialize());
        if named == Some(false) {
            // Others may lie to others, but not about an output that is the group's.
            let ours = spent == Some(self.rootless);
            return if ours { Err(contradiction(InputField::TapInternalKey)) } else { Ok(None) };
        }
        let expected = root.as_ref().map_or(self.rootless, |root| tweaked(&self.internal, Some(root)));
        match spent {
            Some(spent) if spent == expected => Ok(Some(OwnOutput { root, output_key: spent })),
            // The group's output, under no root, with a root that says otherwise.
            Some(spent) if spent == self.rootless => Err(contradiction(InputField::TapMerkleRoot)),
            _ if named.is_none() => Ok(None),
            _ if root.is_some() => Err(contradiction(InputField::TapMerkleRoot)),
            _ => Err(contradiction(InputField::TapInternalKey)),
        }
    }
}

/// The output key of an internal key (BIP-341).
pub(super) fn tweaked(internal: &XOnlyPublicKey, root: Option<&MerkleRoot>) -> [u8; 32] {
    let root = root.map(|root| TapNodeHash::from_byte_array(*root.as_bytes()));
    let (key, _) = internal.tap_tweak(&SECP, root);
    key.to_x_only_public_key().serialize()
}

/// Refuses what an own input may ask for and is not signed; the flag that it asks for.
pub(super) fn check_asked(input: usize, fields: &FieldMap) -> Result<Option<SighashFlag>, TransactionError> {
    let asked = asked_type(fields).map(|asked| SighashFlag::from_hash_type(input, asked)).transpose()?;
    if fields.holds(InputField::TapScriptSig) {
        return Err(TransactionError::ScriptPath { input });
    }
    let Some(witness) = final_witness(fields) else { return Ok(asked) };
    if witness.len() > 1 {
        let annex = witness.last().is_some_and(|last| last.first() == Some(&ANNEX_TAG));
        return Err(if annex { TransactionError::Annex { input } } else { TransactionError::ScriptPath { input } });
    }
    Ok(asked)
}

/// The finished witness of an input, if it has one.
pub(super) fn final_witness(fields: &FieldMap) -> Option<Witness> {
    fields.value(InputField::FinalScriptWitness).and_then(|value| consensus::deserialize(value).ok())
}

/// The key-path signature of a Taproot input, in its finished witness or beside it: each that is there must verify.
pub(super) fn existing(
    input: usize,
    fields: &FieldMap,
    output_key: &[u8; 32],
    hasher: &mut Hasher<'_>,
) -> Result<Option<KeyPathSignature>, PsbtError> {
    let witness = final_witness(fields);
    // Two elements or more are another way to spend.
    let finished = witness.as_ref().filter(|witness| witness.len() <= 1);
    let finished = finished.map(|witness| (InputField::FinalScriptWitness, witness.nth(0).unwrap_or_default()));
    let beside = fields.value(InputField::TapKeySig).map(|value| (InputField::TapKeySig, value));
    let mut first = None;
    for (field, raw) in finished.into_iter().chain(beside) {
        let signature = KeyPathSignature::read(raw).ok_or(PsbtError::SignatureInvalid { input, field })?;
        signature.check_type(input, field, fields)?;
        if !hasher.verifies(input, output_key, &signature) {
            return Err(PsbtError::SignatureInvalid { input, field });
        }
        first = first.or(Some(signature));
    }
    Ok(first)
}
