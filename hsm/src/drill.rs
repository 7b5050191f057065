//! A drill: an outage that the token agent plays, so that a node's operator sees what the node does in one.
//!
//! ```text
//!   whoever begins it --> DrillSwitch <-- Pkcs11Token: asks before every call --> agent: plays, or calls the module
//! ```
//!
//! The token is never part of it: a call that is played does not reach the module. All that there is of a drill is this switch, in
//! RAM, with an end that is a point in time: whoever asks after it hears of no drill. So nothing has to be undone at the end, a
//! drill whose beginner is gone is over all the same, and a restart knows of none.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{Clock, Millis};
use crate::config::{Deadlines, TokenConfig};
use crate::health::OutageClass;
use crate::token::{TokenError, TokenInfo};

/// Longest drill, milliseconds: whatever asks for it, a node does not stay in an outage of its own making for longer.
pub const DURATION_MS_MAX: u64 = 10 * 60 * 1_000;

/// Longest name of whoever begins a drill, bytes.
pub const BY_BYTES_MAX: usize = 128;

/// How much longer than an outage needs to begin a drill lasts at least, milliseconds: somebody has to see it.
const LOOKED_AT_MS: u64 = 300;

/// How the detail of every outage begins that is a drill's.
pub const MARK: &str = "drill: ";

/// The outage that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrillKind {
    /// The token is pulled: `CKR_DEVICE_REMOVED`, then no token is found.
    Unplug,
    /// No call returns: deadlines run out, and the agent is killed.
    Hang,
    /// The module takes its process down with it, at every call.
    Crash,
    /// The session is gone and the token refuses the PIN at the next login.
    Pin,
    /// Calls are answered, late and below their deadline. The one kind that reaches the token: something has to answer.
    Slow,
}

impl DrillKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Unplug, Self::Hang, Self::Crash, Self::Pin, Self::Slow];

    /// The name that people give it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unplug => "unplug",
            Self::Hang => "hang",
            Self::Crash => "crash",
            Self::Pin => "pin",
            Self::Slow => "slow",
        }
    }

    /// The class of the outage that a node has to see; none for a token that is only slow.
    pub const fn class(self) -> Option<OutageClass> {
        match self {
            Self::Unplug => Some(OutageClass::Token),
            Self::Hang => Some(OutageClass::Deadline),
            Self::Crash => Some(OutageClass::Module),
            Self::Pin => Some(OutageClass::Credential),
            Self::Slow => None,
        }
    }
}

impl fmt::Display for DrillKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no kind has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of drill: unplug, hang, crash, pin and slow are")]
pub struct UnknownKind(pub String);

impl FromStr for DrillKind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A drill, on or over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// Its id, chosen by whoever began it: a request that is repeated begins no second drill.
    pub id: [u8; 16],
    /// What is played.
    pub kind: DrillKind,
    /// Who began it.
    pub by: String,
    /// When, on the monotonic clock.
    pub begun: Millis,
    /// When, seconds since 1970-01-01 UTC.
    pub begun_unix: u64,
    /// From when on it is over.
    pub until: Millis,
}

/// Why a drill does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    /// One is on.
    #[error("a drill is on already: {} since {}, begun by {}", .0.kind, .0.begun_unix, .0.by)]
    On(Box<Drill>),
    /// A duration out of its bounds.
    #[error("a drill of {asked} ms: 1 to {DURATION_MS_MAX} are allowed")]
    Duration {
        /// What was asked, milliseconds.
        asked: u64,
    },
}

/// The tokens' times, which say what a drill has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Deadlines of calls.
    pub deadlines: Deadlines,
    /// An idle node makes a keyed call this often, milliseconds.
    pub health_interval_ms: u64,
    /// Longest wait before a probe, milliseconds.
    pub backoff_ms_max: u64,
}

impl Times {
    /// How late a slow token answers, milliseconds: half of what a call may take.
    pub const fn slow_ms(&self) -> u64 {
        self.deadlines.call_ms / 2
    }

    /// The shortest drill of a kind that shows its outage, milliseconds: a call that hangs is told from one that is slow at its
    /// deadline alone, and without rounds the node's own call meets the outage. `None` where a sooner end shows all the same.
    pub const fn least_ms(&self, kind: DrillKind, rounds: bool) -> Option<u64> {
        let call_ms = match kind {
            DrillKind::Hang => self.deadlines.call_ms,
            // A seal asks twice, and one that is late may be in line behind another.
            DrillKind::Slow if rounds => self.deadlines.call_ms.saturating_mul(2),
            DrillKind::Slow => return None,
            DrillKind::Unplug | DrillKind::Crash | DrillKind::Pin if rounds => return None,
            DrillKind::Unplug | DrillKind::Crash | DrillKind::Pin => 0,
        };
        let own_ms = if rounds { 0 } else { self.health_interval_ms };
        Some(call_ms.saturating_add(own_ms).saturating_add(LOOKED_AT_MS))
    }

    /// The longest that the first request after a drill's beginning waits for its refusal, milliseconds. A hanging call has one
    /// deadline; other failures get one reconnection.
    pub const fn refused_within_ms(&self, kind: DrillKind) -> u64 {
        let Deadlines { start_ms, login_ms, call_ms } = self.deadlines;
        match kind {
            DrillKind::Hang => call_ms,
            DrillKind::Unplug | DrillKind::Crash | DrillKind::Pin | DrillKind::Slow => {
                call_ms.saturating_add(start_ms.saturating_mul(2)).saturating_add(login_ms)
            }
        }
    }

    /// The longest that a node needs by itself once its token is back, milliseconds: a call that began before runs into its
    /// deadline, then comes the longest wait, then a whole opening.
    pub const fn healed_within_ms(&self) -> u64 {
        let Deadlines { start_ms, login_ms, call_ms } = self.deadlines;
        let hanging_ms = if start_ms > login_ms { start_ms } else { login_ms };
        let opening_ms = start_ms.saturating_mul(2).saturating_add(login_ms).saturating_add(call_ms);
        hanging_ms.saturating_add(self.backoff_ms_max).saturating_add(opening_ms)
    }
}

struct State {
    last: Option<Drill>,
    token: Option<TokenInfo>,
    outages: u64,
    // Whether the last drill's is among them: several tokens have one outage.
    counted: bool,
}

/// Begins and ends drills, and says whether one is on. Cheap to clone; no token call ever holds its lock.
#[derive(Clone)]
pub struct DrillSwitch {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    times: Times,
    // Whether it is the primary's, whose information a drill's report shows.
    primary: bool,
}

impl DrillSwitch {
    /// The switch of the primary token of `configs`, on the provider's clock. No drill is on.
    pub fn new(configs: &[TokenConfig], clock: Arc<dyn Clock>) -> Self {
        let longest = |time: fn(&TokenConfig) -> u64| configs.iter().map(time).max().unwrap_or(0);
        let times = Times {
            deadlines: Deadlines {
                start_ms: longest(|config| config.deadlines.start_ms),
                login_ms: longest(|config| config.deadlines.login_ms),
                call_ms: longest(|config| config.deadlines.call_ms),
            },
            health_interval_ms: longest(|config| config.health_interval_ms),
            backoff_ms_max: longest(|config| config.backoff_ms_max),
        };
        let state = State { last: None, token: None, outages: 0, counted: false };
        Self { state: Arc::new(Mutex::new(state)), clock, times, primary: true }
    }

    /// The same switch for another token of the node: a drill is an outage of them all.
    #[must_use]
    pub fn of_another(&self) -> Self {
        Self { primary: false, ..self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens' times, the longest of each.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// Begins a drill that ends by itself after `duration_ms`. The one with this id is told again, on or over.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub fn begin(&self, id: [u8; 16], kind: DrillKind, duration_ms: u64, by: &str) -> Result<Drill, NotBegun> {
        if duration_ms == 0 || duration_ms > DURATION_MS_MAX {
            return Err(NotBegun::Duration { asked: duration_ms });
        }
        let now = self.clock.now();
        let mut state = self.state();
        match &state.last {
            Some(last) if last.id == id => return Ok(last.clone()),
            Some(last) if now < last.until => return Err(NotBegun::On(Box::new(last.clone()))),
            _ => {}
        }
        // A boundary always exists at zero.
        let end = (0..=BY_BYTES_MAX.min(by.len())).rev().find(|at| by.is_char_boundary(*at)).unwrap_or(0);
        let by = by.get(..end).unwrap_or_default().to_owned();
        let until = now.plus(duration_ms);
        let drill = Drill { id, kind, by, begun: now, begun_unix: self.clock.unix_seconds(), until };
        state.last = Some(drill.clone());
        state.counted = false;
        Ok(drill)
    }

    /// Ends the drill with this id, or whichever is on; that one, if one was on.
    pub fn end(&self, id: Option<[u8; 16]>) -> Option<Drill> {
        let now = self.clock.now();
        let mut state = self.state();
        let last = state.last.as_mut().filter(|last| now < last.until && id.is_none_or(|id| id == last.id))?;
        last.until = now;
        Some(last.clone())
    }

    /// The drill that is on.
    pub fn on(&self) -> Option<Drill> {
        let now = self.clock.now();
        self.state().last.clone().filter(|last| now < last.until)
    }

    /// The last drill, on or over, if it has this id.
    pub fn known(&self, id: &[u8; 16]) -> Option<Drill> {
        self.state().last.clone().filter(|last| last.id == *id)
    }

    /// What the token said of itself when it was last connected.
    pub fn token(&self) -> Option<TokenInfo> {
        self.state().token.clone()
    }

    /// Outages of the provider that a drill began.
    pub fn outages(&self) -> u64 {
        self.state().outages
    }

    pub(crate) fn note_token(&self, info: &TokenInfo) {
        if self.primary {
            self.state().token = Some(info.clone());
        }
    }

    pub(crate) fn note_outage(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.counted, true) {
            state.outages += 1;
        }
    }
}

/// A failure of a played call, marked as such: whoever reads of the outage reads that it is a drill's.
pub(crate) fn marked(error: TokenError) -> TokenError {
    TokenError { operation: format!("{MARK}{}", error.operation), ..error }
}

/// Whether the failure is of a call that was played.
pub(crate) fn is_marked(error: &TokenError) -> bool {
    error.operation.starts_with(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn switch() -> (DrillSwitch, ManualClock) {
        let clock = ManualClock::default();
        let config = TokenConfig::new("pkcs11:token=t", BTreeMap::new(), "/latch".into());
        (DrillSwitch::new(&[config], Arc::new(clock.clone())), clock)
    }

    #[test]
    fn a_drill_is_over_at_its_end_whoever_has_forgotten_it() {
        let (switch, clock) = switch();
        let drill = switch.begin([1; 16], DrillKind::Hang, 500, "ops").unwrap();
        assert_eq!((drill.begun, drill.until), (Millis(0), Millis(500)));
        clock.advance(Duration::from_millis(499));
        assert_eq!(switch.on().as_ref(), Some(&drill));
        clock.advance(Duration::from_millis(1));
        assert_eq!(switch.on(), None);
        assert_eq!(switch.end(None), None, "what is over is not ended again");
        assert!(switch.begin([2; 16], DrillKind::Pin, 500, "ops").is_ok());
    }

    #[test]
    fn one_drill_is_on_at_a_time_and_a_request_that_is_repeated_begins_no_second_one() {
        let (switch, clock) = switch();
        let first = switch.begin([1; 16], DrillKind::Unplug, 500, "ops").unwrap();
        clock.advance(Duration::from_millis(100));
        assert_eq!(switch.begin([1; 16], DrillKind::Unplug, 500, "ops").unwrap(), first);
        assert_eq!(switch.begin([2; 16], DrillKind::Hang, 500, "b"), Err(NotBegun::On(Box::new(first.clone()))));
        clock.advance(Duration::from_millis(400));
        assert_eq!(switch.begin([1; 16], DrillKind::Unplug, 500, "ops").unwrap(), first, "over, and not begun again");
        assert_eq!(switch.on(), None);
    }

    #[test]
    fn a_drill_is_ended_by_its_id_or_whichever_is_on() {
        let (switch, _) = switch();
        switch.begin([1; 16], DrillKind::Unplug, 500, "ops").unwrap();
        assert_eq!(switch.end(Some([2; 16])), None);
        assert!(switch.on().is_some());
        assert_eq!(switch.end(Some([1; 16])).unwrap().until, Millis(0));
        switch.begin([3; 16], DrillKind::Unplug, 500, "ops").unwrap();
        assert_eq!(switch.end(None).unwrap().id, [3; 16]);
        assert_eq!(switch.on(), None);
    }

    #[test]
    fn no_drill_lasts_longer_than_its_bound_and_none_is_empty() {
        let (switch, _) = switch();
        for asked in [0, DURATION_MS_MAX + 1, u64::MAX] {
            assert_eq!(switch.begin([1; 16], DrillKind::Unplug, asked, ""), Err(NotBegun::Duration { asked }));
        }
        assert!(switch.begin([1; 16], DrillKind::Unplug, DURATION_MS_MAX, &"x".repeat(1_000)).is_ok());
        assert_eq!(switch.on().unwrap().by.len(), BY_BYTES_MAX);
    }

    #[test]
    fn a_drill_that_is_over_before_its_outage_shows_is_too_short() {
        let (switch, _) = switch();
        let times = switch.times();
        assert_eq!((times.deadlines.call_ms, times.health_interval_ms), (2_000, 5_000));
        assert_eq!(times.least_ms(DrillKind::Hang, true), Some(2_300));
        assert_eq!(times.least_ms(DrillKind::Slow, true), Some(4_300));
        assert_eq!(times.least_ms(DrillKind::Unplug, true), None);
        assert_eq!(times.least_ms(DrillKind::Hang, false), Some(7_300));
        assert_eq!(times.least_ms(DrillKind::Pin, false), Some(5_300));
        assert_eq!(times.least_ms(DrillKind::Slow, false), None);
    }

    #[test]
    fn a_kind_has_one_name_and_what_is_no_name_is_refused() {
        for kind in DrillKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("all".parse::<DrillKind>(), Err(UnknownKind("all".into())));
    }
}
