//! Members whose secrets the test holds itself: honest, faulty or malicious, as it likes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use frostkeep::engine::{Caller, Engine, Role, Subject};
use frostkeep::frost::{self, Commitments, GroupKey, KeyShare, Nonces, SignatureShare, SigningPackage};
use frostkeep::hsm::entropy;
use frostkeep::identity::{IdentityKey, NodeIdentity};
use frostkeep::ids::{AttemptPolicy, CeremonyId, Member, SessionId};
use frostkeep::keygen::{self, Certificate, Confirmation, ConfirmedKeyGroup, Parameters};
use frostkeep::policy::SigningPolicy;
use frostkeep::roast::{AttemptContext, RoundBinding, SignedRound, round_signature_message};
use frostkeep::store::{RecoverySink, SinkError};
use rand_core::RngCore;

use super::{Cluster, Kind, TestNode, deliver, member, peer};

/// The domain under which an identity signs a round's hash, as the wire has it.
pub const SIGNED_HASH_DOMAIN: &str = "frostkeep/signed-hash/v1";

/// A node without an engine: identity and key shares lie open.
pub struct Outsider {
    pub identity: Arc<NodeIdentity>,
    pub shares: BTreeMap<Member, KeyShare>,
}

impl Outsider {
    pub fn commit(&self, seat: Member) -> (Nonces, Commitments) {
        frost::commit(&self.shares[&seat], &mut entropy::os())
    }

    pub fn sign(
        &self,
        seat: Member,
        nonces: Nonces,
        group: &GroupKey,
        package: &SigningPackage,
        subject: &Subject,
    ) -> SignatureShare {
        frost::sign(nonces, &self.shares[&seat], group, package, subject.root.as_ref()).unwrap()
    }

    /// `share` as this node says it: with its round signature, whatever the share is.
    #[allow(clippy::too_many_arguments, reason = "it is what a round signature covers")]
    pub fn says(
        &self,
        cluster: &Cluster,
        session: &SessionId,
        subject: &Subject,
        context: &AttemptContext,
        package: &SigningPackage,
        seat: Member,
        share: &[u8; 32],
    ) -> SignedRound {
        let binding = RoundBinding {
            key_group: &cluster.key_group,
            session,
            message: &subject.message,
            root: subject.root.as_ref(),
            attempt: context,
            member: seat,
        };
        let hash = round_signature_message(&binding.round_id(package.as_bytes()), seat, share);
        SignedRound {
            member: seat.number(),
            attempt: context.parts(),
            root: subject.root,
            package: package.to_bytes(),
            share: share.to_vec(),
            round_signature: self.identity.sign(SIGNED_HASH_DOMAIN, &[&hash]).as_bytes().to_vec(),
        }
    }
}

/// A share that no package verifies, and that is a scalar all the same.
pub fn altered(share: &[u8; 32]) -> [u8; 32] {
    let mut bytes = *share;
    bytes[31] ^= 1;
    bytes
}

impl Cluster {
    /// Nodes with a seat each, from member 1, and after them `outside` seats that the test holds.
    pub async fn with_outsider(
        engines: u16,
        outside: u16,
        threshold: u16,
        attempts: AttemptPolicy,
        policy: SigningPolicy,
    ) -> (Self, Outsider) {
        let directory = tempfile::tempdir().unwrap();
        let mut nodes: Vec<TestNode> =
            (0..usize::from(engines)).map(|index| TestNode::new(directory.path(), Kind::Scripted, index)).collect();
        for node in &mut nodes {
            node.start_open().await;
        }
        let identity = Arc::new(NodeIdentity::generate(&mut entropy::os()));
        let identities: Vec<IdentityKey> = nodes.iter().map(|node| node.engine().node_identity().unwrap()).collect();
        let seats: BTreeMap<Member, usize> =
            (1..=engines).map(|number| (member(number), usize::from(number) - 1)).collect();
        let mut holders: BTreeMap<Member, IdentityKey> =
            seats.iter().map(|(seat, index)| (*seat, identities[*index])).collect();
        holders.extend((engines + 1..=engines + outside).map(|number| (member(number), identity.public())));
        let mut id = [0; 16];
        entropy::os().fill_bytes(&mut id);
        let ceremony = CeremonyId::new(id);
        let parameters = Parameters::new(ceremony, threshold, holders, attempts, policy.hash().unwrap()).unwrap();
        let engines: Vec<Engine> = nodes.iter().map(TestNode::engine).collect();

        let (mut stage, mut messages) =
            keygen::begin(parameters.clone(), Arc::clone(&identity), &mut entropy::os()).unwrap();
        for engine in &engines {
            messages.extend(engine.keygen_begin(&peer(), parameters.clone(), policy.clone()).await.unwrap());
        }
        deliver(&engines, &ceremony, &messages).await;
        for message in &messages {
            stage.receive(&message.to_bytes()).unwrap();
        }
        let (mut stage, mut messages) = stage.advance(&mut entropy::os()).unwrap();
        for engine in &engines {
            messages.extend(engine.keygen_advance(&peer(), &ceremony).await.unwrap());
        }
        deliver(&engines, &ceremony, &messages).await;
        for message in &messages {
            stage.receive(&message.to_bytes()).unwrap();
        }
        let prepared = stage.finish().unwrap();
        let mut statements = vec![*prepared.statement()];
        for engine in &engines {
            statements.push(engine.keygen_finish(&peer(), &ceremony).await.unwrap().statement);
        }
        let certificate = Certificate::new(prepared.transcript().clone(), statements).unwrap();
        let mut confirmations = vec![Confirmation::sign(&certificate, &identity)];
        for engine in &engines {
            confirmations.push(engine.keygen_certify(&peer(), certificate.to_bytes()).await.unwrap());
        }
        let shares = prepared.activate(&certificate).map_err(|(_, error)| error).unwrap();
        let outsider = Outsider { identity, shares: shares.into_iter().map(|share| (share.member(), share)).collect() };
        let confirmed = ConfirmedKeyGroup::new(certificate, confirmations).unwrap();
        let group = confirmed.certificate().group().clone();
        let key_group = group.id();
        let cluster = Self { nodes, group, key_group, confirmed, identities, seats, _directory: directory };
        (cluster, outsider)
    }

    /// The node of the member that the selection yields, as the `evidence` policy wants it to call.
    pub fn driver(&self, context: &AttemptContext) -> Caller {
        let identity = self.confirmed.certificate().seats()[&context.coordinator()];
        Caller { name: "kit-driver".into(), identity: Some(identity), roles: vec![Role::Coordinator, Role::Peer] }
    }

    /// Where node `index` keeps its state.
    pub fn state_of(&self, index: usize) -> PathBuf {
        self.nodes[index].config.state.clone()
    }
}

/// A sink that keeps what a recovery reads, as it is.
#[derive(Default)]
pub struct Kept {
    pub items: Vec<Vec<u8>>,
    pub records: Vec<(frostkeep::store::Position, Vec<u8>)>,
}

impl RecoverySink for Kept {
    fn snapshot_item(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.items.push(bytes.to_vec());
        Ok(())
    }

    fn record(&mut self, position: frostkeep::store::Position, bytes: &[u8]) -> Result<(), SinkError> {
        self.records.push((position, bytes.to_vec()));
        Ok(())
    }
}
