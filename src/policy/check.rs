//! A transaction's facts against a policy.

use super::{Charge, Destinations, SigningPolicy, Usage};
use crate::bitcoin::{ScriptClass, TransactionFacts, TransactionId};
use crate::limits::{POLICY_CHARGES_MAX, POLICY_WINDOW_S_MAX};
use crate::reasons::Reason;

/// Why a policy refuses. Every refusal names the value and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// No input is the key group's.
    #[error("transaction {id} spends nothing of this key group")]
    NothingOwn {
        /// The transaction.
        id: TransactionId,
    },
    /// A script of a class that is not allowed.
    #[error("output {output} pays by a {class:?} script: policy allows {allowed:?}")]
    ScriptClass {
        /// The output.
        output: usize,
        /// Its class.
        class: ScriptClass,
        /// The classes allowed.
        allowed: Vec<ScriptClass>,
    },
    /// A destination that is not on the list.
    #[error(
        "output {output} pays {value_sat} satoshi to a script that is not among the {allowed} allowed destinations"
    )]
    Destination {
        /// The output.
        output: usize,
        /// Its value, satoshi.
        value_sat: u64,
        /// Length of the list.
        allowed: usize,
    },
    /// Too much for one transaction.
    #[error("{value_sat} satoshi are paid out: policy allows {limit_sat} in one transaction")]
    Value {
        /// Value paid out, satoshi.
        value_sat: u64,
        /// The cap, satoshi.
        limit_sat: u64,
    },
    /// Too high a fee.
    #[error("the fee is {fee_sat} satoshi: policy allows {limit_sat}")]
    Fee {
        /// The fee, satoshi.
        fee_sat: u64,
        /// The cap, satoshi.
        limit_sat: u64,
    },
    /// Too high a fee rate.
    #[error("the fee rate is {feerate_sat_per_kvb} satoshi per 1000 vB: policy allows {limit_sat_per_kvb}")]
    Feerate {
        /// The rate.
        feerate_sat_per_kvb: u64,
        /// The cap.
        limit_sat_per_kvb: u64,
    },
    /// Too much in a window.
    #[error("{value_sat} satoshi would be charged within {window_s} seconds: policy allows {limit_sat}")]
    RateValue {
        /// Value with this transaction, satoshi.
        value_sat: u64,
        /// The cap, satoshi.
        limit_sat: u64,
        /// The window, seconds.
        window_s: u64,
    },
    /// Too many in a window.
    #[error("{count} transactions would be approved within {window_s} seconds: policy allows {limit}")]
    RateTransactions {
        /// Transactions with this one.
        count: u64,
        /// The cap.
        limit: u32,
        /// The window, seconds.
        window_s: u64,
    },
    /// More charges than can be counted.
    #[error("{POLICY_CHARGES_MAX} charges already count against the rate limits: no more can be counted")]
    ChargesFull,
    /// A message that is no signature hash of an approved transaction.
    #[error("the message is not a signature hash of an approved transaction of this key group")]
    MessageNotApproved,
}

impl PolicyRefusal {
    /// The stable reason of a refusal.
    pub fn reason(&self) -> Reason {
        match self {
            Self::ChargesFull => Reason::CapacityExceeded,
            Self::MessageNotApproved => Reason::MessageNotApproved,
            Self::NothingOwn { .. }
            | Self::ScriptClass { .. }
            | Self::Destination { .. }
            | Self::Value { .. }
            | Self::Fee { .. }
            | Self::Feerate { .. }
            | Self::RateValue { .. }
            | Self::RateTransactions { .. } => Reason::PolicyDenied,
        }
    }
}

impl SigningPolicy {
    /// Everything but the rate limits: what a cached serve checks again.
    ///
    /// # Errors
    /// [`PolicyRefusal`], the first found.
    pub fn check_transaction(&self, facts: &TransactionFacts) -> Result<(), PolicyRefusal> {
        if !facts.inputs.iter().any(|input| input.own) {
            return Err(PolicyRefusal::NothingOwn { id: facts.id });
        }
        for (output, paid) in facts.outputs.iter().enumerate().filter(|(_, paid)| !paid.own) {
            if !self.script_classes.contains(&paid.class) {
                let allowed = self.script_classes.iter().copied().collect();
                return Err(PolicyRefusal::ScriptClass { output, class: paid.class, allowed });
            }
            if let Destinations::Only(scripts) = &self.destinations
                && !scripts.contains(&paid.script)
            {
                let allowed = scripts.len();
                return Err(PolicyRefusal::Destination { output, value_sat: paid.value_sat, allowed });
            }
        }
        let value_sat = facts.paid_out_sat();
        if value_sat > self.value_sat_max {
            return Err(PolicyRefusal::Value { value_sat, limit_sat: self.value_sat_max });
        }
        if facts.fee_sat > self.fee_sat_max {
            return Err(PolicyRefusal::Fee { fee_sat: facts.fee_sat, limit_sat: self.fee_sat_max });
        }
        let feerate_sat_per_kvb = facts.feerate_sat_per_kvb();
        if feerate_sat_per_kvb > self.feerate_sat_per_kvb_max {
            let limit_sat_per_kvb = self.feerate_sat_per_kvb_max;
            return Err(PolicyRefusal::Feerate { feerate_sat_per_kvb, limit_sat_per_kvb });
        }
        Ok(())
    }

    /// Everything. The charge belongs into the record of the approval and, from then on, into the usage.
    ///
    /// `usage` is the fold of all approvals installed so far, the pending ones among them: what is not durable yet counts
    /// at admission.
    ///
    /// # Errors
    /// [`PolicyRefusal`], the first found.
    pub fn check(&self, facts: &TransactionFacts, usage: &Usage, now_unix_s: u64) -> Result<Charge, PolicyRefusal> {
        self.check_transaction(facts)?;
        // The fee is gone as well: a policy of small payments and large fees must not drain the key group.
        let value_sat = facts.paid_out_sat().saturating_add(facts.fee_sat);
        let charged_sat = usage.charged_sat(&facts.id);
        let value_sat = value_sat.max(charged_sat.unwrap_or_default());
        let now = usage.clock(now_unix_s);
        for rate in &self.rates {
            let (others, others_sat) = usage.in_window(now, rate.window_s, &facts.id);
            let (count, sum_sat) = (others + 1, others_sat.saturating_add(value_sat));
            let window_s = rate.window_s;
            if count > u64::from(rate.transactions_max) {
                return Err(PolicyRefusal::RateTransactions { count, limit: rate.transactions_max, window_s });
            }
            if sum_sat > rate.value_sat_max {
                return Err(PolicyRefusal::RateValue { value_sat: sum_sat, limit_sat: rate.value_sat_max, window_s });
            }
        }
        // Charges that no window can hold any more are forgotten by the next approval: they must not prevent it for ever.
        let full = || usage.in_window(now, POLICY_WINDOW_S_MAX, &facts.id).0 >= POLICY_CHARGES_MAX as u64;
        if charged_sat.is_none() && usage.len() >= POLICY_CHARGES_MAX && full() {
            return Err(PolicyRefusal::ChargesFull);
        }
        Ok(Charge { id: facts.id, value_sat, at_unix_s: now })
    }

    /// Whether a message may be signed, where `approved` says that it is a signature hash of an approved transaction.
    ///
    /// # Errors
    /// [`PolicyRefusal::MessageNotApproved`].
    pub fn check_message(&self, approved: bool) -> Result<(), PolicyRefusal> {
        if approved || self.danger_sign_any_message { Ok(()) } else { Err(PolicyRefusal::MessageNotApproved) }
    }
}
