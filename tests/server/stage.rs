//! What the tests of the server share: a key group over the network, and rounds by raw generated clients.

use std::collections::BTreeMap;

use frostkeep::engine::{CommitRequest, FinalizeRequest, Finish, SignRequest, Subject, SubmittedShare};
use frostkeep::frost::{Commitments, SignatureShare, SigningPackage};
use frostkeep::ids::{AttemptPolicy, KeyGroupId, Member, SessionId};
use frostkeep::keygen::ConfirmedKeyGroup;
use frostkeep::reasons::Reason;
use frostkeep::roast::{AttemptBinding, AttemptContext};
use frostkeep::wire::status::Problem;
use frostkeep::wire::v1;
use frostkeep::wire::v1::node_client::NodeClient;
use frostkeep::wire::v1::signer_client::SignerClient;
use prost::Message as _;
use tonic::Status;
use tonic::transport::Channel;

use crate::kit::{member, session, subject};
use crate::net::{Net, NetPlan};

/// Nodes that hold a key, two of whom sign.
pub(crate) struct Stage {
    pub(crate) net: Net,
    pub(crate) confirmed: ConfirmedKeyGroup,
}

/// One session of members 1 and 2.
pub(crate) struct Session {
    pub(crate) name: SessionId,
    pub(crate) subject: Subject,
    pub(crate) context: AttemptContext,
    pub(crate) package: SigningPackage,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::of(NetPlan::of(3), AttemptPolicy::Roast).await
    }

    pub(crate) async fn of(plan: NetPlan, attempts: AttemptPolicy) -> Self {
        let net = Net::started(plan).await;
        let confirmed = net.generate_key(2, attempts).await;
        net.knows(&confirmed.id()).await;
        Self { net, confirmed }
    }

    pub(crate) fn key_group(&self) -> KeyGroupId {
        self.confirmed.id()
    }

    pub(crate) async fn signer(&self, index: usize) -> SignerClient<Channel> {
        SignerClient::new(self.net.channel(index, "coordinator").await)
    }

    /// Opens a session: commitments of members 1 and 2 by their nodes, and the package of the first attempt.
    pub(crate) async fn session(&self, name: &str, byte: u8) -> Session {
        let (name, subject) = (session(name), subject(byte));
        let mut commitments = BTreeMap::new();
        for number in [1, 2] {
            let request = CommitRequest { session: name.clone(), key_group: self.key_group(), member: member(number) };
            let mut signer = self.signer(usize::from(number) - 1).await;
            let reply = signer.commit(v1::CommitRequest::from(&request)).await.unwrap().into_inner();
            commitments.insert(member(number), Commitments::from_bytes(&reply.commitments).unwrap());
        }
        let package = SigningPackage::new(subject.message, commitments).unwrap();
        let binding = AttemptBinding {
            key_group: &self.key_group(),
            session: &name,
            message: &subject.message,
            threshold: self.confirmed.certificate().group().threshold(),
        };
        let context = AttemptContext::derive(&binding, 1, &[1, 2]).unwrap();
        Session { name, subject, context, package }
    }

    /// The request of the session's first attempt for `member`.
    pub(crate) fn request(&self, session: &Session, member: Member) -> v1::StartSignRoundRequest {
        (&SignRequest {
            session: session.name.clone(),
            key_group: self.key_group(),
            member,
            subject: session.subject,
            context: session.context.parts(),
            package: session.package.clone(),
            evidence: Vec::new(),
        })
            .into()
    }

    /// What ends the session, from the answers of its members.
    pub(crate) fn finalize(&self, session: &Session, rounds: &[v1::Round]) -> v1::FinalizeSignRoundRequest {
        let share = |round: &v1::Round| SubmittedShare {
            member: member(u16::try_from(round.member).unwrap()),
            share: SignatureShare::from_bytes(&round.signature_share).unwrap(),
            round_signature: Some(round.round_signature.as_slice().try_into().unwrap()),
        };
        (&FinalizeRequest {
            session: session.name.clone(),
            key_group: self.key_group(),
            subject: session.subject,
            finish: Finish::Shares { attempt: session.context.id(), shares: rounds.iter().map(share).collect() },
        })
            .into()
    }

    /// A durable round of member 1 on node 0, with its request.
    pub(crate) async fn durable_round(&self, name: &str, byte: u8) -> (v1::StartSignRoundRequest, v1::Round) {
        let session = self.session(name, byte).await;
        let request = self.request(&session, member(1));
        let reply = self.signer(0).await.start_sign_round(request.clone()).await.unwrap().into_inner();
        (request, reply.round.unwrap())
    }
}

/// The refusal in a status.
pub(crate) fn problem(status: &Status) -> Problem {
    Problem::from_status(status).unwrap_or_else(|| panic!("no refusal of ours: {status:?}"))
}

/// The reason of a refusal.
pub(crate) fn reason<T>(answer: Result<T, Status>) -> Reason {
    problem(&answer.err().unwrap()).reason
}

/// A node's status, over this channel.
pub(crate) async fn status_over(channel: Channel) -> v1::StatusReply {
    NodeClient::new(channel).status(v1::StatusRequest {}).await.unwrap().into_inner()
}

/// How often connections were refused for this cause.
pub(crate) fn refused(status: &v1::StatusReply, cause: &str) -> u64 {
    let connections = status.connections.as_ref().unwrap();
    connections.refused.iter().find(|refused| refused.reason == cause).map_or(0, |refused| refused.count)
}

pub(crate) fn bytes(round: &v1::Round) -> Vec<u8> {
    round.encode_to_vec()
}
