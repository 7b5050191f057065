//! The agreement that FROST's key generation lacks: every node's signature on one transcript, and every node's word that it
//! keeps them.

use std::collections::BTreeMap;

use bitcoin::key::{Secp256k1, UntweakedPublicKey};
use bitcoin::{Address, Network};
use serde::{Deserialize, Serialize};

use super::{EncodingError, Statement, Transcript, decode, encode};
use crate::frost::GroupKey;
use crate::identity::{IdentityError, IdentityKey, IdentitySignature, NodeIdentity};
use crate::ids::{CeremonyId, KeyGroupId, Member, to_hex};
use crate::limits::RECORD_BYTES_MAX;

const CONFIRMATION: &str = "frostkeep-keygen-confirmation-v1";

/// Why statements or confirmations are not those of all nodes on one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not an encoding of one.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A signature that does not verify.
    #[error(transparent)]
    Signature(#[from] IdentityError),
    /// A node that holds no seat.
    #[error("identity {identity} holds no seat in ceremony {ceremony}")]
    Stranger {
        /// The ceremony.
        ceremony: CeremonyId,
        /// The node.
        identity: IdentityKey,
    },
    /// A node that signed another transcript: somebody told it something else.
    #[error("identity {identity} signed another transcript of ceremony {ceremony}: somebody equivocated")]
    Mismatch {
        /// The ceremony.
        ceremony: CeremonyId,
        /// The node.
        identity: IdentityKey,
    },
    /// Nodes that have not signed.
    #[error("{} nodes have not signed, first {}", .identities.len(), .identities.first().map(IdentityKey::to_string).unwrap_or_default())]
    Missing {
        /// The nodes, ascending.
        identities: Vec<IdentityKey>,
    },
}

/// A transcript with the signatures of all nodes on it. It exists only if every one verifies, so it proves itself, to anybody,
/// without any state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    raw: Raw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Raw {
    transcript: Transcript,
    /// In the order of the identities.
    statements: BTreeMap<IdentityKey, Statement>,
}

impl Certificate {
    /// Puts the statements of all nodes on `transcript` together.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn new(
        transcript: Transcript,
        statements: impl IntoIterator<Item = Statement>,
    ) -> Result<Self, CertificateError> {
        let statements = statements.into_iter().map(|statement| (statement.identity(), statement)).collect();
        Self::check(Raw { transcript, statements })
    }

    fn check(raw: Raw) -> Result<Self, CertificateError> {
        let parameters = raw.transcript.parameters();
        let (ceremony, hash) = (parameters.ceremony(), raw.transcript.hash());
        let mut missing = parameters.identities();
        for (&identity, statement) in &raw.statements {
            if statement.identity() != identity {
                return Err(EncodingError::Malformed { what: "certificate" }.into());
            }
            if !missing.remove(&identity) {
                return Err(CertificateError::Stranger { ceremony, identity });
            }
            statement.verify(parameters)?;
            if statement.transcript() != hash {
                return Err(CertificateError::Mismatch { ceremony, identity });
            }
        }
        if !missing.is_empty() {
            return Err(CertificateError::Missing { identities: missing.into_iter().collect() });
        }
        Ok(Self { raw })
    }

    /// Reads the canonical encoding and verifies every signature.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CertificateError> {
        Self::check(decode("certificate", bytes, RECORD_BYTES_MAX)?)
    }

    /// The canonical encoding: less than 340 bytes a member, so that it fits in one record for the largest group.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.raw)
    }

    /// What all nodes signed.
    pub fn transcript(&self) -> &Transcript {
        &self.raw.transcript
    }

    /// The ceremony.
    pub fn ceremony(&self) -> CeremonyId {
        self.transcript().parameters().ceremony()
    }

    /// The key group.
    pub fn group(&self) -> &GroupKey {
        self.transcript().group()
    }

    /// Who holds which seat.
    pub fn seats(&self) -> &BTreeMap<Member, IdentityKey> {
        self.transcript().parameters().seats()
    }
}

#[cfg(test)]
impl Certificate {
    /// What these nodes sign when they agree on it, without a ceremony: anybody's certificate for anybody's key.
    pub(crate) fn made_up(parameters: super::Parameters, group: GroupKey, nodes: &[&NodeIdentity]) -> Self {
        let digests = vec![([1; 32], [2; 32]); parameters.seats().len()];
        let transcript = Transcript::new(parameters, digests, group).unwrap();
        let statements: Vec<_> = nodes.iter().map(|node| Statement::sign(&transcript, node)).collect();
        Self::new(transcript, statements).unwrap()
    }
}

/// A node's signed word that it holds the certificate durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    identity: IdentityKey,
    signature: IdentitySignature,
}

impl Confirmation {
    /// Says so.
    ///
    /// # Security
    /// Only when the record that holds `certificate` is durable.
    pub fn sign(certificate: &Certificate, identity: &NodeIdentity) -> Self {
        let [ceremony, key_group, hash] = &confirmed(certificate);
        let signature = identity.sign(CONFIRMATION, &[ceremony, key_group, hash]);
        Self { identity: identity.public(), signature }
    }

    /// The node.
    pub fn identity(&self) -> IdentityKey {
        self.identity
    }

    /// Verifies that a node of the key group says so of this certificate.
    ///
    /// # Errors
    /// [`CertificateError::Stranger`], [`CertificateError::Signature`].
    pub fn verify(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let (ceremony, identity) = (certificate.ceremony(), self.identity);
        if !certificate.seats().values().any(|holder| *holder == identity) {
            return Err(CertificateError::Stranger { ceremony, identity });
        }
        let [ceremony, key_group, hash] = &confirmed(certificate);
        Ok(identity.verify(CONFIRMATION, &[ceremony, key_group, hash], &self.signature)?)
    }

    /// Reads the canonical encoding, not yet verified.
    ///
    /// # Errors
    /// [`EncodingError`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
        decode("confirmation", bytes, 96)
    }

    /// The canonical encoding, 96 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

fn confirmed(certificate: &Certificate) -> [Vec<u8>; 3] {
    [
        certificate.ceremony().as_bytes().to_vec(),
        certificate.group().id().as_bytes().to_vec(),
        certificate.transcript().hash().to_vec(),
    ]
}

/// A key group that every node has confirmed: the only type that has an address, so that nothing can be paid to a key that
/// some node might have lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmedKeyGroup {
    certificate: Certificate,
}

impl ConfirmedKeyGroup {
    /// The key group of `certificate`, confirmed by all of its nodes.
    ///
    /// # Errors
    /// [`CertificateError::Missing`] names every node that has not confirmed; others for a confirmation that does not hold.
    pub fn new(
        certificate: Certificate,
        confirmations: impl IntoIterator<Item = Confirmation>,
    ) -> Result<Self, CertificateError> {
        let mut missing = certificate.transcript().parameters().identities();
        for confirmation in confirmations {
            confirmation.verify(&certificate)?;
            missing.remove(&confirmation.identity());
        }
        if missing.is_empty() {
            Ok(Self { certificate })
        } else {
            Err(CertificateError::Missing { identities: missing.into_iter().collect() })
        }
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key group.
    pub fn id(&self) -> KeyGroupId {
        self.certificate.group().id()
    }

    /// The Taproot address without a script tree (BIP-341, BIP-350).
    pub fn address(&self, network: Network) -> Address {
        let key = UntweakedPublicKey::from_slice(&self.certificate.group().internal_key())
            .expect("the x coordinate of a verifying key lies on the curve");
        Address::p2tr(&Secp256k1::verification_only(), key, None, network)
    }

    /// The output descriptor without a checksum (BIP-386).
    pub fn descriptor(&self) -> String {
        format!("tr({})", to_hex(&self.certificate.group().internal_key()))
    }
}
