//! What killed runs have left: containers and networks by a label, directories by their names, processes by their arguments. Each
//! names the process that made it; when that is gone, so goes the rest, before the next container is made.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};

use crate::Failed;

/// The label of all that these tests make in an engine. Its value is [`owner`].
pub const OWNER: &str = "frostkeep.test.owner";

/// How the directories begin. Short: a socket's path has 107 bytes.
const DIRECTORY: &str = "fkc-";

/// A directory for a token and a node, removed when dropped. The processes that work on it name it in their arguments.
///
/// # Errors
/// Those of the directory.
pub fn directory() -> Result<TempDir, Failed> {
    Ok(tempfile::Builder::new().prefix(&format!("{DIRECTORY}{}-", owner())).tempdir()?)
}

/// This process: its id, and when it was started, since ids come again.
pub fn owner() -> String {
    let pid = std::process::id();
    format!("{pid}.{}", started(pid).unwrap_or_default())
}

/// When a process was started, clock ticks after the boot (`proc(5)`, `stat`, field 22); none when there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the start is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether this is the name of a maker who is gone. What is no such name is somebody else's.
fn is_gone(owner: &str) -> bool {
    let parts = owner.split_once('.').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse::<u64>().ok()?)));
    parts.is_some_and(|(pid, start)| started(pid) != Some(start))
}

/// Ends the processes and removes the directories whose maker is gone.
///
/// # Errors
/// When the directory of directories is not listed. What does not go is left to the next run.
pub fn remove_local() -> Result<(), Failed> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY)?.split('-').next());
        if owner.is_some_and(is_gone) {
            for pid in processes_on(&entry.path()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The nodes and near ends that name a path below `directory` in their arguments.
pub fn processes_on(directory: &Path) -> Vec<i32> {
    let Some(directory) = directory.to_str() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let program = arguments.split('\0').next().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
        let is_ours = program == "socat" || program.starts_with("frostkeep");
        if is_ours && arguments.contains(&format!("{directory}/")) {
            found.push(pid);
        }
    }
    found
}

/// Removes the containers and networks whose makers are gone; says how many.
///
/// # Errors
/// When the engine does not list them. One that does not go is left to the next run: another may be removing it just now.
pub async fn remove(docker: &Docker) -> Result<usize, Failed> {
    let mut removed = 0;
    let label = HashMap::from([("label", vec![OWNER])]);
    let listed = ListContainersOptionsBuilder::new().all(true).filters(&label).build();
    for container in docker.list_containers(Some(listed)).await? {
        let owner = container.labels.as_ref().and_then(|labels| labels.get(OWNER)).map_or("", String::as_str);
        if let Some(id) = container.id.filter(|_| is_gone(owner)) {
            removed += usize::from(remove_container(docker, &id).await.is_ok());
        }
    }
    let listed = ListNetworksOptionsBuilder::new().filters(&label).build();
    for network in docker.list_networks(Some(listed)).await? {
        let owner = network.labels.as_ref().and_then(|labels| labels.get(OWNER)).map_or("", String::as_str);
        if let Some(id) = network.id.filter(|_| is_gone(owner)) {
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
