//! The calls of the service `Coordination`: a node that coordinates for its caller.

use tokio_stream::StreamExt;
use tonic::Streaming;

use super::error::ClientError;
use super::node::{Client, call};
use super::read::{at_most, exact, member, plain, present};
use crate::coordinator::Blame;
use crate::engine::Subject;
use crate::ids::{KeyGroupId, Member, SessionId};
use crate::limits::MEMBERS_MAX;
use crate::roast::SignedRound;
use crate::wire::request::DriveRequest;
use crate::wire::v1;

/// What a node that coordinated says of a finished session. The signature is not verified here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinated {
    /// The signature, BIP-340.
    pub signature: [u8; 64],
    /// The session.
    pub session: SessionId,
    /// Members whose nodes have not confirmed the signature yet.
    pub unconfirmed: Vec<Member>,
    /// Members at fault, as the node says.
    pub blamed: Vec<Blamed>,
}

/// A member at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blamed {
    /// Who.
    pub member: Member,
    /// The fault, a sentence without its subject.
    pub fault: String,
    /// A bad share that the member's identity signed, when that is the fault.
    pub proof: Option<SignedRound>,
}

impl From<&(Member, Blame)> for Blamed {
    fn from((member, blame): &(Member, Blame)) -> Self {
        Self { member: *member, fault: blame.sentence().to_owned(), proof: blame.proof().cloned() }
    }
}

impl Blamed {
    fn read(message: v1::Blamed) -> Result<Self, ClientError> {
        let proof = message.proof.map(SignedRound::try_from).transpose().map_err(ClientError::nonsense)?;
        Ok(Self { member: member("blamed", message.member)?, fault: plain(&message.fault), proof })
    }
}

impl Client {
    /// `Sign`: has the node coordinate, and tells `watch` how it goes on. A stream that breaks is asked for again, as the
    /// client's patience says; the node goes on from what is durable.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sign(
        &self,
        key_group: &KeyGroupId,
        subject: &Subject,
        deadline_ms: u64,
        watch: impl Fn(&str),
    ) -> Result<Coordinated, ClientError> {
        let message =
            v1::SignRequest { key_group: key_group.as_bytes().to_vec(), subject: Some(subject.into()), deadline_ms };
        let watch = &watch;
        self.patience()
            .insist(|| {
                let (client, message) = (self.with(super::Patience::once()), message.clone());
                async move {
                    let events = call!(client, coordination_client::CoordinationClient::sign, message)?;
                    finished(events, watch).await
                }
            })
            .await
    }

    /// `Drive`: has the node drive an attempt that selected a seat of its own; the finished signature, not verified here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn drive(&self, request: &DriveRequest) -> Result<[u8; 64], ClientError> {
        let message = v1::DriveRequest::from(request);
        let reply = call!(self, coordination_client::CoordinationClient::drive, message)?;
        exact("signature", &reply.signature)
    }
}

async fn finished(mut events: Streaming<v1::SignEvent>, watch: &impl Fn(&str)) -> Result<Coordinated, ClientError> {
    use v1::sign_event::Event;
    while let Some(event) = events.next().await {
        let event = event.map_err(|status| ClientError::of(&status))?;
        match present("event", event.event)? {
            Event::Progress(line) => watch(&plain(&line)),
            Event::Finished(end) => {
                at_most("unconfirmed", &end.unconfirmed, MEMBERS_MAX)?;
                at_most("blamed", &end.blamed, MEMBERS_MAX)?;
                let unconfirmed = end.unconfirmed.iter().map(|&number| member("unconfirmed", number));
                return Ok(Coordinated {
                    signature: exact("signature", &end.signature)?,
                    session: SessionId::new(&end.session_id).map_err(ClientError::nonsense)?,
                    unconfirmed: unconfirmed.collect::<Result<_, _>>()?,
                    blamed: end.blamed.into_iter().map(Blamed::read).collect::<Result<_, _>>()?,
                });
            }
        }
    }
    Err(ClientError::Unreachable("the stream of events ended without a signature".into()))
}
