//! When it has to be over: said once, for all tries of a message.

use frostkeep_hsm::clock::{Clock, Millis, SystemClock};

use super::drive::{Done, DriveConfig, DriveError};

/// The one deadline of all tries.
pub(super) struct End<'a> {
    config: &'a DriveConfig,
    clock: SystemClock,
    begun: Millis,
}

impl<'a> End<'a> {
    pub(super) fn of(config: &'a DriveConfig) -> Self {
        let clock = SystemClock::new();
        Self { config, begun: clock.now(), clock }
    }

    /// The configuration of a try that begins now.
    pub(super) fn left(&self) -> DriveConfig {
        let gone_ms = self.clock.now().since(self.begun);
        DriveConfig { deadline_ms: self.config.deadline_ms.saturating_sub(gone_ms), ..self.config.clone() }
    }

    /// A try that was too late was so for the whole.
    pub(super) fn told(&self, mut ended: Result<Done, DriveError>) -> Result<Done, DriveError> {
        if let Err(DriveError::Deadline { deadline_ms, .. }) = &mut ended {
            *deadline_ms = self.config.deadline_ms;
        }
        ended
    }
}
