//! A complete PSBT becomes a transaction.

use ::bitcoin::hashes::Hash;
use ::bitcoin::{ScriptBuf, Transaction, Witness, consensus};

use super::PsbtFile;
use super::error::{InputField, Lack, Lacking, PsbtError};
use super::field::FieldMap;
use super::group::{existing, final_witness};
use super::signature::Hasher;
use crate::bitcoin::TransactionId;
use crate::ids::to_hex;

/// A PSBT whose inputs are all final, and its transaction, ready for the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finalized {
    psbt: PsbtFile,
    transaction: Transaction,
}

impl Finalized {
    /// The PSBT, each input final.
    pub fn psbt(&self) -> &PsbtFile {
        &self.psbt
    }

    /// The transaction in network encoding, witnesses included.
    pub fn raw(&self) -> Vec<u8> {
        consensus::serialize(&self.transaction)
    }

    /// The same in hexadecimal, as nodes of the network take it.
    pub fn hex(&self) -> String {
        to_hex(&self.raw())
    }

    /// The id of the transaction. Witnesses do not change it; a `scriptSig` does.
    pub fn id(&self) -> TransactionId {
        TransactionId::new(self.transaction.compute_txid().to_byte_array())
    }
}

impl PsbtFile {
    /// Makes the witness of every Taproot input that has a key-path signature, whoever's it is, and takes the transaction
    /// out, if that makes it complete. Signatures are verified before they are used.
    ///
    /// # Errors
    /// [`PsbtError::Incomplete`] naming what each input lacks; [`PsbtError::SignatureInvalid`] and
    /// [`PsbtError::SignatureType`] for a wrong key-path signature.
    ///
    /// # Security
    /// What others have finalised by scripts is taken as it is: no script is run here, the network judges it.
    pub fn finalize(&self) -> Result<Finalized, PsbtError> {
        let mut hasher = Hasher::new(&self.transaction);
        let mut witnesses = Vec::with_capacity(self.inputs.len());
        let mut lacking = Vec::new();
        for (input, fields, output_key) in self.inputs() {
            let signature = match output_key {
                Some(key) => existing(input, fields, &key, &mut hasher)?,
                None => None,
            };
            let is_final = fields.holds(InputField::FinalScriptWitness)
                || (output_key.is_none() && fields.holds(InputField::FinalScriptSig));
            let made = signature.filter(|_| !is_final).map(|signature| Witness::from_slice(&[signature.to_bytes()]));
            if made.is_none() && !is_final {
                let what = if output_key.is_some() { Lack::KeySignature } else { Lack::FinalScript };
                lacking.push(Lacking { input, what });
            }
            witnesses.push(made);
        }
        if !lacking.is_empty() {
            return Err(PsbtError::Incomplete { lacking });
        }
        let mut psbt = self.clone();
        let mut transaction = psbt.transaction.transaction.clone();
        for ((fields, made), txin) in psbt.inputs.iter_mut().zip(witnesses).zip(&mut transaction.input) {
            if let Some(witness) = made {
                finish(fields, &witness);
            }
            txin.script_sig = ScriptBuf::from(fields.value(InputField::FinalScriptSig).unwrap_or_default().to_vec());
            txin.witness = final_witness(fields).unwrap_or_default();
        }
        Ok(Finalized { psbt, transaction })
    }
}

/// Puts the witness in and leaves out what it was made from: all that BIP-174 and BIP-371 define for an input, but the UTXO
/// and what is final. Proprietary and unknown fields stay.
fn finish(fields: &mut FieldMap, witness: &Witness) {
    fields.retain(|key_type| !matches!(key_type, 0x02..=0x07 | 0x0a..=0x0d | 0x13..=0x18));
    fields.add(InputField::FinalScriptWitness, consensus::serialize(witness));
}
