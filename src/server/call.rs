//! One call from its first byte to its last: what it holds, and how long its caller may take to send and to read.
//!
//! A call holds its permits until its reply is handed to HTTP/2, so that slow readers count against the limits too; and a
//! caller that does not read is cut off after a while, so that it cannot keep others out.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::counters::Cause;
use super::settings::count;
use super::shared::Shared;
use crate::limits::SEND_BUFFER_BYTES_MAX;
use crate::reasons::Reason;
use crate::wire::status::status;

tokio::task_local! {
    static CALL: Arc<Call>;
}

/// Length of what precedes a message: a flag of compression, and the message's length (gRPC over HTTP/2).
pub(super) const PREFIX_BYTES: usize = 5;

/// Bytes that one permit of a budget stands for.
const BUDGET_UNIT_BYTES: u64 = 1 << 10;

/// A budget of bytes, as a semaphore.
pub(super) fn budget(bytes: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count(bytes.div_ceil(BUDGET_UNIT_BYTES))))
}

/// Takes `bytes` of the budget for the rest of the call.
fn hold_bytes(budget: &Arc<Semaphore>, call: &Call, bytes: u64) -> Result<(), Status> {
    let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES).max(1)).unwrap_or(u32::MAX);
    let permit = Arc::clone(budget).try_acquire_many_owned(units);
    let full =
        |_| status(Reason::CapacityExceeded, format!("{bytes} bytes: the calls under way leave no room for them"));
    call.hold(permit.map_err(full)?);
    Ok(())
}

/// What a call holds.
pub(super) struct Call {
    permits: Mutex<Vec<OwnedSemaphorePermit>>,
    in_flight: Mutex<Option<InFlight>>,
    misread: AtomicBool,
    /// Odd while something waits for the caller to read it.
    waiting: watch::Sender<u64>,
}

impl Default for Call {
    fn default() -> Self {
        let waiting = watch::Sender::new(0);
        Self { permits: Mutex::default(), in_flight: Mutex::default(), misread: AtomicBool::new(false), waiting }
    }
}

impl Call {
    /// The call that this task serves.
    pub(super) fn current() -> Arc<Self> {
        CALL.try_with(Arc::clone).unwrap_or_default()
    }

    /// Holds a permit until the call is over.
    pub(super) fn hold(&self, permit: OwnedSemaphorePermit) {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
    }

    /// Counts as under way until the call is over.
    pub(super) fn count(&self, in_flight: InFlight) {
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = Some(in_flight);
    }

    /// Its message means nothing: the call is refused without the engine, which counts its own refusals.
    pub(super) fn misread(&self) {
        self.misread.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_misread(&self) -> bool {
        self.misread.load(Ordering::Relaxed)
    }

    /// Says whether the next step is the caller's: to read.
    fn turn(&self, caller_reads: bool) {
        self.waiting.send_if_modified(|turns| {
            let changes = (*turns % 2 == 1) != caller_reads;
            // A frame that follows a frame was read: the time begins anew.
            let again = caller_reads && !changes;
            *turns += u64::from(changes) + 2 * u64::from(again);
            changes || again
        });
    }

    /// Ends when the caller has not read for this long.
    async fn unread(&self, limit: Duration) {
        let mut waiting = self.waiting.subscribe();
        loop {
            let Ok(turn) = waiting.wait_for(|turns| turns % 2 == 1).await.map(|turn| *turn) else { return };
            if tokio::time::timeout(limit, waiting.wait_for(|now| *now != turn)).await.is_err() {
                return;
            }
        }
    }
}

/// Calls under way, counted, so that a stop can wait for them.
#[derive(Clone)]
pub(super) struct InFlights(watch::Sender<usize>);

impl Default for InFlights {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl InFlights {
    pub(super) fn enter(&self) -> InFlight {
        self.0.send_modify(|calls| *calls += 1);
        InFlight(self.0.clone())
    }

    /// Waits until no call is under way.
    pub(super) async fn none(&self) {
        // The sender is ours: the channel does not close.
        let _ = self.0.subscribe().wait_for(|calls| *calls == 0).await;
    }
}

/// One call under way.
pub(super) struct InFlight(watch::Sender<usize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

/// Runs the streams of HTTP/2, one task each.
#[derive(Clone)]
pub(super) struct Streams {
    /// Held by every task of the server: closed when all are over.
    pub(super) alive: mpsc::Sender<()>,
    /// Has the longest that a caller may take to read, and counts those who take longer.
    pub(super) shared: Arc<Shared>,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (call, alive, shared) = (Arc::new(Call::default()), self.alive.clone(), Arc::clone(&self.shared));
        let limit = shared.limits.reply();
        tokio::spawn(CALL.scope(Arc::clone(&call), async move {
            let _alive = alive;
            tokio::select! {
                _ = stream => {}
                // Dropping the stream resets it.
                () = call.unread(limit) => {
                    shared.counters.refuse(Cause::ReplyTimeout);
                    tracing::debug!(?limit, "a reply was not read in time");
                }
            }
        }));
    }
}

/// The body of a request: one message, of bounded length, that comes in time.
pub(super) struct RequestBody {
    incoming: Incoming,
    call: Arc<Call>,
    budget: Arc<Semaphore>,
    shared: Arc<Shared>,
    deadline: Pin<Box<Sleep>>,
    prefix: Vec<u8>,
    left: u64,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, call: Arc<Call>, budget: Arc<Semaphore>, shared: Arc<Shared>) -> Self {
        let deadline = Box::pin(sleep(shared.limits.body()));
        let prefix = Vec::with_capacity(PREFIX_BYTES);
        Self { incoming, call, budget, shared, deadline, prefix, left: 0 }
    }

    /// Looks at what comes before anybody makes room for it.
    fn admit(&mut self, mut data: &[u8]) -> Result<(), Status> {
        if self.prefix.len() < PREFIX_BYTES {
            let (head, rest) = data.split_at(data.len().min(PREFIX_BYTES - self.prefix.len()));
            self.prefix.extend_from_slice(head);
            data = rest;
            if let [_, a, b, c, d] = self.prefix[..] {
                self.begin(u32::from_be_bytes([a, b, c, d]).into())?;
            }
        }
        let found = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(found).ok_or_else(|| {
            status(Reason::InvalidRequest, "the request has more than one message, or more than it says")
        })?;
        Ok(())
    }

    /// Whether its message has come to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.prefix.len() == PREFIX_BYTES && self.left == 0
    }

    fn refuse(&self, refused: Status) -> Status {
        self.shared.counters.refuse_status(&refused);
        refused
    }

    fn begin(&mut self, length: u64) -> Result<(), Status> {
        let limit = self.shared.limits.message_bytes;
        if length > limit {
            let problem = format!("a request of {length} bytes: at most {limit} are allowed");
            return Err(status(Reason::InvalidRequest, problem));
        }
        hold_bytes(&self.budget, &self.call, length)?;
        self.left = length;
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.deadline.as_mut().poll(cx));
            let problem = format!("the request did not come within {} ms", self.shared.limits.body_ms);
            return Poll::Ready(Some(Err(self.refuse(status(Reason::InvalidRequest, problem)))));
        };
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(status(Reason::InvalidRequest, format!("the request broke off: {error}")))),
            Some(Ok(frame)) => match frame.data_ref().map_or(Ok(()), |data| self.admit(data)) {
                Ok(()) => Some(Ok(frame)),
                Err(refused) => Some(Err(self.refuse(refused))),
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The body of a reply. It knows when its caller has to read, and hands a long reply over in pieces: HTTP/2 buffers whatever
/// it is given, and what it buffers is out of our hands.
pub(super) struct ReplyBody {
    body: tonic::body::Body,
    call: Arc<Call>,
    budget: Arc<Semaphore>,
    /// What is left of a long frame.
    left: Bytes,
}

impl ReplyBody {
    pub(super) fn new(body: tonic::body::Body, call: Arc<Call>, budget: Arc<Semaphore>) -> Self {
        // The head is on its way.
        call.turn(true);
        Self { body, call, budget, left: Bytes::new() }
    }

    /// The next piece: a copy, since a slice would keep the whole frame.
    fn piece(&mut self) -> Option<Frame<Bytes>> {
        let size = self.left.len().min(SEND_BUFFER_BYTES_MAX);
        let piece = self.left.split_to(size);
        (size > 0).then(|| Frame::data(Bytes::copy_from_slice(&piece)))
    }

    fn taken(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        match frame.into_data() {
            Ok(data) if data.len() > SEND_BUFFER_BYTES_MAX => {
                hold_bytes(&self.budget, &self.call, data.len() as u64)?;
                self.left = data;
                Ok(self.piece().unwrap_or_else(|| Frame::data(Bytes::new())))
            }
            Ok(data) => Ok(Frame::data(data)),
            Err(other) => Ok(other),
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.piece() {
            self.call.turn(true);
            return Poll::Ready(Some(Ok(piece)));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.call.turn(frame.is_ready());
        frame.map(|frame| frame.map(|frame| frame.and_then(|frame| self.taken(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
