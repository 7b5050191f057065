//! Goal: what a node serves, to whom, and when. Method: raw generated clients over real TLS and real Unix sockets against
//! servers in this process, on scripted tokens that can be taken away.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;
mod net;

#[path = "server/coordinating.rs"]
mod coordinating;
#[path = "server/generating.rs"]
mod generating;
#[path = "server/limits.rs"]
mod limits;
#[path = "server/outages.rs"]
mod outages;
#[path = "server/roles.rs"]
mod roles;
#[path = "server/rosters.rs"]
mod rosters;
#[path = "server/signing.rs"]
mod signing;
#[path = "server/sockets.rs"]
mod sockets;
#[path = "server/stage.rs"]
mod stage;
#[path = "server/stopping.rs"]
mod stopping;
