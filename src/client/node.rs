//! One node: the calls of the service `Node`, and what all calls have in common.

use std::future::Future;

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::channel::{Endpoint, open};
use super::error::ClientError;
use super::patience::Patience;
use super::view::{KeyGroupDetail, KeyGroupInfo, NodeStatus};
use crate::ids::KeyGroupId;
use crate::limits::WIRE_MESSAGE_BYTES_MAX;
use crate::reasons::Reason;
use crate::wire::status;
use crate::wire::v1;

/// The client of one node. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    patience: Patience,
}

/// One call of a generated service.
macro_rules! call {
    ($client:expr, $module:ident :: $service:ident :: $method:ident, $message:expr) => {
        $client
            .call($message, |channel, message| async move {
                let service = crate::wire::v1::$module::$service::new(channel);
                let mut service = service.max_decoding_message_size(crate::limits::WIRE_MESSAGE_BYTES_MAX);
                service.$method(message).await
            })
            .await
    };
}
pub(super) use call;

impl Client {
    /// A client of the node at `endpoint`, which is connected when it is first asked something. Must be called on a runtime.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when no TLS configuration can be made of the key.
    pub fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        Ok(Self { channel: open(endpoint)?, patience: Patience::default() })
    }

    /// The same client with other patience.
    #[must_use]
    pub fn with(&self, patience: Patience) -> Self {
        Self { patience, ..self.clone() }
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Makes a call as the client's patience says. `message` is the same to the byte each time.
    pub(super) async fn call<M, R, F>(
        &self,
        message: M,
        make: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<R, ClientError>
    where
        M: prost::Message + Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.check_size(&message)?;
        let answer = self.patience.insist(|| {
            let made = make(self.channel.clone(), Request::new(message.clone()));
            async move { made.await.map_err(|status| ClientError::of(&status)) }
        });
        answer.await.map(Response::into_inner)
    }

    /// Before it leaves: no node would take it.
    pub(super) fn check_size<M: prost::Message>(&self, message: &M) -> Result<(), ClientError> {
        let found = message.encoded_len();
        if found <= WIRE_MESSAGE_BYTES_MAX {
            return Ok(());
        }
        let problem = format!("a request of {found} bytes: at most {WIRE_MESSAGE_BYTES_MAX} are allowed");
        Err(ClientError::of(&status::status(Reason::InvalidRequest, problem)))
    }

    /// `Status`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        NodeStatus::read(call!(self, node_client::NodeClient::status, v1::StatusRequest {})?)
    }

    /// `ListKeyGroups`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn key_groups(&self) -> Result<Vec<KeyGroupInfo>, ClientError> {
        let reply = call!(self, node_client::NodeClient::list_key_groups, v1::ListKeyGroupsRequest {})?;
        KeyGroupInfo::read_all(reply)
    }

    /// `GetKeyGroup`. The certificate, if there is one, is valid and of this key group.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn key_group(&self, id: &KeyGroupId) -> Result<KeyGroupDetail, ClientError> {
        let request = v1::GetKeyGroupRequest { key_group: id.as_bytes().to_vec() };
        KeyGroupDetail::read(id, call!(self, node_client::NodeClient::get_key_group, request)?)
    }
}
