//! The key group that the node holds alone, and what it is asked for: sessions of both its members.

use frostkeep::client::{Client, ClientError, ServedRound};
use frostkeep::engine::{CommitRequest, Engine, FinalizeRequest, Finish, SignRequest, Subject, SubmittedShare};
use frostkeep::frost::{Commitments, GroupKey, SignatureShare, SigningPackage};
use frostkeep::ids::{KeyGroupId, Member, Message, SessionId};
use frostkeep::keygen::Certificate;
use frostkeep::roast::{AttemptBinding, AttemptContext};

use crate::Failed;

/// The members, all on one node.
pub const MEMBERS: [u16; 2] = [1, 2];

/// An attempt that no session comes to.
const OTHER_ATTEMPT: u32 = 501;

/// The key group. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    id: KeyGroupId,
    key: GroupKey,
}

/// A session of both members with its package.
pub struct Session {
    context: AttemptContext,
    package: SigningPackage,
    id: SessionId,
    subject: Subject,
}

impl Group {
    pub(crate) async fn new(id: &str, client: &Client) -> Result<Self, Failed> {
        let id: KeyGroupId = id.parse()?;
        let certificate: Certificate = client.key_group(&id).await?.certificate.ok_or("it is not certified")?;
        Ok(Self { id, key: certificate.group().clone() })
    }

    /// The x-only key under which its signatures verify.
    pub fn output_key(&self) -> [u8; 32] {
        self.key.output_key(None)
    }

    /// Opens the session `name` for a message of that name: commitments of both members, and the package.
    ///
    /// # Errors
    /// The node's.
    pub async fn session(&self, client: &Client, name: &str) -> Result<Session, ClientError> {
        let id = SessionId::new(name).expect("the names of these tests are session ids");
        let mut message = [0x5a; 32];
        for (to, from) in message.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let message = Message::new(message);
        let mut commitments = Vec::new();
        for member in MEMBERS.map(member) {
            commitments.push((member, self.commitments(client, &id, member).await?));
        }
        let package = SigningPackage::new(message, commitments.into_iter().collect()).expect("two members are enough");
        let context = self.context(&id, &message, 1);
        Ok(Session { context, package, id, subject: Subject { message, root: None } })
    }

    /// What `member` is asked in a session.
    pub fn request(&self, session: &Session, member: u16) -> SignRequest {
        SignRequest {
            session: session.id.clone(),
            key_group: self.id,
            member: self::member(member),
            subject: session.subject,
            context: session.context.parts(),
            package: session.package.clone(),
            evidence: Vec::new(),
        }
    }

    /// The same attempt with other commitments of this member.
    ///
    /// # Errors
    /// The node's.
    pub(crate) async fn other_package(
        &self,
        client: &Client,
        session: &Session,
        member: u16,
    ) -> Result<SignRequest, ClientError> {
        let own = self.commitments(client, &session.id, self::member(member)).await?;
        let members = MEMBERS.map(self::member).into_iter();
        let commitments = members.map(|one| {
            let before = session.package.commitments_of(one).expect("a package of both members");
            (one, if one.number() == member { own.clone() } else { before.clone() })
        });
        let package =
            SigningPackage::new(session.subject.message, commitments.collect()).expect("two members are enough");
        Ok(SignRequest { package, ..self.request(session, member) })
    }

    /// The same package in another attempt.
    pub(crate) fn other_attempt(&self, session: &Session, member: u16) -> SignRequest {
        let context = self.context(&session.id, &session.subject.message, OTHER_ATTEMPT);
        SignRequest { context: context.parts(), ..self.request(session, member) }
    }

    fn context(&self, session: &SessionId, message: &Message, number: u32) -> AttemptContext {
        let binding = AttemptBinding { key_group: &self.id, session, message, threshold: self.key.threshold() };
        Engine::derive_attempt_context(&binding, number, &MEMBERS).expect("an attempt of all members is valid")
    }

    async fn commitments(
        &self,
        client: &Client,
        session: &SessionId,
        member: Member,
    ) -> Result<Commitments, ClientError> {
        let request = CommitRequest { session: session.clone(), key_group: self.id, member };
        let made = client.commit(&request).await?;
        Commitments::from_bytes(&made).map_err(|error| ClientError::Nonsense(error.to_string()))
    }

    /// Whether the share is the one of exactly this package. FROST is deterministic once the nonces are chosen: no other is.
    pub fn is_the_share_of(&self, request: &SignRequest, served: &ServedRound) -> bool {
        SignatureShare::from_bytes(&served.share)
            .is_ok_and(|share| self.key.verify_share(served.member, &request.package, &share, None).is_ok())
    }

    /// What ends a session with the shares of both members.
    pub fn finish(&self, session: &Session, served: &[ServedRound]) -> FinalizeRequest {
        let shares = served
            .iter()
            .map(|served| SubmittedShare {
                member: served.member,
                share: SignatureShare::from_bytes(&served.share).expect("its share was verified"),
                round_signature: Some(served.round_signature),
            })
            .collect();
        let finish = Finish::Shares { attempt: session.context.id(), shares };
        FinalizeRequest { session: session.id.clone(), key_group: self.id, subject: session.subject, finish }
    }
}

fn member(number: u16) -> Member {
    Member::new(number).expect("members are numbered from 1")
}
