//! The persister's thread: a thin loop around [`Persister::step`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::line::Line;
use super::persister::{Next, Persister};
use super::status::Status;

/// Longest time between two looks of a failed persister at whether it is to stop; a stop wakes it at once.
const LOOK: Duration = Duration::from_secs(1);

/// A persister that runs.
pub struct PersisterHandle {
    line: Line,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Persister {
    /// Runs in a thread of its own until [`PersisterHandle::stop`].
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(mut self) -> io::Result<PersisterHandle> {
        let stop = Arc::new(AtomicBool::new(false));
        let (line, stopping) = (self.line().clone(), Arc::clone(&stop));
        let thread = Builder::new().name("persister".into()).spawn(move || {
            // A panic here is our bug; waiting callers still get a typed answer.
            if catch_unwind(AssertUnwindSafe(|| run(&mut self, &stopping))).is_err() {
                self.fail("persister", &"panicked");
                self.publish();
                // What is durable is still released: no other process may open the state before that ends.
                while !stopping.load(Ordering::Acquire) {
                    self.line().wait(LOOK);
                }
                self.close();
            }
        })?;
        Ok(PersisterHandle { line, stop, thread: Some(thread) })
    }
}

fn run(persister: &mut Persister, stopping: &AtomicBool) {
    let line = persister.line().clone();
    while !stopping.load(Ordering::Acquire) {
        match persister.step() {
            Next::Now => {}
            Next::Sleep(time) => line.wait(time),
            Next::Stopped => return,
        }
    }
    persister.finish();
    persister.close();
}

impl PersisterHandle {
    /// Writes what can be written, anchors it, ends the thread and closes the store. Takes as long as the provider's
    /// deadlines; returns the last status.
    pub fn stop(mut self) -> Status {
        self.end();
        self.line.status()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.line.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the persister's thread panicked while it ended");
        }
    }
}

impl Drop for PersisterHandle {
    fn drop(&mut self) {
        self.end();
    }
}
