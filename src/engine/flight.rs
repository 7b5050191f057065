//! Computations under way. From the taking of the nonces on the work belongs to the engine: a caller that goes away
//! cancels nothing, and a panic or a refused recheck answers everyone who waits.

use tokio::sync::watch;

use super::Engine;
use super::core::{Core, Flight, FlightKey, FlightState};
use super::refusal::Refusal;
use super::sign::{SignJob, compute};
use crate::ids::{AttemptId, KeyGroupId, Member, SessionId};

/// Removes the in-flight entry on every path, the panicking one included.
struct Landing {
    engine: Engine,
    key: FlightKey,
    serial: u64,
    state: FlightState,
}

impl Landing {
    fn land(mut self, state: FlightState) {
        self.state = state;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, FlightState::Computing);
        self.engine.core().land(&self.key, self.serial, state);
    }
}

impl Core {
    /// The computations of a session that are under way.
    pub(super) fn flights_of(
        &self,
        key_group: &KeyGroupId,
        session: &SessionId,
    ) -> impl Iterator<Item = (Member, &Flight)> {
        let first = (*key_group, session.clone(), AttemptId::new([0; 32]), Member::FIRST);
        let (key_group, session) = (*key_group, session.clone());
        let of_session = move |key: &FlightKey| key.0 == key_group && key.1 == session;
        self.flights.range(first..).take_while(move |(key, _)| of_session(key)).map(|(key, flight)| (key.3, flight))
    }

    /// How many of them are one member's.
    pub(super) fn flights_of_member(&self, key_group: &KeyGroupId, session: &SessionId, member: Member) -> usize {
        self.flights_of(key_group, session).filter(|(of, _)| *of == member).count()
    }

    /// Says `busy` where a session is not known yet, and its first round is being computed: "no such session" would be
    /// wrong a moment later, and its end would be lost.
    pub(super) fn check_no_flight(&self, key_group: &KeyGroupId, session: &SessionId) -> Result<(), Refusal> {
        match self.flights_of(key_group, session).next() {
            Some(_) => Err(Refusal::Busy("the first round of this session")),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Starts the computation of a job whose nonces are taken, and returns where to wait for it.
    pub(super) fn launch(&self, job: Box<SignJob>) -> watch::Receiver<FlightState> {
        let aborted = Refusal::Internal("the computation of the round ended early; its nonces are spent".into());
        let landing = Landing {
            engine: self.clone(),
            key: job.key.clone(),
            serial: job.serial,
            state: FlightState::Refused(aborted),
        };
        let state = match self.core().flights.get(&job.key) {
            Some(flight) => flight.state.subscribe(),
            None => watch::channel(landing.state.clone()).1,
        };
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut entropy = (engine.inner.entropy)();
            let identity = engine.core().identity();
            let done = identity.and_then(|known| compute(*job, &known, &mut entropy)).and_then(|computed| {
                let env = engine.env();
                engine.core().complete_sign(&env, computed)
            });
            landing.land(match done {
                Ok(position) => FlightState::Installed(position),
                Err(refusal) => FlightState::Refused(refusal),
            });
        });
        state
    }
}
