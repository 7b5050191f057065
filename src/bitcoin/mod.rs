//! Transactions that a key group may sign: unsigned, complete with their prevouts, and what they do, as facts. Pure.
//!
//! Key-path spends only, `SIGHASH_DEFAULT` or `SIGHASH_ALL`, no annex (BIP-341). A session's message is such a signature
//! hash; the hash of the transaction itself is not one (trap 12).

mod facts;
mod psbt;
mod script;
mod transaction;

pub use facts::{InputFacts, OutputFacts, ScriptClass, TransactionFacts};
pub use psbt::{Finalized, GroupInput, InputField, Lack, Lacking, PsbtError, PsbtFile};
pub use script::ScriptBytes;
pub use transaction::{
    OutputKeys, Prevout, SighashFlag, TransactionError, TransactionId, UnsignedTransaction, key_path_script,
};

#[cfg(test)]
mod tests;
