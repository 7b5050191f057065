//! Goal: callers that mean ill, or do not know better, are refused and counted, hold no more than the limits say, and cost nobody
//! else anything. Method: real TLS sockets against servers in this process that hold a key and a durable round; frames by hand
//! where no library would send them. Every case ends with an honest caller, in bounded time.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;
mod net;

#[path = "bad_callers/calls.rs"]
mod calls;
#[path = "bad_callers/impostors.rs"]
mod impostors;
#[path = "bad_callers/memory.rs"]
mod memory;
#[path = "bad_callers/oversized.rs"]
mod oversized;
#[path = "bad_callers/raw.rs"]
mod raw;
#[path = "bad_callers/scene.rs"]
mod scene;
#[path = "bad_callers/silent.rs"]
mod silent;
#[path = "bad_callers/slow.rs"]
mod slow;
#[path = "server/stage.rs"]
#[allow(dead_code, reason = "the tests of the server use all of it")]
mod stage;
#[path = "bad_callers/strangers.rs"]
mod strangers;
