//! Reaching nodes: all at once, again and again until a deadline, with a line of progress for each.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::event::{Event, Observer, Progress, Step};
use super::port::{NodePort, PortError};
use crate::identity::IdentityKey;
use crate::limits;

/// A node as the driver knows it.
#[derive(Debug)]
pub struct Node<P> {
    /// Its name in the roster.
    pub name: String,
    /// Its identity, which its answers are held against.
    pub identity: IdentityKey,
    /// The way to it.
    pub port: P,
}

/// How long and how often the driver tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The longest that one step with one node is tried, milliseconds; then the node is absent.
    pub step_ms_max: u64,
    /// The same for the pre-flight, which people wait for.
    pub preflight_ms_max: u64,
    /// The longest that one answer is waited for, milliseconds.
    pub call_ms_max: u64,
    /// The longest that a farewell is waited for, milliseconds: nothing depends on it.
    pub farewell_ms_max: u64,
    /// The first pause between two tries, milliseconds; each is twice the last.
    pub backoff_ms_min: u64,
    /// The longest pause, milliseconds.
    pub backoff_ms_max: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            step_ms_max: limits::CEREMONY_STEP_MS_MAX,
            preflight_ms_max: 15_000,
            call_ms_max: limits::CEREMONY_CALL_MS_MAX,
            farewell_ms_max: 5_000,
            backoff_ms_min: 100,
            backoff_ms_max: 5_000,
        }
    }
}

/// One step with one node.
pub(super) struct Reach<P> {
    pub(super) index: usize,
    pub(super) node: Arc<Node<P>>,
    step: Step,
    pace: Pace,
    observer: Observer,
    /// Why the last try failed, for whoever runs into the deadline.
    last: Arc<Mutex<Option<PortError>>>,
}

impl<P> Clone for Reach<P> {
    fn clone(&self) -> Self {
        Self {
            index: self.index,
            node: Arc::clone(&self.node),
            step: self.step,
            pace: self.pace,
            observer: Arc::clone(&self.observer),
            last: Arc::clone(&self.last),
        }
    }
}

impl<P: NodePort> Reach<P> {
    fn say(&self, progress: Progress) {
        (self.observer)(Event { node: self.node.name.clone(), step: self.step, progress });
    }

    /// One try, with the deadline of one answer.
    pub(super) async fn once<T>(&self, call: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        let limit_ms = if self.step == Step::Abandon { self.pace.farewell_ms_max } else { self.pace.call_ms_max };
        match timeout(Duration::from_millis(limit_ms), call).await {
            Ok(answer) => answer,
            Err(_) => Err(PortError::Unreachable(format!("no answer within {limit_ms} ms"))),
        }
    }

    /// Tries until the answer is final. The step's deadline ends it otherwise.
    pub(super) async fn insist<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, PortError>
    where
        F: Future<Output = Result<T, PortError>>,
    {
        let mut pause_ms = self.pace.backoff_ms_min;
        loop {
            match self.once(call()).await {
                Err(error) if self.tries_again_after(&error) => {
                    self.say(Progress::Retrying { problem: error.to_string() });
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                answer => return answer,
            }
            sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = pause_ms.saturating_mul(2).min(self.pace.backoff_ms_max);
        }
    }

    /// A pre-flight says at once what is missing; it only gives the network its chance.
    fn tries_again_after(&self, error: &PortError) -> bool {
        error.passes_later() && (self.step != Step::Preflight || error.reason().is_none())
    }

    /// `work`, until the step's deadline.
    async fn until_deadline<T>(&self, work: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        self.say(Progress::Started);
        let limit_ms = match self.step {
            Step::Preflight => self.pace.preflight_ms_max,
            _ => self.pace.step_ms_max,
        };
        let answer = match timeout(Duration::from_millis(limit_ms), work).await {
            Ok(answer) => answer,
            Err(_) => Err(self
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .unwrap_or_else(|| PortError::Unreachable(format!("not done within {limit_ms} ms")))),
        };
        self.say(match &answer {
            Ok(_) => Progress::Done,
            Err(error) => Progress::Failed { problem: error.to_string() },
        });
        answer
    }
}

/// What each of the nodes asked has answered, by its index, ascending.
pub(super) type Answers<T> = Vec<(usize, Result<T, PortError>)>;

/// Does `work` with each of `among` at once.
pub(super) async fn everywhere<P, T, F>(
    among: &[(usize, Arc<Node<P>>)],
    step: Step,
    pace: Pace,
    observer: &Observer,
    work: impl Fn(Reach<P>) -> F,
) -> Answers<T>
where
    P: NodePort,
    T: Send + 'static,
    F: Future<Output = Result<T, PortError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (index, node) in among {
        let reach = Reach {
            index: *index,
            node: Arc::clone(node),
            step,
            pace,
            observer: Arc::clone(observer),
            last: Arc::default(),
        };
        let work = work(reach.clone());
        tasks.spawn(async move { (reach.index, reach.until_deadline(work).await) });
    }
    let mut answers: Answers<T> = Vec::with_capacity(among.len());
    while let Some(done) = tasks.join_next().await {
        answers.extend(done);
    }
    for (index, _) in among {
        if !answers.iter().any(|(answered, _)| answered == index) {
            answers.push((*index, Err(PortError::Unreachable("the call to it ended early: a defect".into()))));
        }
    }
    answers.sort_by_key(|(index, _)| *index);
    answers
}
