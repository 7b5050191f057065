//! The key provider of Frostkeep: everything that touches a PKCS#11 token, nothing that knows FROST.

pub mod clock;
pub mod entropy;
pub mod health;
pub mod provider;
