//! A key group over the nodes, and its signing sessions round by round, as a coordinator drives them over the network.

use bitcoin::ScriptBuf;
use frostkeep::bitcoin::key_path_script;
use frostkeep::client::{Client, ClientError, ServedRound};
use frostkeep::engine::{
    BuildRequest, CommitRequest, Engine, FinalizeRequest, Finish, SignRequest, Subject, SubmittedShare,
};
use frostkeep::frost::{Commitments, GroupKey, Signature, SignatureShare, SigningPackage};
use frostkeep::ids::{KeyGroupId, Member, Message, SessionId};
use frostkeep::keygen::Certificate;
use frostkeep::roast::{AttemptBinding, AttemptContext};

use crate::Failed;
use crate::spend::Spend;

/// A key group: node number n holds member n. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    id: KeyGroupId,
    key: GroupKey,
    clients: Vec<Client>,
}

/// One signing session of a set of members.
pub(crate) struct Job {
    pub(crate) session: SessionId,
    pub(crate) subject: Subject,
    pub(crate) members: Vec<u16>,
    pub(crate) package: SigningPackage,
    pub(crate) context: AttemptContext,
}

impl Group {
    /// The key group of this id, as the first node's certificate has it.
    pub(crate) async fn new(id: &str, clients: Vec<Client>) -> Result<Self, Failed> {
        let id: KeyGroupId = id.parse()?;
        let first = clients.first().ok_or("no nodes")?;
        let certificate: Certificate = first.key_group(&id).await?.certificate.ok_or("it is not certified")?;
        Ok(Self { id, key: certificate.group().clone(), clients })
    }

    pub(crate) fn id(&self) -> KeyGroupId {
        self.id
    }

    pub(crate) fn threshold(&self) -> u16 {
        self.key.threshold()
    }

    /// What its outputs pay to.
    pub(crate) fn script(&self) -> ScriptBuf {
        ScriptBuf::from_bytes(key_path_script(&self.key.output_key(None)).to_vec())
    }

    /// The x-only key before any tweak (BIP-341).
    pub(crate) fn internal_key(&self) -> [u8; 32] {
        let [_, key @ ..] = *self.id.as_bytes();
        key
    }

    /// Whether a signature in hex is one of this message, under the output key without a script tree.
    pub(crate) fn verifies(&self, signature: &str, message: &str) -> bool {
        let signature = frostkeep::ids::from_hex("signature", signature).map(Signature::new);
        let message = message.parse::<Message>();
        signature.is_ok_and(|signature| message.is_ok_and(|message| self.key.verify(message, None, &signature).is_ok()))
    }

    /// The way to node `number`, from 1.
    pub(crate) fn client(&self, number: u16) -> Result<&Client, Failed> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.clients.get(index)).ok_or_else(|| format!("there is no node {number}").into())
    }

    /// As many members as a signature needs: `first`, and the next ones that are not `without`.
    pub(crate) fn members(&self, first: &[u16], without: u16) -> Vec<u16> {
        let others = (1..).filter(|number| !first.contains(number) && *number != without);
        let mut members: Vec<u16> = first.iter().copied().chain(others).take(self.threshold().into()).collect();
        members.sort_unstable();
        members
    }

    /// Has every node approve a transaction; gives the `SIGHASH_DEFAULT` message of each input.
    pub(crate) async fn approve(&self, spend: &Spend) -> Result<Vec<Message>, Failed> {
        let transaction = spend.unsigned()?;
        let inputs = transaction.input_count();
        let request = BuildRequest { key_group: self.id, transaction, roots: Vec::new() };
        let mut messages = Vec::new();
        for client in &self.clients {
            let approved = client.build_taproot_tx(&request).await?;
            // For each input SIGHASH_DEFAULT, then SIGHASH_ALL.
            let of = |input| approved.sighashes.iter().find(|(_, at)| *at == input).map(|(message, _)| *message);
            messages = (0..inputs).filter_map(of).collect();
        }
        Ok(messages)
    }

    /// The member's unspent commitments for the session.
    pub(crate) async fn commitments(&self, session: &SessionId, number: u16) -> Result<Commitments, Failed> {
        let request = CommitRequest { session: session.clone(), key_group: self.id, member: Member::new(number)? };
        Ok(Commitments::from_bytes(&self.client(number)?.commit(&request).await?)?)
    }

    /// Opens a session: commitments of its members, the package, the context of attempt 1.
    pub(crate) async fn job(&self, name: &str, message: Message, members: Vec<u16>) -> Result<Job, Failed> {
        let session = SessionId::new(name)?;
        let mut commitments = Vec::new();
        for &number in &members {
            commitments.push((Member::new(number)?, self.commitments(&session, number).await?));
        }
        let package = SigningPackage::new(message, commitments.into_iter().collect())?;
        let binding =
            AttemptBinding { key_group: &self.id, session: &session, message: &message, threshold: self.threshold() };
        let context = Engine::derive_attempt_context(&binding, 1, &members)?;
        Ok(Job { session, subject: Subject { message, root: None }, members, package, context })
    }

    /// What `number` is asked in this session.
    pub(crate) fn request(&self, job: &Job, number: u16) -> Result<SignRequest, Failed> {
        Ok(SignRequest {
            session: job.session.clone(),
            key_group: self.id,
            member: Member::new(number)?,
            subject: job.subject,
            context: job.context.parts(),
            package: job.package.clone(),
            evidence: Vec::new(),
        })
    }

    /// `StartSignRound` at the node of `number`. The outer error ends the story, the inner one belongs to it.
    pub(crate) async fn round(&self, job: &Job, number: u16) -> Result<Result<ServedRound, ClientError>, Failed> {
        let request = self.request(job, number)?;
        Ok(self.client(number)?.start_sign_round(&request).await)
    }

    /// Whether the share of a reply verifies for exactly the package of this job. FROST is deterministic once the nonces
    /// are chosen, so that no other share does.
    pub(crate) fn is_the_share_of(&self, job: &Job, served: &ServedRound) -> Result<bool, Failed> {
        let share = SignatureShare::from_bytes(&served.share)?;
        Ok(self.key.verify_share(served.member, &job.package, &share, None).is_ok())
    }

    /// Collects the shares, finishes the session on the first member's node, and hands the signature to every node.
    pub(crate) async fn finish(&self, job: &Job) -> Result<[u8; 64], Failed> {
        let mut shares = Vec::new();
        for &number in &job.members {
            let served = self.round(job, number).await??;
            shares.push(SubmittedShare {
                member: served.member,
                share: SignatureShare::from_bytes(&served.share)?,
                round_signature: Some(served.round_signature),
            });
        }
        let request =
            |finish| FinalizeRequest { session: job.session.clone(), key_group: self.id, subject: job.subject, finish };
        let first = job.members.first().copied().ok_or("a session without members")?;
        let finish = request(Finish::Shares { attempt: job.context.id(), shares });
        let finalized = self.client(first)?.finalize_sign_round(&finish).await?;
        let signature = finalized.ok_or("the node does not know its own session")?;
        let finished = request(Finish::Signature(Signature::new(signature)));
        for client in &self.clients {
            client.finalize_sign_round(&finished).await?;
        }
        Ok(signature)
    }
}
