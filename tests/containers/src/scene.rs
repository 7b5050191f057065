//! A node before a token, under load, and beside it one whose token is left alone.

use std::path::Path;

use frostkeep_fixtures::make_token;

use crate::Failed;
use crate::load::{Control, Load, Pace};
use crate::node::{ServedNode, TokenPlace};

/// Rounds that are durable before anything is judged.
const WARM: usize = 24;

/// The node and the load on it. The load ends first.
pub struct Scene {
    load: Load,
    output_key: [u8; 32],
    node: ServedNode,
    control: Control,
}

/// What a scene leaves when its load is to be ended: the nodes have to outlive it.
pub struct Parts {
    pub load: Load,
    pub node: ServedNode,
    _control: Control,
}

impl Scene {
    /// Makes a node below `directory` whose token is at `place`, with a key group, and begins a load that `seed` decides.
    ///
    /// # Errors
    /// The problem of the command that refused.
    pub fn begin(program: &Path, directory: &Path, place: &TokenPlace, pace: Pace, seed: u64) -> Result<Self, Failed> {
        let runtime = Load::runtime()?;
        let (node, group) = runtime.block_on(ServedNode::new(program, directory, place))?;
        let output_key = group.output_key();
        let quiet = directory.join("control");
        let token = make_token(&quiet, "control", "control-pin-2a90")?;
        let place = TokenPlace {
            uri: token.uri("frostkeep")?,
            environment: token.environment(),
            latch_directory: token.latch_directory(),
        };
        let control = runtime.block_on(async {
            let (node, group) = ServedNode::new(program, &quiet, &place).await?;
            Control::of(node, &group).await
        })?;
        let load = Load::begin(runtime, &node, group, pace, &control, seed)?;
        load.warm(WARM);
        Ok(Self { load, output_key, node, control })
    }

    /// The load.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The load, to be ended, and the node.
    pub fn into_parts(self) -> Parts {
        Parts { load: self.load, node: self.node, _control: self.control }
    }

    /// The x-only key under which its signatures verify.
    pub fn output_key(&self) -> [u8; 32] {
        self.output_key
    }
}
