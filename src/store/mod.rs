//! The sealed, chained journal: records in line, frames on disk, positions that prove durability.
//!
//! `engine -> line -> persister -> frame, seal, rows -> frames (redb)`, and back through `recovery`. The bytes are
//! specified in the manual, `store_format`.

mod anchor;
mod core;
mod creation;
pub mod deny;
pub mod durable;
pub mod files;
mod frame;
pub mod frames;
mod handle;
pub mod line;
mod open_error;
mod persister;
mod recovery;
mod rows;
mod seal;
mod snapshot;
pub mod status;
#[cfg(test)]
mod tests;

pub use self::core::{Environment, FreeSpace, Tuning};
pub use anchor::{AnchorStatus, Strength};
pub use creation::{CreateError, create, create_over, is_made};
pub use deny::{Denial, DenyDisk, DenyError, DenyFiles};
pub use durable::{Durable, DurablePosition, Placed, Position};
pub use files::VolumeSpace;
pub use frame::FORMAT_VERSION;
pub use handle::PersisterHandle;
pub use line::{EncodedRecord, Line, LineFull, RecordSize, Slot, SlotKind};
pub use open_error::OpenError;
pub use persister::{Next, Persister};
pub use recovery::{NotOpened, Opened, Opening, RecoverySink, SinkError, Verified};
pub use snapshot::{SnapshotData, SnapshotSource};
pub use status::{Counters, Releases, Status, Storage, TokenStatus};
