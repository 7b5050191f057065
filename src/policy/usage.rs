//! What counts against rate limits.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::bitcoin::TransactionId;

/// What one approved transaction costs. It is part of the durable approval, so that the usage can be recomputed at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The transaction.
    pub id: TransactionId,
    /// What outputs to others and the fee take, satoshi.
    pub value_sat: u64,
    /// When, seconds since 1970-01-01 UTC: never before an earlier charge, whatever the clock said.
    pub at_unix_s: u64,
}

/// The charges of one key group, in memory: the fold of its approvals in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    charges: OrdMap<TransactionId, (u64, u64)>,
    latest_unix_s: u64,
}

impl Usage {
    /// Counts an approval: once per transaction, at the highest value and the latest time.
    pub fn record(&mut self, charge: &Charge) {
        self.latest_unix_s = self.latest_unix_s.max(charge.at_unix_s);
        let (value_sat, at_unix_s) = self.charges.entry(charge.id).or_default();
        *value_sat = charge.value_sat.max(*value_sat);
        *at_unix_s = charge.at_unix_s.max(*at_unix_s);
    }

    /// Forgets charges that no window of at most `window_s` seconds can hold any more.
    pub fn forget_before(&mut self, now_unix_s: u64, window_s: u64) {
        let now = self.clock(now_unix_s);
        let kept = |(_, (_, at)): &(TransactionId, (u64, u64))| in_window(*at, now, window_s);
        self.charges = std::mem::take(&mut self.charges).into_iter().filter(kept).collect();
    }

    /// The time that counts: a clock that steps back stands still at the latest charge, so that it never widens a window
    /// nor lets a charge expire early.
    pub fn clock(&self, now_unix_s: u64) -> u64 {
        now_unix_s.max(self.latest_unix_s)
    }

    /// Charges held.
    pub fn len(&self) -> usize {
        self.charges.len()
    }

    /// Whether nothing is charged.
    pub fn is_empty(&self) -> bool {
        self.charges.is_empty()
    }

    /// The value charged for a transaction so far, satoshi.
    pub fn charged_sat(&self, id: &TransactionId) -> Option<u64> {
        self.charges.get(id).map(|(value_sat, _)| *value_sat)
    }

    /// Transactions and value in the window that ends now, `but` left out.
    pub(super) fn in_window(&self, now: u64, window_s: u64, but: &TransactionId) -> (u64, u64) {
        let others = self.charges.iter().filter(|(id, (_, at))| *id != but && in_window(*at, now, window_s));
        others.fold((0, 0), |(count, sum), (_, (value_sat, _))| (count + 1, value_sat.saturating_add(sum)))
    }
}

fn in_window(at: u64, now: u64, window_s: u64) -> bool {
    now.saturating_sub(at) < window_s
}
