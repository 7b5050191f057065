//! One token's provider on a thread of its own, so that a token that hangs holds nobody who can do without it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::{io, thread};

use crate::clock::Clock;
use crate::health::{Health, Outage, OutageClass, ProviderState, TokenHealth};
use crate::provider::{KeyDescriptor, KeyName, KeyProvider, Waker};
use crate::scheme;

type Job = Box<dyn FnOnce(&mut dyn KeyProvider) + Send>;

/// What is known of the token between two calls.
#[derive(Clone)]
pub(super) struct View {
    pub(super) health: Health,
    pub(super) tokens: Vec<TokenHealth>,
    pub(super) keys: Vec<KeyDescriptor>,
    pub(super) connection: u64,
    /// Whether the first connection was tried.
    pub(super) tried: bool,
}

impl View {
    /// Whether the token has the key of this name open.
    pub(super) fn opens(&self, name: KeyName) -> bool {
        self.tokens.iter().flat_map(|token| &token.keys).any(|key| scheme::key_name(key) == name)
    }
}

struct Shared {
    view: Mutex<View>,
    waker: Mutex<Option<Waker>>,
    // Jobs that were not answered yet.
    pending: AtomicUsize,
}

impl Shared {
    fn publish(&self, provider: &dyn KeyProvider) {
        self.replace(View {
            health: provider.health(),
            tokens: provider.tokens(),
            keys: provider.keys(),
            connection: provider.connection(),
            tried: true,
        });
    }

    fn replace(&self, view: View) {
        let mut known = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let news = known.health.state != view.health.state || known.connection != view.connection || !known.tried;
        *known = view;
        drop(known);
        if news {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(waker) = waker {
                waker();
            }
        }
    }
}

/// A provider that works on a thread of its own.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, which begins with the first connection.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(provider: Box<dyn KeyProvider>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let view = View {
            health: provider.health(),
            tokens: provider.tokens(),
            keys: Vec::new(),
            connection: 0,
            tried: false,
        };
        let shared = Arc::new(Shared { view: Mutex::new(view), waker: Mutex::new(None), pending: AtomicUsize::new(0) });
        let (jobs, to_do) = channel();
        let guard = Guard { shared: Arc::clone(&shared), clock };
        let thread = Builder::new().name("token".to_owned()).spawn(move || run(provider, &to_do, &guard))?;
        Ok(Self { jobs: Some(jobs), shared, thread: Some(thread) })
    }

    pub(super) fn view(&self) -> View {
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_waker(&self, waker: Waker) {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// Whether it owes an answer.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.pending.load(Ordering::Acquire) > 0
    }

    /// Asks for `call`; its answer goes to `to` with `tag`, after the view that it led to. Nothing comes when the thread is gone.
    pub(super) fn ask<R: Send + 'static>(
        &self,
        tag: usize,
        to: &Sender<(usize, R)>,
        call: impl FnOnce(&mut dyn KeyProvider) -> R + Send + 'static,
    ) {
        let (to, shared) = (to.clone(), Arc::clone(&self.shared));
        let job: Job = Box::new(move |provider| {
            let answer = call(provider);
            shared.publish(provider);
            shared.pending.fetch_sub(1, Ordering::AcqRel);
            // Nobody may be waiting any more.
            let _ = to.send((tag, answer));
        });
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            self.shared.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Asks for `call` and for no answer.
    pub(super) fn tell(&self, call: impl FnOnce(&mut dyn KeyProvider) + Send + 'static) {
        let (to, _) = channel();
        self.ask(0, &to, call);
    }

    /// Asks and waits: as long as the token's deadlines. None when the thread is gone.
    pub(super) fn answer<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut dyn KeyProvider) -> R + Send + 'static,
    ) -> Option<R> {
        let (to, answers) = channel();
        self.ask(0, &to, call);
        drop(to);
        answers.recv().ok().map(|(_, answer)| answer)
    }
}

impl Worker {
    /// Lets the thread end: after the call under way, and what waits.
    pub(super) fn close(&mut self) {
        self.jobs = None;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says so when the thread ends by a panic: its view must not go on looking healthy.
struct Guard {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outage = Outage {
            class: OutageClass::Module,
            since: self.clock.now(),
            since_unix: self.clock.unix_seconds(),
            next_try: None,
            detail: "the thread of this token panicked: a bug; restart the node".to_owned(),
            token: view.tokens.first().map(|token| token.name.clone()).unwrap_or_default(),
        };
        view.health.state = ProviderState::Out;
        view.health.outage = Some(outage.clone());
        for token in &mut view.tokens {
            token.state = ProviderState::Out;
            token.outage = Some(outage.clone());
        }
        view.tried = true;
        self.shared.replace(view);
    }
}

fn run(mut provider: Box<dyn KeyProvider>, jobs: &Receiver<Job>, guard: &Guard) {
    loop {
        let rest = provider.tick();
        guard.shared.publish(&*provider);
        let mut next = jobs.recv_timeout(rest);
        // What waits comes before the next look: a probe takes its time, and whoever closes waits for it.
        while let Ok(job) = next {
            job(&mut *provider);
            next = jobs.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
        if let Err(RecvTimeoutError::Disconnected) = next {
            return;
        }
    }
}
