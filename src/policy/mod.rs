//! What a key group may sign. Pure, and deny by default: an empty policy refuses every transaction.
//!
//! - [`SigningPolicy`]: the sealed record, and how configuration tightens it
//! - [`check`](SigningPolicy::check): a transaction's facts against it
//! - [`Usage`]: what counts against the rate limits, recomputed from durable approvals

mod check;
mod usage;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bitcoin::{ScriptBytes, ScriptClass};
use crate::hash::Framed;
use crate::limits::{
    POLICY_BYTES_MAX, POLICY_DESTINATIONS_MAX, POLICY_RATES_MAX, POLICY_WINDOW_S_MAX, SCRIPT_BYTES_MAX,
};

pub use check::PolicyRefusal;
pub use usage::{Charge, Usage};

const HASH_DOMAIN: &str = "frostkeep/signing-policy/v1";

/// One bitcoin, satoshi.
const BITCOIN_SAT: u64 = 100_000_000;

/// Where value may go. The key group's own scripts are always allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destinations {
    /// Anywhere.
    Any,
    /// To these scripts only.
    Only(BTreeSet<ScriptBytes>),
}

/// What may leave in any window of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Length of the window, seconds, at most [`POLICY_WINDOW_S_MAX`].
    pub window_s: u64,
    /// Value that outputs to others and fees may take in one window, satoshi.
    pub value_sat_max: u64,
    /// Transactions in one window.
    pub transactions_max: u32,
}

/// What a key group may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningPolicy {
    /// Classes of scripts that others may be paid by.
    pub script_classes: BTreeSet<ScriptClass>,
    /// Value that outputs to others may take in one transaction, satoshi.
    pub value_sat_max: u64,
    /// Fee of one transaction, satoshi.
    pub fee_sat_max: u64,
    /// Fee rate, satoshi per 1000 virtual bytes.
    pub feerate_sat_per_kvb_max: u64,
    /// Where value may go.
    pub destinations: Destinations,
    /// Rate limits; each one holds.
    pub rates: BTreeSet<Rate>,
    /// Whether messages are signed that are no signature hash of an approved transaction.
    ///
    /// # Security
    /// Everything else in this policy is void for such messages: a signature hash of any transaction passes.
    pub danger_sign_any_message: bool,
}

/// What the configuration file says about a policy: every field can only make it tighter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tightening {
    /// Only these classes of those allowed.
    pub script_classes: Option<BTreeSet<ScriptClass>>,
    /// A lower value cap, satoshi.
    pub value_sat_max: Option<u64>,
    /// A lower fee cap, satoshi.
    pub fee_sat_max: Option<u64>,
    /// A lower cap of the fee rate, satoshi per 1000 virtual bytes.
    pub feerate_sat_per_kvb_max: Option<u64>,
    /// Only these destinations of those allowed.
    pub destinations: Option<BTreeSet<ScriptBytes>>,
    /// More rate limits.
    pub rates: BTreeSet<Rate>,
    /// Refuses messages that are no signature hash, whatever the policy says; a key group's own messages of trials and drills
    /// apart, which spend nothing.
    pub refuse_any_message: bool,
}

/// A policy that is not well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too many destinations.
    #[error("{found} destinations: at most {POLICY_DESTINATIONS_MAX} are allowed")]
    TooManyDestinations {
        /// Destinations found.
        found: usize,
    },
    /// A destination that cannot be one.
    #[error("a destination of {found} bytes: at most {SCRIPT_BYTES_MAX} are allowed")]
    DestinationTooLong {
        /// Bytes found.
        found: usize,
    },
    /// Too many rate limits.
    #[error("{found} rate limits: at most {POLICY_RATES_MAX} are allowed")]
    TooManyRates {
        /// Rate limits found.
        found: usize,
    },
    /// A window that is empty or longer than approvals are kept for.
    #[error("a rate window of {found} seconds: 1 to {POLICY_WINDOW_S_MAX} are allowed")]
    Window {
        /// Seconds found.
        found: u64,
    },
    /// Too long.
    #[error("a policy of {found} bytes: at most {POLICY_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Bytes that are not the canonical encoding of a policy.
    #[error("not the canonical encoding of a signing policy")]
    Encoding,
}

impl Default for SigningPolicy {
    /// The policy that refuses everything.
    fn default() -> Self {
        Self {
            script_classes: BTreeSet::new(),
            value_sat_max: 0,
            fee_sat_max: 0,
            feerate_sat_per_kvb_max: 0,
            destinations: Destinations::Only(BTreeSet::new()),
            rates: BTreeSet::new(),
            danger_sign_any_message: false,
        }
    }
}

impl SigningPolicy {
    /// A starting point: payments to witness scripts anywhere, one bitcoin a transaction, ten a day, sane fees.
    pub fn standard() -> Self {
        Self {
            script_classes: BTreeSet::from([ScriptClass::P2tr, ScriptClass::P2wpkh, ScriptClass::P2wsh]),
            value_sat_max: BITCOIN_SAT,
            fee_sat_max: 1_000_000,
            feerate_sat_per_kvb_max: 500_000,
            destinations: Destinations::Any,
            rates: BTreeSet::from([Rate {
                window_s: 24 * 60 * 60,
                value_sat_max: 10 * BITCOIN_SAT,
                transactions_max: 1_000,
            }]),
            danger_sign_any_message: false,
        }
    }

    /// Whether every part of the policy is within its bound.
    ///
    /// # Errors
    /// [`PolicyError`] naming the part, the value and the limit.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if let Destinations::Only(scripts) = &self.destinations {
            check_destinations(scripts)?;
        }
        check_rates(&self.rates)
    }

    /// The canonical encoding, equal for equal policies.
    ///
    /// # Errors
    /// [`PolicyError`] when the policy is not valid or the encoding is too long to be stored.
    pub fn encode(&self) -> Result<Vec<u8>, PolicyError> {
        self.validate()?;
        let bytes = postcard::to_allocvec(self).map_err(|_| PolicyError::Encoding)?;
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong { found: bytes.len() });
        }
        Ok(bytes)
    }

    /// The policy with this canonical encoding.
    ///
    /// # Errors
    /// [`PolicyError`]; bytes that another policy or another order would give are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong { found: bytes.len() });
        }
        let policy: Self = postcard::from_bytes(bytes).map_err(|_| PolicyError::Encoding)?;
        if policy.encode()? != bytes {
            return Err(PolicyError::Encoding);
        }
        Ok(policy)
    }

    /// The hash that `status` and key generation show.
    ///
    /// # Errors
    /// As [`SigningPolicy::encode`].
    pub fn hash(&self) -> Result<[u8; 32], PolicyError> {
        Ok(Framed::new(HASH_DOMAIN).part(&self.encode()?).finish())
    }

    /// This policy and what the configuration adds: nothing is allowed that this policy does not allow.
    ///
    /// # Errors
    /// [`PolicyError`] when the configuration's part is out of its bounds.
    pub fn tighten(&self, by: &Tightening) -> Result<Self, PolicyError> {
        check_rates(&by.rates)?;
        by.destinations.as_ref().map_or(Ok(()), check_destinations)?;
        let lower = |own: u64, other: Option<u64>| own.min(other.unwrap_or(u64::MAX));
        let destinations = match (&self.destinations, &by.destinations) {
            (own, None) => own.clone(),
            (Destinations::Any, Some(only)) => Destinations::Only(only.clone()),
            (Destinations::Only(own), Some(only)) => Destinations::Only(own & only),
        };
        Ok(Self {
            script_classes: match &by.script_classes {
                None => self.script_classes.clone(),
                Some(classes) => &self.script_classes & classes,
            },
            value_sat_max: lower(self.value_sat_max, by.value_sat_max),
            fee_sat_max: lower(self.fee_sat_max, by.fee_sat_max),
            feerate_sat_per_kvb_max: lower(self.feerate_sat_per_kvb_max, by.feerate_sat_per_kvb_max),
            destinations,
            rates: &self.rates | &by.rates,
            danger_sign_any_message: self.danger_sign_any_message && !by.refuse_any_message,
        })
    }
}

fn check_destinations(scripts: &BTreeSet<ScriptBytes>) -> Result<(), PolicyError> {
    if scripts.len() > POLICY_DESTINATIONS_MAX {
        return Err(PolicyError::TooManyDestinations { found: scripts.len() });
    }
    match scripts.iter().map(|script| script.as_bytes().len()).find(|&length| length > SCRIPT_BYTES_MAX) {
        Some(found) => Err(PolicyError::DestinationTooLong { found }),
        None => Ok(()),
    }
}

fn check_rates(rates: &BTreeSet<Rate>) -> Result<(), PolicyError> {
    if rates.len() > POLICY_RATES_MAX {
        return Err(PolicyError::TooManyRates { found: rates.len() });
    }
    match rates.iter().map(|rate| rate.window_s).find(|window| !(1..=POLICY_WINDOW_S_MAX).contains(window)) {
        Some(found) => Err(PolicyError::Window { found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
