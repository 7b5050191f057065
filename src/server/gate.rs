//! The gate: every call passes it before a byte of its body is read. Who asks, may they, is there room, is the node open.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin as Pinned;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::call::{Call, ReplyBody, RequestBody};
use super::methods::{self, Method, Sealed};
use super::services::Routes;
use super::settings::count;
use super::shared::{Asker, Entrance, Shared};
use super::whole::WholeBody;
use crate::engine::{Caller, Refusal, Role};
use crate::reasons::Reason;
use crate::roster::Pin;
use crate::wire::bounds;
use crate::wire::status::{refusal_status, status};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Who {
    /// The holder of this client key. The roster in force says who that is, at every call.
    Pin(Pin),
    /// A user of this machine, whom the configuration lets in.
    User(u32),
}

/// The gate of one connection.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) shared: Arc<Shared>,
    pub(super) entrance: Arc<Entrance>,
    pub(super) routes: Routes,
    pub(super) who: Who,
}

impl Gate {
    async fn answer(mut self, mut request: Request<Incoming>) -> Response<ReplyBody> {
        let call = Call::current();
        let buffered = Arc::clone(&self.entrance.buffered);
        let response = match self.admit(request.uri().path(), &call) {
            Ok((method, asker)) => {
                let caller = method.is_noted().then(|| asker.caller.name.clone());
                request.extensions_mut().insert(asker);
                let body = |incoming| {
                    let body =
                        RequestBody::new(incoming, Arc::clone(&call), Arc::clone(&buffered), Arc::clone(&self.shared));
                    WholeBody::new(body, bounds::of(method.path), Arc::clone(&self.shared))
                };
                let request = request.map(body);
                let response = with_reason(self.routes.call(request).await, &call);
                if let Some(refused) = Status::from_header_map(response.headers()).filter(|_| call.is_misread()) {
                    self.shared.counters.refuse_status(&refused);
                }
                if let Some(caller) = caller {
                    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
                    tracing::info!(%caller, method = method.path, ?code, "called");
                }
                response
            }
            Err(status) => {
                self.shared.counters.refuse_status(&status);
                tracing::debug!(who = ?self.who, path = request.uri().path(), %status, "refused");
                status.into_http()
            }
        };
        response.map(|body| ReplyBody::new(body, call, buffered))
    }

    fn admit(&self, path: &str, call: &Call) -> Result<(&'static Method, Asker), Status> {
        let method = methods::find(path).ok_or_else(|| Status::unimplemented("there is no such method"))?;
        let caller = self.caller()?;
        caller.require(method.roles).map_err(|refusal| refusal_status(&refusal))?;
        // Counted before the stage is looked at: a stop that sees no call under way has seen this one refused.
        call.count(self.shared.in_flight.enter());
        if self.shared.is_stopping() && !method.while_stopping {
            return Err(status(Reason::Stopping, "the node is stopping: it takes nothing new"));
        }
        let full =
            |_| refusal_status(&Refusal::CapacityExceeded { what: "calls under way", limit: self.entrance.calls_max });
        call.hold(Arc::clone(&self.entrance.calls).try_acquire_owned().map_err(full)?);
        let network = self.entrance.network;
        let needs_state = match method.sealed {
            Sealed::Answers => false,
            Sealed::OnSocket => network,
            Sealed::Refuses => true,
        };
        if needs_state {
            self.shared.engine()?;
        }
        Ok((method, Asker { caller, network }))
    }

    fn caller(&self) -> Result<Caller, Status> {
        match self.who {
            Who::Pin(pin) => self.shared.rosters.current().caller(&pin).ok_or_else(|| {
                status(Reason::PermissionDenied, "the roster in force does not know the key of this connection")
            }),
            Who::User(uid) => {
                Ok(Caller { name: format!("uid {uid}"), identity: None, roles: vec![Role::Admin, Role::Observer] })
            }
        }
    }

    /// Streams that this connection may have open.
    pub(super) fn streams_max(&self) -> u32 {
        u32::try_from(count(self.shared.limits.calls_per_connection)).unwrap_or(u32::MAX)
    }
}

impl hyper::service::Service<Request<Incoming>> for Gate {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pinned<Box<dyn Future<Output = Result<Response<ReplyBody>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let gate = self.clone();
        Box::pin(async move { Ok(gate.answer(request).await) })
    }
}

/// What the library refuses by itself, messages that do not decode, is the caller's fault and says so like any refusal.
fn with_reason(response: Response<tonic::body::Body>, call: &Call) -> Response<tonic::body::Body> {
    let Some(found) = Status::from_header_map(response.headers()) else { return response };
    let from_library =
        matches!(found.code(), Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::Unknown);
    if from_library && found.details().is_empty() {
        call.misread();
        return status(Reason::InvalidRequest, found.message()).into_http();
    }
    response
}
