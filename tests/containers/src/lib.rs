//! A real token that can be taken away as operators lose theirs: SoftHSM in a container, reached through p11-kit, and a real
//! node under load before it.
//!
//! ```text
//!   clients (load) --TLS--> node, a process --pipe--> token agent --p11-kit-client.so--> socket
//!                                                                                          |
//!      bind mount <------------------------------------------------------------------------+
//!      or socat <--TCP, a bridge network--> socat                                          |
//!           |                                 |                                            v
//!           +--------------------------> p11-kit server --> SoftHSM, all of it in the container
//! ```
//!
//! - [`engine`]: whether a container engine answers
//! - [`leftovers`]: what a killed run has left, and its removal
//! - [`image`]: the image, from this machine's own files, without a registry
//! - [`container`]: the container: paused, killed, started, restarted, removed
//! - [`bridge`]: the way to it over a network, frozen or cut
//! - [`node`]: the command, and a node as its process
//! - [`group`]: the key group that the node holds, and what it is asked
//! - [`load`]: clients that ask, and the book that they keep
//! - [`scene`]: node and load together
//! - [`judge`]: what the book has to say
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support"
)]

pub mod bridge;
pub mod container;
pub mod engine;
pub mod group;
pub mod image;
pub mod judge;
pub mod leftovers;
pub mod load;
pub mod node;
pub mod scene;

/// Why a fixture could not be made: the surroundings, in words.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;
