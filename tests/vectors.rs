//! The vectors that bind every implementation: attempt contexts and coordinator selection of RFC-21, signature
//! hashes of BIP-341.
//!
//! Each file of `tests/vectors/` is read whole and every entry in it is checked; an entry of an unknown shape fails.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use frostkeep::bitcoin::{Prevout, SighashFlag, UnsignedTransaction};
use frostkeep::ids::{from_hex, to_hex};
use frostkeep::roast::{context, selection};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

#[derive(Deserialize)]
struct ContextFile {
    vectors: Vec<ContextVector>,
}

#[derive(Deserialize)]
struct ContextVector {
    id: String,
    session_id: String,
    message_digest_hex: String,
    attempt_number: u32,
    coordinator_identifier: u16,
    included_participants: Vec<u16>,
    expected_included_participants_fingerprint: String,
    expected_attempt_id: String,
}

#[test]
fn fingerprints_and_attempt_ids_are_those_of_the_vectors() {
    let file: ContextFile = read("attempt_context.json");
    assert!(!file.vectors.is_empty());
    for vector in file.vectors {
        let fingerprint = context::included_fingerprint(&vector.included_participants);
        assert_eq!(to_hex(&fingerprint), vector.expected_included_participants_fingerprint, "{}", vector.id);
        let digest = from_hex("message digest", &vector.message_digest_hex).unwrap();
        let id = context::attempt_id(
            &vector.session_id,
            &digest,
            vector.attempt_number,
            vector.coordinator_identifier,
            &fingerprint,
        );
        assert_eq!(id.to_string(), vector.expected_attempt_id, "{}", vector.id);
    }
}

#[derive(Deserialize)]
struct CoordinatorFile {
    seed_vectors: Vec<SeedVector>,
    shuffle_vectors: Vec<ShuffleVector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeedVector {
    name: String,
    key_group: String,
    #[serde(rename = "sessionID")]
    session_id: String,
    message_digest_hex: String,
    included_members: Vec<u16>,
    attempt_number: u32,
    wire_attempt_number: u32,
    expected_shuffle_seed_int64: String,
    expected_coordinator: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShuffleVector {
    name: String,
    seed_int64: String,
    attempt_number: u32,
    members: Vec<u16>,
    expected_coordinator: u16,
}

#[test]
fn seeds_and_coordinators_are_those_of_the_vectors() {
    let file: CoordinatorFile = read("coordinator.json");
    assert!(!file.seed_vectors.is_empty() && !file.shuffle_vectors.is_empty());
    for vector in file.seed_vectors {
        assert_eq!(vector.wire_attempt_number, vector.attempt_number + 1, "{}", vector.name);
        let message = hex(&vector.message_digest_hex);
        let seed = selection::session_seed(&vector.key_group, &vector.session_id, &message).unwrap();
        assert_eq!(seed.to_string(), vector.expected_shuffle_seed_int64, "{}", vector.name);
        let chosen = selection::coordinator(seed, vector.attempt_number, &vector.included_members);
        assert_eq!(chosen, Some(vector.expected_coordinator), "{}", vector.name);
    }
    for vector in file.shuffle_vectors {
        let seed: i64 = vector.seed_int64.parse().unwrap();
        let chosen = selection::coordinator(seed, vector.attempt_number, &vector.members);
        assert_eq!(chosen, Some(vector.expected_coordinator), "{}", vector.name);
    }
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    raw_unsigned_tx: String,
    utxos_spent: Vec<Utxo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Utxo {
    script_pub_key: String,
    amount_sats: u64,
}

#[derive(Deserialize)]
struct InputSpending {
    given: InputGiven,
    intermediary: InputHash,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputGiven {
    txin_index: usize,
    hash_type: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputHash {
    sig_hash: String,
}

#[test]
fn signature_hashes_are_those_of_bip_341() {
    // The wallet vectors of BIP-341, as Bitcoin Core ships them.
    let file: WalletFile = read("bip341_wallet.json");
    let mut checked = 0;
    for spending in file.key_path_spending {
        let prevout =
            |utxo: &Utxo| Prevout { value_sat: utxo.amount_sats, script: utxo.script_pub_key.parse().unwrap() };
        let prevouts: Vec<Prevout> = spending.given.utxos_spent.iter().map(prevout).collect();
        let transaction = UnsignedTransaction::from_parts(&hex(&spending.given.raw_unsigned_tx), &prevouts).unwrap();
        for InputSpending { given, intermediary } in spending.input_spending {
            match SighashFlag::from_hash_type(given.txin_index, given.hash_type) {
                Ok(flag) => {
                    let message = transaction.sighash(given.txin_index, flag).unwrap();
                    assert_eq!(message.to_string(), intermediary.sig_hash, "input {}", given.txin_index);
                    checked += 1;
                }
                Err(_) => assert!(given.hash_type > 1),
            }
        }
    }
    assert_eq!(checked, 2, "the vectors hold one input of each supported type");
}
