//! The way in over the network: TCP, then TLS with a deadline, then HTTP/2. Nobody who is not in the roster gets past TLS.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::call::Streams;
use super::connection;
use super::counters::Cause;
use super::gate::{Gate, Who};
use super::services::Routes;
use super::settings::count;
use super::shared::{Entrance, Shared, Stage};
use crate::roster::Pin;
use crate::tls::{UnexpectedPin, peer_pin};

/// The pause after a connection that could not be accepted: no file is left, and the next one finds none either.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The door of the network.
pub(super) struct Door {
    shared: Arc<Shared>,
    entrance: Arc<Entrance>,
    tls: TlsAcceptor,
    routes: Routes,
    streams: Streams,
    handshakes: Arc<Semaphore>,
    pins: Pins,
}

/// What a stranger holds while it shakes hands.
struct Handshake {
    connection: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

impl Door {
    pub(super) fn new(
        shared: &Arc<Shared>,
        tls: Arc<rustls::ServerConfig>,
        routes: Routes,
        streams: Streams,
    ) -> Arc<Self> {
        Arc::new(Self {
            entrance: Entrance::network(&shared.limits),
            tls: tls.into(),
            routes,
            streams,
            handshakes: Arc::new(Semaphore::new(count(shared.limits.handshakes))),
            pins: Pins::default(),
            shared: Arc::clone(shared),
        })
    }

    /// Accepts until the server stops.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut stage = self.shared.stage.subscribe();
        loop {
            let accepted = tokio::select! {
                // The sender outlives the listener.
                _ = stage.wait_for(|stage| *stage > Stage::Serving) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => match self.room() {
                    Ok(handshake) => {
                        let (door, alive) = (Arc::clone(&self), self.streams.alive.clone());
                        tokio::spawn(async move {
                            let _alive = alive;
                            if let Err(cause) = door.serve(tcp, handshake).await {
                                tracing::debug!(%peer, cause = cause.name(), "refused");
                                door.shared.counters.refuse(cause);
                            }
                        });
                    }
                    Err(cause) => self.shared.counters.refuse(cause),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn room(&self) -> Result<Handshake, Cause> {
        let connection = Arc::clone(&self.entrance.connections).try_acquire_owned();
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned();
        Ok(Handshake {
            connection: connection.map_err(|_| Cause::ConnectionLimit)?,
            handshake: handshake.map_err(|_| Cause::HandshakeLimit)?,
        })
    }

    async fn serve(&self, tcp: TcpStream, stranger: Handshake) -> Result<(), Cause> {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delays");
        }
        let (tls, pin) = self.shake_hands(tcp).await?;
        // From here on it is one of the known, and gives the strangers' room back.
        let Handshake { connection: _connection, handshake } = stranger;
        drop(handshake);
        let _pin = self.pins.take(pin, self.shared.limits.connections_per_pin)?;
        let _open = self.shared.counters.accept();
        let gate = Gate {
            shared: Arc::clone(&self.shared),
            entrance: Arc::clone(&self.entrance),
            routes: self.routes.clone(),
            who: Who::Pin(pin),
        };
        connection::serve(tls, gate, self.streams.clone()).await;
        Ok(())
    }

    async fn shake_hands(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Pin), Cause> {
        let handshake = timeout(self.shared.limits.handshake(), self.tls.accept(tcp)).await;
        let tls = handshake.map_err(|_| Cause::HandshakeTimeout)?.map_err(|error| cause_of(&error))?;
        let pin = peer_pin(tls.get_ref().1).ok_or(Cause::Tls)?;
        Ok((tls, pin))
    }
}

fn cause_of(error: &io::Error) -> Cause {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) if other.0.is::<UnexpectedPin>() => {
            Cause::UnknownPin
        }
        _ => Cause::Tls,
    }
}

/// Connections of each client key.
#[derive(Clone, Default)]
struct Pins(Arc<Mutex<HashMap<Pin, u64>>>);

/// One connection of a client key.
struct PinPlace {
    pins: Pins,
    pin: Pin,
}

impl Pins {
    fn take(&self, pin: Pin, limit: u64) -> Result<PinPlace, Cause> {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = pins.entry(pin).or_default();
        if *connections >= limit {
            return Err(Cause::PinLimit);
        }
        *connections += 1;
        Ok(PinPlace { pins: self.clone(), pin })
    }
}

impl Drop for PinPlace {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = pins.get_mut(&self.pin) {
            *connections -= 1;
            if *connections == 0 {
                pins.remove(&self.pin);
            }
        }
    }
}
