//! The sealed, chained journal: records in line, frames on disk, positions that prove durability.

pub mod durable;
pub mod line;

pub use durable::{Durable, DurablePosition, Placed, Position};
