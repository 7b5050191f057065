//! Transactions that spend the group's outputs, and Bitcoin Core's script engine as their judge.

use crate::Failed;
use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, OutPoint, Psbt, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, WPubkeyHash, Witness, XOnlyPublicKey,
    consensus,
};
use bitcoinconsensus::{Error, Utxo, verify};
use frostkeep::bitcoin::{Prevout, ScriptBytes, TransactionError, UnsignedTransaction};

/// Fee of every transaction here, satoshi.
const FEE_SAT: u64 = 2_000;

/// What Bitcoin Core's script engine says of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Rejected,
}

/// A transaction with one output to `script` for each value. It is made here, and on no chain: a signature needs only its id,
/// its values and its scripts.
pub(crate) fn funding(script: &ScriptBuf, values_sat: &[u64], number: u8) -> Transaction {
    let output = |value: &u64| TxOut { value: Amount::from_sat(*value), script_pubkey: script.clone() };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input(OutPoint { txid: Txid::from_byte_array([number; 32]), vout: 0 })],
        output: values_sat.iter().map(output).collect(),
    }
}

fn input(previous_output: OutPoint) -> TxIn {
    TxIn {
        previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    }
}

/// A transaction that spends every output of a funding transaction.
pub(crate) struct Spend {
    transaction: Transaction,
    prevouts: Vec<TxOut>,
}

impl Spend {
    /// Pays seven tenths to a stranger's P2WPKH script and the rest, less the fee, back to `change`.
    pub(crate) fn of(funding: &Transaction, change: &ScriptBuf) -> Self {
        let txid = funding.compute_txid();
        let total: u64 = funding.output.iter().map(|output| output.value.to_sat()).sum();
        let paid = total / 10 * 7;
        let stranger = ScriptBuf::new_p2wpkh(&WPubkeyHash::hash(b"a stranger's key"));
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: (0..).zip(&funding.output).map(|(vout, _)| input(OutPoint { txid, vout })).collect(),
            output: vec![
                TxOut { value: Amount::from_sat(paid), script_pubkey: stranger },
                TxOut { value: Amount::from_sat(total - paid - FEE_SAT), script_pubkey: change.clone() },
            ],
        };
        Self { transaction, prevouts: funding.output.clone() }
    }

    /// As nodes approve it.
    pub(crate) fn unsigned(&self) -> Result<UnsignedTransaction, TransactionError> {
        let prevout = |output: &TxOut| Prevout {
            value_sat: output.value.to_sat(),
            script: ScriptBytes::new(output.script_pubkey.to_bytes()),
        };
        let prevouts: Vec<Prevout> = self.prevouts.iter().map(prevout).collect();
        UnsignedTransaction::from_parts(&consensus::serialize(&self.transaction), &prevouts)
    }

    /// As a PSBT of inputs whose internal key (BIP-371) is the group's, binary.
    pub(crate) fn psbt(&self, internal_key: &[u8; 32]) -> Result<Vec<u8>, Failed> {
        let mut psbt = Psbt::from_unsigned_tx(self.transaction.clone())?;
        for (input, prevout) in psbt.inputs.iter_mut().zip(&self.prevouts) {
            input.witness_utxo = Some(prevout.clone());
            input.tap_internal_key = Some(XOnlyPublicKey::from_slice(internal_key)?);
        }
        Ok(psbt.serialize())
    }

    /// With the signatures as witnesses, `SIGHASH_DEFAULT`, in the order of the inputs.
    pub(crate) fn signed(&self, signatures: &[[u8; 64]]) -> Transaction {
        let mut signed = self.transaction.clone();
        for (input, signature) in signed.input.iter_mut().zip(signatures) {
            input.witness = Witness::from_slice(&[signature.as_slice()]);
        }
        signed
    }

    /// Lets Bitcoin Core's script engine judge input number `input` of `signed`.
    ///
    /// # Errors
    /// When the engine was asked wrongly, which is no verdict.
    ///
    /// # Security
    /// Always with the spent outputs: without them the library uses the flags from before Taproot, under which a Taproot
    /// output is anyone-can-spend, and a tampered signature is accepted.
    pub(crate) fn judge(&self, signed: &Transaction, input: usize) -> Result<Verdict, Error> {
        let utxos = self.utxos()?;
        let spent = self.prevouts.get(input).ok_or(Error::ERR_TX_INDEX)?;
        let raw = consensus::serialize(signed);
        match verify(spent.script_pubkey.as_bytes(), spent.value.to_sat(), &raw, Some(&utxos), input) {
            Ok(()) => Ok(Verdict::Accepted),
            // What the library says when the script itself fails.
            Err(Error::ERR_SCRIPT) => Ok(Verdict::Rejected),
            Err(other) => Err(other),
        }
    }

    fn utxos(&self) -> Result<Vec<Utxo>, Error> {
        let utxo = |output: &TxOut| {
            let script = output.script_pubkey.as_bytes();
            Ok(Utxo {
                script_pubkey: script.as_ptr(),
                script_pubkey_len: u32::try_from(script.len()).map_err(|_| Error::ERR_SPENT_OUTPUTS_MISMATCH)?,
                value: i64::try_from(output.value.to_sat()).map_err(|_| Error::ERR_SPENT_OUTPUTS_MISMATCH)?,
            })
        };
        self.prevouts.iter().map(utxo).collect()
    }
}

/// The signature with one bit of its scalar flipped.
pub(crate) fn flipped(signature: &[u8; 64]) -> [u8; 64] {
    let mut other = *signature;
    if let Some(byte) = other.last_mut() {
        *byte ^= 1;
    }
    other
}
