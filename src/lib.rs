//! Frostkeep: a threshold Schnorr signer for Bitcoin Taproot whose state is sealed under a PKCS#11 token.

pub mod bitcoin;
pub mod cli;
pub mod engine;
pub mod frost;
pub mod hash;
pub mod identity;
pub mod ids;
pub mod keygen;
pub mod limits;
pub mod manual;
pub mod node;
pub mod policy;
pub mod process;
pub mod reasons;
pub mod roast;
pub mod store;

pub use frostkeep_hsm as hsm;
