//! The outage drill: shows on a node what an outage of its token does to it, and what it does not, and writes that down.
//!
//! ```text
//!   Plan --> Course: rounds before | begin --> replays, fresh rounds, status --> over by itself | rounds after --> Observed
//!                        |                                                                                         |
//!                      Stand: a running node over the network, or a scratch node in this process        judge --> Report
//! ```
//!
//! What is measured and what is expected are apart: the course only notes, [`judge`] holds what was seen against the manual's table
//! of outages, line by line. The outage is played by the node's token agent ([`frostkeep_hsm::drill`]); the rounds are of a message
//! that spends nothing ([`crate::engine::drill_subject`]).
//!
//! - [`stand`]: what is drilled, as a trait; `remote`: a running node; [`scratch`]: a node of this process
//! - [`course`]: one kind after the other; `session`, `prepared`, `watch`: its rounds, and its eye on the node
//! - [`observed`], [`judge`], [`report`]: what was expected and seen; what an auditor keeps

pub mod course;
pub mod judge;
pub mod observed;
mod prepared;
mod remote;
pub mod report;
pub mod scratch;
mod session;
pub mod stand;
mod utc;
mod watch;

pub use course::{Course, CourseError, Plan};
pub use remote::{NoRounds, Remote};
pub use report::{Drilled, Report};
pub use scratch::{Scratch, ScratchError};
pub use stand::{Seat, Stand};
