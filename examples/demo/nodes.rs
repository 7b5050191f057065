//! Three nodes in this process, each with a SoftHSM token, a sealed state and an engine of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use frostkeep::engine::{Engine, Refusal};
use frostkeep::hsm::clock::Millis;
use frostkeep::hsm::config::{AgentCommand, Deadlines, TokenConfig};
use frostkeep::hsm::entropy;
use frostkeep::hsm::provider::KeyProvider;
use frostkeep::hsm::provision::{self, CreateKey, InitReport};
use frostkeep::hsm::sealer::Provider;
use frostkeep::ids::to_hex;
use frostkeep::node::{Node, NodeConfig, Phase, init};
use frostkeep_fixtures::{P11KitServer, make_token};
use rand_core::RngCore;

use crate::Failed;

/// A token call that takes longer than this is an outage, milliseconds.
pub(crate) const CALL_MS: u64 = 1_000;
/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// One node and its token. Fields drop in this order: the node ends before its token does.
pub(crate) struct DemoNode {
    node: Option<Node>,
    config: NodeConfig,
    token: TokenConfig,
    server: Option<P11KitServer>,
}

impl DemoNode {
    /// Makes a token with a key, and an empty state sealed under it. `remote`: the token sits behind a `p11-kit` server, which
    /// can be killed and stopped as a network HSM can.
    pub(crate) fn new(directory: &Path, agent: &Path, number: u16, remote: bool) -> Result<(Self, InitReport), Failed> {
        let directory = directory.join(format!("node-{number}"));
        let mut pin = [0; 8];
        entropy::os().fill_bytes(&mut pin);
        let soft = make_token(&directory, &format!("demo-{number}"), &to_hex(&pin))?;
        let server = if remote { Some(P11KitServer::start(&soft)?) } else { None };
        let (uri, environment) = match &server {
            Some(server) => (server.uri("frostkeep")?, server.environment()),
            None => (soft.uri("frostkeep")?, soft.environment()),
        };
        let token = TokenConfig {
            uri,
            environment,
            agent: Some(AgentCommand { program: agent.to_owned(), arguments: vec!["token-agent".to_owned()] }),
            deadlines: Deadlines { start_ms: 5_000, login_ms: 5_000, call_ms: CALL_MS },
            // Long: the story wants to be the one that finds the token gone.
            health_interval_ms: 60_000,
            backoff_ms_min: 50,
            backoff_ms_max: 500,
            latch_directory: soft.latch_directory(),
        };
        let report = provision::init(&token, CreateKey::IfAbsent, Box::new(entropy::os()))?;
        let config = NodeConfig::new(directory.join("state"));
        let node = Self { node: None, config, token, server };
        init(&node.config, node.provider()?.as_mut())?;
        Ok((node, report))
    }

    fn provider(&self) -> Result<Box<dyn KeyProvider>, Failed> {
        // The node's own clock: refusals tell the time since an outage began, and times of two clocks do not compare.
        Ok(Box::new(Provider::from_config(&self.token, Arc::clone(&self.config.clock))?))
    }

    /// Starts the node; it may be sealed.
    pub(crate) fn start(&mut self) -> Result<(), Failed> {
        self.node = Some(Node::start(self.config.clone(), self.provider()?)?);
        Ok(())
    }

    /// Stops the node.
    pub(crate) fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop();
        }
    }

    /// The running node.
    pub(crate) fn node(&self) -> Result<&Node, Failed> {
        self.node.as_ref().ok_or_else(|| "the node is not running".into())
    }

    /// The engine of an open node.
    pub(crate) fn engine(&self) -> Result<Engine, Failed> {
        Ok(self.node()?.engine()?)
    }

    /// What asking for the engine is refused with.
    pub(crate) fn refusal(&self) -> Result<Option<Refusal>, Failed> {
        Ok(self.node()?.engine().err())
    }

    /// Waits until the state is open, this start is recorded, and fresh work is admitted.
    pub(crate) async fn ready(&self) -> Result<Engine, Failed> {
        let engine = tokio::time::timeout(PATIENCE, self.node()?.opened()).await??;
        until("the node admits work", || engine.status().admits_work() && engine.node_identity().is_ok()).await?;
        Ok(engine)
    }

    /// Waits until the node says that it is sealed.
    pub(crate) async fn sealed(&self) -> Result<(), Failed> {
        let node = self.node()?;
        until("the node says that it is sealed", || matches!(node.phase(), Phase::Sealed { .. })).await
    }

    /// The time of this node, as its refusals tell it.
    pub(crate) fn now(&self) -> Millis {
        self.config.clock.now()
    }

    /// The server before the token.
    pub(crate) fn server(&mut self) -> Result<&mut P11KitServer, Failed> {
        self.server.as_mut().ok_or_else(|| "this token has no server before it".into())
    }
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failed> {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| format!("never came true: {what}").into())
}

/// The built `frostkeep` binary, whose verb `token-agent` holds the PKCS#11 module: two directories above the example.
pub(crate) fn agent_program() -> Result<PathBuf, Failed> {
    let own = std::env::current_exe()?;
    let built = own.ancestors().nth(2).map(|directory| directory.join("frostkeep"));
    built.filter(|program| program.is_file()).ok_or_else(|| {
        format!("no frostkeep binary above {}: run scripts/demo, or cargo build --bins --example demo", own.display())
            .into()
    })
}
