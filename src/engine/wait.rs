//! Waiting without a lock: for a position to become durable, for a computation to land.

use std::time::Duration;

use tokio::sync::watch;

use super::core::{FlightState, not_durable, stop_reason};
use super::refusal::Refusal;
use super::{Engine, Status};
use crate::store::Position;

impl Engine {
    /// Waits until `position` is durable. When the line stops first, the refusal says why: `in_flight` callers hear that
    /// their round is pending, a replay hears `round_not_durable` (I4).
    pub(super) async fn await_durable(&self, position: Position, in_flight: bool) -> Result<(), Refusal> {
        let mut status = self.inner.line.subscribe();
        let limit = Duration::from_millis(self.inner.config.reply_wait_ms_max);
        let refuse = |status: &Status| {
            let now = self.inner.clock.now();
            stop_reason(status, now, in_flight).map(|refusal| match refusal {
                Refusal::KeyProviderUnavailable { .. } if !in_flight => not_durable(status, now, position),
                other => other,
            })
        };
        let reached = async {
            loop {
                {
                    let seen = status.borrow_and_update();
                    if seen.durable >= position {
                        return Ok(());
                    }
                    if let Some(refusal) = refuse(&seen) {
                        return Err(refusal);
                    }
                }
                if status.changed().await.is_err() {
                    return Err(Refusal::StorageFailed {
                        detail: "the persister has stopped".into(),
                        pending: in_flight,
                    });
                }
            }
        };
        match tokio::time::timeout(limit, reached).await {
            Ok(end) => end,
            Err(_) => Err(not_durable(&self.inner.line.status(), self.inner.clock.now(), position)),
        }
    }

    /// Waits until a computation has landed, then for its position.
    pub(super) async fn await_landing(&self, mut state: watch::Receiver<FlightState>) -> Result<(), Refusal> {
        let landed = state.wait_for(|state| !matches!(state, FlightState::Computing)).await.map(|state| state.clone());
        match landed {
            Ok(FlightState::Installed(position)) => self.await_durable(position, true).await,
            Ok(FlightState::Refused(refusal)) => Err(refusal),
            Ok(FlightState::Computing) | Err(_) => {
                Err(Refusal::Internal("a computation ended without an answer".into()))
            }
        }
    }
}

/// Runs `work` where blocking is allowed. A caller that goes away cancels nothing.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Refusal::Internal(format!("a computation ended early: {error}"))),
    }
}
