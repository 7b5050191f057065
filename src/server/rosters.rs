//! The roster in force: asked at every call, and replaced as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use crate::roster::{Pin, Roster, RosterError};

/// The roster in force.
pub(super) struct Rosters {
    path: PathBuf,
    in_force: watch::Sender<Arc<Roster>>,
    /// One reading at a time: the last one that was asked for wins.
    reading: Mutex<()>,
}

impl Rosters {
    /// Reads the roster at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, RosterError> {
        let roster = Roster::read(path)?;
        Ok(Self { path: path.to_owned(), in_force: watch::Sender::new(Arc::new(roster)), reading: Mutex::default() })
    }

    /// The roster in force.
    pub(super) fn current(&self) -> Arc<Roster> {
        Arc::clone(&self.in_force.borrow())
    }

    /// Reads the file again. One that does not parse changes nothing.
    pub(super) async fn reload(&self) -> Result<Arc<Roster>, RosterError> {
        let _reading = self.reading.lock().await;
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || Roster::read(&path)).await;
        let unread = |error: tokio::task::JoinError| RosterError::Unreadable {
            path: self.path.clone(),
            source: std::io::Error::other(error),
        };
        let roster = Arc::new(read.map_err(unread)??);
        self.in_force.send_replace(Arc::clone(&roster));
        Ok(roster)
    }

    /// Waits until the roster in force does not know `pin` any more.
    pub(super) async fn revoked(&self, pin: Pin) {
        let mut in_force = self.in_force.subscribe();
        // The sender is ours: the channel does not close.
        let _ = in_force.wait_for(|roster| roster.caller(&pin).is_none()).await;
    }
}
