//! The token agent: the process that loads the PKCS#11 module, so that the module can neither read the node's memory, nor crash
//! it, nor hang it.

mod harden;
pub mod protocol;

use std::process::ExitCode;

use protocol::{Frame, Reply, Request, VERSION};

use crate::pkcs11::Module;
use crate::token::{FaultClass, TokenError};

/// The hidden subcommand under which the node's own program is the agent.
pub const SUBCOMMAND: &str = "token-agent";

/// The agent's whole life: hardens the process, then answers requests until the pipe ends. Must be the first thing that a
/// process does: it closes every descriptor above 2.
///
/// # Security
/// A failure here goes to nobody but the parent, as the end of the pipe and an exit code; nothing is printed.
pub fn main() -> ExitCode {
    let Ok(mut pipes) = harden::harden() else {
        return ExitCode::from(2);
    };
    let mut module = Module::default();
    let mut greeted = false;
    loop {
        let Ok(frame) = Frame::read_from(&mut pipes.requests) else {
            // The parent is gone or has had enough. No finalize: a hung module would keep this process.
            return ExitCode::SUCCESS;
        };
        let Ok((request, tail)) = frame.decode::<Request>() else {
            return ExitCode::from(3);
        };
        let written = match (&request, greeted) {
            (Request::Hello { version, parent }, _) => {
                let ours = u32::try_from(nix::unistd::getppid().as_raw()).ok();
                // A parent that died before the death signal was asked for has left us to somebody else.
                if *version != VERSION || ours != Some(*parent) {
                    return ExitCode::from(4);
                }
                greeted = true;
                reply(&mut pipes, Ok(Reply::Done))
            }
            (_, false) => return ExitCode::from(5),
            (Request::Derive { key }, true) => match module.derive(*key, tail) {
                Ok(derived) => {
                    Frame::new(&Reply::Derived, derived.expose()).and_then(|frame| frame.write_to(&mut pipes.replies))
                }
                Err(error) => reply(&mut pipes, Err(error)),
            },
            (Request::Connect { module: path, token }, true) => {
                let answer = module.connect(path, token).map(Reply::Token);
                reply(&mut pipes, answer)
            }
            (Request::Login, true) => {
                let answer = module.login(tail).map(|()| Reply::Done);
                reply(&mut pipes, answer)
            }
            (Request::Find { label, id }, true) => {
                let answer = module.find(label.as_deref(), id.as_deref()).map(Reply::Keys);
                reply(&mut pipes, answer)
            }
            (Request::CreateKey { label, id }, true) => {
                let answer = module.create_key(label, id).map(|()| Reply::Done);
                reply(&mut pipes, answer)
            }
        };
        drop(frame);
        if written.is_err() {
            return ExitCode::from(6);
        }
    }
}

fn reply(pipes: &mut harden::Pipes, answer: Result<Reply, TokenError>) -> std::io::Result<()> {
    let reply = answer.unwrap_or_else(Reply::Failed);
    match Frame::new(&reply, &[]) {
        Ok(frame) => frame.write_to(&mut pipes.replies),
        Err(cause) => {
            let error = TokenError::new(FaultClass::Integrity, "reply", "reply_too_long", cause.to_string());
            Frame::new(&Reply::Failed(error), &[])?.write_to(&mut pipes.replies)
        }
    }
}
