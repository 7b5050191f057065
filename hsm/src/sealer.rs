//! The key provider: one token behind the outage machine, sealing by scheme `hmac`. It asks twice for what it seals under.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Millis};
use crate::config::{ConfigError, TokenConfig};
use crate::drill::{DrillSwitch, is_marked};
use crate::entropy::Entropy;
use crate::health::{Health, Outage, OutageClass, TokenHealth};
use crate::outage::{Backoff, Event, Moment, State};
use crate::pkcs11_token::Pkcs11Token;
use crate::provider::{
    AnchorRead, AnchorValue, DataKey, KeyDescriptor, KeyName, KeyProvider, SealedObject, Unavailable, UnwrapError, Wrap,
};
use crate::scheme;
use crate::token::{FaultClass, Opened, Token, TokenError};

/// Connections on which one wrap is tried, before a token that fails its known answer on each counts as out.
const UNWRAP_TRIES: u32 = 2;

/// When the provider acts by itself.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// An idle node makes a keyed known-answer call this often, milliseconds.
    pub health_interval_ms: u64,
    /// Bounds of the waits between probes.
    pub backoff: Backoff,
}

/// A view of the provider's health for other threads: no token call ever holds its lock.
#[derive(Clone)]
pub struct HealthWatch(Arc<Mutex<Health>>);

impl HealthWatch {
    /// The health, copied out.
    pub fn health(&self) -> Health {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, health: Health) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }
}

/// One token as a [`KeyProvider`].
pub struct Provider<T> {
    token: T,
    timing: Timing,
    clock: Arc<dyn Clock>,
    entropy: Box<dyn Entropy>,
    state: State,
    opened: Option<Opened>,
    sealing: Vec<KeyDescriptor>,
    required: Vec<KeyDescriptor>,
    connection: u64,
    answered_at: Millis,
    calls: u64,
    outages: u64,
    watch: HealthWatch,
}

impl Provider<Pkcs11Token> {
    /// The provider of the token that `config` names. Nothing is started before the first `tick`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_config(config: &TokenConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        let drills = DrillSwitch::new(std::slice::from_ref(config), Arc::clone(&clock));
        Self::drilled_by(config, clock, drills)
    }

    /// The same, with drills that `drills` begins and ends.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn drilled_by(config: &TokenConfig, clock: Arc<dyn Clock>, drills: DrillSwitch) -> Result<Self, ConfigError> {
        let token = Pkcs11Token::new(config, Box::new(crate::entropy::os()))?.with_drills(drills);
        let timing = Timing { health_interval_ms: config.health_interval_ms, backoff: config.backoff() };
        Ok(Self::new(token, timing, clock, Box::new(crate::entropy::os())))
    }
}

impl<T: Token> Provider<T> {
    /// A provider that has not connected yet.
    pub fn new(token: T, timing: Timing, clock: Arc<dyn Clock>, entropy: Box<dyn Entropy>) -> Self {
        let moment = Moment {
            now: clock.now(),
            unix: clock.unix_seconds(),
            jitter: 0,
            backoff: timing.backoff,
            token: token.name(),
        };
        let state = State::starting(&moment);
        let answered_at = moment.now;
        let health = Health {
            state: state.kind(),
            outage: state.down().map(|down| down.outage.clone()),
            calls: 0,
            outages: 0,
            agents_started: 0,
        };
        Self {
            token,
            timing,
            clock,
            entropy,
            state,
            opened: None,
            sealing: Vec::new(),
            required: Vec::new(),
            connection: 0,
            answered_at,
            calls: 0,
            outages: 0,
            watch: HealthWatch(Arc::new(Mutex::new(health))),
        }
    }

    /// The health for other threads, current also while a call is under way.
    pub fn watch(&self) -> HealthWatch {
        self.watch.clone()
    }

    /// The token.
    pub fn token(&self) -> &T {
        &self.token
    }

    /// The token, to be disturbed behind the provider's back.
    pub(crate) fn token_mut(&mut self) -> &mut T {
        &mut self.token
    }

    fn apply(&mut self, event: &Event) {
        let moment = Moment {
            now: self.clock.now(),
            unix: self.clock.unix_seconds(),
            // Only a failure sets a wait.
            jitter: if matches!(event, Event::Failed { .. }) { self.entropy.next_u32() } else { 0 },
            backoff: self.timing.backoff,
            token: self.token.name(),
        };
        let before = self.state.clone();
        self.state = before.clone().next(event, &moment);
        // The first connection is no outage; a start without a token is.
        if self.state.down().is_some()
            && (before.down().is_none() || matches!(before, State::Starting(_)))
            && self.state != before
        {
            self.outages += 1;
        }
        if self.state.down().is_some() {
            self.opened = None;
        }
        if self.state.kind() != before.kind() {
            match self.state.down() {
                Some(down) => tracing::warn!(
                    state = ?self.state.kind(), class = down.outage.class.name(), detail = %down.outage.detail,
                    token = %down.outage.token, "key provider"
                ),
                None => {
                    tracing::info!(state = ?self.state.kind(), ?event, token = %self.token.name(), "key provider")
                }
            }
        }
        self.watch.publish(self.health());
    }

    fn failed(&mut self, error: &TokenError) {
        let outages = self.outages;
        self.apply(&Event::Failed { class: error.class, detail: error.to_string() });
        if self.outages > outages
            && is_marked(error)
            && let Some(drills) = self.token.drills()
        {
            drills.note_outage();
        }
    }

    fn answered(&mut self) {
        self.answered_at = self.clock.now();
        self.calls += 1;
    }

    /// Opens the token from the start, without telling the machine of a success.
    fn open(&mut self) -> Result<(), TokenError> {
        self.opened = None;
        let opened = self.token.open(&self.required)?;
        let Some(first) = opened.keys.first() else {
            return Err(TokenError::new(FaultClass::Key, "open", "key_missing", "no key is open"));
        };
        self.sealing = vec![first.clone()];
        self.opened = Some(opened);
        self.connection += 1;
        self.answered();
        Ok(())
    }

    /// One probe.
    fn probe(&mut self) {
        self.apply(&Event::ProbeBegun);
        match self.open() {
            Ok(()) => self.apply(&Event::Connected),
            Err(error) => self.failed(&error),
        }
    }

    /// Connected, or as a probe if one is due.
    fn ensure_open(&mut self) -> Result<(), Unavailable> {
        if self.state.down().is_some() {
            if !self.state.probe_is_due(self.clock.now()) {
                return Err(self.unavailable());
            }
            self.probe();
        } else if self.opened.is_none()
            && let Err(error) = self.open()
        {
            self.failed(&error);
        }
        if self.opened.is_some() { Ok(()) } else { Err(self.unavailable()) }
    }

    /// A keyed call, with one reconnection where that may cure.
    fn keyed<R>(&mut self, call: impl Fn(&mut T, &Opened) -> Result<R, TokenError>) -> Result<R, Unavailable> {
        self.ensure_open()?;
        let error = match self.attempt(&call) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        self.failed(&error);
        if self.state.down().is_some() {
            return Err(self.unavailable());
        }
        match self.open().and_then(|()| self.attempt(&call)) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.failed(&error);
                Err(self.unavailable())
            }
        }
    }

    fn attempt<R>(&mut self, call: &impl Fn(&mut T, &Opened) -> Result<R, TokenError>) -> Result<R, TokenError> {
        let Some(opened) = self.opened.as_ref() else {
            return Err(TokenError::new(FaultClass::Session, "call", "not_open", ""));
        };
        let answer = call(&mut self.token, opened)?;
        self.answered();
        self.apply(&Event::Answered);
        Ok(answer)
    }

    /// The known-answer call.
    fn check_health(&mut self) -> Result<(), Unavailable> {
        self.keyed(|token, opened| check_value(token, opened, 0))
    }

    fn unavailable(&self) -> Unavailable {
        match self.state.down() {
            Some(down) => Unavailable(down.outage.clone()),
            None => Unavailable(self.refusal(OutageClass::Session, "not open".to_owned())),
        }
    }

    /// An outage of one call, that says nothing of the token.
    fn refusal(&self, class: OutageClass, detail: String) -> Outage {
        Outage {
            class,
            since: self.clock.now(),
            since_unix: self.clock.unix_seconds(),
            next_try: None,
            detail,
            token: self.token.name().to_owned(),
        }
    }
}

/// The number of the open key with this name. One that a reconnection did not find again is as ambiguous as its handle.
fn open_number(opened: &Opened, name: KeyName, operation: &str) -> Result<usize, TokenError> {
    let number = opened.keys.iter().position(|key| scheme::key_name(key) == name);
    number.ok_or_else(|| TokenError::new(FaultClass::AmbiguousKey, operation, "key_not_open", ""))
}

/// Asks for the check value again. Another answer is a session that has lost its meaning, until a full re-initialisation says
/// that the key is another one.
fn check_value<T: Token>(token: &mut T, opened: &Opened, key: usize) -> Result<(), TokenError> {
    let answer = token.derive(key, &scheme::check_value_input())?;
    match opened.keys.get(key) {
        Some(known) if known.check_value == scheme::check_value(&answer) => Ok(()),
        _ => Err(TokenError::new(FaultClass::AmbiguousKey, "check_value", "check_value_differs", "")),
    }
}

impl<T: Token> KeyProvider for Provider<T> {
    fn require(&mut self, keys: &[KeyDescriptor]) {
        self.required = keys.to_vec();
        let same = |one: &KeyDescriptor, other: &KeyDescriptor| {
            one.scheme == other.scheme && one.id == other.id && one.check_value == other.check_value
        };
        let held = self.opened.as_ref().is_none_or(|opened| {
            let ours = keys.iter().filter(|key| key.token_serial == opened.info.serial);
            opened.keys.iter().all(|open| keys.iter().any(|key| same(key, open)))
                && ours.into_iter().all(|key| opened.keys.iter().any(|open| same(key, open)))
        });
        if !held && !keys.is_empty() {
            // Found by its configured name, not by what the state needs: open again, by that.
            self.opened = None;
            self.apply(&Event::Failed { class: FaultClass::Session, detail: "the state names other keys".to_owned() });
        }
    }

    fn keys(&self) -> Vec<KeyDescriptor> {
        self.sealing.clone()
    }

    fn health(&self) -> Health {
        Health {
            state: self.state.kind(),
            outage: self.state.down().map(|down| down.outage.clone()),
            calls: self.calls,
            outages: self.outages,
            agents_started: self.token.agents_started(),
        }
    }

    fn tokens(&self) -> Vec<TokenHealth> {
        vec![TokenHealth {
            name: self.token.name().to_owned(),
            state: self.state.kind(),
            outage: self.state.down().map(|down| down.outage.clone()),
            keys: self.opened.as_ref().map(|opened| opened.keys.clone()).unwrap_or_default(),
        }]
    }

    fn tick(&mut self) -> Duration {
        let interval = self.timing.health_interval_ms;
        let now = self.clock.now();
        if self.state.probe_is_due(now) {
            self.probe();
        } else if self.state.down().is_none()
            && (self.opened.is_none()
                || matches!(self.state, State::Suspect)
                || now.since(self.answered_at) >= interval)
        {
            // Its failure is in the state now.
            let _ = self.check_health();
        }
        let now = self.clock.now();
        let wait = match self.state.down() {
            Some(down) => down.probe_at.map_or(interval, |at| at.since(now)),
            None => interval.saturating_sub(now.since(self.answered_at)),
        };
        Duration::from_millis(wait.min(interval))
    }

    fn wrap(&mut self, object: &SealedObject, key: &DataKey) -> Result<Vec<Wrap>, Unavailable> {
        let first = |opened: &Opened| match opened.keys.is_empty() {
            false => Ok(0),
            true => Err(TokenError::new(FaultClass::Key, "wrap", "key_missing", "no key is open")),
        };
        Ok(vec![self.wrap_by(first, object, key)?])
    }

    fn wrap_under(&mut self, name: KeyName, object: &SealedObject, key: &DataKey) -> Result<Wrap, Unavailable> {
        self.wrap_by(|opened| open_number(opened, name, "wrap"), object, key)
    }

    fn unwrap(&mut self, object: &SealedObject, wraps: &[Wrap]) -> Result<DataKey, UnwrapError> {
        self.ensure_open()?;
        let mut damaged = false;
        for wrap in wraps.iter().filter(|wrap| wrap.scheme == scheme::HMAC) {
            let Some(salt) = scheme::salt(&wrap.blob) else {
                damaged |= self.number_of(wrap.key).is_some();
                continue;
            };
            let input = scheme::kek_input(object, wrap.key, &salt);
            let mut tries = UNWRAP_TRIES;
            // Not on this token, or gone since a reconnection: another wrap may open.
            while self.number_of(wrap.key).is_some() {
                if tries == 0 {
                    self.failed(&TokenError::new(FaultClass::Integrity, "unwrap", "answers_differ", ""));
                    return Err(self.unavailable().into());
                }
                tries -= 1;
                let kek = self.keyed(|token, opened| token.derive(open_number(opened, wrap.key, "unwrap")?, &input))?;
                let connection = self.connection;
                if let Some(key) = scheme::unwrap(object, wrap.key, &kek, &wrap.blob) {
                    return Ok(key);
                }
                // The row, or the answer? The known answer and the same one again tell, if one connection gave all three.
                self.keyed(|token, opened| check_value(token, opened, open_number(opened, wrap.key, "unwrap")?))?;
                let again =
                    self.keyed(|token, opened| token.derive(open_number(opened, wrap.key, "unwrap")?, &input))?;
                if let Some(key) = scheme::unwrap(object, wrap.key, &again, &wrap.blob) {
                    return Ok(key);
                }
                if self.connection == connection && again.expose() == kek.expose() {
                    damaged = true;
                    break;
                }
            }
        }
        if damaged {
            return Err(UnwrapError::Corrupt);
        }
        Err(UnwrapError::NoReachableKey { found: wraps.len(), keys: wraps.iter().map(|wrap| wrap.key).collect() })
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, Unavailable> {
        self.keyed(|token, _| token.anchor_read())
    }

    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), Unavailable> {
        self.ensure_open()?;
        // Not retried: after a lost answer the token may hold the new value, and another writer may have come since.
        match self.attempt(&|token: &mut T, _: &Opened| token.anchor_write(value)) {
            Ok(()) => Ok(()),
            Err(error) if error.class == FaultClass::Usage => {
                Err(Unavailable(self.refusal(OutageClass::Usage, error.to_string())))
            }
            Err(error) => {
                self.failed(&error);
                self.opened = None;
                Err(match self.state.down() {
                    Some(down) => Unavailable(down.outage.clone()),
                    None => Unavailable(self.refusal(OutageClass::Session, error.to_string())),
                })
            }
        }
    }

    fn fence_by_anchor(&mut self, detail: String) {
        self.apply(&Event::AnchorLost { detail });
    }

    fn connection(&self) -> u64 {
        self.connection
    }

    fn drills(&self) -> Option<DrillSwitch> {
        self.token.drills()
    }
}

impl<T: Token> Provider<T> {
    /// A wrap under the open key that `which` chooses, on the connection that answers.
    fn wrap_by(
        &mut self,
        which: impl Fn(&Opened) -> Result<usize, TokenError>,
        object: &SealedObject,
        key: &DataKey,
    ) -> Result<Wrap, Unavailable> {
        let mut salt = [0; scheme::SALT_BYTES];
        self.entropy.fill_bytes(&mut salt);
        let (name, kek) = self.keyed(|token, opened| {
            let number = which(opened)?;
            let Some(sealing) = opened.keys.get(number) else {
                return Err(TokenError::new(FaultClass::Key, "wrap", "key_missing", "no key is open"));
            };
            let name = scheme::key_name(sealing);
            let input = scheme::kek_input(object, name, &salt);
            let kek = token.derive(number, &input)?;
            // What is sealed under a wrong answer never opens, and nothing would tell before it must.
            if token.derive(number, &input)?.expose() != kek.expose() {
                return Err(TokenError::new(FaultClass::Integrity, "wrap", "answers_differ", ""));
            }
            Ok((name, kek))
        })?;
        Ok(Wrap { key: name, scheme: scheme::HMAC, blob: scheme::wrap(object, name, &salt, &kek, key) })
    }

    fn number_of(&self, name: KeyName) -> Option<usize> {
        self.opened.as_ref()?.keys.iter().position(|key| scheme::key_name(key) == name)
    }
}

#[cfg(test)]
mod tests;
