//! From a PSBT (BIP-174, BIP-371), binary or base64, to an unsigned transaction.

use ::bitcoin::base64::Engine;
use ::bitcoin::base64::engine::general_purpose::STANDARD;
use ::bitcoin::psbt::{Input, Psbt};
use ::bitcoin::{OutPoint, TxOut};

use super::transaction::{OutputKeys, SighashFlag, TransactionError, UnsignedTransaction, output_key};
use crate::limits::{PSBT_BYTES_MAX, TRANSACTION_INPUTS_MAX};

const MAGIC: &[u8] = b"psbt\xff";
/// The first byte of an annex (BIP-341).
const ANNEX_TAG: u8 = 0x50;

impl UnsignedTransaction {
    /// The transaction of a PSBT. Every input must say what it spends; inputs of `own` keys must ask for nothing that is not
    /// signed here. What foreign inputs ask for is their signers' affair.
    ///
    /// # Errors
    /// [`TransactionError`] naming what is wrong.
    pub fn from_psbt(bytes: &[u8], own: &OutputKeys) -> Result<Self, TransactionError> {
        let psbt = decode(bytes)?;
        let inputs = psbt.unsigned_tx.input.len();
        if inputs > TRANSACTION_INPUTS_MAX {
            return Err(TransactionError::TooManyInputs { found: inputs });
        }
        let mut prevouts = Vec::with_capacity(inputs);
        for (input, (txin, fields)) in psbt.unsigned_tx.input.iter().zip(&psbt.inputs).enumerate() {
            let prevout = prevout(input, &txin.previous_output, fields)?;
            if output_key(prevout.script_pubkey.as_bytes()).is_some_and(|key| own.contains(&key)) {
                check_own(input, fields)?;
            }
            prevouts.push(prevout);
        }
        Self::check(psbt.unsigned_tx, prevouts)
    }
}

fn decode(bytes: &[u8]) -> Result<Psbt, TransactionError> {
    // Base64 takes four characters for three bytes.
    if bytes.len() > PSBT_BYTES_MAX.div_ceil(3) * 4 + 2 {
        return Err(TransactionError::PsbtTooLong { found: bytes.len() });
    }
    let detail = |detail: String| TransactionError::PsbtEncoding { detail };
    let decoded;
    let mut binary = bytes;
    if !bytes.starts_with(MAGIC) {
        decoded = STANDARD.decode(bytes.trim_ascii()).map_err(|error| detail(error.to_string()))?;
        binary = &decoded;
    }
    if binary.len() > PSBT_BYTES_MAX {
        return Err(TransactionError::PsbtTooLong { found: binary.len() });
    }
    let psbt = Psbt::deserialize_from_reader(&mut binary).map_err(|error| detail(error.to_string()))?;
    if !binary.is_empty() {
        return Err(detail(format!("{} bytes follow it", binary.len())));
    }
    Ok(psbt)
}

/// The output that an input spends; where both forms are given they must agree.
fn prevout(input: usize, spent: &OutPoint, fields: &Input) -> Result<TxOut, TransactionError> {
    let from_previous = match &fields.non_witness_utxo {
        None => None,
        Some(previous) if previous.compute_txid() == spent.txid => {
            let output = usize::try_from(spent.vout).ok().and_then(|vout| previous.output.get(vout));
            Some(output.ok_or(TransactionError::PrevoutMismatch { input })?)
        }
        Some(_) => return Err(TransactionError::PrevoutMismatch { input }),
    };
    match (&fields.witness_utxo, from_previous) {
        (Some(witness), Some(previous)) if witness != previous => Err(TransactionError::PrevoutMismatch { input }),
        (Some(output), _) => Ok(output.clone()),
        (None, Some(output)) => Ok(output.clone()),
        (None, None) => Err(TransactionError::PrevoutMissing { input }),
    }
}

fn check_own(input: usize, fields: &Input) -> Result<(), TransactionError> {
    if let Some(asked) = fields.sighash_type {
        SighashFlag::from_hash_type(input, asked.to_u32())?;
    }
    if !fields.tap_script_sigs.is_empty() {
        return Err(TransactionError::ScriptPath { input });
    }
    let Some(witness) = &fields.final_script_witness else { return Ok(()) };
    if witness.len() > 1 {
        let annex = witness.last().is_some_and(|last| last.first() == Some(&ANNEX_TAG));
        return Err(if annex { TransactionError::Annex { input } } else { TransactionError::ScriptPath { input } });
    }
    Ok(())
}
