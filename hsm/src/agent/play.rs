//! What the agent answers in a drill, in the module's place. Nothing here can reach the module.

use std::thread;
use std::time::Duration;

use super::protocol::{PlayedCall, PlayedOutage, Reply};
use crate::classify::{Sample, sample};
use crate::token::{FaultClass, TokenError};

/// Answers as a token in this outage would; does not return from a hang or a crash.
pub(super) fn answer(outage: &PlayedOutage, call: PlayedCall) -> Result<Reply, TokenError> {
    match outage {
        PlayedOutage::Hang => loop {
            // The node kills this process at its deadline.
            thread::sleep(Duration::from_secs(3_600));
        },
        PlayedOutage::Crash => std::process::abort(),
        PlayedOutage::Unplug => Err(match call {
            PlayedCall::Connect => {
                let detail = "no token matches among 0 slots with a token";
                TokenError::new(FaultClass::Token, "find_token", "token_not_found", detail)
            }
            PlayedCall::Login | PlayedCall::Find | PlayedCall::Derive => sample(Sample::DeviceRemoved),
        }),
        PlayedOutage::Pin { token } => match call {
            PlayedCall::Connect => Ok(Reply::Token(token.clone())),
            PlayedCall::Login => Err(sample(Sample::PinIncorrect)),
            // The session has gone with the old PIN: a login is due.
            PlayedCall::Find | PlayedCall::Derive => Err(sample(Sample::UserNotLoggedIn)),
        },
    }
}

/// Lets a slow token take its time.
pub(super) fn delay(ms: u64) -> Result<Reply, TokenError> {
    thread::sleep(Duration::from_millis(ms));
    Ok(Reply::Done)
}
