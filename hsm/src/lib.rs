//! The key provider of Frostkeep: everything that touches a PKCS#11 token, nothing that knows FROST.
//!
//! ```text
//! store > Provider (sealer, outage) > Token > supervisor ==pipe== agent > pkcs11 > module
//!                                      `- scripted (tests)
//! ```
//!
//! - [`provider`], [`health`]: what the store asks for, what everybody may know
//! - [`tokens`]: several tokens as one provider, each on a thread of its own
//! - [`sealer`], [`outage`], [`scheme`]: scheme `hmac` behind the outage machine
//! - [`token`], [`pkcs11_token`], [`supervisor`], [`latch`], [`pin`], [`uri`], [`config`]: one real token, from the node's side
//! - [`agent`], [`classify`]: the process that loads the module
//! - [`drill`]: outages that the agent plays
//! - [`provision`]: `token init`, `show`, `unlatch`; [`check`]: `token check`

pub mod agent;
pub mod check;
pub mod classify;
pub mod clock;
pub mod config;
pub mod drill;
pub mod entropy;
pub mod health;
pub mod latch;
pub mod outage;
pub mod pin;
mod pkcs11;
pub mod pkcs11_token;
pub mod provider;
pub mod provision;
pub mod scheme;
#[cfg(any(test, feature = "danger-scripted-token"))]
pub mod scripted;
pub mod sealer;
pub mod supervisor;
pub mod token;
pub mod tokens;
pub mod uri;
