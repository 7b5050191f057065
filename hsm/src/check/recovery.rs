//! Losses on purpose: what the next call answers, and what cures it.

use std::thread;

use super::finding::Code;
use super::latency::{micros, object, percentiles, provider};
use super::report::{CuredIn, Loss, Outcome};
use super::run::Run;
use super::subject::Subject;
use crate::agent::examine::Examine;
use crate::clock::Stopwatch;
use crate::health::{Outage, ProviderState};
use crate::provider::{DataKey, KeyProvider};
use crate::scheme;
use crate::sealer::Provider;
use crate::token::{FaultClass, TokenError};

/// Full re-initialisations that are timed.
const REINITIALISATIONS: u32 = 5;
/// Probes that a loss may take, before it counts as not cured.
const PROBES_MAX: u32 = 3;

const WRONG: &str = "a wrong value";

impl Run<'_> {
    /// Loses the sessions, loses the login, and re-initialises several times.
    pub(super) fn lose(&mut self) {
        if self.subject.key.is_none() {
            return;
        }
        self.report.recovery.session_loss = self.lose_one("session", Examine::LoseSessions);
        self.report.recovery.logout = self.lose_one("login", Examine::Logout);
        let mut taken = Vec::new();
        for _ in 0..REINITIALISATIONS {
            let watch = Stopwatch::start();
            match self.ask(|subject| subject.open_whole(&[]).map(drop)) {
                Some(Ok(())) => taken.push(watch.elapsed()),
                Some(Err(error)) => {
                    if error.class != FaultClass::Deadline {
                        self.find(Code::ReinitialisationFailed, error.to_string());
                    }
                    break;
                }
                None => break,
            }
        }
        self.report.recovery.reinitialisation = percentiles(&taken);
    }

    fn lose_one(&mut self, what: &str, loss: Examine) -> Option<Loss> {
        if !self.ensure_ready() {
            return None;
        }
        let config = self.config;
        let met = suffer(&mut provider(config, &mut self.subject), loss);
        let loss = match met {
            Ok(Ok((loss, error))) => {
                if let Some(error) = error.filter(|error| error.class == FaultClass::Deadline) {
                    self.note_failure(&error);
                }
                loss
            }
            // The token cannot do it, or was lost over it.
            Ok(Err(error)) => {
                self.note_failure(&error);
                let answer = error.to_string();
                return Some(Loss { answer, class: None, cured: Outcome::NotTried, cured_in: None, cure_us: None });
            }
            Err(outage) => {
                self.lost_in_provider(&outage);
                return None;
            }
        };
        match (loss.class, loss.cured) {
            (None, _) if loss.answer == WRONG => {
                self.find(Code::LossAnsweredWrong, format!("after a lost {what}: {}", loss.answer))
            }
            (None, Outcome::Yes) => {
                self.find(Code::LossNotNoticed, format!("after a lost {what} the token still answers"))
            }
            (_, Outcome::Yes) if loss.cured_in == Some(CuredIn::Probe) => {
                self.find(Code::LossCuredByProbe, format!("a lost {what} answers {}", loss.answer));
            }
            (_, Outcome::Yes) => {}
            (_, Outcome::No | Outcome::NotTried) => {
                self.hang_up();
                self.find(Code::LossNotCured, format!("a lost {what} answers {}", loss.answer));
            }
        }
        Some(loss)
    }
}

/// The loss, or why it was not suffered: the token refused it, or it was lost before.
type Met = Result<Result<(Loss, Option<TokenError>), TokenError>, Outage>;

/// Seals, loses, looks at what the next call answers, and lets the provider cure it.
fn suffer(provider: &mut Provider<&mut Subject>, loss: Examine) -> Met {
    provider.tick();
    let data_key = DataKey::new(&[0x5a; 32]);
    provider.wrap(&object(0), &data_key).map_err(|error| error.0)?;
    let input = scheme::check_value_input();
    let before = match provider.token_mut().derive_sealing(&input) {
        Ok(before) => before,
        Err(error) => return Ok(Err(error)),
    };
    if let Err(error) = provider.token_mut().disturb(loss) {
        return Ok(Err(error));
    }
    let (answer, class, error) = match provider.token_mut().derive_sealing(&input) {
        Err(error) => (error.to_string(), Some(class_name(error.class)), Some(error)),
        Ok(after) if after.expose() == before.expose() => ("the right value".to_owned(), None, None),
        Ok(_) => (WRONG.to_owned(), None, None),
    };
    let watch = Stopwatch::start();
    let mut cured_in = provider.wrap(&object(1), &data_key).is_ok().then_some(CuredIn::Call);
    for _ in 0..=PROBES_MAX {
        if cured_in.is_some() {
            break;
        }
        // Does what is due, and says how long nothing is.
        let wait = provider.tick();
        if provider.health().state != ProviderState::Ready {
            thread::sleep(wait);
        } else if provider.wrap(&object(1), &data_key).is_ok() {
            cured_in = Some(CuredIn::Probe);
        }
    }
    let cure_us = cured_in.map(|_| micros(watch.elapsed()));
    Ok(Ok((Loss { answer, class, cured: cured_in.is_some().into(), cured_in, cure_us }, error)))
}

/// A stable name of what a fault says.
pub(super) const fn class_name(class: FaultClass) -> &'static str {
    match class {
        FaultClass::Session => "session",
        FaultClass::AmbiguousKey => "ambiguous_key",
        FaultClass::Token => "token",
        FaultClass::Module => "module",
        FaultClass::Deadline => "deadline",
        FaultClass::Credential => "credential",
        FaultClass::Key => "key",
        FaultClass::Integrity => "integrity",
        FaultClass::Usage => "usage",
    }
}
