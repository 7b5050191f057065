//! The outage machine: a pure function of state, event and moment. It decides who may work and when a probe is due; it never
//! touches the token.
//!
//! ```text
//! Starting --connected--> Ready --curable failure--> Suspect --connected/answered--> Ready
//!     |                     |                           |
//!     `-----failed----------+--------- failed ----------+--> Out <--probe failed-- Probing --connected--> Ready
//!                                                             `---probe is due-------^
//! any --credential, key--> Fenced --connected--> Ready;  any --anchor--> Fenced, for ever
//! ```
//!
//! Curable failures (session, ambiguous key, token, module) get one reconnection at once, in `Suspect`. A missed deadline does
//! not: the token hangs, and every retry would hold its caller for another deadline. Fenced by a key or a credential is probed on
//! without leaving `Fenced`: by a key read-only; by a credential without a login, unless the latch has been lifted.

use crate::clock::Millis;
use crate::health::{Outage, OutageClass, ProviderState};
use crate::token::FaultClass;

/// Bounds of the waits between probes, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First and shortest.
    pub min_ms: u64,
    /// Longest.
    pub max_ms: u64,
}

impl Backoff {
    /// The wait after `failures` failed probes (from 1), spread over the upper half of its step by `jitter` (0 is none, `u32::MAX`
    /// all). At least [`Backoff::min_ms`], at most [`Backoff::max_ms`].
    pub fn wait_ms(&self, failures: u32, jitter: u32) -> u64 {
        let doubled = 1u64.checked_shl(failures.saturating_sub(1)).and_then(|factor| self.min_ms.checked_mul(factor));
        let ceiling = doubled.unwrap_or(u64::MAX).clamp(self.min_ms, self.max_ms.max(self.min_ms));
        let floor = (ceiling / 2).max(self.min_ms);
        let spread = u128::from(ceiling - floor) * u128::from(jitter) / u128::from(u32::MAX);
        floor + u64::try_from(spread).unwrap_or(ceiling - floor)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A probe begins.
    ProbeBegun,
    /// A full re-initialisation succeeded: token, login, keys and check values.
    Connected,
    /// A keyed call was answered.
    Answered,
    /// A call failed.
    Failed {
        /// What it says of the token.
        class: FaultClass,
        /// For people.
        detail: String,
    },
    /// The anchor belongs to another instance.
    AnchorLost {
        /// For people.
        detail: String,
    },
}

/// When, and what a transition needs from outside.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Monotonic.
    pub now: Millis,
    /// Seconds since 1970-01-01 UTC.
    pub unix: u64,
    /// Spreads the next probe, see [`Backoff::wait_ms`].
    pub jitter: u32,
    /// Bounds of the waits.
    pub backoff: Backoff,
    /// The token's name.
    pub token: &'a str,
}

/// Not connected, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// As errors tell it.
    pub outage: Outage,
    /// When the next probe is due; for a credential, of the latch alone.
    pub probe_at: Option<Millis>,
    /// Failures in a row, from 1.
    pub failures: u32,
}

/// State of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not connected yet since the process started.
    Starting(Down),
    /// The last call was answered.
    Ready,
    /// One call failed in a way that one reconnection may cure.
    Suspect,
    /// An outage.
    Out(Down),
    /// An outage, a probe is under way.
    Probing(Down),
    /// Stopped by a credential, a key or the anchor.
    Fenced(Down),
}

impl State {
    /// The state of a process that starts: a probe is due at once.
    pub fn starting(moment: &Moment<'_>) -> Self {
        let outage = Outage {
            class: OutageClass::Token,
            since: moment.now,
            since_unix: moment.unix,
            next_try: Some(moment.now),
            detail: "not connected yet".to_owned(),
            token: moment.token.to_owned(),
        };
        State::Starting(Down { outage, probe_at: Some(moment.now), failures: 0 })
    }

    /// What is down, in every state but `Ready` and `Suspect`.
    pub fn down(&self) -> Option<&Down> {
        match self {
            State::Ready | State::Suspect => None,
            State::Starting(down) | State::Out(down) | State::Probing(down) | State::Fenced(down) => Some(down),
        }
    }

    /// The state's name.
    pub fn kind(&self) -> ProviderState {
        match self {
            State::Starting(_) => ProviderState::Starting,
            State::Ready => ProviderState::Ready,
            State::Suspect => ProviderState::Suspect,
            State::Out(_) => ProviderState::Out,
            State::Probing(_) => ProviderState::Probing,
            State::Fenced(_) => ProviderState::Fenced,
        }
    }

    /// Whether the anchor has fenced: nothing ends that.
    pub fn is_fenced_by_anchor(&self) -> bool {
        matches!(self, State::Fenced(down) if down.outage.class == OutageClass::Anchor)
    }

    /// Whether a probe is due.
    pub fn probe_is_due(&self, now: Millis) -> bool {
        self.down().and_then(|down| down.probe_at).is_some_and(|at| at <= now)
    }

    /// The next state.
    #[must_use]
    pub fn next(self, event: &Event, moment: &Moment<'_>) -> State {
        if self.is_fenced_by_anchor() {
            return self;
        }
        match event {
            Event::AnchorLost { detail } => {
                let outage = outage_since(self.down(), OutageClass::Anchor, detail, None, moment);
                State::Fenced(Down { outage, probe_at: None, failures: 1 })
            }
            Event::Connected => State::Ready,
            Event::Answered => match self {
                State::Ready | State::Suspect => State::Ready,
                down @ (State::Starting(_) | State::Out(_) | State::Probing(_) | State::Fenced(_)) => down,
            },
            Event::ProbeBegun => match self {
                State::Out(down) => State::Probing(down),
                same @ (State::Starting(_) | State::Ready | State::Suspect | State::Probing(_) | State::Fenced(_)) => {
                    same
                }
            },
            Event::Failed { class, detail } => match (self, cure(*class)) {
                (State::Ready, Cure::Reconnect) => State::Suspect,
                (state, _) => fail(&state, *class, detail, moment),
            },
        }
    }
}

enum Cure {
    /// One reconnection at once.
    Reconnect,
    /// Probes with backoff.
    Probe,
    /// Probes at the longest wait: an operator is needed.
    Slow,
}

const fn cure(class: FaultClass) -> Cure {
    match class {
        FaultClass::Session | FaultClass::AmbiguousKey | FaultClass::Token | FaultClass::Module => Cure::Reconnect,
        FaultClass::Deadline | FaultClass::Key | FaultClass::Credential => Cure::Probe,
        FaultClass::Integrity | FaultClass::Usage => Cure::Slow,
    }
}

const fn outage_class(class: FaultClass) -> OutageClass {
    match class {
        // Still ambiguous after a full re-initialisation that found the key: the token is at fault.
        FaultClass::AmbiguousKey | FaultClass::Token => OutageClass::Token,
        FaultClass::Session => OutageClass::Session,
        FaultClass::Module => OutageClass::Module,
        FaultClass::Deadline => OutageClass::Deadline,
        FaultClass::Credential => OutageClass::Credential,
        FaultClass::Key => OutageClass::Key,
        FaultClass::Integrity => OutageClass::Integrity,
        FaultClass::Usage => OutageClass::Usage,
    }
}

fn fail(state: &State, fault: FaultClass, detail: &str, moment: &Moment<'_>) -> State {
    let before = state.down();
    let failures = before.map_or(0, |down| down.failures).saturating_add(1);
    let wait = match cure(fault) {
        Cure::Slow => moment.backoff.max_ms.max(moment.backoff.min_ms),
        Cure::Reconnect | Cure::Probe => moment.backoff.wait_ms(failures, moment.jitter),
    };
    let probe_at = Some(moment.now.plus(wait));
    let class = outage_class(fault);
    let fenced = matches!(class, OutageClass::Credential | OutageClass::Key);
    // A latched credential waits for the operator: no time is promised.
    let next_try = if class == OutageClass::Credential { None } else { probe_at };
    let down = Down { outage: outage_since(before, class, detail, next_try, moment), probe_at, failures };
    if fenced { State::Fenced(down) } else { State::Out(down) }
}

/// An outage that goes on keeps its beginning.
fn outage_since(
    before: Option<&Down>,
    class: OutageClass,
    detail: &str,
    next_try: Option<Millis>,
    moment: &Moment<'_>,
) -> Outage {
    let (since, since_unix) = match before {
        Some(down) => (down.outage.since, down.outage.since_unix),
        None => (moment.now, moment.unix),
    };
    Outage { class, since, since_unix, next_try, detail: detail.to_owned(), token: moment.token.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FaultClass::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { min_ms: 100, max_ms: 10_000 };

    fn at(now: u64) -> Moment<'static> {
        Moment { now: Millis(now), unix: 1_000 + now / 1_000, jitter: 0, backoff: BACKOFF, token: "t" }
    }

    fn failed(class: FaultClass) -> Event {
        Event::Failed { class, detail: "why".to_owned() }
    }

    fn out(class: FaultClass) -> State {
        State::Suspect.next(&failed(class), &at(0))
    }

    #[test]
    fn the_table_of_transitions_holds() {
        use ProviderState as P;
        let starting = || State::starting(&at(0));
        let probing = || out(Token).next(&Event::ProbeBegun, &at(200));
        let fenced_key = || out(Key);
        let fenced_pin = || out(Credential);
        let lost = || Event::AnchorLost { detail: "clone".to_owned() };
        let fenced_anchor = || State::Ready.next(&lost(), &at(0));
        let table: Vec<(&str, State, Event, P)> = vec![
            ("starting probe", starting(), Event::ProbeBegun, P::Starting),
            ("starting connected", starting(), Event::Connected, P::Ready),
            ("starting failed", starting(), failed(Token), P::Out),
            ("starting wrong key", starting(), failed(Key), P::Fenced),
            ("starting wrong pin", starting(), failed(Credential), P::Fenced),
            ("ready answered", State::Ready, Event::Answered, P::Ready),
            ("ready session", State::Ready, failed(Session), P::Suspect),
            ("ready ambiguous", State::Ready, failed(AmbiguousKey), P::Suspect),
            ("ready token", State::Ready, failed(Token), P::Suspect),
            ("ready module", State::Ready, failed(Module), P::Suspect),
            ("ready deadline", State::Ready, failed(Deadline), P::Out),
            ("ready usage", State::Ready, failed(Usage), P::Out),
            ("ready integrity", State::Ready, failed(Integrity), P::Out),
            ("ready key", State::Ready, failed(Key), P::Fenced),
            ("ready credential", State::Ready, failed(Credential), P::Fenced),
            ("suspect connected", State::Suspect, Event::Connected, P::Ready),
            ("suspect answered", State::Suspect, Event::Answered, P::Ready),
            ("suspect session", State::Suspect, failed(Session), P::Out),
            ("suspect token", State::Suspect, failed(Token), P::Out),
            ("suspect key", State::Suspect, failed(Key), P::Fenced),
            ("suspect probe", State::Suspect, Event::ProbeBegun, P::Suspect),
            ("out probe", out(Token), Event::ProbeBegun, P::Probing),
            ("out answered", out(Token), Event::Answered, P::Out),
            ("out connected", out(Token), Event::Connected, P::Ready),
            ("probing connected", probing(), Event::Connected, P::Ready),
            ("probing token", probing(), failed(Token), P::Out),
            ("probing deadline", probing(), failed(Deadline), P::Out),
            ("probing key", probing(), failed(Key), P::Fenced),
            ("probing credential", probing(), failed(Credential), P::Fenced),
            ("fenced by key, probe", fenced_key(), Event::ProbeBegun, P::Fenced),
            ("fenced by key, back", fenced_key(), Event::Connected, P::Ready),
            ("fenced by key, then gone", fenced_key(), failed(Token), P::Out),
            ("fenced by pin, probe", fenced_pin(), Event::ProbeBegun, P::Fenced),
            ("fenced by pin, lifted", fenced_pin(), Event::Connected, P::Ready),
            ("fenced by pin, answered", fenced_pin(), Event::Answered, P::Fenced),
            ("anchor in ready", State::Ready, lost(), P::Fenced),
            ("anchor in suspect", State::Suspect, lost(), P::Fenced),
            ("anchor in out", out(Token), lost(), P::Fenced),
            ("anchor connected", fenced_anchor(), Event::Connected, P::Fenced),
            ("anchor failed", fenced_anchor(), failed(Token), P::Fenced),
        ];
        for (name, state, event, expected) in table {
            assert_eq!(state.next(&event, &at(300)).kind(), expected, "{name}");
        }
    }

    #[test]
    fn an_outage_names_class_beginning_next_try_and_token() {
        let state = out(Token).next(&Event::ProbeBegun, &at(100)).next(&failed(Deadline), &at(2_100));
        let outage = &state.down().unwrap().outage;
        assert_eq!(outage.class, OutageClass::Deadline);
        assert_eq!((outage.since, outage.since_unix), (Millis(0), 1_000));
        assert_eq!(outage.next_try, Some(Millis(2_200)));
        assert_eq!((outage.detail.as_str(), outage.token.as_str()), ("why", "t"));
    }

    #[test]
    fn a_latched_credential_promises_no_try_and_a_usage_error_is_probed_slowly() {
        let latched = out(Credential);
        assert_eq!(latched.down().unwrap().outage.next_try, None);
        assert!(latched.probe_is_due(Millis(100)), "the pin file is looked at again");
        assert_eq!(out(Usage).down().unwrap().probe_at, Some(Millis(10_000)));
        assert_eq!(out(Integrity).down().unwrap().probe_at, Some(Millis(10_000)));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let class = proptest::sample::select(vec![
            Session,
            AmbiguousKey,
            Token,
            Module,
            Deadline,
            Credential,
            Key,
            Integrity,
            Usage,
        ]);
        prop_oneof![
            3 => Just(Event::ProbeBegun),
            2 => Just(Event::Connected),
            2 => Just(Event::Answered),
            6 => class.prop_map(failed),
            1 => Just(Event::AnchorLost { detail: "clone".to_owned() }),
        ]
    }

    proptest! {
        #[test]
        fn every_history_keeps_the_promises_of_an_outage(
            events in proptest::collection::vec((any_event(), 0u64..20_000, any::<u32>()), 0..60),
        ) {
            let mut state = State::starting(&at(0));
            let mut now = 0;
            let mut fenced_for_ever = false;
            for (event, passed, jitter) in events {
                now += passed;
                let before = state.clone();
                state = state.next(&event, &Moment { jitter, ..at(now) });
                fenced_for_ever |= matches!(event, Event::AnchorLost { .. });
                prop_assert_eq!(state.is_fenced_by_anchor(), fenced_for_ever);
                if let Some(down) = state.down() {
                    prop_assert!(down.outage.since <= Millis(now));
                    if let Some(before) = before.down() {
                        prop_assert_eq!(down.outage.since, before.outage.since, "an outage that goes on keeps its beginning");
                    }
                    if state != before && matches!(event, Event::Failed { .. }) {
                        let wait = down.probe_at.unwrap().since(Millis(now));
                        prop_assert!((BACKOFF.min_ms..=BACKOFF.max_ms).contains(&wait), "{} ms", wait);
                    }
                    if down.outage.class != OutageClass::Anchor {
                        prop_assert!(down.probe_at.is_some(), "whatever can end is looked at again");
                    }
                } else {
                    prop_assert!(!fenced_for_ever);
                }
            }
        }

        #[test]
        fn every_wait_lies_between_its_bounds(min in 1u64..100_000, more in 0u64..10_000_000, failures in any::<u32>(), jitter in any::<u32>()) {
            let backoff = Backoff { min_ms: min, max_ms: min + more };
            let wait = backoff.wait_ms(failures, jitter);
            prop_assert!(wait >= backoff.min_ms && wait <= backoff.max_ms);
            prop_assert!(backoff.wait_ms(failures, 0) <= backoff.wait_ms(failures, u32::MAX));
        }
    }
}
