//! Goal: what these tests make in somebody's engine goes again, whatever happens to the test: it ends, it panics, it is killed.
//! Method: containers and networks looked for by their ids after each of these ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use frostkeep_container_tests::container::{Plan, SoftHsmContainer};
use frostkeep_container_tests::engine::{ask, engine};
use frostkeep_container_tests::leftovers::{self, processes_on};
use testcontainers::bollard::query_parameters::{InspectContainerOptions, InspectNetworkOptions};

/// Set for the copy of this binary that is killed.
const LEFT: &str = "FROSTKEEP_LEAVE_A_CONTAINER";

fn has_container(id: &str) -> bool {
    ask(async { engine().await.unwrap().inspect_container(id, None::<InspectContainerOptions>).await.is_ok() })
}

fn has_network(name: &str) -> bool {
    ask(async { engine().await.unwrap().inspect_network(name, None::<InspectNetworkOptions>).await.is_ok() })
}

#[test]
fn a_container_goes_when_its_test_panics_while_it_is_paused() {
    let directory = leftovers::directory().unwrap();
    let made = Mutex::new(None);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let container = SoftHsmContainer::start(directory.path(), Plan::bridged("panics")).unwrap();
        let (id, network) = (container.id().to_owned(), container.bridge().network().to_owned());
        assert!(has_container(&id) && has_network(&network));
        container.pause().unwrap();
        container.bridge().freeze().unwrap();
        *made.lock().unwrap() = Some((id, network));
        panic!("as a test does that fails");
    }));
    assert!(ended.is_err());
    let (id, network) = made.into_inner().unwrap().expect("it was made");
    assert!(!has_container(&id), "the container is still there");
    assert!(!has_network(&network), "the network is still there");
}

#[test]
fn what_a_killed_run_has_left_goes_before_the_next_container_is_made() {
    if std::env::var_os(LEFT).is_some() {
        let directory = leftovers::directory().unwrap();
        let container = SoftHsmContainer::start(directory.path(), Plan::bridged("killed-run")).unwrap();
        let directory = directory.path().display();
        println!("@left {} {} {directory}", container.id(), container.bridge().network());
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["what_a_killed_run_has_left_goes_before_the_next_container_is_made", "--exact", "--nocapture"])
        .env(LEFT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The harness may have begun the line.
    let left = said.filter_map(|line| line.split_once("@left ").map(|(_, left)| left.to_owned())).next();
    let left = left.expect("the copy says what it has made");
    let [id, network, left] = left.split(' ').collect::<Vec<_>>()[..] else { panic!("{left}") };
    let left = Path::new(left);
    let is_there = || has_container(id) && has_network(network) && left.exists() && !processes_on(left).is_empty();
    // Its maker lives: nobody takes it away.
    ask(async { leftovers::remove(&engine().await.unwrap()).await.unwrap() });
    leftovers::remove_local().unwrap();
    assert!(is_there(), "what a running test uses was taken away");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_there(), "nobody could have removed it");

    let directory = leftovers::directory().unwrap();
    let container = SoftHsmContainer::start(directory.path(), Plan::local("next-run")).unwrap();
    assert!(!has_container(id), "the container is still there");
    assert!(!has_network(network), "the network is still there");
    assert!(processes_on(left).is_empty() && !left.exists(), "its near end is still there");
    drop(container);
}

#[test]
fn the_socket_has_the_mode_that_was_asked_for_and_comes_back_with_it() {
    let directory = leftovers::directory().unwrap();
    let plan = Plan { socket_mode: 0o666, ..Plan::local("mode") };
    let container = SoftHsmContainer::start(directory.path(), plan).unwrap();
    let mode = || {
        let socket = std::fs::symlink_metadata(container.socket()).unwrap();
        assert!(socket.file_type().is_socket());
        socket.permissions().mode() & 0o777
    };
    assert_eq!(mode(), 0o666);
    container.kill().unwrap();
    std::fs::set_permissions(container.socket(), PermissionsExt::from_mode(0o600)).unwrap();
    container.start_again().unwrap();
    for _ in 0..500 {
        if container.socket().exists() && mode() == 0o666 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the socket has not come back with its mode");
}
