//! A PSBT made of a transaction and what it spends, for a key group.

use ::bitcoin::TapNodeHash;
use ::bitcoin::hashes::Hash;
use ::bitcoin::psbt::Psbt;

use super::error::PsbtError;
use super::group::{GroupKeys, tweaked};
use super::{Form, PsbtFile, encoding};
use crate::bitcoin::transaction::output_key;
use crate::bitcoin::{TransactionError, UnsignedTransaction};
use crate::ids::{KeyGroupId, MerkleRoot};

impl PsbtFile {
    /// The PSBT of `transaction`. Inputs that spend an output of `key_group`, without a root or under one of `roots`, get the
    /// fields of BIP-371 that say so.
    ///
    /// # Errors
    /// [`PsbtError::KeyGroup`]; [`PsbtError::Transaction`] when the PSBT would be too long to be read again.
    pub fn of_transaction(
        transaction: UnsignedTransaction,
        key_group: &KeyGroupId,
        roots: &[MerkleRoot],
    ) -> Result<Self, PsbtError> {
        let keys = GroupKeys::of(key_group)?;
        let refused = |error: String| PsbtError::Transaction(encoding(error));
        let mut psbt = Psbt::from_unsigned_tx(transaction.transaction).map_err(|error| refused(error.to_string()))?;
        for (fields, prevout) in psbt.inputs.iter_mut().zip(transaction.prevouts) {
            let spent = output_key(prevout.script_pubkey.as_bytes());
            let under = std::iter::once(None).chain(roots.iter().map(Some));
            let own = under.into_iter().find(|root| spent == Some(tweaked(&keys.internal, *root)));
            if let Some(root) = own {
                fields.tap_internal_key = Some(keys.internal);
                fields.tap_merkle_root = root.map(|root| TapNodeHash::from_byte_array(*root.as_bytes()));
            }
            fields.witness_utxo = Some(prevout);
        }
        let made = Self::from_binary(Form::Base64, &psbt.serialize());
        made.map_err(|error: TransactionError| PsbtError::Transaction(error))
    }
}
