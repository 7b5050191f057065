//! The manual, built with the documentation so that it cannot drift from the code that it describes.

#[doc = include_str!("overview.md")]
pub mod overview {}

#[doc = include_str!("threat_model.md")]
pub mod threat_model {}

#[doc = include_str!("outage.md")]
pub mod outage {}

#[doc = include_str!("tokens.md")]
pub mod tokens {}

#[doc = include_str!("coordination.md")]
pub mod coordination {}

#[doc = include_str!("network.md")]
pub mod network {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("keygen.md")]
pub mod keygen {}

#[doc = include_str!("store_format.md")]
pub mod store_format {}

#[doc = include_str!("reasons.md")]
pub mod reasons {}

#[doc = include_str!("traps.md")]
pub mod traps {}

#[doc = include_str!("decisions.md")]
pub mod decisions {}
