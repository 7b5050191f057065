//! A key group over three engines: its generation without a dealer, and its signing sessions, as a coordinator drives them.

use std::collections::BTreeMap;

use bitcoin::{Network, ScriptBuf};
use frostkeep::engine::{
    BuildRequest, Caller, CommitRequest, Engine, FinalizeRequest, Finish, Refusal, Role, RoundReply, SignRequest,
    Subject, SubmittedShare,
};
use frostkeep::frost::{Commitments, GroupKey, Signature, SignatureShare, SigningPackage};
use frostkeep::hsm::entropy;
use frostkeep::ids::{AttemptPolicy, CeremonyId, KeyGroupId, Member, Message, SessionId};
use frostkeep::keygen::{self, Certificate, ConfirmedKeyGroup, Parameters};
use frostkeep::policy::SigningPolicy;
use frostkeep::roast::{AttemptBinding, AttemptContext};
use rand_core::RngCore;

use crate::Failed;
use crate::nodes::DemoNode;
use crate::spend::Spend;
use crate::tell::Tell;

/// Members that a signature needs.
const THRESHOLD: u16 = 2;

/// The one who relays and asks. It holds no secret.
pub(crate) fn coordinator() -> Caller {
    Caller { name: "demo-coordinator".into(), identity: None, roles: vec![Role::Coordinator, Role::Peer] }
}

/// The operator.
pub(crate) fn admin() -> Caller {
    Caller { name: "demo-admin".into(), identity: None, roles: vec![Role::Admin] }
}

/// Three nodes that hold one key: node number n holds member n.
pub(crate) struct Group {
    nodes: Vec<DemoNode>,
    confirmed: ConfirmedKeyGroup,
}

/// One signing session of two members.
pub(crate) struct Job {
    pub(crate) session: SessionId,
    pub(crate) subject: Subject,
    pub(crate) pair: [u16; 2],
    pub(crate) package: SigningPackage,
    context: AttemptContext,
}

impl Group {
    /// Generates the key: three rounds of messages that the coordinator relays and can neither read nor replace.
    pub(crate) async fn generate(nodes: Vec<DemoNode>, tell: &Tell) -> Result<Self, Failed> {
        let mut engines = Vec::new();
        let mut seats = BTreeMap::new();
        for (number, node) in (1..).zip(&nodes) {
            let engine = node.ready().await?;
            seats.insert(Member::new(number)?, engine.node_identity()?);
            engines.push(engine);
        }
        let policy = SigningPolicy::standard();
        let mut id = [0; 16];
        entropy::os().fill_bytes(&mut id);
        let ceremony = CeremonyId::new(id);
        let parameters = Parameters::new(ceremony, THRESHOLD, seats, AttemptPolicy::Roast, policy.hash()?)?;
        let caller = coordinator();

        let mut messages = Vec::new();
        for engine in &engines {
            messages.extend(engine.keygen_begin(&caller, parameters.clone(), policy.clone()).await?);
        }
        relay(&engines, &ceremony, &messages).await?;
        let mut messages = Vec::new();
        for engine in &engines {
            messages.extend(engine.keygen_advance(&caller, &ceremony).await?);
        }
        relay(&engines, &ceremony, &messages).await?;

        // Each node's share and its signature on the transcript are one durable record before the signature leaves.
        let mut statements = Vec::new();
        let mut transcript = None;
        for engine in &engines {
            let prepared = engine.keygen_finish(&caller, &ceremony).await?;
            statements.push(prepared.statement);
            transcript = Some(prepared.transcript);
        }
        let certificate = Certificate::new(transcript.ok_or("no node prepared a share")?, statements)?;
        let mut confirmations = Vec::new();
        let mut confirmed = Err("no node confirmed".to_owned());
        for (number, engine) in (1..).zip(&engines) {
            confirmations.push(engine.keygen_certify(&caller, certificate.to_bytes()).await?);
            confirmed =
                ConfirmedKeyGroup::new(certificate.clone(), confirmations.clone()).map_err(|error| error.to_string());
            let expected = if number == engines.len() { "an address" } else { "no address" };
            let (saw, detail) = match &confirmed {
                Ok(group) => ("an address", group.address(Network::Regtest).to_string()),
                Err(error) => ("no address", error.clone()),
            };
            tell.check(&format!("{number} of 3 nodes have confirmed the certificate"), expected, saw, &detail)?;
        }
        Ok(Self { nodes, confirmed: confirmed? })
    }

    pub(crate) fn confirmed(&self) -> &ConfirmedKeyGroup {
        &self.confirmed
    }

    pub(crate) fn id(&self) -> KeyGroupId {
        self.confirmed.id()
    }

    fn key(&self) -> &GroupKey {
        self.confirmed.certificate().group()
    }

    /// What its outputs pay to.
    pub(crate) fn script(&self) -> ScriptBuf {
        self.confirmed.address(Network::Regtest).script_pubkey()
    }

    /// Node `number`, from 1.
    pub(crate) fn node(&mut self, number: u16) -> Result<&mut DemoNode, Failed> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.nodes.get_mut(index)).ok_or_else(|| format!("there is no node {number}").into())
    }

    /// The engine of node `number`.
    pub(crate) fn engine(&self, number: u16) -> Result<Engine, Failed> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.nodes.get(index)).ok_or_else(|| format!("there is no node {number}"))?.engine()
    }

    /// Has every node approve a transaction; gives the `SIGHASH_DEFAULT` message of each input.
    pub(crate) async fn approve(&self, spend: &Spend) -> Result<Vec<Message>, Failed> {
        let transaction = spend.unsigned()?;
        let inputs = transaction.input_count();
        let request = BuildRequest { key_group: self.id(), transaction, roots: Vec::new() };
        let mut messages = Vec::new();
        for node in &self.nodes {
            let approval = node.engine()?.build_taproot_tx(&coordinator(), &request).await?;
            // For each input SIGHASH_DEFAULT, then SIGHASH_ALL.
            messages = (0..inputs)
                .filter_map(|input| {
                    approval.sighashes().iter().find(|(_, at)| *at == input).map(|(message, _)| *message)
                })
                .collect();
        }
        Ok(messages)
    }

    /// The member's unspent commitments for the session.
    pub(crate) fn commitments(&self, session: &SessionId, number: u16) -> Result<Commitments, Failed> {
        let member = Member::new(number)?;
        let request = CommitRequest { session: session.clone(), key_group: self.id(), member };
        Ok(self.engine(number)?.commit(&coordinator(), &request)?)
    }

    /// Opens a session for a pair: commitments of both, the package, the context of attempt 1.
    pub(crate) fn job(&self, name: &str, message: Message, pair: [u16; 2]) -> Result<Job, Failed> {
        let session = SessionId::new(name)?;
        let mut commitments = Vec::new();
        for number in pair {
            commitments.push((Member::new(number)?, self.commitments(&session, number)?));
        }
        let package = SigningPackage::new(message, commitments.into_iter().collect())?;
        let binding = AttemptBinding {
            key_group: &self.id(),
            session: &session,
            message: &message,
            threshold: self.key().threshold(),
        };
        let context = Engine::derive_attempt_context(&binding, 1, &pair)?;
        Ok(Job { session, subject: Subject { message, root: None }, pair, package, context })
    }

    /// What `number` is asked in this session.
    pub(crate) fn request(&self, job: &Job, number: u16) -> Result<SignRequest, Failed> {
        Ok(SignRequest {
            session: job.session.clone(),
            key_group: self.id(),
            member: Member::new(number)?,
            subject: job.subject,
            context: job.context.parts(),
            package: job.package.clone(),
            evidence: Vec::new(),
        })
    }

    /// `StartSignRound` at the node of `number`. The outer error ends the story, the inner one belongs to it.
    pub(crate) async fn round(&self, job: &Job, number: u16) -> Result<Result<RoundReply, Refusal>, Failed> {
        let (engine, request) = (self.engine(number)?, self.request(job, number)?);
        Ok(engine.start_sign_round(&coordinator(), &request, RoundReply::clone).await)
    }

    /// Whether the share of a reply verifies for exactly the package of this job. FROST is deterministic once the nonces
    /// are chosen, so that no other share does.
    pub(crate) fn is_the_share_of(&self, job: &Job, reply: &RoundReply) -> Result<bool, Failed> {
        let share = SignatureShare::from_bytes(reply.share())?;
        Ok(self.key().verify_share(reply.member(), &job.package, &share, None).is_ok())
    }

    /// Collects both shares, finishes the session on the first member's node, and hands the signature to every node.
    pub(crate) async fn finish(&self, job: &Job) -> Result<[u8; 64], Failed> {
        let mut shares = Vec::new();
        for number in job.pair {
            let reply = self.round(job, number).await??;
            shares.push(SubmittedShare {
                member: reply.member(),
                share: SignatureShare::from_bytes(reply.share())?,
                round_signature: Some(*reply.round_signature()),
            });
        }
        let request = |finish| FinalizeRequest {
            session: job.session.clone(),
            key_group: self.id(),
            subject: job.subject,
            finish,
        };
        let [first, _] = job.pair;
        let finish = request(Finish::Shares { attempt: job.context.id(), shares });
        let finalized = self.engine(first)?.finalize_sign_round(&coordinator(), &finish).await?;
        let signature = *finalized.ok_or("the node does not know its own session")?.signature();
        let finished = request(Finish::Signature(Signature::new(signature)));
        for node in &self.nodes {
            node.engine()?.finalize_sign_round(&coordinator(), &finished).await?;
        }
        Ok(signature)
    }
}

/// Hands every message to every node: each takes what is for it.
async fn relay(engines: &[Engine], ceremony: &CeremonyId, messages: &[keygen::Message]) -> Result<(), Failed> {
    for engine in engines {
        for message in messages {
            engine.keygen_receive(&coordinator(), ceremony, message.to_bytes()).await?;
        }
    }
    Ok(())
}
