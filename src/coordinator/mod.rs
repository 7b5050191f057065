//! The coordinator of threshold signing: who is asked for what, and who is to blame. It keeps nothing on disk: what a
//! coordinator must remember lies, durable and signed, with the members.
//!
//! ```text
//!   member's node <-- port (sockets) <-- drive (tokio, time, jitter) <-- machine: event in, effects out
//! ```
//!
//! - [`setting`]: what a session signs, under which key, by whom; [`setting::session_id`]
//! - [`ask`]: what a machine asks of members, what comes back, what it tells
//! - [`blame`]: what shows that a member is at fault, with proof or without
//! - [`roast`]: the machine of the policy `roast`, without a clock
//! - [`evidence`]: the machine of the policy `evidence`, RFC-21's order
//! - [`port`]: the way to the members' nodes, as a trait
//! - [`mod@drive`]: runs a machine over a port to the end of its session; `told` says for people how it goes
//!
//! A member is who the channel says, never who a payload names. Nothing that a member sends makes a machine panic, and no
//! honest member is blamed, whatever is lost, repeated, reordered or restarted.

pub mod ask;
pub mod blame;
pub mod drive;
mod end;
pub mod evidence;
pub mod port;
pub mod roast;
pub mod setting;
mod told;

pub use ask::{Ask, Effect, Event, Hindrance, Machine, Progress, RoundAsk};
pub use blame::{Blame, Fault};
pub use drive::{Done, DriveConfig, DriveError, drive, sign, sign_by_evidence};
pub use evidence::EvidenceMachine;
pub use port::{Port, PortError, Refused, RefusedDetail, RoundAnswer, RoundReport, SessionReport};
pub use roast::RoastMachine;
pub use setting::{Setting, session_id};
