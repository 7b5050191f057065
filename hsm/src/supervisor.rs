//! The agent's keeper: starts it, gives every call a deadline, kills it when one is missed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::agent::protocol::{Frame, Reply, Request, VERSION};
use crate::clock::Stopwatch;
use crate::config::AgentCommand;
use crate::token::{Derived, FaultClass, TokenError};

/// Killed agents that may be unreaped. A process in uninterruptible sleep does not die; a third would only join it.
pub const UNREAPED_AGENTS_MAX: usize = 2;

/// How long an agent that has closed its pipe may take to become reapable, milliseconds.
const SELF_ENDED_MS: u32 = 20;

/// How long a request took, its answer included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) operation: &'static str,
    pub(crate) taken: Duration,
}

/// What an answer was.
pub(crate) enum Answer {
    /// A reply without a secret.
    Reply(Reply),
    /// The output of a derivation.
    Derived(Derived),
}

struct Agent {
    child: Child,
    // A thread of its own writes: a full pipe must not hold the caller past its deadline.
    requests: SyncSender<Frame>,
    replies: Receiver<io::Result<Frame>>,
}

/// Keeps at most one live agent.
///
/// The agent dies with this process: when the pipe to it ends, a call that is under way gets a second, and then it is over.
pub struct Supervisor {
    command: AgentCommand,
    environment: BTreeMap<String, String>,
    agent: Option<Agent>,
    unreaped: Vec<Child>,
    started: u64,
    // Only a check asks for them: a node would gather them for ever.
    timings: Option<Vec<Timing>>,
}

impl Supervisor {
    /// A keeper that has started nothing yet. The agent's environment is exactly `environment`.
    pub fn new(command: AgentCommand, environment: BTreeMap<String, String>) -> Self {
        Self { command, environment, agent: None, unreaped: Vec::new(), started: 0, timings: None }
    }

    /// From now on every answered request is timed.
    pub(crate) fn record_timings(&mut self) {
        self.timings = Some(Vec::new());
    }

    /// What was recorded since the last time.
    pub(crate) fn take_timings(&mut self) -> Vec<Timing> {
        self.timings.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Agents started so far.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Process id of the live agent.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(|agent| agent.child.id())
    }

    /// Starts an agent if there is none, and greets it.
    ///
    /// # Errors
    /// Class `Module` when it cannot run or too many dead ones are unreaped, class `Deadline` when it does not greet back.
    pub fn ensure_started(&mut self, deadline: Duration) -> Result<(), TokenError> {
        if self.agent.is_some() {
            return Ok(());
        }
        self.unreaped.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if self.unreaped.len() >= UNREAPED_AGENTS_MAX {
            let pids: Vec<String> = self.unreaped.iter().map(|child| child.id().to_string()).collect();
            let detail = format!(
                "{} killed agents have not died (pids {}), at most {UNREAPED_AGENTS_MAX} may; no other is started",
                pids.len(),
                pids.join(", ")
            );
            return Err(TokenError::new(FaultClass::Module, "start", "agents_unreaped", detail));
        }
        let cannot =
            |cause: io::Error| TokenError::new(FaultClass::Module, "start", "agent_not_started", cause.to_string());
        self.agent = Some(start(&self.command, &self.environment).map_err(cannot)?);
        self.started += 1;
        let hello = Request::Hello { version: VERSION, parent: std::process::id() };
        match self.call(&hello, &[], deadline)? {
            Answer::Reply(Reply::Done) => Ok(()),
            _ => Err(self.confused("start")),
        }
    }

    /// One request, one answer, within `deadline`. A missed deadline, an ended pipe and an answer out of turn all end the agent.
    pub(crate) fn call(&mut self, request: &Request, tail: &[u8], deadline: Duration) -> Result<Answer, TokenError> {
        let operation = request.operation();
        let Some(agent) = self.agent.as_ref() else {
            return Err(TokenError::new(FaultClass::Module, operation, "agent_not_running", ""));
        };
        let frame = Frame::new(request, tail)
            .map_err(|cause| TokenError::new(FaultClass::Usage, operation, "request_too_long", cause.to_string()))?;
        let watch = Stopwatch::start();
        // The channel holds one frame and the agent's writer is idle between calls: this never waits.
        let sent = agent.requests.try_send(frame).is_ok();
        let received = if sent { agent.replies.recv_timeout(deadline) } else { Err(RecvTimeoutError::Disconnected) };
        let frame = match received {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                let detail = self.end_agent(SELF_ENDED_MS);
                return Err(TokenError::new(FaultClass::Module, operation, "agent_ended", detail));
            }
            Err(RecvTimeoutError::Timeout) => {
                self.end_agent(0);
                let detail = format!("no answer within {} ms, the agent was killed", deadline.as_millis());
                return Err(TokenError::new(FaultClass::Deadline, operation, "deadline", detail));
            }
        };
        if let Some(timings) = self.timings.as_mut() {
            timings.push(Timing { operation, taken: watch.elapsed() });
        }
        let answer = match frame.decode::<Reply>() {
            Ok((Reply::Failed(error), [])) => return Err(error),
            Ok((Reply::Derived, output)) => Derived::from_slice(output).map(Answer::Derived),
            Ok((reply, [])) => Some(Answer::Reply(reply)),
            Ok(_) | Err(_) => None,
        };
        answer.ok_or_else(|| self.confused(operation))
    }

    /// Ends the agent: it answered something that nobody asked.
    pub(crate) fn confused(&mut self, operation: &str) -> TokenError {
        self.end_agent(0);
        TokenError::new(FaultClass::Module, operation, "agent_confused", "the answer does not fit the request")
    }

    /// Ends the agent, and reaps it if it is dead already; otherwise a later start does. Says how it ended: what an agent died of
    /// by itself is the news, so one that has closed its pipe gets up to `patience_ms` to become reapable.
    pub(crate) fn end_agent(&mut self, patience_ms: u32) -> String {
        let Some(Agent { mut child, .. }) = self.agent.take() else {
            return String::new();
        };
        for _ in 0..patience_ms {
            if has_ended(&child) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        kill_group(&child);
        let ended = child.try_wait().ok().flatten();
        match ended {
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("ended by signal {signal}"),
                (None, code) => format!("exit code {}", code.unwrap_or(-1)),
            },
            None => {
                self.unreaped.push(child);
                "killed".to_owned()
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end_agent(0);
        for mut child in self.unreaped.drain(..) {
            // A process that does not die holds this thread, not its owner.
            let _ = thread::Builder::new().name("agent-reaper".to_owned()).spawn(move || child.wait());
        }
    }
}

/// Whether it is dead. Does not reap it: its process id, which is its group's, stays taken.
fn has_ended(child: &Child) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    pid(child).is_some_and(|pid| !matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::StillAlive)))
}

/// Kills an agent that was not reaped yet, and what its module forked. One that is dead already stays dead.
fn kill_group(child: &Child) {
    if let Some(pid) = pid(child) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().map(Pid::from_raw)
}

fn start(command: &AgentCommand, environment: &BTreeMap<String, String>) -> io::Result<Agent> {
    let mut child = Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Whatever a module prints is nobody's: it may hold anything, and an unread pipe would fill.
        .stderr(Stdio::null())
        // A Ctrl-C at the terminal is the node's to handle; the agent dies with it. What a module forks is killed with the group.
        .process_group(0)
        .spawn()?;
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the agent has no pipes"));
    };
    let (requests, to_write) = sync_channel::<Frame>(1);
    let (to_hand_over, replies) = sync_channel(1);
    let spawned = thread::Builder::new()
        .name("agent-writer".to_owned())
        .spawn(move || {
            while let Ok(frame) = to_write.recv() {
                if frame.write_to(&mut stdin).is_err() {
                    return;
                }
            }
        })
        .and_then(|_| {
            thread::Builder::new().name("agent-reader".to_owned()).spawn(move || {
                loop {
                    let frame = Frame::read_from(&mut stdout);
                    let last = frame.is_err();
                    if to_hand_over.send(frame).is_err() || last {
                        return;
                    }
                }
            })
        });
    if let Err(cause) = spawned {
        kill_group(&child);
        let _ = child.try_wait();
        return Err(cause);
    }
    Ok(Agent { child, requests, replies })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("/bin/sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn no_third_agent_joins_two_that_have_not_died() {
        let command = AgentCommand { program: "/bin/true".into(), arguments: Vec::new() };
        let mut supervisor = Supervisor::new(command, BTreeMap::new());
        supervisor.unreaped.extend([sleeper(), sleeper()]);
        let error = supervisor.ensure_started(Duration::from_millis(100)).unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (FaultClass::Module, "agents_unreaped"));
        assert!(error.detail.contains(&supervisor.unreaped[0].id().to_string()), "{error}");
        assert_eq!(supervisor.started(), 0);
        supervisor.unreaped[0].kill().unwrap();
        supervisor.unreaped[0].wait().unwrap();
        // Room again: it is started, and ends at once, since this one is no agent.
        let error = supervisor.ensure_started(Duration::from_millis(1_000)).unwrap_err();
        assert_eq!((error.code.as_str(), error.detail.as_str()), ("agent_ended", "exit code 0"));
        assert_eq!(supervisor.started(), 1);
        for child in &mut supervisor.unreaped {
            child.kill().unwrap();
        }
    }

    #[test]
    fn what_an_agent_forked_dies_with_it() {
        // The first hangs, the second ends by itself and leaves its helper behind.
        for (rest, deadline_ms, code) in [("exec /bin/sleep 60", 2_000, "deadline"), ("exit 3", 20_000, "agent_ended")]
        {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("helper");
            let script = format!("/bin/sleep 60 >/dev/null & echo $! > {}; {rest}", path.display());
            let command = AgentCommand { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script] };
            let mut supervisor = Supervisor::new(command, BTreeMap::new());
            let error = supervisor.ensure_started(Duration::from_millis(deadline_ms)).unwrap_err();
            assert_eq!(error.code, code);
            assert_eq!(error.detail == "exit code 3", code == "agent_ended", "how it ended is still told");
            let helper = std::fs::read_to_string(&path).unwrap();
            let runs = || {
                // A zombie is dead.
                std::fs::read_to_string(format!("/proc/{}/stat", helper.trim()))
                    .is_ok_and(|stat| !stat.contains(") Z "))
            };
            for _ in 0..1_000 {
                if !runs() {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            assert!(!runs(), "{code}");
        }
    }

    #[test]
    fn a_call_without_an_agent_is_refused() {
        let command = AgentCommand { program: "/bin/true".into(), arguments: Vec::new() };
        let mut supervisor = Supervisor::new(command, BTreeMap::new());
        let refused =
            supervisor.call(&Request::Login { lock: "lock".into() }, b"1234", Duration::from_secs(1)).err().unwrap();
        assert_eq!(refused.code, "agent_not_running");
    }
}
