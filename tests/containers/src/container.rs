//! A SoftHSM token in a container of its own: a hung HSM when it is paused, a dead one when it is killed, a returned one when
//! it is started. Its keys outlive all of that.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use frostkeep_fixtures::p11_kit_client_module;
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{KillContainerOptions, RestartContainerOptions, StartContainerOptions};
use testcontainers::core::{Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::bridge::{Bridge, Network, PORT};
use crate::engine::{ask, engine};
use crate::leftovers::{self, OWNER, owner};
use crate::node::TokenPlace;
use crate::{Failed, image};

/// Where the container sees the directory that it shares with the host.
const SHARE: &str = "/run/frostkeep";

/// How a container is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The token's label.
    pub label: String,
    /// Its PIN.
    pub pin: String,
    /// The mode of its socket.
    pub socket_mode: u32,
    /// Whether it is reached over a bridge network, instead of its socket.
    pub bridged: bool,
}

impl Plan {
    /// A token whose socket is in a directory that both sides see.
    pub fn local(label: &str) -> Self {
        Self { label: label.to_owned(), pin: "container-pin-51c7".to_owned(), socket_mode: 0o600, bridged: false }
    }

    /// The same, behind a network.
    pub fn bridged(label: &str) -> Self {
        Self { bridged: true, ..Self::local(label) }
    }
}

/// The container, running or not. It is removed when this is dropped, a panic of the test included.
pub struct SoftHsmContainer {
    plan: Plan,
    docker: Docker,
    id: String,
    container: Option<ContainerAsync<GenericImage>>,
    /// Dropped after the container, which is in it.
    bridge: Option<Bridge>,
    directory: PathBuf,
}

impl SoftHsmContainer {
    /// Builds the image if need be, removes what killed runs have left, and starts a container with a token in it. Everything
    /// that the host sees of it lies below `directory`, which the caller removes.
    ///
    /// # Errors
    /// What is not installed, or what the engine says.
    pub fn start(directory: &Path, plan: Plan) -> Result<Self, Failed> {
        let share = directory.join("share");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&share)?;
        let mut pin = fs::File::options().write(true).create_new(true).mode(0o600).open(share.join("pin"))?;
        writeln!(pin, "{}", plan.pin)?;
        ask(Self::made(directory, plan))
    }

    async fn made(directory: &Path, plan: Plan) -> Result<Self, Failed> {
        let docker = engine().await?;
        leftovers::remove(&docker).await?;
        leftovers::remove_local()?;
        let image = image::build().await?;
        let network = if plan.bridged { Some(Network::make(&docker).await?) } else { None };
        let share = directory.join("share");
        let share = share.to_str().ok_or("the directory's name is not text")?;
        let mut request = image
            .with_wait_for(WaitFor::message_on_stdout("ready: token"))
            .with_label(OWNER, owner())
            .with_startup_timeout(Duration::from_secs(30))
            .with_mount(Mount::bind_mount(share, SHARE))
            .with_env_var("TOKEN_LABEL", plan.label.as_str())
            .with_env_var("SOCKET_MODE", format!("{:o}", plan.socket_mode));
        request = match &network {
            None => request.with_network("none"),
            Some(network) => request.with_network(network.name()).with_env_var("TCP_PORT", PORT.to_string()),
        };
        let container = request.start().await?;
        let id = container.id().to_owned();
        let bridge = match network {
            Some(network) => Some(Bridge::open(network, &id, &directory.join("bridge.sock")).await?),
            None => None,
        };
        let directory = directory.to_owned();
        Ok(Self { plan, docker, id, container: Some(container), bridge, directory })
    }

    /// The name that the engine gave it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.plan.label
    }

    /// The file that holds the PIN, mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.directory.join("share").join("pin")
    }

    /// A directory for the credential latch.
    pub fn latch_directory(&self) -> PathBuf {
        self.directory.join("latch")
    }

    /// The socket of the `p11-kit` server: the container's own, or the one on this side of the network.
    pub fn socket(&self) -> PathBuf {
        match &self.bridge {
            Some(bridge) => bridge.socket().to_owned(),
            None => self.directory.join("share").join("p11.sock"),
        }
    }

    /// What the token agent's environment needs.
    pub fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("P11_KIT_SERVER_ADDRESS".to_owned(), format!("unix:path={}", self.socket().display()))])
    }

    /// RFC 7512 URI of the key `object` on this token, through the `p11-kit` client module.
    ///
    /// # Errors
    /// When that is not installed.
    pub fn uri(&self, object: &str) -> Result<String, Failed> {
        Ok(self.uri_through(&p11_kit_client_module()?, object))
    }

    /// The same through another module.
    pub fn uri_through(&self, module: &Path, object: &str) -> String {
        format!(
            "pkcs11:token={};object={object}?module-path={}&pin-source=file:{}",
            self.plan.label,
            module.display(),
            self.pin_file().display()
        )
    }

    /// How a node reaches the key `object` on this token.
    ///
    /// # Errors
    /// When the client module is not installed.
    pub fn place(&self, object: &str) -> Result<TokenPlace, Failed> {
        Ok(TokenPlace {
            uri: self.uri(object)?,
            environment: self.environment(),
            latch_directory: self.latch_directory(),
        })
    }

    /// Every call hangs.
    ///
    /// # Errors
    /// The engine's.
    pub fn pause(&self) -> Result<(), Failed> {
        Ok(ask(self.docker.pause_container(&self.id))?)
    }

    /// Calls go on.
    ///
    /// # Errors
    /// The engine's.
    pub fn unpause(&self) -> Result<(), Failed> {
        Ok(ask(self.docker.unpause_container(&self.id))?)
    }

    /// `kill -9`: the token is gone, its keys are not.
    ///
    /// # Errors
    /// The engine's.
    pub fn kill(&self) -> Result<(), Failed> {
        Ok(ask(self.docker.kill_container(&self.id, None::<KillContainerOptions>))?)
    }

    /// Starts it again after [`SoftHsmContainer::kill`]; returns when the engine has started it, which is before it serves.
    ///
    /// # Errors
    /// The engine's.
    pub fn start_again(&self) -> Result<(), Failed> {
        Ok(ask(self.docker.start_container(&self.id, None::<StartContainerOptions>))?)
    }

    /// Stops it as an operator does, and starts it again.
    ///
    /// # Errors
    /// The engine's.
    pub fn restart(&self) -> Result<(), Failed> {
        Ok(ask(self.docker.restart_container(&self.id, None::<RestartContainerOptions>))?)
    }

    /// The network before it.
    ///
    /// # Panics
    /// When it has none: see [`Plan::bridged`].
    pub fn bridge(&self) -> &Bridge {
        self.bridge.as_ref().expect("the plan says whether there is a bridge")
    }
}

impl Drop for SoftHsmContainer {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            ask(async {
                // A paused one is not killed by every engine.
                let _ = self.docker.unpause_container(&self.id).await;
                // The next run finds by its label what does not go now.
                let _ = container.rm().await;
            });
        }
    }
}
