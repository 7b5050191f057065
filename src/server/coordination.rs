//! A node that coordinates for its callers: the coordinator of [`crate::coordinator`] over this node's own client identity. It
//! keeps nothing; whoever asks again finds what is durable.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use frostkeep_hsm::entropy;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::services::{Services, field, read, refused, taken};
use super::shared::{Asker, Shared};
use crate::client::MemberPort;
use crate::coordinator::ask::AttemptAsk;
use crate::coordinator::{
    Blame, Done, DriveConfig, DriveError, EvidenceMachine, Progress, Setting, drive, session_id, sign, sign_by_evidence,
};
use crate::engine::{Refusal, Subject};
use crate::ids::{AttemptPolicy, KeyGroupId, Member, SessionId};
use crate::limits::{DRIVES_MAX, SIGN_EVENTS_MAX};
use crate::reasons::Reason;
use crate::wire::request::{self, DriveRequest};
use crate::wire::status::status;
use crate::wire::v1;
use crate::wire::v1::coordination_server::Coordination;
use crate::wire::v1::sign_event::Event;

type SignEvents = Pin<Box<dyn Stream<Item = Result<v1::SignEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Coordination for Services {
    type SignStream = SignEvents;

    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<SignEvents>, Status> {
        let (asker, message) = taken(request)?;
        let key_group = field(request::key_group(&message.key_group))?;
        let subject = message.subject.ok_or_else(|| status(Reason::InvalidRequest, "subject is missing"))?;
        let subject: Subject = read(subject)?;
        self.0.note_traffic(None);
        let drive = self.0.drive(&asker, &key_group, subject, session_id(&subject, 0))?;
        let config = paced(message.deadline_ms);
        let (told, events) = mpsc::channel(SIGN_EVENTS_MAX);
        tokio::spawn(async move {
            tokio::select! {
                // The caller has gone away: nothing that is durable is lost by that.
                () = told.closed() => {}
                end = drive.sign(&config, told.clone()) => {
                    // It may have gone in the same moment.
                    let _ = told.send(end).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn drive(&self, request: Request<v1::DriveRequest>) -> Result<Response<v1::DriveReply>, Status> {
        let (asker, message) = taken(request)?;
        let asked: DriveRequest = read(message)?;
        self.0.note_traffic(Some(&asked.session.session));
        let key_group = asked.session.key_group;
        let driven = self.0.drive(&asker, &key_group, asked.subject, asked.session.session.clone())?;
        let signature = driven.attempt(asked).await?;
        Ok(Response::new(v1::DriveReply { signature }))
    }
}

/// All that a session needs to be driven from here.
struct Drive {
    setting: Setting,
    policy: AttemptPolicy,
    own: BTreeSet<Member>,
    port: Arc<MemberPort>,
    _room: OwnedSemaphorePermit,
}

impl Shared {
    fn drive(
        &self,
        asker: &Asker,
        key_group: &KeyGroupId,
        subject: Subject,
        session: SessionId,
    ) -> Result<Drive, Status> {
        if !self.coordination {
            return Err(status(
                Reason::CoordinationOff,
                "this node does not coordinate: its configuration does not say so",
            ));
        }
        let engine = self.engine_for(asker, key_group)?;
        let view = engine.key_group(key_group).map_err(refused)?;
        let certificate = view.certificate.ok_or_else(|| refused(Refusal::KeyGroupPrepared(*key_group)))?;
        let room = Arc::clone(&self.drives).try_acquire_owned().map_err(|_| {
            refused(Refusal::CapacityExceeded { what: "sessions driven by this node", limit: DRIVES_MAX as u64 })
        })?;
        let network = self.network(&engine)?;
        Ok(Drive {
            setting: Setting::new(certificate.group().clone(), view.seats.clone(), session, subject)
                .of_ceremony(view.ceremony),
            policy: view.attempt_policy,
            own: view.local_members.iter().copied().collect(),
            port: Arc::new(network.port(&view.seats)),
            _room: room,
        })
    }
}

impl Drive {
    /// Signs, and tells on the way what happens. The last event is the signature, or why there is none.
    async fn sign(
        self,
        config: &DriveConfig,
        told: mpsc::Sender<Result<v1::SignEvent, Status>>,
    ) -> Result<v1::SignEvent, Status> {
        let mut entropy = entropy::os();
        let lines = told.clone();
        // A caller that does not read misses lines, and nothing else.
        let mut watch = move |progress: &Progress| {
            let _ = lines.try_send(Ok(line(progress.to_string())));
        };
        let done = match self.policy {
            AttemptPolicy::Roast => sign(&self.port, &self.setting, config, &mut entropy, &mut watch).await,
            AttemptPolicy::Evidence => {
                sign_by_evidence(&self.port, &self.setting, &self.own, config, &mut entropy, &mut watch).await
            }
        };
        let Done { session, signature, unconfirmed, blamed } = done.map_err(|error| unsigned(&error))?;
        let finished = v1::Finished {
            signature: signature.as_bytes().to_vec(),
            session_id: session.as_str().to_owned(),
            unconfirmed: unconfirmed.iter().map(|member| member.number().into()).collect(),
            blamed: blamed.iter().map(told_of).collect(),
        };
        Ok(v1::SignEvent { event: Some(Event::Finished(finished)) })
    }

    /// Drives one attempt of the policy `evidence`, which selected a seat of this node.
    async fn attempt(self, asked: DriveRequest) -> Result<Vec<u8>, Status> {
        let invalid = |problem: String| status(Reason::InvalidRequest, problem);
        if self.policy != AttemptPolicy::Evidence {
            return Err(invalid("attempts are driven for others under the policy evidence only".into()));
        }
        let included = asked.context.included.iter().filter_map(|number| Member::new(*number).ok());
        let included: Vec<Member> = included.collect();
        let context = self.setting.derive(asked.context.number, &included).map_err(|error| refused(error.into()))?;
        if context.parts() != asked.context {
            return Err(status(
                Reason::AttemptContextInvalid,
                "the attempt is not the one that its number and set yield",
            ));
        }
        if !self.own.contains(&context.coordinator()) {
            let selected = context.coordinator();
            return Err(invalid(format!("the attempt selects member {selected}, which is no seat of this node")));
        }
        let ask = AttemptAsk { context, evidence: asked.evidence };
        let mut machine = EvidenceMachine::of_attempt(self.setting.clone(), self.own.clone(), &ask);
        let (config, mut entropy) = (DriveConfig::default(), entropy::os());
        let done = drive(&self.port, &self.setting, &mut machine, &config, &mut entropy, &mut |_| {}).await;
        done.map(|done| done.signature.as_bytes().to_vec()).map_err(|error| unsigned(&error))
    }
}

/// The driver's pace within the caller's deadline, 0 for the driver's own.
fn paced(deadline_ms: u64) -> DriveConfig {
    let config = DriveConfig::default();
    match deadline_ms {
        0 => config,
        asked => DriveConfig { deadline_ms: asked.min(config.deadline_ms), ..config },
    }
}

/// Why there is no signature, with what stands between each member and it.
fn unsigned(error: &DriveError) -> Status {
    let told = error.members().iter().map(|(member, why)| format!("; member {member} {why}"));
    status(error.reason(), format!("{error}{}", told.collect::<String>()))
}

fn told_of((member, blame): &(Member, Blame)) -> v1::Blamed {
    let proof = blame.proof().map(Into::into);
    v1::Blamed { member: member.number().into(), fault: blame.sentence().to_owned(), proof }
}

fn line(progress: String) -> v1::SignEvent {
    v1::SignEvent { event: Some(Event::Progress(progress)) }
}
