//! Clients that ask for one durable round again and again, and how long each answer took.

use std::fmt;
use std::time::{Duration, Instant};

use frostkeep::client::Client;
use frostkeep::engine::SignRequest;

use crate::Failed;
use crate::nodes::CALL_MS;

const CLIENTS: usize = 4;
/// Long enough for a deadline to pass and an agent to be killed and started again.
const MEASURED: Duration = Duration::from_millis(2_000);
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(1);
/// How much slower the p99 with a hanging token may be: room for the noise of a busy machine.
const FACTOR_MAX: f64 = 10.0;
/// Below this a p99 is noise whatever the factor, microseconds.
const NOISE_US: f64 = 50_000.0;

/// What was measured.
pub(crate) struct Load {
    /// Sorted, microseconds.
    times_us: Vec<f64>,
    other_bytes: usize,
}

impl Load {
    /// The given share of the answers was at most this slow, microseconds.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.times_us.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index below a few thousand"
        )]
        let index = (last as f64 * share) as usize;
        self.times_us.get(index).copied().unwrap_or_default()
    }

    /// The claim, as far as it holds.
    pub(crate) fn against(&self, healthy: &Self) -> String {
        let bytes = if self.other_bytes == 0 && !self.times_us.is_empty() {
            "every one the same bytes"
        } else {
            "NOT every one the same bytes"
        };
        // Who waits for the token waits until its deadline, or for what is left of it.
        let half_us = Duration::from_millis(CALL_MS / 2).as_secs_f64() * 1e6;
        let slowest = if self.quantile(1.0) < half_us { "none waited" } else { "SOME waited" };
        let tail = if self.quantile(0.99) <= (healthy.quantile(0.99) * FACTOR_MAX).max(NOISE_US) {
            "no tail of its own"
        } else {
            "a TAIL of its own"
        };
        format!("{bytes}, {slowest} for the token, {tail}")
    }

    /// Median and p99 against those of `healthy`.
    pub(crate) fn ratio(&self, healthy: &Self) -> String {
        let ratio = |share| self.quantile(share) / healthy.quantile(share).max(0.1);
        format!("median x{:.2}, p99 x{:.2}", ratio(0.5), ratio(0.99))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, p99, slowest) = (self.quantile(0.5), self.quantile(0.99), self.quantile(1.0));
        let count = self.times_us.len();
        write!(f, "{count} serves: median {median:.0} us, p99 {p99:.0} us, slowest {slowest:.0} us")
    }
}

/// Asks for a durable round from several clients at once.
///
/// # Errors
/// When one of them is refused.
pub(crate) async fn measure(client: &Client, request: &SignRequest, expected: &[u8]) -> Result<Load, Failed> {
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(ask(client.clone(), request.clone(), expected.to_vec()))).collect();
    let mut all = Load { times_us: Vec::new(), other_bytes: 0 };
    for one in clients {
        let one = one.await??;
        all.times_us.extend(one.times_us);
        all.other_bytes += one.other_bytes;
    }
    all.times_us.sort_by(f64::total_cmp);
    Ok(all)
}

#[allow(clippy::disallowed_methods, reason = "a measurement; the clock of the nodes counts milliseconds")]
async fn ask(client: Client, request: SignRequest, expected: Vec<u8>) -> Result<Load, Failed> {
    let mut load = Load { times_us: Vec::new(), other_bytes: 0 };
    let start = Instant::now();
    while start.elapsed() < MEASURED {
        let asked = Instant::now();
        let part = client.start_sign_round(&request).await?.durable_part();
        load.times_us.push(asked.elapsed().as_secs_f64() * 1e6);
        if part != expected {
            load.other_bytes += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(load)
}
