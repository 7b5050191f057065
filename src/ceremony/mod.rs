//! The driver of a key generation between nodes: it carries messages, names whoever stands in the way, and ends with a key
//! group that every node has confirmed, or with none.
//!
//! ```text
//!   pre-flight everywhere ---> begin ---> relay ---> advance ---> relay ---> finish ---> certify ---> ConfirmedKeyGroup
//!     nothing exists before      |  on a failure everybody is told to abandon  |  from here on a run that died
//!                                |  and a new run takes a new id               |  is resumed by its parameters
//! ```
//!
//! The driver holds no secret and is not believed: messages are signed and encrypted end to end, and a node activates a key
//! only with the certificate that all nodes signed. A driver that alters, drops or repeats messages can make a ceremony fail
//! and nothing else. Every step can be asked again, so that a lost answer costs a retry.
//!
//! - [`NodePort`]: what the driver asks of one node; the client implements it over the network
//! - [`Driver`]: runs and resumes ceremonies
//! - [`Finding`], [`Failed`]: who stood in the way, with what proof
//! - [`Event`]: a line a node and step, for whoever watches
//!
//! The trial signature that proves the key belongs to the caller: [`trial_subject`] says what it signs.

mod drive;
mod event;
mod finding;
mod judge;
mod port;
mod reach;
mod relay;

pub use crate::engine::trial_subject;
pub use drive::Driver;
pub use event::{Event, Observer, Progress, Step};
pub use finding::{CeremonyError, Failed, Finding, Named, Stands};
pub use port::{NodePort, Peer, PortError, Refused};
pub use reach::{Node, Pace};
