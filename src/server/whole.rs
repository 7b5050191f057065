//! A request's message, held back until it is whole and what it holds has been counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tonic::Status;

use super::call::{PREFIX_BYTES, RequestBody};
use super::shared::Shared;
use crate::engine::Refusal;
use crate::wire::bounds::Shape;
use crate::wire::status::refusal_status;

/// The body of a request whose message decodes to no more than its readers take.
pub(super) struct WholeBody {
    body: RequestBody,
    shape: &'static Shape,
    shared: Arc<Shared>,
    held: Vec<u8>,
}

impl WholeBody {
    pub(super) fn new(body: RequestBody, shape: &'static Shape, shared: Arc<Shared>) -> Self {
        Self { body, shape, shared, held: Vec::new() }
    }

    /// What is held, once it is a message that may be decoded.
    fn whole(&mut self) -> Result<Frame<Bytes>, Status> {
        let held = std::mem::take(&mut self.held);
        let message = held.get(PREFIX_BYTES..).unwrap_or_default();
        match self.shape.check(message) {
            Ok(()) => Ok(Frame::data(held.into())),
            Err(error) => {
                let refused = refusal_status(&Refusal::from(error));
                self.shared.counters.refuse_status(&refused);
                Err(refused)
            }
        }
    }
}

impl Body for WholeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.held.extend_from_slice(&data);
                        if self.body.is_whole() {
                            return Poll::Ready(Some(self.whole()));
                        }
                    }
                    // What breaks off is told from what is whole by the library.
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                None if !self.held.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.held).into()))));
                }
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
