//! How long sealing and opening take, through the whole provider.

use std::sync::Arc;
use std::time::Duration;

use super::finding::Code;
use super::report::{Latency, Percentiles};
use super::run::Run;
use super::subject::Subject;
use crate::clock::{Stopwatch, SystemClock};
use crate::config::TokenConfig;
use crate::health::Outage;
use crate::provider::{DataKey, KeyProvider, SealedObject};
use crate::scheme;
use crate::sealer::{Provider, Timing};

/// Percentiles of `durations`, by nearest rank; none when there are none.
pub(super) fn percentiles(durations: &[Duration]) -> Option<Percentiles> {
    let mut sorted: Vec<u64> = durations.iter().copied().map(micros).collect();
    sorted.sort_unstable();
    let max_us = *sorted.last()?;
    let rank = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(max_us)
    };
    let count = u64::try_from(sorted.len()).unwrap_or(u64::MAX);
    Some(Percentiles { count, p50_us: rank(50), p90_us: rank(90), p99_us: rank(99), max_us })
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The node's provider before this token.
pub(super) fn provider<'a>(config: &TokenConfig, subject: &'a mut Subject) -> Provider<&'a mut Subject> {
    let timing = Timing { health_interval_ms: config.health_interval_ms, backoff: config.backoff() };
    Provider::new(subject, timing, Arc::new(SystemClock::new()), Box::new(crate::entropy::os()))
}

/// What is sealed for measurement; no store has it.
pub(super) fn object(id: u64) -> SealedObject {
    SealedObject { store: *b"frostkeep check ", kind: u8::MAX, id }
}

/// Why sealing ended early: the outage, or an opening that gave something else.
enum Ended {
    Outage(Outage),
    Differs(String),
}

impl Run<'_> {
    /// Measures, if there is a key to seal with.
    pub(super) fn measure(&mut self) {
        let Some(sealed_with) = self.subject.key else { return };
        if !self.ensure_ready() {
            return;
        }
        let (mut seal, mut open, mut derive) = (Vec::new(), Vec::new(), Vec::new());
        let samples = self.options.samples.clamp(1, super::SAMPLES_MAX);
        let ended = sample(provider(self.config, &mut self.subject), samples, &mut seal, &mut open).err();
        match &ended {
            None => {
                for _ in 0..samples {
                    let watch = Stopwatch::start();
                    let Some(Ok(_)) = self.ask(|subject| subject.derive_sealing(&scheme::check_value_input())) else {
                        break;
                    };
                    derive.push(watch.elapsed());
                }
            }
            Some(Ended::Outage(outage)) => self.lost_in_provider(outage),
            Some(Ended::Differs(detail)) => self.find(Code::SealFailed, detail.clone()),
        }
        self.report.latency = Some(Latency {
            sealed_with,
            seal: percentiles(&seal),
            open: percentiles(&open),
            derive: percentiles(&derive),
        });
    }
}

fn sample(
    mut provider: Provider<&mut Subject>,
    samples: u32,
    seal: &mut Vec<Duration>,
    open: &mut Vec<Duration>,
) -> Result<(), Ended> {
    provider.tick();
    for number in 0..u64::from(samples) {
        let object = object(number);
        let mut bytes = [0x5a; 32];
        bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(to, from)| *to = from);
        let watch = Stopwatch::start();
        let wraps = provider.wrap(&object, &DataKey::new(&bytes)).map_err(|error| Ended::Outage(error.0))?;
        seal.push(watch.elapsed());
        let watch = Stopwatch::start();
        let opened = provider.unwrap(&object, &wraps);
        let taken = watch.elapsed();
        match opened {
            Ok(key) if *key.expose() == bytes => open.push(taken),
            Ok(_) => return Err(Ended::Differs(format!("sample {number} opened to another data key"))),
            Err(crate::provider::UnwrapError::Unavailable(error)) => {
                return Err(Ended::Outage(error.0));
            }
            Err(error) => return Err(Ended::Differs(format!("sample {number}: {error}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let of = |numbers: &[u64]| {
            let durations: Vec<_> = numbers.iter().map(|us| Duration::from_micros(*us)).collect();
            percentiles(&durations).map(|p| (p.count, p.p50_us, p.p90_us, p.p99_us, p.max_us))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some((1, 7, 7, 7, 7)));
        assert_eq!(of(&[3, 1, 2]), Some((3, 2, 3, 3, 3)));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Some((100, 50, 90, 99, 100)));
        let two_hundred: Vec<u64> = (1..=200).collect();
        assert_eq!(of(&two_hundred), Some((200, 100, 180, 198, 200)));
    }
}
