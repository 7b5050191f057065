//! The driver: one straight line from the pre-flight to the confirmed key group, and back into it by the parameters of a ceremony.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::event::{Observer, Step};
use super::finding::{CeremonyError, Failed, Finding, Stands};
use super::judge::{Judge, Said};
use super::port::{NodePort, Peer, PortError};
use super::reach::{Answers, Node, Pace, Reach, everywhere};
use super::relay::{hand_over, heard};
use crate::engine::CeremonyStage;
use crate::ids::CeremonyId;
use crate::keygen::{Certificate, ConfirmedKeyGroup, Parameters, Round};
use crate::policy::SigningPolicy;
use crate::reasons::Reason;

type Indexed<P> = Vec<(usize, Arc<Node<P>>)>;

/// Drives key generations over these nodes.
///
/// A driver that is dropped in the middle leaves nothing that blocks: the nodes drop what is not prepared after
/// [`crate::limits::CEREMONY_IDLE_MS_MAX`].
pub struct Driver<P> {
    nodes: Indexed<P>,
    pace: Pace,
    observer: Observer,
}

impl<P: NodePort> Driver<P> {
    /// A driver over `nodes`, which tells `observer` what happens.
    pub fn new(nodes: Vec<Node<P>>, pace: Pace, observer: Observer) -> Self {
        Self { nodes: nodes.into_iter().map(Arc::new).enumerate().collect(), pace, observer }
    }

    /// Runs a new ceremony. The address and the descriptor exist in what it returns, and nowhere before.
    ///
    /// # Errors
    /// [`CeremonyError`]: names everybody who stood in the way, and says what is left of the ceremony.
    pub async fn run(
        &self,
        parameters: &Parameters,
        policy: &SigningPolicy,
    ) -> Result<ConfirmedKeyGroup, CeremonyError> {
        self.check_setup(parameters, policy)?;
        let judge = self.judge(parameters);
        let course = Course { driver: self, judge: &judge, ceremony: parameters.ceremony() };
        let told = Arc::new((parameters.clone(), policy.clone()));
        course.preflight(&told).await.map_err(|findings| course.failed(Stands::NothingBegun, findings))?;
        match course.rounds(&told).await {
            Ok(said) => course.conclude(&said).await,
            Err(findings) => Err(course.give_up(findings).await),
        }
    }

    /// Completes the ceremony of `parameters`, whose driver died: as long as every node has got to round two, nothing is lost.
    /// A node that lacks only the certificate gets it. What the nodes say is held against `parameters` as in a run, and every
    /// holder of a seat has to know the ceremony: one node alone can make up all of it, the key included.
    ///
    /// # Errors
    /// [`CeremonyError`]; a node that does not answer leaves the ceremony as it is, to be resumed again.
    pub async fn resume(&self, parameters: &Parameters) -> Result<ConfirmedKeyGroup, CeremonyError> {
        self.check_seats(parameters)?;
        let ceremony = parameters.ceremony();
        let judge = self.judge(parameters);
        let course = Course { driver: self, judge: &judge, ceremony };
        let asked = self.ask(&self.nodes, Step::Stage, move |reach| async move {
            reach.insist(|| reach.node.port.stage(&ceremony)).await
        });
        let mut stages = Vec::new();
        let mut findings = Vec::new();
        for (index, answer) in asked.await {
            match answer {
                Ok(stage) => stages.push((index, stage)),
                Err(error) => findings.extend(judge.failure(index, Step::Stage, &error)),
            }
        }
        for (index, stage) in &stages {
            let (reason, problem) = match stage {
                CeremonyStage::RoundOne { .. } => (Reason::CeremonyIncomplete, "it has not got beyond round one"),
                CeremonyStage::Retired => (Reason::KeyGroupRetired, "the key group is retired"),
                CeremonyStage::RoundTwo { .. } | CeremonyStage::Prepared | CeremonyStage::Active => continue,
            };
            let node = judge.named(*index);
            findings.push(Finding::Refused { node, step: Step::Stage, reason, problem: problem.into() });
        }
        if !findings.is_empty() {
            // A node that is in round one still, or at its end, says that nobody can finish: their slots are free again.
            return Err(match course.stands(&findings) {
                Stands::Over => course.give_up(findings).await,
                stands => course.failed(stands, findings),
            });
        }
        let said = course.catch_up(&stages).await?;
        course.conclude(&said).await
    }

    /// Ceremonies that some node has prepared and that lack a certificate there: each can be resumed. Nodes that do not
    /// answer are passed over.
    pub async fn unfinished(&self) -> BTreeSet<CeremonyId> {
        let asked =
            self.ask(&self.nodes, Step::Stage, |reach| async move { reach.once(reach.node.port.unfinished()).await });
        asked.await.into_iter().filter_map(|(_, answer)| answer.ok()).flatten().collect()
    }

    fn check_seats(&self, parameters: &Parameters) -> Result<(), CeremonyError> {
        let identities: BTreeSet<_> = self.nodes.iter().map(|(_, node)| node.identity).collect();
        if identities.len() != self.nodes.len() {
            return Err(CeremonyError::Setup("two of the nodes have one identity".into()));
        }
        if identities != parameters.identities() {
            return Err(CeremonyError::Setup("the nodes are not exactly the holders of the seats".into()));
        }
        Ok(())
    }

    fn check_setup(&self, parameters: &Parameters, policy: &SigningPolicy) -> Result<(), CeremonyError> {
        self.check_seats(parameters)?;
        match policy.hash() {
            Ok(hash) if hash == parameters.signing_policy() => Ok(()),
            Ok(_) => Err(CeremonyError::Setup("the parameters name another signing policy than the one given".into())),
            Err(error) => Err(CeremonyError::Setup(format!("the signing policy is not valid: {error}"))),
        }
    }

    fn judge(&self, parameters: &Parameters) -> Judge {
        let nodes = self.nodes.iter().map(|(_, node)| (node.name.clone(), node.identity)).collect();
        Judge::new(parameters.clone(), nodes)
    }

    fn among(&self, which: impl Fn(usize) -> bool) -> Indexed<P> {
        self.nodes.iter().filter(|(index, _)| which(*index)).cloned().collect()
    }

    async fn ask<T, F>(&self, among: &Indexed<P>, step: Step, work: impl Fn(Reach<P>) -> F) -> Answers<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PortError>> + Send + 'static,
    {
        everywhere(among, step, self.pace, &self.observer, work).await
    }
}

/// What all nodes are told at the beginning.
type Told = Arc<(Parameters, SigningPolicy)>;

/// One ceremony under way.
struct Course<'a, P> {
    driver: &'a Driver<P>,
    judge: &'a Judge,
    ceremony: CeremonyId,
}

impl<P: NodePort> Course<'_, P> {
    /// Before any secret exists: every node that stands in the way is named, not only the first.
    async fn preflight(&self, told: &Told) -> Result<(), Vec<Finding>> {
        let all: Vec<Peer> = self
            .driver
            .nodes
            .iter()
            .map(|(_, node)| Peer { name: node.name.clone(), identity: node.identity })
            .collect();
        let asked = self.driver.ask(&self.driver.nodes, Step::Preflight, |reach| {
            let told = Arc::clone(told);
            let peers: Vec<Peer> = all.iter().filter(|peer| peer.identity != reach.node.identity).cloned().collect();
            async move { reach.insist(|| reach.node.port.preflight(&told.0, &told.1, &peers)).await }
        });
        self.all(Step::Preflight, asked.await).map(|_| ())
    }

    /// From the first secret to the point where every node can finish; the messages of round two.
    async fn rounds(&self, told: &Told) -> Result<Arc<Vec<Said>>, Vec<Finding>> {
        let everybody = &self.driver.nodes;
        let asked = self.driver.ask(everybody, Step::Begin, |reach| {
            let told = Arc::clone(told);
            async move { reach.insist(|| reach.node.port.begin(&told.0, &told.1)).await }
        });
        let said = self.said(Step::Begin, Round::One, asked.await)?;
        self.relay(Step::RelayOne, everybody, &said).await?;
        let ceremony = self.ceremony;
        let asked = self.driver.ask(everybody, Step::Advance, |reach| {
            let said = Arc::clone(&said);
            async move { heard(&reach, ceremony, &said, || reach.node.port.advance(&ceremony)).await }
        });
        let said = self.said(Step::Advance, Round::Two, asked.await)?;
        self.relay(Step::RelayTwo, everybody, &said).await?;
        Ok(said)
    }

    /// Brings nodes that another driver left in round two to where they can finish.
    async fn catch_up(&self, stages: &[(usize, CeremonyStage)]) -> Result<Arc<Vec<Said>>, CeremonyError> {
        let in_two = |wanted: usize| {
            stages.iter().any(|(index, stage)| *index == wanted && matches!(stage, CeremonyStage::RoundTwo { .. }))
        };
        let incomplete =
            stages.iter().any(|(_, stage)| matches!(stage, CeremonyStage::RoundTwo { missing } if !missing.is_empty()));
        if !incomplete {
            return Ok(Arc::default());
        }
        let (nodes, ceremony) = (self.driver.among(in_two), self.ceremony);
        let asked = self.driver.ask(&nodes, Step::Advance, move |reach| async move {
            reach.insist(|| reach.node.port.advance(&ceremony)).await
        });
        let relayed = match self.said(Step::Advance, Round::Two, asked.await) {
            Ok(said) => self.relay(Step::RelayTwo, &nodes, &said).await.map(|()| said),
            Err(findings) => Err(findings),
        };
        match relayed {
            Ok(said) => Ok(said),
            Err(findings) if self.stands(&findings) == Stands::Resumable => {
                Err(self.failed(Stands::Resumable, findings))
            }
            Err(findings) => Err(self.give_up(findings).await),
        }
    }

    /// From prepared shares to the confirmed key group. What is prepared is kept by its node for ever, so a node that is
    /// away is waited for by a later run, and nobody is told to abandon.
    async fn conclude(&self, said: &Arc<Vec<Said>>) -> Result<ConfirmedKeyGroup, CeremonyError> {
        let ceremony = self.ceremony;
        let asked = self.driver.ask(&self.driver.nodes, Step::Finish, |reach| {
            let said = Arc::clone(said);
            async move { heard(&reach, ceremony, &said, || reach.node.port.finish(&ceremony)).await }
        });
        let answers = asked.await;
        let complaints = complaints(&answers);
        if self.judge.all_have_others(&answers) {
            // Nobody is at fault, and nothing is given up: somebody asked for another key than the one that is being made.
            let text = format!("the nodes make key generation {ceremony} with other parameters than these");
            return Err(CeremonyError::Setup(text));
        }
        let certificate =
            self.all(Step::Finish, answers).and_then(|replies| self.judge.certificate(&replies)).map_err(Box::new);
        let certificate = match certificate {
            Ok(certificate) => certificate,
            Err(findings) if self.stands(&findings) == Stands::Resumable => {
                return Err(self.failed(Stands::Resumable, *findings));
            }
            Err(findings) => {
                self.pass_on(&complaints).await;
                return Err(self.give_up(*findings).await);
            }
        };
        self.certify(certificate).await
    }

    async fn certify(&self, certificate: Certificate) -> Result<ConfirmedKeyGroup, CeremonyError> {
        let bytes: Arc<[u8]> = certificate.to_bytes().into();
        let asked = self.driver.ask(&self.driver.nodes, Step::Certify, |reach| {
            let bytes = Arc::clone(&bytes);
            async move { reach.insist(|| reach.node.port.certify(&bytes)).await }
        });
        let confirmed = self
            .all(Step::Certify, asked.await)
            .and_then(|confirmations| self.judge.confirmed(certificate, &confirmations));
        confirmed.map_err(|findings| self.failed(self.stands(&findings), findings))
    }

    /// Hands every message to every other node. All objections are heard before the ceremony is given up.
    async fn relay(&self, step: Step, to: &Indexed<P>, said: &Arc<Vec<Said>>) -> Result<(), Vec<Finding>> {
        let ceremony = self.ceremony;
        let asked = self.driver.ask(to, step, |reach| {
            let said = Arc::clone(said);
            async move { hand_over(&reach, ceremony, &said).await }
        });
        let objections = self.all(step, asked.await)?;
        let findings = objections.iter().flat_map(|(index, objections)| {
            objections.iter().flat_map(|objection| self.judge.objection(*index, objection))
        });
        let findings = once_each(findings);
        if findings.is_empty() { Ok(()) } else { Err(findings) }
    }

    /// The messages of all nodes, each looked at before it is passed on.
    fn said(&self, step: Step, round: Round, answers: Answers<Vec<Vec<u8>>>) -> Result<Arc<Vec<Said>>, Vec<Finding>> {
        let mut said = Vec::new();
        let mut findings = Vec::new();
        for (index, messages) in self.all(step, answers)? {
            match self.judge.messages(index, step, round, &messages) {
                Ok(messages) => said.extend(messages),
                Err(finding) => findings.push(finding),
            }
        }
        if findings.is_empty() { Ok(Arc::new(said)) } else { Err(findings) }
    }

    /// The answers of all nodes, or everything that the failures say.
    fn all<T>(&self, step: Step, answers: Answers<T>) -> Result<Vec<(usize, T)>, Vec<Finding>> {
        let mut all = Vec::with_capacity(answers.len());
        let mut findings = Vec::new();
        for (index, answer) in answers {
            match answer {
                Ok(value) => all.push((index, value)),
                Err(error) => findings.extend(self.judge.failure(index, step, &error)),
            }
        }
        if findings.is_empty() { Ok(all) } else { Err(once_each(findings)) }
    }

    fn stands(&self, findings: &[Finding]) -> Stands {
        if findings.iter().any(Finding::ends_ceremony) { Stands::Over } else { Stands::Resumable }
    }

    fn failed(&self, stands: Stands, findings: Vec<Finding>) -> CeremonyError {
        CeremonyError::Failed(Box::new(Failed { ceremony: self.ceremony, stands, findings }))
    }

    /// Everybody is told, also those who did not answer: they may have begun. Nobody is waited for.
    async fn give_up(&self, findings: Vec<Finding>) -> CeremonyError {
        let ceremony = self.ceremony;
        let told = self.driver.ask(&self.driver.nodes, Step::Abandon, move |reach| async move {
            match reach.once(reach.node.port.abandon(&ceremony)).await {
                Err(error) if error.reason() == Some(Reason::CeremonyUnknown) => Ok(()),
                answer => answer,
            }
        });
        told.await;
        self.failed(Stands::Over, findings)
    }

    /// Complaints go to all others, so that each node's own log says why the ceremony ended.
    async fn pass_on(&self, complaints: &[Said]) {
        if complaints.is_empty() {
            return;
        }
        let (ceremony, complaints) = (self.ceremony, Arc::new(complaints.to_vec()));
        let told = self.driver.ask(&self.driver.nodes, Step::Abandon, |reach| {
            let complaints = Arc::clone(&complaints);
            async move {
                for complaint in complaints.iter().filter(|complaint| complaint.from != reach.index) {
                    // Its receiver says that the ceremony cannot succeed, which is what it was told.
                    let _ = reach.once(reach.node.port.receive(&ceremony, &complaint.bytes)).await;
                }
                Ok(())
            }
        });
        told.await;
    }
}

/// The signed complaints that came with refusals.
fn complaints<T>(answers: &Answers<T>) -> Vec<Said> {
    let refused = answers.iter().filter_map(|(index, answer)| match answer {
        Err(PortError::Refused(refused)) => Some((*index, refused)),
        _ => None,
    });
    refused
        .flat_map(|(from, refused)| {
            refused.complaints.iter().map(move |bytes| Said { from, bytes: Arc::from(bytes.as_slice()) })
        })
        .collect()
}

fn once_each(findings: impl IntoIterator<Item = Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = |known: &Finding| match (known, &finding) {
            // Any one proof is enough, whoever shows it.
            (Finding::Faulty { node: one, .. }, Finding::Faulty { node: other, .. }) => one == other,
            (one, other) => one == other,
        };
        if !kept.iter().any(same) {
            kept.push(finding);
        }
    }
    kept
}
