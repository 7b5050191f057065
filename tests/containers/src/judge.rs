//! What the answers of a load say: how long serves took before, in and after an outage, and how fresh rounds were refused.

use std::fmt;
use std::time::{Duration, Instant};

use crate::load::{Answer, What};
use crate::node::CALL_MS;

/// A p99 in an outage is in the same band as before when it is at most so many times as long as the p99 before, or as that of
/// the control in the same stretch of time. Who waits for a token waits for [`CALL_MS`], a hundred times as long.
const BAND: u32 = 4;
/// Below this a p99 is noise whatever the ratio.
const NOISE: Duration = Duration::from_millis(20);
/// How soon a node has healed, by itself, from the moment at which its token was asked back.
pub const HEALS_WITHIN: Duration = Duration::from_secs(5);
/// What the way of an answer may take beside the deadline of the token's call.
const SLACK: Duration = Duration::from_millis(1_000);
/// How soon after the first refusal everybody knows.
const WORD_SPREADS: Duration = Duration::from_millis(50);
/// Nobody waits for a part of the token's deadline.
const HALF_A_CALL: Duration = Duration::from_millis(CALL_MS / 2);

/// A stretch of time.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub from: Instant,
    pub to: Instant,
}

impl Window {
    /// Answers to what was asked in it.
    pub fn of(self, answers: &[Answer], wanted: impl Fn(What) -> bool) -> Times {
        let inside = answers.iter().filter(|answer| answer.asked >= self.from && answer.asked < self.to);
        Times::new(inside.filter(|answer| wanted(answer.what)).map(|answer| answer.took).collect())
    }
}

/// Times, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of a hundred do not exceed; none is zero.
    pub fn quantile(&self, percent: usize) -> Duration {
        self.0.get((self.0.len() * percent / 100).min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub fn p99(&self) -> Duration {
        self.quantile(99)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.quantile(percent).as_secs_f64() * 1e3;
        write!(f, "{}: median {:.1} ms, p99 {:.1} ms, slowest {:.1} ms", self.count(), ms(50), ms(99), ms(100))
    }
}

/// An outage as it was made: before, in, and after it.
pub struct Story<'a> {
    pub answers: &'a [Answer],
    pub before: Window,
    /// From the moment at which the token was away for sure to the one at which it was asked back.
    pub outage: Window,
    pub after: Window,
    /// When the first fresh round came after that.
    pub healed: Instant,
}

impl Story<'_> {
    /// Durable rounds are served all through it, as fast as before. That every one has its bytes is the load's own law.
    ///
    /// # Panics
    /// When they are not.
    pub fn durable_rounds_are_served(&self) {
        let before = self.before.of(self.answers, |what| what == What::Again);
        let control = self.before.of(self.answers, |what| what == What::Control);
        assert!(before.count() > 500, "{before}");
        eprintln!("durable rounds before: {before} (control {control})");
        for (name, window) in [("in the outage", self.outage), ("after it", self.after)] {
            let (served, control) = self.in_the_band(&before, window, |what| what == What::Again, name);
            // Twice as many ask this node: none of them is stuck.
            assert!(served.count() > control.count(), "{name}: {served}; control {control}");
            let ratio = served.p99().as_secs_f64() / before.p99().as_secs_f64();
            eprintln!("  {name}: {served}; p99 {ratio:.2} of that before (control {control})");
        }
    }

    /// Answers in `window`, held against durable rounds before and against the control at the same time.
    ///
    /// # Panics
    /// When they are out of the band.
    pub fn in_the_band(
        &self,
        before: &Times,
        window: Window,
        wanted: impl Fn(What) -> bool,
        name: &str,
    ) -> (Times, Times) {
        let control = window.of(self.answers, |what| what == What::Control);
        let answers = window.of(self.answers, wanted);
        let bound = BAND * before.p99().max(control.p99()).max(NOISE);
        assert!(answers.p99() <= bound, "{name}: {answers}; p99 at most {bound:?}; control {control}");
        let bound = HALF_A_CALL.max(BAND * control.quantile(100));
        assert!(answers.quantile(100) <= bound, "{name}: {answers}; at most {bound:?}; control {control}");
        assert!(answers.count() > 100 && control.count() > 100, "{name}: {answers}; control {control}");
        (answers, control)
    }

    /// Nothing that was asked for in the outage was handed out fresh, since nothing can have been sealed.
    ///
    /// # Panics
    /// When something was.
    pub fn nothing_fresh_is_handed_out(&self) {
        let handed_out = self.answers.iter().filter(|answer| {
            let fresh = matches!(answer.what, What::Fresh | What::Finished);
            fresh && answer.asked >= self.outage.from && answer.came() < self.outage.to
        });
        assert_eq!(handed_out.count(), 0, "fresh rounds out of a token that was away");
    }

    /// Fresh rounds are refused: those that were in flight at the deadline, all others at once.
    ///
    /// # Panics
    /// When they are not.
    pub fn fresh_rounds_are_refused(&self) {
        self.nothing_fresh_is_handed_out();
        let refused = |answer: &&Answer| matches!(answer.what, What::Refused { .. } | What::NotDurable);
        let first = self.answers.iter().filter(refused).map(Answer::came).min().expect("the outage was noticed");
        let deadline = Duration::from_millis(CALL_MS) + SLACK;
        assert!(
            first < self.outage.from + deadline,
            "the first refusal came {:?} after the token went",
            first - self.outage.from
        );
        let in_flight = Window { from: self.before.from, to: first + WORD_SPREADS };
        let waited = in_flight.of(self.answers, |what| matches!(what, What::Refused { .. }));
        let caught = self.before.from..self.outage.to;
        let caught = self
            .answers
            .iter()
            .filter(|answer| caught.contains(&answer.asked) && answer.what == What::Refused { pending: true })
            .count();
        eprintln!("fresh rounds caught in flight, {caught} pending: {waited}");
        assert!(caught > 0, "no round was caught in flight");
        assert!(waited.quantile(100) <= deadline, "{waited}, at most {deadline:?}");
        let later = Window { from: first + WORD_SPREADS, to: self.outage.to };
        let before = self.before.of(self.answers, |what| what == What::Again);
        let refused = |what| matches!(what, What::Refused { .. } | What::NotDurable);
        let (at_once, control) = self.in_the_band(&before, later, refused, "fresh rounds");
        eprintln!("fresh rounds refused at once: {at_once} (control {control})");
    }

    /// The node has healed by itself, soon.
    ///
    /// # Panics
    /// When it has not.
    pub fn heals(&self) {
        let took = self.healed - self.outage.to;
        assert!(took < HEALS_WITHIN, "healed after {took:?}, at most {HEALS_WITHIN:?}");
    }
}
