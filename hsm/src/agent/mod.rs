//! The token agent: the process that loads the PKCS#11 module, so that the module can neither read the node's memory, nor crash
//! it, nor hang it.

pub mod anchor;
pub mod examine;
mod harden;
mod play;
pub mod protocol;

use std::fs::File;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::{Frame, Reply, Request, VERSION};

use crate::latch::{TURN_PAUSE_MS, alone};
use crate::pkcs11::Module;
use crate::token::{FaultClass, TokenError};

/// The hidden subcommand under which the node's own program is the agent.
pub const SUBCOMMAND: &str = "token-agent";

/// How long a call may go on when its node has died, milliseconds. SoftHSM rewrites the token's own file in a login: an agent that
/// is killed inside one can leave a token that nobody finds again. A call that hangs ends all the same.
const ORPHAN_MS_MAX: u64 = 1_000;

/// An orphan's login is over within [`ORPHAN_MS_MAX`].
const LOGIN_TRIES: u64 = 2 * ORPHAN_MS_MAX / TURN_PAUSE_MS;

/// The agent's whole life: hardens the process, then answers requests until the pipe ends. Must be the first thing that a
/// process does: it closes every descriptor above 2.
///
/// # Security
/// A failure here goes to nobody but the parent, as the end of the pipe and an exit code; nothing is printed.
pub fn main() -> ExitCode {
    let Ok(harden::Pipes { requests, mut replies }) = harden::harden() else {
        return ExitCode::from(2);
    };
    let Some(requests) = read(requests) else {
        return ExitCode::from(2);
    };
    let mut module = Module::default();
    let mut greeted = false;
    loop {
        let Ok(frame) = requests.recv() else {
            // The parent is gone or has had enough. No finalize: a hung module would keep this process.
            return ExitCode::SUCCESS;
        };
        let Ok((request, tail)) = frame.decode::<Request>() else {
            return ExitCode::from(3);
        };
        let written = match (&request, greeted) {
            (Request::Hello { version, parent }, _) => {
                let ours = u32::try_from(nix::unistd::getppid().as_raw()).ok();
                // The one that speaks must be the one that started us.
                if *version != VERSION || ours != Some(*parent) {
                    return ExitCode::from(4);
                }
                greeted = true;
                reply(&mut replies, Ok(Reply::Done))
            }
            (_, false) => return ExitCode::from(5),
            (Request::Derive { key }, true) => match module.derive(*key, tail) {
                Ok(derived) => {
                    Frame::new(&Reply::Derived, derived.expose()).and_then(|frame| frame.write_to(&mut replies))
                }
                Err(error) => reply(&mut replies, Err(error)),
            },
            (Request::Connect { module: path, token }, true) => {
                let answer = module.connect(path, token).map(Reply::Token);
                reply(&mut replies, answer)
            }
            (Request::Login { lock }, true) => {
                // Two at once would rewrite SoftHSM's token file together, when the agent of a node that was killed finishes its
                // login while that of the next one begins.
                let answer = alone(lock, LOGIN_TRIES).and_then(|_alone| module.login(tail)).map(|()| Reply::Done);
                reply(&mut replies, answer)
            }
            (Request::Find { label, id }, true) => {
                let answer = module.find(label.as_deref(), id.as_deref()).map(Reply::Keys);
                reply(&mut replies, answer)
            }
            (Request::CreateKey { label, id }, true) => {
                let answer = module.create_key(label, id).map(|()| Reply::Done);
                reply(&mut replies, answer)
            }
            (Request::Play { outage, call }, true) => reply(&mut replies, play::answer(outage, *call)),
            (Request::Delay { ms }, true) => reply(&mut replies, play::delay(*ms)),
            (Request::Examine(request), true) => reply(&mut replies, examine::answer(&mut module, request)),
            (Request::Anchor(request), true) => reply(&mut replies, anchor::answer(&module, request, tail)),
        };
        drop(frame);
        if written.is_err() {
            return ExitCode::from(6);
        }
    }
}

/// Reads requests on a thread of its own, so that the end of the pipe is seen during a call too. The node holds the only other
/// end: when it has died, however, the call that is under way gets its time, and then this process ends.
fn read(mut pipe: File) -> Option<Receiver<Frame>> {
    let (sender, requests) = sync_channel(1);
    let reader = thread::Builder::new().name("requests".to_owned()).spawn(move || {
        while let Ok(frame) = Frame::read_from(&mut pipe) {
            if sender.send(frame).is_err() {
                return;
            }
        }
        drop(sender);
        thread::sleep(Duration::from_millis(ORPHAN_MS_MAX));
        // Not exit(): a module's own exit handlers could wait for the call that hangs.
        let _ = kill(Pid::this(), Signal::SIGKILL);
    });
    reader.is_ok().then_some(requests)
}

fn reply(replies: &mut File, answer: Result<Reply, TokenError>) -> std::io::Result<()> {
    let reply = answer.unwrap_or_else(Reply::Failed);
    match Frame::new(&reply, &[]) {
        Ok(frame) => frame.write_to(replies),
        Err(cause) => {
            let error = TokenError::new(FaultClass::Integrity, "reply", "reply_too_long", cause.to_string());
            Frame::new(&Reply::Failed(error), &[])?.write_to(replies)
        }
    }
}
