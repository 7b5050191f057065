//! Computations under way. From the taking of the nonces on the work belongs to the engine: a caller that goes away
//! cancels nothing, and a panic or a refused recheck answers everyone who waits.

use tokio::sync::watch;

use super::Engine;
use super::core::{FlightKey, FlightState};
use super::refusal::Refusal;
use super::sign::{SignJob, compute};

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
