//! What a transaction does, as the facts that a policy judges.

use ::bitcoin::Script;
use serde::{Deserialize, Serialize};

use super::script::ScriptBytes;
use super::transaction::{OutputKeys, TransactionId, UnsignedTransaction, output_key};

/// The kinds of output scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptClass {
    /// Taproot (BIP-341).
    P2tr,
    /// Witness public key hash (BIP-141).
    P2wpkh,
    /// Witness script hash (BIP-141).
    P2wsh,
    /// Public key hash.
    P2pkh,
    /// Script hash (BIP-16).
    P2sh,
    /// Data; its value is burned.
    OpReturn,
    /// Anything else: nobody may be able to spend it.
    Other,
}

impl ScriptClass {
    /// The class of a script.
    pub fn of(script: &[u8]) -> Self {
        let script = Script::from_bytes(script);
        if script.is_p2tr() {
            Self::P2tr
        } else if script.is_p2wpkh() {
            Self::P2wpkh
        } else if script.is_p2wsh() {
            Self::P2wsh
        } else if script.is_p2pkh() {
            Self::P2pkh
        } else if script.is_p2sh() {
            Self::P2sh
        } else if script.is_op_return() {
            Self::OpReturn
        } else {
            Self::Other
        }
    }

    /// Weight units that a signed input of this class adds. Unknown ones count as little, so that the fee rate is rather
    /// taken too high than too low.
    fn input_weight_wu(self) -> u64 {
        match self {
            // Count, length, 64 bytes.
            Self::P2tr => 66,
            // Count, length, 72 bytes of signature, length, 33 bytes of key.
            Self::P2wpkh => 108,
            // A script of 107 bytes, four units each, and an empty witness.
            Self::P2pkh => 429,
            Self::P2wsh | Self::P2sh | Self::OpReturn | Self::Other => 1,
        }
    }
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFacts {
    /// Value of what it spends, satoshi.
    pub value_sat: u64,
    /// The class of what it spends.
    pub class: ScriptClass,
    /// Whether it spends an output of the key group.
    pub own: bool,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFacts {
    /// Value, satoshi.
    pub value_sat: u64,
    /// Class of the script.
    pub class: ScriptClass,
    /// The script.
    pub script: ScriptBytes,
    /// Whether it pays to the key group.
    pub own: bool,
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionFacts {
    /// The transaction.
    pub id: TransactionId,
    /// Its inputs.
    pub inputs: Vec<InputFacts>,
    /// Its outputs.
    pub outputs: Vec<OutputFacts>,
    /// The fee, satoshi.
    pub fee_sat: u64,
    /// Estimated weight when signed, weight units.
    pub weight_wu: u64,
}

impl TransactionFacts {
    /// What outputs to others take, satoshi: all outputs but the key group's own.
    pub fn paid_out_sat(&self) -> u64 {
        self.outputs.iter().filter(|output| !output.own).map(|output| output.value_sat).sum()
    }

    /// The fee rate, satoshi per 1000 virtual bytes, rounded up.
    pub fn feerate_sat_per_kvb(&self) -> u64 {
        let feerate = (u128::from(self.fee_sat) * 4_000).div_ceil(u128::from(self.weight_wu.max(1)));
        u64::try_from(feerate).unwrap_or(u64::MAX)
    }
}

impl UnsignedTransaction {
    /// The facts, where `own` are the output keys of the key group.
    ///
    /// # Security
    /// An output to an own key counts as not paid out. A caller who may choose roots could choose a script tree that others
    /// can spend: only roots that the key group itself uses belong into `own` for outputs.
    pub fn facts(&self, own: &OutputKeys) -> TransactionFacts {
        let is_own = |script: &[u8]| output_key(script).is_some_and(|key| own.contains(&key));
        let inputs: Vec<InputFacts> = self
            .prevouts
            .iter()
            .map(|prevout| InputFacts {
                value_sat: prevout.value.to_sat(),
                class: ScriptClass::of(prevout.script_pubkey.as_bytes()),
                own: is_own(prevout.script_pubkey.as_bytes()),
            })
            .collect();
        let outputs: Vec<OutputFacts> = self
            .transaction
            .output
            .iter()
            .map(|output| OutputFacts {
                value_sat: output.value.to_sat(),
                class: ScriptClass::of(output.script_pubkey.as_bytes()),
                script: ScriptBytes::new(output.script_pubkey.to_bytes()),
                own: is_own(output.script_pubkey.as_bytes()),
            })
            .collect();
        let inputs_sat: u64 = inputs.iter().map(|input| input.value_sat).sum();
        let outputs_sat: u64 = outputs.iter().map(|output| output.value_sat).sum();
        // Marker and flag of a witness, and what each input adds.
        let witness_wu = 2 + inputs.iter().map(|input| input.class.input_weight_wu()).sum::<u64>();
        let base_bytes = u64::try_from(self.transaction.base_size()).unwrap_or(u64::MAX);
        TransactionFacts {
            id: self.id(),
            inputs,
            outputs,
            fee_sat: inputs_sat.saturating_sub(outputs_sat),
            weight_wu: base_bytes.saturating_mul(4).saturating_add(witness_wu),
        }
    }
}
