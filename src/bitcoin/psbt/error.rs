//! What can be wrong with a PSBT as far as signing is concerned.

use std::fmt;

use crate::bitcoin::TransactionError;
use crate::ids::KeyGroupId;

/// The fields of an input that are read or written here (BIP-174, BIP-371).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputField {
    /// The sighash type that signers are asked for.
    SighashType,
    /// The finished `scriptSig`.
    FinalScriptSig,
    /// The finished witness.
    FinalScriptWitness,
    /// The signature of a key-path spend.
    TapKeySig,
    /// A signature of a script-path spend.
    TapScriptSig,
    /// The internal key of the output that is spent.
    TapInternalKey,
    /// The Merkle root of the output that is spent.
    TapMerkleRoot,
}

impl InputField {
    pub(super) const fn key_type(self) -> u8 {
        match self {
            Self::SighashType => 0x03,
            Self::FinalScriptSig => 0x07,
            Self::FinalScriptWitness => 0x08,
            Self::TapKeySig => 0x13,
            Self::TapScriptSig => 0x14,
            Self::TapInternalKey => 0x17,
            Self::TapMerkleRoot => 0x18,
        }
    }
}

impl fmt::Display for InputField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SighashType => "PSBT_IN_SIGHASH_TYPE",
            Self::FinalScriptSig => "PSBT_IN_FINAL_SCRIPTSIG",
            Self::FinalScriptWitness => "PSBT_IN_FINAL_SCRIPTWITNESS",
            Self::TapKeySig => "PSBT_IN_TAP_KEY_SIG",
            Self::TapScriptSig => "PSBT_IN_TAP_SCRIPT_SIG",
            Self::TapInternalKey => "PSBT_IN_TAP_INTERNAL_KEY",
            Self::TapMerkleRoot => "PSBT_IN_TAP_MERKLE_ROOT",
        })
    }
}

/// What an input needs before the transaction is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lack {
    /// A Taproot input without a key-path signature and without a final witness.
    KeySignature,
    /// An input of another kind that its signers have not finalised.
    FinalScript,
}

/// An input that is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lacking {
    /// The input.
    pub input: usize,
    /// What it lacks.
    pub what: Lack,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, what } = self;
        match what {
            Lack::KeySignature => write!(f, "input {input} lacks {}", InputField::TapKeySig),
            Lack::FinalScript => {
                write!(f, "input {input} lacks {} or {}", InputField::FinalScriptSig, InputField::FinalScriptWitness)
            }
        }
    }
}

/// Why a PSBT cannot be signed or finalised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PsbtError {
    /// What it asks for is not signed.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// No key group has this name.
    #[error("key group {key_group} is no point of the curve")]
    KeyGroup {
        /// The name.
        key_group: KeyGroupId,
    },
    /// A field that does not lead to the output that the input spends, or denies that it does (BIP-341 tweak).
    #[error("input {input} of the PSBT: {field} contradicts the output that it spends")]
    Contradiction {
        /// The input.
        input: usize,
        /// The field.
        field: InputField,
    },
    /// Somebody's signature, already there, is wrong.
    #[error("input {input} of the PSBT: the signature in {field} does not verify under the output key")]
    SignatureInvalid {
        /// The input.
        input: usize,
        /// Where it is.
        field: InputField,
    },
    /// A signature of another sighash type than the PSBT asks for.
    #[error(
        "input {input} of the PSBT: the signature in {field} has sighash type 0x{found:02x}, asked is 0x{asked:02x}"
    )]
    SignatureType {
        /// The input.
        input: usize,
        /// Where it is.
        field: InputField,
        /// What the PSBT asks for.
        asked: u32,
        /// The type of the signature.
        found: u32,
    },
    /// A signature was brought for an input that the key group cannot sign.
    #[error("input {input} is not the key group's to sign")]
    NotOwn {
        /// The input.
        input: usize,
    },
    /// A signature was brought that does not verify.
    #[error("the signature for input {input} does not verify under the output key")]
    SignatureRefused {
        /// The input.
        input: usize,
    },
    /// Signatures are missing.
    #[error("the transaction is not complete: {}", list(.lacking))]
    Incomplete {
        /// What each input that is not ready lacks, ascending.
        lacking: Vec<Lacking>,
    },
}

fn list(lacking: &[Lacking]) -> String {
    lacking.iter().map(Lacking::to_string).collect::<Vec<_>>().join(", ")
}
