//! The container engine, and one runtime for all that is asked of it.

use std::sync::OnceLock;

use testcontainers::bollard::Docker;
use testcontainers::core::client::docker_client_instance;
use tokio::runtime::{Builder, Runtime};

use crate::Failed;

/// Runs `asked` to its end, from wherever it is called: connections to the engine live on a runtime of their own.
pub fn ask<T: Send>(asked: impl Future<Output = T> + Send) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread can be made")
    });
    // A thread of its own, so that callers on another runtime may block as well.
    std::thread::scope(|scope| scope.spawn(|| runtime.block_on(asked)).join().expect("what is asked does not panic"))
}

/// The engine.
///
/// # Errors
/// When none answers.
pub async fn engine() -> Result<Docker, Failed> {
    let docker = docker_client_instance().await?;
    docker.ping().await.map_err(|cause| format!("no Docker engine answers: {cause}"))?;
    Ok(docker)
}

/// Whether there is an engine.
pub fn answers() -> bool {
    ask(async { engine().await.is_ok() })
}
