//! `grpc.health.v1`: whether the node would take fresh work. The names are "" and those of the services; the answer is the same
//! for each, since they share one state.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::services::{Services, taken};
use super::shared::Shared;

/// The pause between two looks of a watch.
const LOOK: Duration = Duration::from_millis(250);

const SERVICES: [&str; 6] = [
    "",
    "frostkeep.v1.Signer",
    "frostkeep.v1.KeyGeneration",
    "frostkeep.v1.Node",
    "frostkeep.v1.Admin",
    "frostkeep.v1.Coordination",
];

fn standing(shared: &Shared) -> HealthCheckResponse {
    let serving = if shared.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: serving.into() }
}

#[tonic::async_trait]
impl Health for Services {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let (_, message) = taken(request)?;
        if !SERVICES.contains(&message.service.as_str()) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(standing(&self.0)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (_, message) = taken(request)?;
        let known = SERVICES.contains(&message.service.as_str());
        let (told, stream) = mpsc::channel(1);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let mut last = None;
            // Until the caller goes away, or the node: a watch must not hold up its stop.
            loop {
                let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
                let now = if known { standing(&shared) } else { unknown };
                if last.as_ref() != Some(&now) && told.send(Ok(now)).await.is_err() {
                    return;
                }
                last = Some(now);
                tokio::select! {
                    () = told.closed() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
                if shared.is_stopping() && (!known || last == Some(standing(&shared))) {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
