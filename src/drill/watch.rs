//! The eye on the node: asks for its status all the time, and notes what changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, Millis, SystemClock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stand::{Seen, Stand};
use crate::client::DrillView;
use crate::ids::DrillId;

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(25);

/// A line of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since the drill began.
    pub at_ms: u64,
    /// What happened.
    pub what: String,
}

/// What was seen of the node's status.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// How often it was asked.
    pub asked: u64,
    /// How often it had no answer.
    pub unanswered: u64,
    /// Why the last one had none.
    pub problem: Option<String>,
    /// The classes of the outages that were seen, those that a drill plays.
    pub classes: BTreeSet<String>,
    /// The outages that no drill plays: of which token, class and detail.
    pub real: BTreeSet<String>,
    /// The drill, as the status told of it.
    pub told: Option<DrillView>,
    /// Whether the first round has its answer: until a call that hangs has met its deadline, a node is ready that is not sound.
    pub first_answered: bool,
    /// When the status told of it no more.
    pub over_ms: Option<u64>,
    /// When, from then on, it was ready first, with all of its tokens.
    pub ready_ms: Option<u64>,
    /// What changed, and when.
    pub timeline: Vec<Event>,
}

/// Notes, shared with the task that looks.
#[derive(Clone)]
pub(super) struct Notes {
    sight: Arc<Mutex<Sight>>,
    clock: Arc<SystemClock>,
    begun: Millis,
    tell: super::course::Watch,
}

impl Notes {
    pub(super) fn new(clock: &Arc<SystemClock>, tell: &super::course::Watch) -> Self {
        let (clock, tell) = (Arc::clone(clock), Arc::clone(tell));
        Self { sight: Arc::default(), begun: clock.now(), clock, tell }
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn since_ms(&self) -> u64 {
        self.clock.now().since(self.begun)
    }

    pub(super) fn note(&self, what: impl Into<String>) {
        let event = Event { at_ms: self.since_ms(), what: what.into() };
        (self.tell)("drill", &event.what);
        self.sight().timeline.push(event);
    }

    pub(super) fn taken(&self) -> Sight {
        self.sight().clone()
    }

    pub(super) fn first_answered(&self) {
        self.sight().first_answered = true;
    }

    pub(super) fn over_ms(&self) -> Option<u64> {
        self.sight().over_ms
    }

    pub(super) fn ready_ms(&self) -> Option<u64> {
        self.sight().ready_ms
    }

    fn saw(&self, seen: &Seen, last: &mut String, drill: &DrillId) {
        let now_ms = self.since_ms();
        let mut sight = self.sight();
        sight.classes.extend(seen.drilled_classes().map(str::to_owned));
        sight.real.extend(seen.real_outages());
        match &seen.drill {
            Some(told) if told.drill == *drill => sight.told = Some(told.clone()),
            _ if sight.over_ms.is_none() => sight.over_ms = Some(now_ms),
            _ => {}
        }
        if sight.over_ms.is_some() && sight.first_answered && sight.ready_ms.is_none() && seen.is_whole() {
            sight.ready_ms = Some(now_ms);
        }
        drop(sight);
        let now = told(seen);
        if now != *last {
            self.note(now.as_str());
            *last = now;
        }
    }
}

/// The key provider in a line. Its outage tells of every token that is away; without one, those that are away are named.
fn told(seen: &Seen) -> String {
    let mut told = format!("key provider {}", seen.state);
    if let Some(outage) = &seen.outage {
        told.push_str(&format!(", {}: {}", outage.class, outage.detail));
        return told;
    }
    for token in seen.tokens.iter().filter(|token| seen.tokens.len() > 1 && !token.is_there()) {
        told.push_str(&format!(", {}", token.trouble()));
    }
    told
}

/// Looks at the node until told to stop.
pub(super) fn look<S: Stand>(
    stand: &Arc<S>,
    notes: &Notes,
    drill: DrillId,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (stand, notes) = (Arc::clone(stand), notes.clone());
    tokio::spawn(async move {
        let mut last = "key provider ready".to_owned();
        while !*stop.borrow() {
            let seen = stand.look().await;
            notes.sight().asked += 1;
            match seen {
                Ok(seen) => notes.saw(&seen, &mut last, &drill),
                Err(error) => {
                    let mut sight = notes.sight();
                    sight.unanswered += 1;
                    sight.problem = Some(error.to_string());
                }
            }
            if let Ok(Err(_)) = tokio::time::timeout(LOOK, stop.changed()).await {
                return;
            }
        }
    })
}
