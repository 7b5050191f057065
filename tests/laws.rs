//! Goal: the invariants I1 to I7 and the four faults of the reference (F1 to F4), each as the law that it breaks.
//! Method: one node of a cluster has its persister stepped by hand, so that every moment between a record's entry and its
//! durability can be looked at; bodies are generic, and run on a scripted token and on SoftHSM.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;

#[path = "laws/faults.rs"]
mod faults;
#[path = "laws/nonces.rs"]
mod nonces;
#[path = "laws/opening.rs"]
mod opening;
#[path = "laws/paused.rs"]
mod paused;
#[path = "laws/served.rs"]
mod served;
#[path = "laws/stage.rs"]
mod stage;
