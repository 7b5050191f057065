//! The client of nodes: typed calls, made again when their answer was lost, over TLS with pinned keys or a Unix socket.
//!
//! ```text
//!   coordinator::Port, ceremony::NodePort <-- Network: every node of a roster
//!                                               |
//!                                             Client: one node --> channel (HTTP/2) --> TLS, or a Unix socket
//! ```
//!
//! Repeating is safe. What a signature is made of is answered with the same bytes again. A policy, an identity or an end that
//! is recorded twice has the effect of one; a freeze that is made twice is two, and a thaw has to name both. Answers are not
//! believed: lengths, encodings and names are checked, and what does not fit is [`ClientError::Nonsense`]. Texts are made
//! harmless for a terminal where they are read.
//!
//! - [`Client`], [`Endpoint`], [`Patience`]: one node
//! - [`Network`], [`NodeClient`], [`MemberPort`]: all nodes of a roster, for the drivers of signing and of key generation
//! - [`KnownGroup`]: what of the nodes' words about a key group is believed
//! - [`Signed`]: a signature, coordinated here or by a node, and verified here
//! - [`view`]: what nodes say of themselves and of key groups

mod admin;
mod agreement;
mod ceremony;
mod channel;
mod coordination;
mod drill;
mod error;
mod network;
mod node;
mod patience;
mod port;
mod read;
mod signer;
mod signing;
#[cfg(test)]
mod tests;
pub mod view;

pub use admin::{FreezeReply, RosterReply};
pub use agreement::{KnownGroup, NotKnown};
pub use channel::Endpoint;
pub use coordination::{Blamed, Coordinated};
pub use drill::{DrillBegun, DrillOrder, DrillView, TokenView};
pub use error::ClientError;
pub use network::{MemberPort, Network, NodeClient};
pub use node::Client;
pub use patience::{Again, Patience};
pub use signer::{Approved, ServedRound};
pub use signing::{Signed, SigningError};
