//! `frostkeep serve`: runs a node until it is told to stop.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::init::{config_failed, not_opened, read_config};
use super::reach::key_failed;
use super::{CliError, Output};
use crate::node::Phase;
use crate::process::{Hardening, MemoryLock};
use crate::server::{Server, ServerConfig, SocketError, StartError};

/// The pause between two looks at the node for the service manager.
const LOOK: Duration = Duration::from_secs(1);

const HELP: &str = "The node listens at once, also while its state is sealed because its token is away: then it answers its status, and opens by
itself. SIGHUP reads the roster again. SIGTERM and SIGINT stop it: what is under way is finished, nothing new is taken; a second
one cuts off what is under way.

Examples:
  frostkeep serve --config /etc/frostkeep/node.toml
  frostkeep serve --config node.toml --log debug";

/// Arguments of `frostkeep serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter like info,frostkeep::server=debug
    #[arg(long, value_name = "LEVEL", env = "FROSTKEEP_LOG", default_value = "info")]
    log: String,
}

/// Serves until the end of the node.
///
/// # Errors
/// [`CliError`] when the node does not start, or its state does not open.
pub fn run(args: &Args, hardening: &Hardening, out: &Output) -> Result<(), CliError> {
    let config = read_config(&args.config)?;
    log_to_stderr(&args.log)?;
    report(hardening);
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = built.map_err(|error| CliError::surroundings("no threads for the server").caused_by(&error))?;
    let outcome = runtime.block_on(serve(&config, out));
    // A look-up of a peer's name that hangs must not hold the end.
    runtime.shutdown_background();
    outcome
}

fn log_to_stderr(filter: &str) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| CliError::usage(format!("--log: {error}")))?;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = !plain && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    log.try_init().map_err(|error| CliError::surroundings(format!("the log cannot be set up: {error}")))
}

fn report(hardening: &Hardening) {
    if hardening.is_complete() {
        tracing::info!("no core dumps, no tracing by others, memory locked");
        return;
    }
    if let MemoryLock::NotLocked { reason } = &hardening.memory_locked {
        tracing::warn!(%reason, "memory is not locked: key material can reach the swap");
    }
    if !hardening.core_dumps_off || !hardening.undumpable {
        tracing::warn!(?hardening, "the system did not grant all of the process hardening");
    }
}

/// The signals, caught before the node starts: one that comes meanwhile is not lost.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> Result<Self, CliError> {
        let caught = |kind| signal(kind).map_err(|error| CliError::surroundings("no signal handler").caused_by(&error));
        Ok(Self {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
            hang_up: caught(SignalKind::hangup())?,
        })
    }

    async fn stop_asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(config: &ServerConfig, out: &Output) -> Result<(), CliError> {
    let mut signals = Signals::catch()?;
    let node = config.node();
    let provider = config.provider(Arc::clone(&node.clock)).map_err(|error| config_failed(&error))?;
    let server = Server::start(config, node, provider, None).await.map_err(|error| not_started(&error))?;
    out.show(&Listening { listening: server.address().to_string(), socket: config.socket.display().to_string() })?;
    out.flush()?;
    tracing::info!(address = %server.address(), name = %config.name, "listening");
    notify(&[NotifyState::Ready]);
    let failed = until_stopped(&server, &mut signals).await;
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping");
    // A second signal hurries.
    if let Some(status) = server.stop_or(signals.stop_asked()).await {
        tracing::info!(position = status.durable.number(), storage = ?status.storage, "stopped");
    }
    failed.map_or(Ok(()), Err)
}

/// Runs until a signal, or until the state will not open; then with the error that says so.
async fn until_stopped(server: &Server, signals: &mut Signals) -> Option<CliError> {
    let mut told = String::new();
    let mut look = tokio::time::interval(LOOK);
    let mut failed = std::pin::pin!(server.failed());
    // Beside the signals: a roster file that hangs must not keep the node from stopping.
    let mut reloading: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
    let mut again = false;
    loop {
        tokio::select! {
            error = failed.as_mut() => return Some(not_opened(&error)),
            _ = signals.terminate.recv() => return None,
            _ = signals.interrupt.recv() => return None,
            _ = signals.hang_up.recv() => match reloading {
                Some(_) => again = true,
                None => reloading = Some(Box::pin(reload(server))),
            },
            () = ended(&mut reloading) => {
                reloading = None;
                if std::mem::take(&mut again) {
                    reloading = Some(Box::pin(reload(server)));
                }
            }
            _ = look.tick() => {
                let standing = standing(server);
                if standing != told {
                    notify(&[NotifyState::Status(&standing)]);
                    told = standing;
                }
            }
        }
    }
}

async fn ended(work: &mut Option<Pin<Box<dyn Future<Output = ()> + '_>>>) {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn standing(server: &Server) -> String {
    match server.node().phase() {
        Phase::Opening => "opening the state".to_owned(),
        Phase::Sealed { error, .. } => format!("sealed: {error}"),
        Phase::Failed(error) => format!("failed: {error}"),
        Phase::Open(_) if server.is_ready() => "ready".to_owned(),
        Phase::Open(_) => "serving what is durable; fresh work is refused".to_owned(),
    }
}

async fn reload(server: &Server) {
    // systemd takes a reload for over when it is told READY again.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the service manager is not told of the reload"),
    }
    if let Err(error) = server.reload_roster().await {
        tracing::error!(%error, "the roster is not read: the one in force stays");
    }
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

fn not_started(error: &StartError) -> CliError {
    let text = error.to_string();
    match error {
        StartError::Open(error) => not_opened(error),
        StartError::NotInitialised(_) => {
            with_reason(error).with_hint("`frostkeep init` with the same --config makes it")
        }
        StartError::Tls(error) => key_failed(error),
        StartError::Roster(error) => {
            let failed =
                CliError::usage(text).with_hint("correct the roster file; `frostkeep identity` prints lines for it");
            error.source().map_or(failed, |_| {
                CliError::surroundings(error.to_string())
                    .with_hint("`roster` in the configuration names the roster file")
            })
        }
        StartError::Listen { source, .. } => CliError::surroundings(text)
            .caused_by(source)
            .with_hint("is `listen` an address of this machine, and free?"),
        StartError::Socket(SocketError::Live(_)) => {
            with_reason(error).with_hint("a node runs already, or another one has this socket")
        }
        StartError::Socket(SocketError::Taken(_)) => {
            CliError::surroundings(text).with_hint("`socket` in the configuration names a file that is something else")
        }
        StartError::Socket(SocketError::Io { source, .. }) => CliError::surroundings(text)
            .caused_by(source)
            .with_hint("the directory of the socket has to exist, and be writable by this user"),
        StartError::Internal(_) => with_reason(error),
    }
}

fn with_reason(error: &StartError) -> CliError {
    match error.reason() {
        Some(reason) => CliError::refused(reason, error.to_string()),
        None => CliError::surroundings(error.to_string()),
    }
}

#[derive(Serialize)]
struct Listening {
    listening: String,
    socket: String,
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listening on {}", self.listening)
    }
}
