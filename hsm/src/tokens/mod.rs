//! Several tokens as one key provider: what is sealed is wrapped under each that is there, and any one opens it.
//!
//! Losing a token is degraded, not an outage, as long as [`Tokens`] still gets the wraps that the configuration asks for. Each
//! token has a thread of its own: one that hangs costs the others one short wait, once.

mod worker;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Millis};
use crate::config::{ConfigError, TokenConfig};
use crate::drill::DrillSwitch;
use crate::health::{Health, Outage, OutageClass, ProviderState, TokenHealth};
use crate::provider::{
    AnchorRead, AnchorValue, DataKey, KeyDescriptor, KeyName, KeyProvider, SealedObject, Unavailable, UnwrapError,
    Waker, Wrap,
};
use crate::sealer::Provider;
use worker::{View, Worker};

/// Tokens of one node, at most.
pub const TOKENS_MAX: usize = 8;

/// How long a wrap waits for further tokens once it has as many as it must, milliseconds. A token that is later is caught up like
/// one that was away, and is not waited for again before it has answered.
const LATE_MS: u64 = 250;

/// How long the first connection waits for further tokens once one is there, milliseconds.
const FIRST_MS: u64 = 1_000;

/// Bounds of the time between two looks, milliseconds. The tokens' own threads do what is due, and wake those who wait; an opening
/// looks by itself.
const LOOK_MS_MIN: u64 = 20;
const LOOK_MS_MAX: u64 = 1_000;

/// Checks the configurations of a node's tokens, and that no two of them name the same.
///
/// # Errors
/// [`ConfigError`].
pub fn check_tokens(configs: &[TokenConfig], min_wraps: usize) -> Result<(), ConfigError> {
    check_numbers(configs.len(), min_wraps)?;
    for (number, config) in configs.iter().enumerate() {
        config.check()?;
        if configs.iter().skip(number + 1).any(|other| other.uri == config.uri) {
            return Err(ConfigError::TokenTwice(config.uri.clone()));
        }
    }
    Ok(())
}

fn check_numbers(tokens: usize, min_wraps: usize) -> Result<(), ConfigError> {
    if !(1..=TOKENS_MAX).contains(&tokens) {
        return Err(ConfigError::Tokens(tokens));
    }
    if !(1..=tokens).contains(&min_wraps) {
        return Err(ConfigError::MinWraps { min_wraps, tokens });
    }
    Ok(())
}

/// Several tokens behind one [`KeyProvider`]. The first is the primary.
pub struct Tokens {
    workers: Vec<Worker>,
    min_wraps: usize,
    clock: Arc<dyn Clock>,
    tried: bool,
    fenced: Option<Outage>,
    drills: Option<DrillSwitch>,
    // Whether there are too few, and how often that began.
    begun: Mutex<(bool, u64)>,
}

impl Drop for Tokens {
    fn drop(&mut self) {
        // All at once: each may be inside a call that takes its deadline.
        self.workers.iter_mut().for_each(Worker::close);
    }
}

impl Tokens {
    /// The provider of the tokens that `configs` name, the primary first. At least `min_wraps` of them must be there for a seal.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_config(configs: &[TokenConfig], min_wraps: usize, clock: &Arc<dyn Clock>) -> Result<Self, ConfigError> {
        check_tokens(configs, min_wraps)?;
        let drills = DrillSwitch::new(configs, Arc::clone(clock));
        let mut providers: Vec<Box<dyn KeyProvider>> = Vec::with_capacity(configs.len());
        for config in configs {
            let drills = if providers.is_empty() { drills.clone() } else { drills.of_another() };
            providers.push(Box::new(Provider::drilled_by(config, Arc::clone(clock), drills)?));
        }
        let mut tokens = Self::new(providers, min_wraps, clock)?;
        tokens.drills = Some(drills);
        Ok(tokens)
    }

    /// The same over providers that exist.
    ///
    /// # Errors
    /// [`ConfigError::Tokens`], [`ConfigError::MinWraps`], [`ConfigError::NoThread`].
    pub fn new(
        providers: Vec<Box<dyn KeyProvider>>,
        min_wraps: usize,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        check_numbers(providers.len(), min_wraps)?;
        let start = |provider| Worker::start(provider, Arc::clone(clock));
        let workers = providers.into_iter().map(start).collect::<Result<Vec<_>, _>>();
        let workers = workers.map_err(|cause| ConfigError::NoThread(cause.to_string()))?;
        Ok(Self {
            workers,
            min_wraps,
            clock: Arc::clone(clock),
            tried: false,
            fenced: None,
            drills: None,
            begun: Mutex::default(),
        })
    }

    fn views(&self) -> Vec<View> {
        self.workers.iter().map(Worker::view).collect()
    }

    /// Waits for the first connections, as long as an opening may have to know of them.
    fn first(&mut self) {
        if !std::mem::replace(&mut self.tried, true) {
            self.connected(FIRST_MS);
        }
    }

    /// Waits until each has tried to connect; once there are enough, `late_ms` longer at most.
    fn connected(&self, late_ms: u64) {
        let (to, answers) = channel();
        for (number, worker) in self.workers.iter().enumerate() {
            // A job is answered after the first connection.
            worker.ask(number, &to, |_| ());
        }
        drop(to);
        let mut until = None;
        loop {
            let answered = match until {
                None => answers.recv().is_ok(),
                Some(until) => answers.recv_timeout(self.left(until)).is_ok(),
            };
            if !answered {
                return;
            }
            if until.is_none() && self.health().admits_work() {
                until = Some(self.clock.now().plus(late_ms));
            }
        }
    }

    fn left(&self, until: Millis) -> Duration {
        Duration::from_millis(until.since(self.clock.now()))
    }

    /// The outage of a call that no token answers.
    fn unavailable(&self) -> Unavailable {
        Unavailable(self.health().outage.unwrap_or_else(|| self.refusal(OutageClass::Token, "no token answers")))
    }

    fn refusal(&self, class: OutageClass, detail: &str) -> Outage {
        Outage {
            class,
            since: self.clock.now(),
            since_unix: self.clock.unix_seconds(),
            next_try: None,
            detail: detail.to_owned(),
            token: self.tokens().into_iter().next().map(|token| token.name).unwrap_or_default(),
        }
    }

    fn numbers(&self, which: impl Fn(&Worker) -> bool) -> Vec<usize> {
        self.workers.iter().enumerate().filter(|(_, worker)| which(worker)).map(|(number, _)| number).collect()
    }

    /// Outages of all of them together: a token that is away while others serve is none.
    fn outages(&self, state: ProviderState, down: bool) -> u64 {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let (was_down, count) = *begun;
        let down = down && state != ProviderState::Starting;
        *begun = (down, count + u64::from(down && !was_down));
        begun.1
    }

    /// The token, where there is one alone: anchors of several are not told apart yet.
    fn sole(&self) -> Option<&Worker> {
        match self.workers.as_slice() {
            [worker] => Some(worker),
            _ => None,
        }
    }

    /// Wraps under the tokens of `workers`, in their order. Returns at once when all have answered, and a moment after enough have.
    fn wraps_of(&self, workers: &[usize], object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
        let (to, answers) = channel();
        for number in workers {
            let (object, key) = (*object, DataKey::new(key.expose()));
            if let Some(worker) = self.workers.get(*number) {
                worker.ask(*number, &to, move |provider| provider.wrap(&object, &key));
            }
        }
        drop(to);
        let mut wraps: Vec<(usize, Wrap)> = Vec::with_capacity(workers.len());
        let mut failed = None;
        let mut until = None;
        loop {
            let answer = match until {
                None => answers.recv().ok(),
                Some(until) => answers.recv_timeout(self.left(until)).ok(),
            };
            match answer {
                Some((number, Ok(made))) => {
                    for wrap in made {
                        // Two entries of the configuration may name one key: it counts once.
                        if !wraps.iter().any(|(_, other)| other.key == wrap.key) {
                            wraps.push((number, wrap));
                        }
                    }
                }
                Some((_, Err(unavailable))) => failed = failed.or(Some(unavailable)),
                // All have answered, or those that have not are late.
                None => break,
            }
            if until.is_none() && wraps.len() >= self.min_wraps {
                until = Some(self.clock.now().plus(LATE_MS));
            }
        }
        if wraps.len() < self.min_wraps {
            return Err(failed.unwrap_or_else(|| self.unavailable()));
        }
        wraps.sort_by_key(|(number, _)| *number);
        Ok(wraps.into_iter().map(|(_, wrap)| wrap).collect())
    }
}

/// The state of all of them together: as good as the best `min_wraps`. An outage began when the last of those that are needed went;
/// it is told as that of a token that heals by itself, if there is one, with the others behind it.
fn together(views: &[View], min_wraps: usize) -> (ProviderState, Option<Outage>) {
    let there = views.iter().filter(|view| view.health.admits_work()).count();
    let any = |state| views.iter().any(|view| view.health.state == state);
    let all = |state| views.iter().all(|view| view.health.state == state);
    if there >= min_wraps {
        let state = if any(ProviderState::Ready) { ProviderState::Ready } else { ProviderState::Suspect };
        return (state, None);
    }
    let mut away: Vec<&View> = views.iter().filter(|view| view.health.outage.is_some()).collect();
    away.sort_by_key(|view| view.health.state == ProviderState::Fenced);
    let mut away = away.into_iter().filter_map(|view| view.health.outage.as_ref());
    let mut outage = away.next().cloned();
    if let Some(outage) = &mut outage {
        let mut begun = vec![(outage.since, outage.since_unix)];
        for other in away {
            begun.push((other.since, other.since_unix));
            outage.detail.push_str(&format!("; {}: {} ({})", other.token, other.class.name(), other.detail));
            outage.next_try = match (outage.next_try, other.next_try) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            };
        }
        begun.sort_unstable();
        if let Some((since, since_unix)) = begun.get(views.len().saturating_sub(min_wraps)) {
            (outage.since, outage.since_unix) = (*since, *since_unix);
        }
    }
    let state = if all(ProviderState::Starting) {
        ProviderState::Starting
    } else if all(ProviderState::Fenced) {
        ProviderState::Fenced
    } else {
        ProviderState::Out
    };
    (state, outage)
}

impl KeyProvider for Tokens {
    fn require(&mut self, keys: &[KeyDescriptor]) {
        for worker in &self.workers {
            let keys = keys.to_vec();
            // Not waited for: what is asked later comes after it, and one of them may hang.
            worker.tell(move |provider| provider.require(&keys));
        }
        // The next look waits for what each of them makes of it.
        self.tried = false;
    }

    fn keys(&self) -> Vec<KeyDescriptor> {
        self.views().into_iter().flat_map(|view| view.keys).collect()
    }

    fn health(&self) -> Health {
        let views = self.views();
        let (state, outage) = match &self.fenced {
            Some(outage) => (ProviderState::Fenced, Some(outage.clone())),
            None => together(&views, self.min_wraps),
        };
        let sum = |count: fn(&Health) -> u64| views.iter().map(|view| count(&view.health)).sum();
        let outages = match views.as_slice() {
            [one] => one.health.outages,
            _ => self.outages(state, outage.is_some()),
        };
        Health {
            state,
            outage,
            calls: sum(|health| health.calls),
            outages,
            agents_started: sum(|health| health.agents_started),
        }
    }

    fn tokens(&self) -> Vec<TokenHealth> {
        self.views().into_iter().flat_map(|view| view.tokens).collect()
    }

    fn tick(&mut self) -> Duration {
        self.first();
        let health = self.health();
        let next =
            health.outage.and_then(|outage| outage.next_try).map_or(LOOK_MS_MAX, |at| at.since(self.clock.now()));
        Duration::from_millis(next.clamp(LOOK_MS_MIN, LOOK_MS_MAX))
    }

    fn wrap(&mut self, object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
        if self.fenced.is_some() {
            return Err(self.unavailable());
        }
        self.first();
        let there: Vec<usize> = self.numbers(|worker| worker.view().health.admits_work());
        let prompt: Vec<usize> = self.numbers(|worker| worker.view().health.admits_work() && !worker.is_busy());
        let asked = if prompt.len() >= self.min_wraps { prompt } else { there };
        if asked.len() < self.min_wraps {
            return Err(self.unavailable());
        }
        self.wraps_of(&asked, object, key)
    }

    fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable> {
        self.first();
        let (object, key) = (*object, DataKey::new(key.expose()));
        // Nobody waits for this wrap but those who want to go on: a token that is late is asked again another time.
        let holds = |worker: &&Worker| {
            let view = worker.view();
            !worker.is_busy() && view.health.admits_work() && view.opens(name)
        };
        let found = if self.fenced.is_some() { None } else { self.workers.iter().find(holds) };
        let worker = found.ok_or_else(|| self.unavailable())?;
        let (to, answers) = channel();
        worker.ask(0, &to, move |provider| provider.wrap_under(name, &object, &key));
        drop(to);
        match answers.recv_timeout(Duration::from_millis(LATE_MS)) {
            Ok((_, made)) => made,
            Err(_) => Err(Unavailable(self.refusal(OutageClass::Deadline, "the token is late"))),
        }
    }

    fn unwrap(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError> {
        if self.fenced.is_some() {
            return Err(self.unavailable().into());
        }
        self.first();
        let mut there = self.numbers(|worker| worker.view().health.admits_work());
        if there.is_empty() {
            return Err(self.unavailable().into());
        }
        // One that owes an answer may hang: it is waited for when no other opens.
        there.sort_by_key(|number| self.workers.get(*number).is_some_and(Worker::is_busy));
        let mut failed = None;
        let mut unasked: Vec<KeyName> = wraps.iter().map(|wrap| wrap.key).collect();
        for worker in there.iter().filter_map(|number| self.workers.get(*number)) {
            let view = worker.view();
            let ours: Vec<Wrap> = wraps.iter().filter(|wrap| view.opens(wrap.key)).cloned().collect();
            if ours.is_empty() {
                continue;
            }
            unasked.retain(|name| !view.opens(*name));
            let object = *object;
            match worker.answer(move |provider| provider.unwrap(&object, &ours)) {
                Some(Ok(key)) => return Ok(key),
                // Another token may still open it. Damage is told only when every one that has a wrap says so.
                Some(Err(error @ UnwrapError::Unavailable(_))) => failed = Some(error),
                Some(Err(error)) => failed = failed.or(Some(error)),
                None => failed = Some(self.unavailable().into()),
            }
        }
        let elsewhere =
            || UnwrapError::NoReachableKey { found: wraps.len(), keys: wraps.iter().map(|wrap| wrap.key).collect() };
        Err(match failed {
            // The wrap of a token that is away may be whole.
            Some(UnwrapError::Corrupt) if !unasked.is_empty() => elsewhere(),
            Some(error) => error,
            None => elsewhere(),
        })
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, Unavailable> {
        self.first();
        match self.sole() {
            Some(worker) => worker.answer(|provider| provider.anchor_read()).unwrap_or_else(|| Err(self.unavailable())),
            None => Ok(AnchorRead::Unsupported),
        }
    }

    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), Unavailable> {
        self.first();
        let value = *value;
        let Some(worker) = self.sole() else {
            return Err(Unavailable(self.refusal(OutageClass::Usage, "several tokens keep no anchor yet")));
        };
        worker.answer(move |provider| provider.anchor_write(&value)).unwrap_or_else(|| Err(self.unavailable()))
    }

    fn fence_by_anchor(&mut self, detail: String) {
        // In force at once, whatever a token is busy with.
        self.fenced = Some(self.refusal(OutageClass::Anchor, &detail));
        for worker in &self.workers {
            let detail = detail.clone();
            worker.tell(move |provider| provider.fence_by_anchor(detail));
        }
    }

    fn connection(&self) -> u64 {
        self.views().iter().map(|view| view.connection).sum()
    }

    fn connect_all(&mut self) {
        self.tried = true;
        self.connected(u64::MAX);
    }

    fn drills(&self) -> Option<DrillSwitch> {
        self.drills.clone()
    }

    fn set_waker(&mut self, waker: Waker) {
        for worker in &self.workers {
            worker.set_waker(Arc::clone(&waker));
        }
    }
}

#[cfg(test)]
mod tests;
