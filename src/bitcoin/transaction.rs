//! One unsigned transaction with all its prevouts.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;

use ::bitcoin::hashes::Hash;
use ::bitcoin::sighash::{Prevouts, SighashCache};
use ::bitcoin::{Amount, ScriptBuf, TapSighashType, Transaction, TxOut, consensus};
use serde::{Deserialize, Serialize};

use super::script::ScriptBytes;
use crate::hash::Framed;
use crate::ids::{IdError, Message, from_hex, to_hex};
use crate::limits::{
    PSBT_BYTES_MAX, SCRIPT_BYTES_MAX, TRANSACTION_BYTES_MAX, TRANSACTION_INPUTS_MAX, TRANSACTION_OUTPUTS_MAX,
};

const PREVOUTS_DOMAIN: &str = "frostkeep/prevouts/v1";

/// The id of a transaction. Text has the byte order that explorers and wallets show, the reverse of the hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TransactionId([u8; 32]);

impl TransactionId {
    /// The id with these bytes, in the order of the hash.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, in the order of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for TransactionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes: [u8; 32] = from_hex("transaction id", text)?;
        bytes.reverse();
        Ok(Self(bytes))
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        bytes.reverse();
        f.write_str(&to_hex(&bytes))
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionId({self})")
    }
}

/// The output that an input spends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prevout {
    /// Its value, satoshi.
    pub value_sat: u64,
    /// Its script.
    pub script: ScriptBytes,
}

/// The x-only output keys of a key group: its verifying key tweaked with each root in use (BIP-341 `Q`).
pub type OutputKeys = BTreeSet<[u8; 32]>;

/// The script that pays to an x-only output key: `OP_1`, 32 bytes.
pub fn key_path_script(output_key: &[u8; 32]) -> [u8; 34] {
    let mut script = [0; 34];
    let (head, tail) = script.split_at_mut(2);
    head.copy_from_slice(&[0x51, 0x20]);
    tail.copy_from_slice(output_key);
    script
}

/// The output key that `script` pays to, if it is a Taproot script.
pub(super) fn output_key(script: &[u8]) -> Option<[u8; 32]> {
    match script {
        [0x51, 0x20, key @ ..] => key.try_into().ok(),
        _ => None,
    }
}

/// What a signature covers. The others let somebody else change what was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SighashFlag {
    /// `SIGHASH_DEFAULT` (0): everything, a signature of 64 bytes.
    Default,
    /// `SIGHASH_ALL` (1): everything, a signature of 65 bytes.
    All,
}

impl SighashFlag {
    /// Both, in the order in which they are tried.
    pub const ALL: [SighashFlag; 2] = [SighashFlag::Default, SighashFlag::All];

    /// The flag with this BIP-341 `hash_type`, which a PSBT holds as 32 bits.
    ///
    /// # Errors
    /// [`TransactionError::SighashType`] for any other than 0 and 1.
    pub fn from_hash_type(input: usize, found: u32) -> Result<Self, TransactionError> {
        match found {
            0 => Ok(Self::Default),
            1 => Ok(Self::All),
            _ => Err(TransactionError::SighashType { input, found }),
        }
    }

    pub(super) fn hash_type(self) -> TapSighashType {
        match self {
            Self::Default => TapSighashType::Default,
            Self::All => TapSighashType::All,
        }
    }
}

/// Why a transaction is not one that can be approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Too long.
    #[error("transaction of {found} bytes: at most {TRANSACTION_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Too long.
    #[error("PSBT of {found} bytes: at most {PSBT_BYTES_MAX} are allowed")]
    PsbtTooLong {
        /// Bytes found.
        found: usize,
    },
    /// Not a transaction.
    #[error("not a transaction: {detail}")]
    Encoding {
        /// What the decoder found.
        detail: String,
    },
    /// Not a PSBT.
    #[error("not a version 0 PSBT: {detail}")]
    PsbtEncoding {
        /// What the decoder found.
        detail: String,
    },
    /// No inputs, or no outputs.
    #[error("a transaction of {inputs} inputs and {outputs} outputs: each needs at least one")]
    Empty {
        /// Inputs.
        inputs: usize,
        /// Outputs.
        outputs: usize,
    },
    /// Too many inputs.
    #[error("a transaction of {found} inputs: at most {TRANSACTION_INPUTS_MAX} are allowed")]
    TooManyInputs {
        /// Inputs.
        found: usize,
    },
    /// Too many outputs.
    #[error("a transaction of {found} outputs: at most {TRANSACTION_OUTPUTS_MAX} are allowed")]
    TooManyOutputs {
        /// Outputs.
        found: usize,
    },
    /// Somebody has signed already: what is approved must be unsigned.
    #[error("input {input} has a script or a witness: an unsigned transaction is needed")]
    Signed {
        /// The input.
        input: usize,
    },
    /// A coinbase.
    #[error("input {input} spends nothing: a coinbase is not signed")]
    Coinbase {
        /// The input.
        input: usize,
    },
    /// The same output twice.
    #[error("input {input} spends what an earlier input spends")]
    SpentTwice {
        /// The later input.
        input: usize,
    },
    /// A prevout for each input, no more.
    #[error("{found} prevouts for {inputs} inputs")]
    PrevoutCount {
        /// Prevouts given.
        found: usize,
        /// Inputs.
        inputs: usize,
    },
    /// An input of a PSBT that says nothing about what it spends.
    #[error("input {input} of the PSBT has no UTXO")]
    PrevoutMissing {
        /// The input.
        input: usize,
    },
    /// The previous transaction of a PSBT's input is another one, has no such output, or differs from the witness UTXO.
    #[error("input {input} of the PSBT: the previous transaction does not have this output")]
    PrevoutMismatch {
        /// The input.
        input: usize,
    },
    /// A script too long to be spendable.
    #[error("a script of {found} bytes: at most {SCRIPT_BYTES_MAX} are allowed")]
    ScriptTooLong {
        /// Bytes found.
        found: usize,
    },
    /// More than there can be.
    #[error("values above {} satoshi in all", Amount::MAX_MONEY.to_sat())]
    ValueOverflow,
    /// Outputs worth more than the inputs.
    #[error("outputs of {outputs_sat} satoshi from inputs of {inputs_sat} satoshi")]
    Overspent {
        /// Value of the inputs.
        inputs_sat: u64,
        /// Value of the outputs.
        outputs_sat: u64,
    },
    /// No such input.
    #[error("input {input} of {count}: there is no such input")]
    NoSuchInput {
        /// The input asked for.
        input: usize,
        /// Inputs.
        count: usize,
    },
    /// Only Taproot outputs are signed.
    #[error("input {input} does not spend a taproot output")]
    NotTaproot {
        /// The input.
        input: usize,
    },
    /// A sighash type that leaves something open.
    #[error(
        "input {input} asks for sighash type 0x{found:02x}: SIGHASH_DEFAULT (0x00) and SIGHASH_ALL (0x01) are signed"
    )]
    SighashType {
        /// The input.
        input: usize,
        /// The type found.
        found: u32,
    },
    /// A script-path spend.
    #[error("input {input} is spent by a script path: only key-path spends are signed")]
    ScriptPath {
        /// The input.
        input: usize,
    },
    /// An annex.
    #[error("input {input} has an annex: none is signed")]
    Annex {
        /// The input.
        input: usize,
    },
}

/// An unsigned transaction and the outputs that it spends, in the order of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedTransaction {
    pub(super) transaction: Transaction,
    pub(super) prevouts: Vec<TxOut>,
}

impl UnsignedTransaction {
    /// The transaction with this network encoding and these prevouts.
    ///
    /// # Errors
    /// [`TransactionError`] naming what is wrong.
    ///
    /// # Security
    /// The prevouts are believed here: BIP-341 signatures cover them, so that wrong ones make a signature that no chain
    /// accepts, never one that spends something else.
    pub fn from_parts(raw: &[u8], prevouts: &[Prevout]) -> Result<Self, TransactionError> {
        if raw.len() > TRANSACTION_BYTES_MAX {
            return Err(TransactionError::TooLong { found: raw.len() });
        }
        let transaction: Transaction =
            consensus::deserialize(raw).map_err(|error| TransactionError::Encoding { detail: error.to_string() })?;
        if prevouts.len() != transaction.input.len() {
            return Err(TransactionError::PrevoutCount { found: prevouts.len(), inputs: transaction.input.len() });
        }
        let prevouts = prevouts
            .iter()
            .map(|prevout| TxOut {
                value: Amount::from_sat(prevout.value_sat),
                script_pubkey: ScriptBuf::from_bytes(prevout.script.as_bytes().to_vec()),
            })
            .collect();
        Self::check(transaction, prevouts)
    }

    pub(super) fn check(transaction: Transaction, prevouts: Vec<TxOut>) -> Result<Self, TransactionError> {
        let (inputs, outputs) = (transaction.input.len(), transaction.output.len());
        if inputs == 0 || outputs == 0 {
            return Err(TransactionError::Empty { inputs, outputs });
        }
        if inputs > TRANSACTION_INPUTS_MAX {
            return Err(TransactionError::TooManyInputs { found: inputs });
        }
        if outputs > TRANSACTION_OUTPUTS_MAX {
            return Err(TransactionError::TooManyOutputs { found: outputs });
        }
        let length = transaction.base_size();
        if length > TRANSACTION_BYTES_MAX {
            return Err(TransactionError::TooLong { found: length });
        }
        let mut spent = HashSet::new();
        for (input, txin) in transaction.input.iter().enumerate() {
            if !txin.script_sig.is_empty() || !txin.witness.is_empty() {
                return Err(TransactionError::Signed { input });
            }
            if txin.previous_output.is_null() {
                return Err(TransactionError::Coinbase { input });
            }
            if !spent.insert(txin.previous_output) {
                return Err(TransactionError::SpentTwice { input });
            }
        }
        let scripts = prevouts.iter().chain(&transaction.output).map(|output| output.script_pubkey.len());
        if let Some(found) = scripts.into_iter().find(|&length| length > SCRIPT_BYTES_MAX) {
            return Err(TransactionError::ScriptTooLong { found });
        }
        let (inputs_sat, outputs_sat) = (total_sat(&prevouts)?, total_sat(&transaction.output)?);
        if outputs_sat > inputs_sat {
            return Err(TransactionError::Overspent { inputs_sat, outputs_sat });
        }
        Ok(Self { transaction, prevouts })
    }

    /// How many inputs it has.
    pub fn input_count(&self) -> usize {
        self.prevouts.len()
    }

    /// The transaction id.
    pub fn id(&self) -> TransactionId {
        TransactionId(self.transaction.compute_txid().to_byte_array())
    }

    /// The network encoding: with [`Self::prevouts`] it gives this transaction back.
    pub fn raw(&self) -> Vec<u8> {
        consensus::serialize(&self.transaction)
    }

    /// What the inputs spend, in their order.
    pub fn prevouts(&self) -> Vec<Prevout> {
        let prevout = |output: &TxOut| Prevout {
            value_sat: output.value.to_sat(),
            script: ScriptBytes::new(output.script_pubkey.to_bytes()),
        };
        self.prevouts.iter().map(prevout).collect()
    }

    /// The hash of the prevouts, values and scripts in the order of the inputs. Beside the txid, which does not cover them,
    /// it names an approval: somebody's wrong amounts must not block the right ones.
    pub fn prevouts_hash(&self) -> [u8; 32] {
        let start = Framed::new(PREVOUTS_DOMAIN);
        self.prevouts
            .iter()
            .fold(start, |hash, prevout| {
                hash.part(&prevout.value.to_sat().to_be_bytes()).part(prevout.script_pubkey.as_bytes())
            })
            .finish()
    }

    /// The inputs that spend outputs of this output key.
    pub fn inputs_of(&self, key: &[u8; 32]) -> Vec<usize> {
        let paid = |output: &TxOut| output_key(output.script_pubkey.as_bytes()) == Some(*key);
        self.prevouts.iter().enumerate().filter(|(_, output)| paid(output)).map(|(input, _)| input).collect()
    }

    /// The BIP-341 signature hash of a key-path spend of `input`, without annex.
    ///
    /// # Errors
    /// [`TransactionError::NoSuchInput`] or [`TransactionError::NotTaproot`].
    pub fn sighash(&self, input: usize, flag: SighashFlag) -> Result<Message, TransactionError> {
        let mut cache = SighashCache::new(&self.transaction);
        self.sighash_with(&mut cache, input, flag)
    }

    /// Every key-path signature hash of every Taproot input, with the input. What all inputs have in common is hashed once:
    /// one by one the largest transaction takes seconds.
    pub fn signature_hashes(&self) -> Vec<(Message, usize)> {
        let mut cache = SighashCache::new(&self.transaction);
        (0..self.input_count())
            .flat_map(|input| SighashFlag::ALL.map(|flag| (input, flag)))
            .filter_map(|(input, flag)| Some((self.sighash_with(&mut cache, input, flag).ok()?, input)))
            .collect()
    }

    fn sighash_with(
        &self,
        cache: &mut SighashCache<&Transaction>,
        input: usize,
        flag: SighashFlag,
    ) -> Result<Message, TransactionError> {
        let missing = TransactionError::NoSuchInput { input, count: self.prevouts.len() };
        let prevout = self.prevouts.get(input).ok_or(missing.clone())?;
        if output_key(prevout.script_pubkey.as_bytes()).is_none() {
            return Err(TransactionError::NotTaproot { input });
        }
        cache
            .taproot_key_spend_signature_hash(input, &Prevouts::All(&self.prevouts), flag.hash_type())
            .map(|hash| Message::new(hash.to_byte_array()))
            .map_err(|_| missing)
    }

    /// The input of `key`, and the flag, whose signature hash `message` is. `None`: signing `message` would not sign this
    /// transaction for that key.
    pub fn find_message(&self, key: &[u8; 32], message: &Message) -> Option<(usize, SighashFlag)> {
        let mut cache = SighashCache::new(&self.transaction);
        self.inputs_of(key)
            .into_iter()
            .flat_map(|input| SighashFlag::ALL.map(|flag| (input, flag)))
            .find(|&(input, flag)| self.sighash_with(&mut cache, input, flag).as_ref() == Ok(message))
    }
}

fn total_sat(outputs: &[TxOut]) -> Result<u64, TransactionError> {
    outputs
        .iter()
        .try_fold(0u64, |sum, output| sum.checked_add(output.value.to_sat()))
        .filter(|&sum| sum <= Amount::MAX_MONEY.to_sat())
        .ok_or(TransactionError::ValueOverflow)
}
