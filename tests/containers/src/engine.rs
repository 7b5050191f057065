//! The container engine: one runtime for all that is asked of it, and the removal of what killed runs have left.

use std::collections::HashMap;
use std::fs;
use std::sync::OnceLock;

use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::core::client::docker_client_instance;
use tokio::runtime::{Builder, Runtime};

use crate::Failed;

/// The label of all that these tests make in an engine. Its value names the process that made it.
pub const OWNER: &str = "frostkeep.test.owner";

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

/// This process, as a label: its id, and when it was started, since ids come again.
pub fn owner() -> String {
    let pid = std::process::id();
    format!("{pid}:{}", started(pid).unwrap_or_default())
}

/// When a process was started, clock ticks after the boot (`proc(5)`, `stat`, field 22); none when there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the start is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn lives(owner: &str) -> bool {
    let parts = owner.split_once(':').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse::<u64>().ok()?)));
    parts.is_some_and(|(pid, start)| started(pid) == Some(start))
}

/// Removes the containers and networks whose makers are gone; says how many.
///
/// # Errors
/// When the engine does not list them. One that does not go is left to the next run: another may be removing it just now.
pub async fn remove_leftovers(docker: &Docker) -> Result<usize, Failed> {
    let mut removed = 0;
    let label = HashMap::from([("label", vec![OWNER])]);
    let listed = ListContainersOptionsBuilder::new().all(true).filters(&label).build();
    for container in docker.list_containers(Some(listed)).await? {
        let owner = container.labels.as_ref().and_then(|labels| labels.get(OWNER)).map_or("", String::as_str);
        if let Some(id) = container.id.filter(|_| !lives(owner)) {
            removed += usize::from(remove_container(docker, &id).await.is_ok());
        }
    }
    let listed = ListNetworksOptionsBuilder::new().filters(&label).build();
    for network in docker.list_networks(Some(listed)).await? {
        let owner = network.labels.as_ref().and_then(|labels| labels.get(OWNER)).map_or("", String::as_str);
        if let Some(id) = network.id.filter(|_| !lives(owner)) {
            removed += usize::from(docker.remove_network(&id).await.is_ok());
        }
    }
    Ok(removed)
}

/// Kills a container, whatever it does, and removes it with its anonymous volumes.
///
/// # Errors
/// The engine's.
async fn remove_container(docker: &Docker, id: &str) -> Result<(), Failed> {
    // A paused one is not killed by every engine. One that is not paused says so.
    let _ = docker.unpause_container(id).await;
    let forced = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    Ok(docker.remove_container(id, Some(forced)).await?)
}
