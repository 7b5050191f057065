//! Goal: PSBTs as the world makes them are read, signed and finished. Method: the vectors of BIP-371, PSBTs made of the wallet
//! vectors of BIP-341, and real engines that sign beside strangers, with Bitcoin Core's script engine as judge.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod kit;

use std::collections::BTreeMap;
use std::path::Path;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::hex::FromHex;
use bitcoin::key::{Keypair, TapTweak};
use bitcoin::psbt::{Psbt, PsbtSighashType};
use bitcoin::secp256k1::{self, Secp256k1};
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, CompressedPublicKey, OutPoint, ScriptBuf, Sequence, TapNodeHash, Transaction, TxIn, TxOut, Txid, Witness,
    XOnlyPublicKey, consensus, taproot,
};
use bitcoinconsensus::{Error, Utxo, verify};
use frostkeep::bitcoin::{
    GroupInput, InputField, Lack, Lacking, PsbtError, PsbtFile, SighashFlag, TransactionError, key_path_script,
};
use frostkeep::engine::{BuildRequest, Refusal, Subject};
use frostkeep::ids::{KeyGroupId, MerkleRoot};
use frostkeep::policy::SigningPolicy;
use kit::{Cluster, Kind, Plan, coordinator, member, session};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    Vec::from_hex(text).unwrap()
}

#[derive(Deserialize)]
struct PsbtVectors {
    invalid: Vec<PsbtVector>,
    valid: Vec<PsbtVector>,
}

#[derive(Deserialize)]
struct PsbtVector {
    case: String,
    psbt: String,
}

/// The key group whose internal key this is; a point's parity says nothing about its x coordinate.
fn group_of(internal: &[u8]) -> KeyGroupId {
    KeyGroupId::new([&[2], internal].concat().try_into().unwrap()).unwrap()
}

#[test]
fn the_psbts_of_bip_371_are_read_and_refused_as_it_says() {
    let vectors: PsbtVectors = read("bip371_psbt.json");
    assert_eq!((vectors.invalid.len(), vectors.valid.len()), (11, 6));
    for PsbtVector { case, psbt } in vectors.invalid {
        let refused = PsbtFile::parse(&hex(&psbt));
        assert!(matches!(refused, Err(TransactionError::PsbtEncoding { .. })), "{case}: {refused:?}");
    }
    let mut signed = Vec::new();
    for PsbtVector { case, psbt } in vectors.valid {
        let raw = hex(&psbt);
        let file = PsbtFile::parse(&raw).unwrap();
        assert_eq!(file.to_bytes(), raw, "{case}");
        let fields = &Psbt::deserialize(&raw).unwrap().inputs[0];
        let group = group_of(&fields.tap_internal_key.unwrap().serialize());
        let root = fields.tap_merkle_root.map(|root| MerkleRoot::new(root.to_byte_array()));
        match file.group_inputs(&group) {
            Ok(own) => {
                assert_eq!(own.iter().map(|own| (own.input, own.root)).collect::<Vec<_>>(), [(0, root)], "{case}");
                signed.extend(own[0].signature.map(|_| file.finalize().unwrap()));
            }
            // Somebody has begun to spend it by a script.
            Err(error) => {
                assert!(case.ends_with("script path signatures"), "{case}");
                assert_eq!(error, PsbtError::Transaction(TransactionError::ScriptPath { input: 0 }));
            }
        }
    }
    // The one key-path signature of the vectors verifies.
    assert_eq!(signed.len(), 1);
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WalletFile {
    key_path_spending: Vec<Spending>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spending {
    given: Given,
    input_spending: Vec<InputSpending>,
    auxiliary: Auxiliary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    raw_unsigned_tx: String,
    utxos_spent: Vec<Spent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spent {
    script_pub_key: String,
    amount_sats: u64,
}

#[derive(Deserialize)]
struct InputSpending {
    given: InputGiven,
    intermediary: Intermediary,
    expected: Expected,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputGiven {
    txin_index: usize,
    merkle_root: Option<MerkleRootText>,
    hash_type: u32,
}

#[derive(Deserialize)]
struct MerkleRootText(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intermediary {
    internal_pubkey: String,
    sig_hash: String,
}

#[derive(Deserialize)]
struct Expected {
    witness: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Auxiliary {
    fully_signed_tx: String,
}

impl InputSpending {
    fn group(&self) -> KeyGroupId {
        group_of(&hex(&self.intermediary.internal_pubkey))
    }

    fn root(&self) -> Option<MerkleRoot> {
        self.given.merkle_root.as_ref().map(|root| root.0.parse().unwrap())
    }

    /// With the sighash type, as a PSBT has it.
    fn witness(&self) -> Vec<u8> {
        hex(&self.expected.witness[0])
    }
}

/// The wallet vector as a PSBT that has every field of BIP-371 and no signature.
fn wallet_psbt(spending: &Spending) -> Psbt {
    let transaction: Transaction = consensus::deserialize(&hex(&spending.given.raw_unsigned_tx)).unwrap();
    let mut psbt = Psbt::from_unsigned_tx(transaction).unwrap();
    for (fields, spent) in psbt.inputs.iter_mut().zip(&spending.given.utxos_spent) {
        fields.witness_utxo = Some(TxOut {
            value: Amount::from_sat(spent.amount_sats),
            script_pubkey: ScriptBuf::from_bytes(hex(&spent.script_pub_key)),
        });
    }
    for input in &spending.input_spending {
        let fields = &mut psbt.inputs[input.given.txin_index];
        fields.tap_internal_key = Some(input.intermediary.internal_pubkey.parse().unwrap());
        fields.tap_merkle_root = input.root().map(|root| TapNodeHash::from_byte_array(*root.as_bytes()));
        fields.sighash_type = Some(PsbtSighashType::from_u32(input.given.hash_type));
    }
    psbt
}

#[test]
fn psbts_of_the_wallet_vectors_of_bip_341_give_their_messages_and_their_signed_transaction() {
    let file: WalletFile = read("bip341_wallet.json");
    let spending = &file.key_path_spending[0];
    let signed: Transaction = consensus::deserialize(&hex(&spending.auxiliary.fully_signed_tx)).unwrap();
    let mut psbt = wallet_psbt(spending);
    let bare = PsbtFile::parse(&psbt.serialize()).unwrap();
    // Others' part: what is no Taproot input, and types that no key group signs.
    for (input, fields) in psbt.inputs.iter_mut().enumerate() {
        match spending.input_spending.iter().find(|one| one.given.txin_index == input) {
            Some(one) if one.given.hash_type > 1 => {
                fields.tap_key_sig = Some(taproot::Signature::from_slice(&one.witness()).unwrap());
                let refused = TransactionError::SighashType { input, found: one.given.hash_type };
                assert_eq!(bare.group_inputs(&one.group()), Err(refused.into()));
            }
            Some(_) => {}
            None => {
                let done = &signed.input[input];
                fields.final_script_sig = Some(done.script_sig.clone()).filter(|script| !script.is_empty());
                fields.final_script_witness = Some(done.witness.clone()).filter(|witness| !witness.is_empty());
            }
        }
    }
    let mut file = PsbtFile::parse(&psbt.serialize()).unwrap();
    let ours: Vec<_> = spending.input_spending.iter().filter(|one| one.given.hash_type <= 1).collect();
    let missing = |input| Lacking { input, what: Lack::KeySignature };
    let lacking = ours.iter().map(|one| missing(one.given.txin_index)).collect();
    assert_eq!(file.finalize(), Err(PsbtError::Incomplete { lacking }));
    for one in &ours {
        let own = file.group_inputs(&one.group()).unwrap();
        let [GroupInput { input, root, flag, message, signature: None, .. }] = own.as_slice() else {
            unreachable!("each key of the vectors has one input: {own:?}")
        };
        let expected = (one.given.txin_index, one.root(), one.intermediary.sig_hash.clone());
        assert_eq!((*input, *root, message.to_string()), expected);
        assert_eq!(*flag, SighashFlag::from_hash_type(*input, one.given.hash_type).unwrap());
        let signature = BTreeMap::from([(*input, one.witness()[..64].try_into().unwrap())]);
        file.put_signatures(&one.group(), &signature).unwrap();
    }
    let finalized = file.finalize().unwrap();
    assert_eq!(finalized.hex(), spending.auxiliary.fully_signed_tx);
    let spent: Vec<TxOut> = psbt.inputs.iter().map(|fields| fields.witness_utxo.clone().unwrap()).collect();
    assert!((0..spent.len()).all(|input| judge(&spent, &finalized.raw(), input)));
}

/// What Bitcoin Core's script engine says. Always with the spent outputs: without them it knows nothing of Taproot.
fn judge(spent: &[TxOut], raw: &[u8], input: usize) -> bool {
    let utxo = |output: &TxOut| Utxo {
        script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
        script_pubkey_len: output.script_pubkey.len().try_into().unwrap(),
        value: output.value.to_sat().try_into().unwrap(),
    };
    let utxos: Vec<Utxo> = spent.iter().map(utxo).collect();
    let output = &spent[input];
    match verify(output.script_pubkey.as_bytes(), output.value.to_sat(), raw, Some(&utxos), input) {
        Ok(()) => true,
        Err(Error::ERR_SCRIPT) => false,
        Err(other) => panic!("that is no verdict: {other:?}"),
    }
}

/// Inputs of the group (0 without a root, 2 under a root) and of two strangers (1 Taproot, 3 P2WPKH).
struct Shared {
    psbt: Psbt,
    spent: Vec<TxOut>,
    stranger: Keypair,
    root: MerkleRoot,
}

impl Shared {
    fn new(cluster: &Cluster) -> Self {
        let secp = Secp256k1::new();
        let stranger = Keypair::from_seckey_slice(&secp, &[0x33; 32]).unwrap();
        let root = MerkleRoot::new([0x44; 32]);
        let script = |key: [u8; 32]| ScriptBuf::from_bytes(key_path_script(&key).to_vec());
        let strangers = stranger.tap_tweak(&secp, None).to_keypair().x_only_public_key().0;
        let scripts = [
            script(cluster.group.output_key(None)),
            script(strangers.serialize()),
            script(cluster.group.output_key(Some(&root))),
            ScriptBuf::new_p2wpkh(&CompressedPublicKey(stranger.public_key()).wpubkey_hash()),
        ];
        let output = |script: &ScriptBuf| TxOut { value: Amount::from_sat(100_000), script_pubkey: script.clone() };
        let input = |number: u8| TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([number; 32]), 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        };
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: (1..=4).map(input).collect(),
            output: vec![TxOut { value: Amount::from_sat(398_000), script_pubkey: scripts[3].clone() }],
        };
        let spent: Vec<TxOut> = scripts.iter().map(output).collect();
        let mut psbt = Psbt::from_unsigned_tx(transaction).unwrap();
        for (fields, output) in psbt.inputs.iter_mut().zip(&spent) {
            fields.witness_utxo = Some(output.clone());
        }
        psbt.inputs[1].tap_internal_key = Some(stranger.x_only_public_key().0);
        psbt.inputs[2].tap_internal_key = Some(XOnlyPublicKey::from_slice(&cluster.group.internal_key()).unwrap());
        psbt.inputs[2].tap_merkle_root = Some(TapNodeHash::from_byte_array(*root.as_bytes()));
        psbt.inputs[2].sighash_type = Some(PsbtSighashType::from_u32(1));
        Self { psbt, spent, stranger, root }
    }

    /// The strangers sign what is theirs, in a PSBT that the group has signed.
    fn strangers_sign(&self, signed: &PsbtFile) -> PsbtFile {
        let secp = Secp256k1::new();
        let mut psbt = Psbt::deserialize(&signed.to_binary()).unwrap();
        let message = signed.transaction().sighash(1, SighashFlag::Default).unwrap();
        let message = secp256k1::Message::from_digest(*message.as_bytes());
        let key = self.stranger.tap_tweak(&secp, None).to_keypair();
        let signature = secp.sign_schnorr_no_aux_rand(&message, &key);
        psbt.inputs[1].tap_key_sig =
            Some(taproot::Signature { signature, sighash_type: bitcoin::TapSighashType::Default });
        let mut cache = SighashCache::new(&psbt.unsigned_tx);
        let all = EcdsaSighashType::All;
        let hash = cache.p2wpkh_signature_hash(3, &self.spent[3].script_pubkey, self.spent[3].value, all).unwrap();
        let message = secp256k1::Message::from_digest(hash.to_byte_array());
        let signature = secp.sign_ecdsa(&message, &self.stranger.secret_key());
        let signature = bitcoin::ecdsa::Signature { signature, sighash_type: all };
        psbt.inputs[3].final_script_witness = Some(Witness::p2wpkh(&signature, &self.stranger.public_key()));
        PsbtFile::parse(&psbt.serialize()).unwrap()
    }
}

/// Every node approves, and a pair of members signs each input of the group.
async fn sign(cluster: &Cluster, shared: &Shared, file: &PsbtFile) -> Result<BTreeMap<usize, [u8; 64]>, Refusal> {
    let own = file.group_inputs(&cluster.key_group).unwrap();
    let request = BuildRequest {
        key_group: cluster.key_group,
        transaction: file.transaction().clone(),
        roots: own.iter().filter_map(|own| own.root).collect(),
    };
    assert_eq!(request.roots, [shared.root]);
    for node in &cluster.nodes {
        node.engine().build_taproot_tx(&coordinator(), &request).await?;
    }
    let mut signatures = BTreeMap::new();
    for (own, pair) in own.iter().zip([[1, 3], [2, 3]]) {
        let subject = Subject { message: own.message, root: own.root };
        let session = session(&format!("input-{}", own.input));
        signatures.insert(own.input, cluster.sign(&session, &subject, &pair.map(member)).await);
    }
    Ok(signatures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_signs_its_inputs_beside_strangers_and_bitcoin_core_accepts_the_transaction() {
    let plan = Plan { policy: SigningPolicy::standard(), ..Plan::two_of_three(Kind::Scripted) };
    let cluster = Cluster::new(plan).await;
    let shared = Shared::new(&cluster);
    let mut file = PsbtFile::parse(shared.psbt.to_string().as_bytes()).unwrap();
    let signatures = sign(&cluster, &shared, &file).await.unwrap();
    file.put_signatures(&cluster.key_group, &signatures).unwrap();

    // The PSBT as it was, and two more fields.
    let mut expected = shared.psbt.clone();
    for (input, sighash_type) in [(0, bitcoin::TapSighashType::Default), (2, bitcoin::TapSighashType::All)] {
        let signature = secp256k1::schnorr::Signature::from_slice(&signatures[&input]).unwrap();
        expected.inputs[input].tap_key_sig = Some(taproot::Signature { signature, sighash_type });
    }
    assert_eq!(file.to_bytes(), expected.to_string().as_bytes());
    let lacking = vec![Lacking { input: 1, what: Lack::KeySignature }, Lacking { input: 3, what: Lack::FinalScript }];
    assert_eq!(file.finalize(), Err(PsbtError::Incomplete { lacking }));

    let complete = shared.strangers_sign(&file);
    let raw = complete.finalize().unwrap().raw();
    for input in 0..4 {
        assert!(judge(&shared.spent, &raw, input), "input {input}");
    }
    for input in [0, 2] {
        for bit in [0, 255, 256, 511] {
            let mut tampered: Transaction = consensus::deserialize(&raw).unwrap();
            let mut signature = tampered.input[input].witness.nth(0).unwrap().to_vec();
            signature[bit / 8] ^= 1 << (bit % 8);
            tampered.input[input].witness = Witness::from_slice(&[signature.clone()]);
            assert!(!judge(&shared.spent, &consensus::serialize(&tampered), input), "input {input}, bit {bit}");
            // Nobody needs the network for that: the PSBT says it, and names the input.
            let mut psbt = Psbt::deserialize(&complete.to_binary()).unwrap();
            psbt.inputs[input].tap_key_sig = Some(taproot::Signature::from_slice(&signature).unwrap());
            let wrong = PsbtFile::parse(&psbt.serialize()).unwrap();
            let refused = PsbtError::SignatureInvalid { input, field: InputField::TapKeySig };
            assert_eq!(wrong.finalize(), Err(refused.clone()));
            assert_eq!(wrong.group_inputs(&cluster.key_group), Err(refused));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_psbt_that_policy_forbids_is_refused_with_the_reason_and_stays_as_it_was() {
    let policy = SigningPolicy { fee_sat_max: 1_999, ..SigningPolicy::standard() };
    let cluster = Cluster::new(Plan { policy, ..Plan::two_of_three(Kind::Scripted) }).await;
    let shared = Shared::new(&cluster);
    let file = PsbtFile::parse(&shared.psbt.serialize()).unwrap();
    let refusal = sign(&cluster, &shared, &file).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Policy(_)), "{refusal:?}");
    assert!(refusal.to_string().contains("1999"), "{refusal}");
    // And an unapproved signature hash is no way around it.
    let own = file.group_inputs(&cluster.key_group).unwrap();
    let subject = Subject { message: own[0].message, root: own[0].root };
    let session = session("unapproved");
    let package = cluster.package(&session, &subject, &[member(1), member(2)]);
    let request = cluster.request(&session, &subject, 1, &package, member(1));
    let refusal = kit::start(&cluster.engine_of(member(1)), &request).await.unwrap_err();
    assert!(matches!(refusal, Refusal::MessageNotApproved), "{refusal:?}");
}
