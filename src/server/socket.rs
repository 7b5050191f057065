//! The way in for administration: a Unix socket, whose callers the kernel names. It needs no TLS, no roster, and no open state.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::call::Streams;
use super::connection;
use super::counters::Cause;
use super::gate::{Gate, Who};
use super::listener::ACCEPT_PAUSE;
use super::services::Routes;
use super::shared::{Entrance, Shared, Stage};
use crate::store::files;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("another process listens on {0}")]
    Live(PathBuf),
    /// The name is taken by something that is no socket.
    #[error("{0} is there and is no socket: nothing is removed")]
    Taken(PathBuf),
    /// The system refuses.
    #[error("the socket {path} cannot be made")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on `path`, mode 0600. The socket of a process that has died is replaced, one that somebody answers on is not.
pub(super) async fn listen(path: &Path) -> Result<net::UnixListener, SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::Taken(path.to_owned())),
        // Not the connect of the standard library, which waits for room in the queue of a process that accepts nothing.
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                files::remove_socket(path).map_err(failed)?;
            }
            Ok(_) => return Err(SocketError::Live(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(SocketError::Live(path.to_owned())),
            Err(error) => return Err(failed(error)),
        },
    }
    let listener = net::UnixListener::bind(path).map_err(failed)?;
    // Whoever gets in before is held against the list of users as well.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The door of the Unix socket.
pub(super) struct SocketDoor {
    shared: Arc<Shared>,
    entrance: Arc<Entrance>,
    users: Vec<u32>,
    routes: Routes,
    streams: Streams,
}

impl SocketDoor {
    pub(super) fn new(shared: &Arc<Shared>, users: Vec<u32>, routes: Routes, streams: Streams) -> Arc<Self> {
        let entrance = Entrance::socket(&shared.limits);
        Arc::new(Self { shared: Arc::clone(shared), entrance, users, routes, streams })
    }

    /// Accepts until nothing is under way any more: a freeze gets in while the server stops.
    pub(super) async fn accept(self: Arc<Self>, listener: UnixListener) {
        let mut stage = self.shared.stage.subscribe();
        loop {
            let accepted = tokio::select! {
                // The sender outlives the listener.
                _ = stage.wait_for(|stage| *stage > Stage::Stopping) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => match self.admit(&stream) {
                    Ok((uid, place)) => {
                        let (door, alive) = (Arc::clone(&self), self.streams.alive.clone());
                        tokio::spawn(async move {
                            let _alive = alive;
                            door.serve(stream, uid, place).await;
                        });
                    }
                    Err(cause) => self.shared.counters.refuse(cause),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection of the socket could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: &UnixStream) -> Result<(u32, OwnedSemaphorePermit), Cause> {
        let uid = stream.peer_cred().map_err(|_| Cause::SocketUser)?.uid();
        if !self.users.contains(&uid) {
            tracing::warn!(uid, "a user that may not use the socket");
            return Err(Cause::SocketUser);
        }
        let place = Arc::clone(&self.entrance.connections).try_acquire_owned();
        Ok((uid, place.map_err(|_| Cause::SocketLimit)?))
    }

    async fn serve(&self, stream: UnixStream, uid: u32, _place: OwnedSemaphorePermit) {
        let gate = Gate {
            shared: Arc::clone(&self.shared),
            entrance: Arc::clone(&self.entrance),
            routes: self.routes.clone(),
            who: Who::User(uid),
        };
        connection::serve(stream, gate, self.streams.clone()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_accepts_nothing_keeps_its_socket_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let _busy = listen(&path).await.unwrap();
        let mut queue = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => queue.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let probe = tokio::time::timeout(std::time::Duration::from_secs(10), listen(&path)).await;
        assert!(matches!(probe, Ok(Err(SocketError::Live(_)))));
    }
}
