//! The services over one node, and the way from a path to them. Each service has a file of its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use tonic::Status;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use super::call::Call;
use super::settings::count;
use super::shared::{Asker, Shared};
use super::whole::WholeBody;
use crate::engine::Refusal;
use crate::reasons::Reason;
use crate::wire::FieldError;
use crate::wire::status::{refusal_status, status};
use crate::wire::v1::admin_server::AdminServer;
use crate::wire::v1::coordination_server::CoordinationServer;
use crate::wire::v1::key_generation_server::KeyGenerationServer;
use crate::wire::v1::node_server::NodeServer;
use crate::wire::v1::signer_server::SignerServer;

/// All services of a node.
pub(super) struct Services(pub(super) Arc<Shared>);

/// The services by their paths. Cheap to clone.
#[derive(Clone)]
pub(super) struct Routes {
    signer: SignerServer<Services>,
    key_generation: KeyGenerationServer<Services>,
    node: NodeServer<Services>,
    admin: AdminServer<Services>,
    coordination: CoordinationServer<Services>,
    health: HealthServer<Services>,
}

impl Routes {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let services = Arc::new(Services(Arc::clone(shared)));
        let bytes_max = count(shared.limits.message_bytes);
        Self {
            signer: SignerServer::from_arc(Arc::clone(&services)).max_decoding_message_size(bytes_max),
            key_generation: KeyGenerationServer::from_arc(Arc::clone(&services)).max_decoding_message_size(bytes_max),
            node: NodeServer::from_arc(Arc::clone(&services)).max_decoding_message_size(bytes_max),
            admin: AdminServer::from_arc(Arc::clone(&services)).max_decoding_message_size(bytes_max),
            coordination: CoordinationServer::from_arc(Arc::clone(&services)).max_decoding_message_size(bytes_max),
            health: HealthServer::from_arc(services).max_decoding_message_size(bytes_max),
        }
    }

    /// Hands a call to its service. The gate has looked at its path.
    pub(super) async fn call(&mut self, request: Request<WholeBody>) -> Response<tonic::body::Body> {
        let service = request.uri().path().rsplit_once('/').map(|(service, _)| service);
        let reply: Pin<Box<dyn Future<Output = Result<_, Infallible>> + Send>> = match service {
            Some("/frostkeep.v1.Signer") => self.signer.call(request),
            Some("/frostkeep.v1.KeyGeneration") => self.key_generation.call(request),
            Some("/frostkeep.v1.Node") => self.node.call(request),
            Some("/frostkeep.v1.Admin") => self.admin.call(request),
            Some("/frostkeep.v1.Coordination") => self.coordination.call(request),
            Some("/grpc.health.v1.Health") => self.health.call(request),
            _ => return status(Reason::Internal, "a method without a service").into_http(),
        };
        let Ok(reply) = reply.await;
        reply
    }
}

/// A request, and who asks.
pub(super) fn taken<T>(mut request: tonic::Request<T>) -> Result<(Asker, T), Status> {
    let asker = request.extensions_mut().remove::<Asker>();
    let asker = asker.ok_or_else(|| status(Reason::Internal, "a call came past the gate"))?;
    Ok((asker, request.into_inner()))
}

/// A message as what it means.
pub(super) fn read<A, B>(message: A) -> Result<B, Status>
where
    B: TryFrom<A>,
    Refusal: From<B::Error>,
{
    B::try_from(message).map_err(unread)
}

/// A message that means nothing.
pub(super) fn unread<E>(error: E) -> Status
where
    Refusal: From<E>,
{
    Call::current().misread();
    refusal_status(&error.into())
}

/// A field that means nothing.
pub(super) fn field<T>(read: Result<T, FieldError>) -> Result<T, Status> {
    read.map_err(unread)
}

/// A refusal of the engine.
pub(super) fn refused(refusal: Refusal) -> Status {
    refusal_status(&refusal)
}

/// Runs work that takes long on a thread where it may, so that the threads that serve stay free.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(status(Reason::Internal, format!("work ended early: {error}"))),
    }
}
