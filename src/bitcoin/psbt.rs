//! A PSBT (BIP-174, BIP-371), binary or base64: an unsigned transaction, and what signers tell one another beside it.
//!
//! ```text
//!   bytes --> PsbtFile --> group_inputs: root, flag, message --> (sessions) --> put_signatures --> bytes
//!                 |                                                                  |
//!                 `--> transaction (to be approved)          finalize <--------------'  --> transaction, signed
//! ```
//!
//! Every field is kept with its bytes and in its place: the fields of other signers are nobody's to tidy up. What is read is
//! what the `bitcoin` crate accepts; it would write fields back in an order of its own.

use ::bitcoin::base64::Engine;
use ::bitcoin::base64::engine::general_purpose::STANDARD;
use ::bitcoin::psbt::{Input, Psbt};
use ::bitcoin::{OutPoint, TxOut};

use super::transaction::{OutputKeys, TransactionError, UnsignedTransaction, output_key};
use crate::limits::{PSBT_BYTES_MAX, TRANSACTION_INPUTS_MAX};

mod error;
mod field;
mod finalize;
mod group;
mod make;
mod signature;

pub use error::{InputField, Lack, Lacking, PsbtError};
use field::FieldMap;
pub use finalize::Finalized;
pub use group::GroupInput;

const MAGIC: &[u8] = b"psbt\xff";

/// A whole PSBT, version 0, whose inputs all say what they spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PsbtFile {
    form: Form,
    global: FieldMap,
    inputs: Vec<FieldMap>,
    outputs: Vec<FieldMap>,
    transaction: UnsignedTransaction,
}

/// How a PSBT came, and how it goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Base64,
}

impl PsbtFile {
    /// Reads a PSBT, binary or base64. White space around base64 is left out.
    ///
    /// # Errors
    /// [`TransactionError`] naming what is wrong.
    ///
    /// # Security
    /// The UTXOs are believed: signatures cover them all (BIP-341), so that a wrong one makes a signature that no chain
    /// accepts, never one that spends something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, TransactionError> {
        // Base64 takes four characters for three bytes.
        if bytes.len() > PSBT_BYTES_MAX.div_ceil(3) * 4 + 2 {
            return Err(TransactionError::PsbtTooLong { found: bytes.len() });
        }
        if bytes.starts_with(MAGIC) {
            return Self::from_binary(Form::Binary, bytes);
        }
        let binary = STANDARD.decode(bytes.trim_ascii()).map_err(|error| encoding(error.to_string()))?;
        Self::from_binary(Form::Base64, &binary)
    }

    fn from_binary(form: Form, binary: &[u8]) -> Result<Self, TransactionError> {
        if binary.len() > PSBT_BYTES_MAX {
            return Err(TransactionError::PsbtTooLong { found: binary.len() });
        }
        let mut rest = binary;
        let psbt = Psbt::deserialize_from_reader(&mut rest).map_err(|error| encoding(error.to_string()))?;
        if !rest.is_empty() {
            return Err(encoding(format!("{} bytes follow it", rest.len())));
        }
        let inputs = psbt.unsigned_tx.input.len();
        if inputs > TRANSACTION_INPUTS_MAX {
            return Err(TransactionError::TooManyInputs { found: inputs });
        }
        let mut prevouts = Vec::with_capacity(inputs);
        for (input, (txin, fields)) in psbt.unsigned_tx.input.iter().zip(&psbt.inputs).enumerate() {
            prevouts.push(prevout(input, &txin.previous_output, fields)?);
        }
        let outputs = psbt.unsigned_tx.output.len();
        let mut maps = binary.strip_prefix(MAGIC).ok_or_else(|| encoding("it has no magic".into()))?;
        let mut next = || FieldMap::read(&mut maps).ok_or_else(|| encoding("a map is cut short".into()));
        let global = next()?;
        let input_maps = (0..inputs).map(|_| next()).collect::<Result<_, _>>()?;
        let output_maps = (0..outputs).map(|_| next()).collect::<Result<_, _>>()?;
        let transaction = UnsignedTransaction::check(psbt.unsigned_tx, prevouts)?;
        Ok(Self { form, global, inputs: input_maps, outputs: output_maps, transaction })
    }

    /// As it came: binary, or base64 without a line end. Unchanged, it is the bytes that were read.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.form {
            Form::Binary => self.to_binary(),
            Form::Base64 => self.to_base64().into_bytes(),
        }
    }

    /// In base64, however it came.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.to_binary())
    }

    /// In binary, however it came.
    pub fn to_binary(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for map in std::iter::once(&self.global).chain(&self.inputs).chain(&self.outputs) {
            map.write(&mut bytes);
        }
        bytes
    }

    /// The transaction, with what it spends.
    pub fn transaction(&self) -> &UnsignedTransaction {
        &self.transaction
    }

    /// Each input: its number, its fields, and the output key that it spends if that is a Taproot output.
    fn inputs(&self) -> impl Iterator<Item = (usize, &FieldMap, Option<[u8; 32]>)> {
        let keys = self.transaction.prevouts.iter().map(|prevout| output_key(prevout.script_pubkey.as_bytes()));
        self.inputs.iter().zip(keys).enumerate().map(|(input, (fields, key))| (input, fields, key))
    }
}

impl UnsignedTransaction {
    /// The transaction of a PSBT. Every input must say what it spends; inputs of `own` keys must ask for nothing that is not
    /// signed here. What foreign inputs ask for is their signers' affair.
    ///
    /// # Errors
    /// [`TransactionError`] naming what is wrong.
    pub fn from_psbt(bytes: &[u8], own: &OutputKeys) -> Result<Self, TransactionError> {
        let psbt = PsbtFile::parse(bytes)?;
        for (input, fields, key) in psbt.inputs() {
            if key.is_some_and(|key| own.contains(&key)) {
                group::check_asked(input, fields)?;
            }
        }
        Ok(psbt.transaction)
    }
}

fn encoding(detail: String) -> TransactionError {
    TransactionError::PsbtEncoding { detail }
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

#[cfg(test)]
mod tests;
