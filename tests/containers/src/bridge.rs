//! The way to the token over a network: `socat` on both sides, TCP between them. It can be frozen, so that what is sent is taken
//! and never answered, and cut, so that what is sent arrives nowhere.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use frostkeep::hsm::entropy;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rand_core::RngCore;
use testcontainers::bollard::Docker;
use testcontainers::bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use testcontainers::bollard::query_parameters::InspectContainerOptions;

use crate::Failed;
use crate::engine::ask;
use crate::leftovers::{OWNER, owner};

/// Where the container's `socat` listens.
pub(crate) const PORT: u16 = 5657;

/// A bridge network of the engine, for one container. Removed when dropped.
pub(crate) struct Network {
    docker: Docker,
    name: String,
}

impl Network {
    /// Subnets are told and not left to the engine: only on such a network a container gets its old address back.
    pub(crate) async fn make(docker: &Docker) -> Result<Self, Failed> {
        let mut refused = String::new();
        for _ in 0..50 {
            let roll = entropy::os().next_u32().to_be_bytes();
            let name = format!("frostkeep-{:08x}", u32::from_be_bytes(roll));
            let subnet = IpamConfig {
                subnet: Some(format!("10.{}.{}.{}/28", 128 | roll[0] & 0x7f, roll[1], roll[2] & 0xf0)),
                ..IpamConfig::default()
            };
            let request = NetworkCreateRequest {
                name: name.clone(),
                ipam: Some(Ipam { config: Some(vec![subnet]), ..Ipam::default() }),
                labels: Some(HashMap::from([(OWNER.to_owned(), owner())])),
                ..NetworkCreateRequest::default()
            };
            match docker.create_network(request).await {
                Ok(_) => return Ok(Self { docker: docker.clone(), name }),
                // Somebody else has the subnet.
                Err(cause) => refused = cause.to_string(),
            }
        }
        Err(format!("the engine makes no network: {refused}").into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The next run finds it by its label if it does not go now.
        let _ = ask(self.docker.remove_network(&self.name));
    }
}

/// The near end, and the network behind it.
pub struct Bridge {
    near: Child,
    socket: PathBuf,
    network: Network,
    container: String,
    address: String,
}

impl Bridge {
    /// Opens the near end on `socket`, before the container that is on the network.
    pub(crate) async fn open(network: Network, container: &str, socket: &Path) -> Result<Self, Failed> {
        let seen = network.docker.inspect_container(container, None::<InspectContainerOptions>).await?;
        let networks = seen.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let address = networks.get(network.name()).and_then(|endpoint| endpoint.ip_address.clone());
        let address = address.filter(|address| !address.is_empty()).ok_or("the container has no address")?;
        let near = Command::new("socat")
            .arg(format!("UNIX-LISTEN:{},fork,mode=600", socket.display()))
            .arg(format!("TCP:{address}:{PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|cause| format!("socat does not run (package socat): {cause}"))?;
        let bridge = Self { near, socket: socket.to_owned(), network, container: container.to_owned(), address };
        for _ in 0..500 {
            if socket.exists() {
                return Ok(bridge);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("socat: no socket after 5 s".into())
    }

    /// The socket of the near end.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The name of the network.
    pub fn network(&self) -> &str {
        self.network.name()
    }

    /// What is sent is taken and never answered, and new connections stay where they are.
    ///
    /// # Errors
    /// When the near end is gone.
    pub fn freeze(&self) -> Result<(), Failed> {
        self.signal(Signal::SIGSTOP)
    }

    /// It goes on where it was.
    ///
    /// # Errors
    /// When the near end is gone.
    pub fn thaw(&self) -> Result<(), Failed> {
        self.signal(Signal::SIGCONT)
    }

    /// The container leaves the network, with all that is on its way to it.
    ///
    /// # Errors
    /// The engine's.
    pub fn cut(&self) -> Result<(), Failed> {
        let request = NetworkDisconnectRequest { container: self.container.clone(), force: Some(true) };
        Ok(ask(self.network.docker.disconnect_network(self.network.name(), request))?)
    }

    /// The container is on the network again, at its old address.
    ///
    /// # Errors
    /// The engine's.
    pub fn mend(&self) -> Result<(), Failed> {
        let address = EndpointIpamConfig { ipv4_address: Some(self.address.clone()), ..EndpointIpamConfig::default() };
        let endpoint = EndpointSettings { ipam_config: Some(address), ..EndpointSettings::default() };
        let request = NetworkConnectRequest { container: self.container.clone(), endpoint_config: Some(endpoint) };
        Ok(ask(self.network.docker.connect_network(self.network.name(), request))?)
    }

    /// The near end and every connection that it has forked for are one process group.
    fn signal(&self, signal: Signal) -> Result<(), Failed> {
        Ok(killpg(Pid::from_raw(i32::try_from(self.near.id())?), signal)?)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL as well; one that is gone already stays so.
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.near.wait();
    }
}
