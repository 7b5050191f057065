//! A node before a token, under load.

use std::path::Path;

use crate::Failed;
use crate::load::{Load, Pace};
use crate::node::{ServedNode, TokenPlace};

/// Rounds that are durable before anything is judged.
const WARM: usize = 24;

/// The node and the load on it. The load ends first.
pub struct Scene {
    load: Load,
    output_key: [u8; 32],
    node: ServedNode,
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
        let load = Load::begin(runtime, &node, group, pace, "outage", seed)?;
        load.warm(WARM);
        Ok(Self { load, output_key, node })
    }

    /// The load.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The load, to be ended, and the node, which has to outlive it.
    pub fn into_parts(self) -> (Load, ServedNode) {
        (self.load, self.node)
    }

    /// The x-only key under which its signatures verify.
    pub fn output_key(&self) -> [u8; 32] {
        self.output_key
    }
}
