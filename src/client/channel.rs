//! The channel to one node: HTTP/2 over TLS 1.3 with pinned keys, or over the node's Unix socket. Connected when it is first
//! needed, and again when it has broken.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin as Pinned;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use frostkeep_hsm::clock::{Clock, Millis, SystemClock};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use super::error::{ClientError, told};
use crate::limits::{WIRE_CONNECT_MS_MAX, WIRE_KEEPALIVE_MS, WIRE_KEEPALIVE_WAIT_MS_MAX};
use crate::roster::Pin;
use crate::tls::{SERVER_NAME, TlsKey, client_config};

/// For so long after a connection that could not be made, callers hear the same instead of trying in turn, milliseconds.
const FAILURE_HOLDS_MS: u64 = 250;

/// How long a server's first word is waited for, milliseconds.
const FIRST_WORD_MS_MAX: u64 = 1_000;

/// More than a server's settings take, bytes.
const FIRST_WORD_BYTES: usize = 1_024;

/// Where a node is.
#[derive(Clone)]
pub enum Endpoint {
    /// Over the network.
    Tls {
        /// Host and port, as the roster has them.
        address: String,
        /// The key that this side shows.
        key: Arc<TlsKey>,
        /// The pin of the key that the node must show.
        pin: Pin,
    },
    /// The Unix socket of a node on this machine.
    Socket(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { address, .. } => f.write_str(address),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// The channel to `endpoint`. Must be called on a runtime, which it outlives only broken.
pub(super) fn open(endpoint: &Endpoint) -> Result<Channel, ClientError> {
    let way = Arc::new(Way::to(endpoint)?);
    let settings = tonic::transport::Endpoint::from_static("http://frostkeep")
        .http2_keep_alive_interval(Duration::from_millis(WIRE_KEEPALIVE_MS))
        .keep_alive_timeout(Duration::from_millis(WIRE_KEEPALIVE_WAIT_MS_MAX))
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_| {
        let way = Arc::clone(&way);
        async move { way.connect().await }
    });
    Ok(settings.connect_with_connector_lazy(connector))
}

/// What a connection reads and writes.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
type Connection = TokioIo<Greeted>;

/// A stream whose other side has said something. A TLS 1.3 server refuses a client's key after the client's handshake, and
/// HTTP/2 would make a mere cancellation of that. Its server speaks first, too (RFC 9113, section 3.4), so that both are heard
/// before the connection counts as made.
struct Greeted {
    stream: Box<dyn Stream>,
    /// What was heard, for the first who reads.
    first: Vec<u8>,
}

impl Greeted {
    async fn by(mut stream: Box<dyn Stream>) -> io::Result<Self> {
        let mut first = Vec::with_capacity(FIRST_WORD_BYTES);
        let limit = Duration::from_millis(FIRST_WORD_MS_MAX);
        match timeout(limit, stream.read_buf(&mut first)).await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
            // A server that waits for us has not refused.
            Ok(Ok(_)) | Err(_) => Ok(Self { stream, first }),
        }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(self: Pinned<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pinned::new(&mut this.stream).poll_read(cx, into);
        }
        let rest = this.first.split_off(this.first.len().min(into.remaining()));
        into.put_slice(&this.first);
        this.first = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(self: Pinned<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pinned::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pinned::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pinned::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// How connections to one node are made.
struct Way {
    dial: Dial,
    clock: SystemClock,
    failed: Mutex<Option<(Millis, String)>>,
}

enum Dial {
    Tls { address: String, config: Arc<ClientConfig> },
    Socket(PathBuf),
}

impl Way {
    fn to(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let dial = match endpoint {
            Endpoint::Tls { address, key, pin } => {
                let config = client_config(key, *pin).map_err(|error| ClientError::Unreachable(told(&error)))?;
                Dial::Tls { address: address.clone(), config }
            }
            Endpoint::Socket(path) => Dial::Socket(path.clone()),
        };
        Ok(Self { dial, clock: SystemClock::new(), failed: Mutex::new(None) })
    }

    async fn connect(&self) -> io::Result<Connection> {
        if let Some(problem) = self.failed_just_now() {
            return Err(io::Error::other(problem));
        }
        let limit = Duration::from_millis(WIRE_CONNECT_MS_MAX);
        let late = |_| Err(io::Error::other(format!("no connection within {WIRE_CONNECT_MS_MAX} ms")));
        let made = timeout(limit, self.dial()).await.unwrap_or_else(late);
        let failed = made.as_ref().err().map(|error| (self.clock.now(), told(error)));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        made
    }

    /// Requests wait for one connection in turn: without this, each of them would wait for a failure of its own.
    fn failed_just_now(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, problem) = failed.as_ref()?;
        (self.clock.now().since(*at) < FAILURE_HOLDS_MS).then(|| problem.clone())
    }

    async fn dial(&self) -> io::Result<Connection> {
        let greeted = match &self.dial {
            Dial::Socket(path) => {
                // A node hangs up on users that it does not serve.
                let refused = "the node takes no administration from this user: admin_uids in its configuration";
                Greeted::by(Box::new(UnixStream::connect(path).await?)).await.map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => io::Error::other(refused),
                    _ => error,
                })
            }
            Dial::Tls { address, config } => {
                let tcp = TcpStream::connect(address.as_str()).await?;
                tcp.set_nodelay(true)?;
                let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
                Greeted::by(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?)).await
            }
        };
        greeted.map(TokioIo::new)
    }
}
