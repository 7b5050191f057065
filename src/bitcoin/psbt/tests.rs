//! Goal: the group's inputs are found and signed, nothing else changes, and no lie is believed. Method: a PSBT of two own and
//! two foreign inputs whose keys the test holds; libsecp256k1 signs; a reader of its own compares the fields.

use std::collections::BTreeMap;

use ::bitcoin::absolute::LockTime;
use ::bitcoin::base64::Engine;
use ::bitcoin::base64::engine::general_purpose::STANDARD;
use ::bitcoin::hashes::Hash;
use ::bitcoin::key::{Keypair, TapTweak};
use ::bitcoin::psbt::{Psbt, PsbtSighashType, raw};
use ::bitcoin::secp256k1::{self, All, Secp256k1};
use ::bitcoin::transaction::Version;
use ::bitcoin::{
    Amount, OutPoint, ScriptBuf, Sequence, TapNodeHash, TapSighashType, Transaction, TxIn, TxOut, Txid, Witness,
    consensus, taproot,
};
use proptest::prelude::*;

use super::signature::{Hasher, KeyPathSignature};
use super::*;
use crate::bitcoin::{SighashFlag, key_path_script};
use crate::ids::{KeyGroupId, MerkleRoot};

const ROOT: MerkleRoot = MerkleRoot::new([7; 32]);
/// Own without a root; foreign Taproot; own under [`ROOT`], asked for `SIGHASH_ALL`; foreign P2WPKH.
const PLAIN: usize = 0;
const FOREIGN: usize = 1;
const ROOTED: usize = 2;
const ELSE: usize = 3;

fn secp() -> Secp256k1<All> {
    Secp256k1::new()
}

/// A key of the test's own.
struct Holder(Keypair);

impl Holder {
    fn group() -> Self {
        Self(Keypair::from_seckey_slice(&secp(), &[0x11; 32]).unwrap())
    }

    fn stranger() -> Self {
        Self(Keypair::from_seckey_slice(&secp(), &[0x22; 32]).unwrap())
    }

    fn id(&self) -> KeyGroupId {
        KeyGroupId::new(self.0.public_key().serialize()).unwrap()
    }

    fn tweaked(&self, root: Option<&MerkleRoot>) -> Keypair {
        let root = root.map(|root| TapNodeHash::from_byte_array(*root.as_bytes()));
        self.0.tap_tweak(&secp(), root).to_keypair()
    }

    fn script(&self, root: Option<&MerkleRoot>) -> ScriptBuf {
        let key = self.tweaked(root).x_only_public_key().0.serialize();
        ScriptBuf::from_bytes(key_path_script(&key).to_vec())
    }

    fn sign(&self, file: &PsbtFile, input: usize, root: Option<&MerkleRoot>, hash_type: TapSighashType) -> [u8; 64] {
        let message = Hasher::new(&file.transaction).message(input, hash_type).unwrap();
        let message = secp256k1::Message::from_digest(*message.as_bytes());
        secp().sign_schnorr_no_aux_rand(&message, &self.tweaked(root)).serialize()
    }
}

fn psbt() -> Psbt {
    let (group, stranger) = (Holder::group(), Holder::stranger());
    let p2wpkh = [vec![0, 20], vec![9; 20]].concat();
    let scripts = [group.script(None), stranger.script(None), group.script(Some(&ROOT)), ScriptBuf::from_bytes(p2wpkh)];
    let output = |script: &ScriptBuf| TxOut { value: Amount::from_sat(50_000), script_pubkey: script.clone() };
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
        output: vec![output(&scripts[0]), output(&scripts[3])],
    };
    let mut psbt = Psbt::from_unsigned_tx(transaction).unwrap();
    for (fields, script) in psbt.inputs.iter_mut().zip(&scripts) {
        fields.witness_utxo = Some(output(script));
    }
    psbt.inputs[ROOTED].tap_internal_key = Some(group.0.x_only_public_key().0);
    psbt.inputs[ROOTED].tap_merkle_root = Some(TapNodeHash::from_byte_array(*ROOT.as_bytes()));
    psbt.inputs[ROOTED].sighash_type = Some(PsbtSighashType::from_u32(1));
    for index in [PLAIN, ELSE] {
        psbt.inputs[index].unknown.insert(raw::Key { type_value: 0x60, key: vec![1, 2] }, vec![3; 300]);
        let key = raw::ProprietaryKey { prefix: b"elsewhere".to_vec(), subtype: 1, key: vec![5] };
        psbt.inputs[index].proprietary.insert(key, vec![6]);
    }
    psbt
}

fn file(psbt: &Psbt) -> PsbtFile {
    PsbtFile::parse(&psbt.serialize()).unwrap()
}

fn found(psbt: &Psbt) -> Result<Vec<GroupInput>, PsbtError> {
    file(psbt).group_inputs(&Holder::group().id())
}

/// Both signatures of the group.
fn signatures(file: &PsbtFile) -> BTreeMap<usize, [u8; 64]> {
    let group = Holder::group();
    BTreeMap::from([
        (PLAIN, group.sign(file, PLAIN, None, TapSighashType::Default)),
        (ROOTED, group.sign(file, ROOTED, Some(&ROOT), TapSighashType::All)),
    ])
}

fn signed(psbt: &Psbt) -> PsbtFile {
    let mut file = file(psbt);
    let signatures = signatures(&file);
    file.put_signatures(&Holder::group().id(), &signatures).unwrap();
    file
}

/// A PSBT that is complete but for the group's signatures.
fn others_ready() -> Psbt {
    let mut psbt = psbt();
    let signature = Holder::stranger().sign(&file(&psbt), FOREIGN, None, TapSighashType::None);
    let signature = secp256k1::schnorr::Signature::from_slice(&signature).unwrap();
    psbt.inputs[FOREIGN].tap_key_sig = Some(taproot::Signature { signature, sighash_type: TapSighashType::None });
    psbt.inputs[ELSE].final_script_witness = Some(Witness::from_slice(&[vec![4; 71], vec![2; 33]]));
    psbt
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The maps of a PSBT, by a reader that shares nothing with the code under test.
fn maps(bytes: &[u8]) -> Vec<Fields> {
    fn part<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
        let (length, skip) = match rest[0] {
            0xfd => (usize::from(u16::from_le_bytes([rest[1], rest[2]])), 3),
            short => (usize::from(short), 1),
        };
        let part = &rest[skip..skip + length];
        *rest = &rest[skip + length..];
        part
    }
    let mut rest = &bytes[MAGIC.len()..];
    let mut maps = Vec::new();
    while !rest.is_empty() {
        let mut fields = Vec::new();
        loop {
            let key = part(&mut rest).to_vec();
            if key.is_empty() {
                break;
            }
            fields.push((key, part(&mut rest).to_vec()));
        }
        maps.push(fields);
    }
    maps
}

fn joined(maps: &[Fields]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for map in maps {
        for (key, value) in map {
            bytes.extend(consensus::serialize(key));
            bytes.extend(consensus::serialize(value));
        }
        bytes.push(0);
    }
    bytes
}

/// The PSBT with the fields of every map in the opposite order, which BIP-174 allows and the `bitcoin` crate undoes.
fn reversed(psbt: &Psbt) -> Vec<u8> {
    let mut maps = maps(&psbt.serialize());
    maps.iter_mut().for_each(|fields| fields.reverse());
    joined(&maps)
}

#[test]
fn an_unchanged_psbt_goes_back_as_it_came() {
    for binary in [psbt().serialize(), reversed(&psbt()), others_ready().serialize()] {
        assert_eq!(PsbtFile::parse(&binary).unwrap().to_bytes(), binary);
        let text = STANDARD.encode(&binary);
        let read = PsbtFile::parse(format!(" {text}\r\n").as_bytes()).unwrap();
        assert_eq!(read.to_bytes(), text.as_bytes());
        assert_eq!(read.to_binary(), binary);
    }
    assert_ne!(reversed(&psbt()), psbt().serialize());
}

#[test]
fn a_psbt_made_of_a_transaction_names_the_inputs_of_the_group_under_the_roots_given() {
    let transaction = file(&psbt()).transaction;
    let inputs = |roots: &[MerkleRoot]| {
        let made = PsbtFile::of_transaction(transaction.clone(), &Holder::group().id(), roots).unwrap();
        assert_eq!(made.transaction(), &transaction);
        assert_eq!(PsbtFile::parse(&made.to_bytes()).unwrap(), made);
        let own = made.group_inputs(&Holder::group().id()).unwrap();
        own.iter().map(|own| (own.input, own.root, own.flag)).collect::<Vec<_>>()
    };
    let plain = (PLAIN, None, SighashFlag::Default);
    assert_eq!(inputs(&[]), [plain]);
    assert_eq!(inputs(&[MerkleRoot::new([8; 32]), ROOT]), [plain, (ROOTED, Some(ROOT), SighashFlag::Default)]);
}

#[test]
fn own_inputs_are_found_with_root_flag_and_message_and_foreign_ones_are_not() {
    let file = file(&psbt());
    let expected = |input, root: Option<MerkleRoot>, flag: SighashFlag| GroupInput {
        input,
        root,
        flag,
        message: file.transaction().sighash(input, flag).unwrap(),
        output_key: Holder::group().tweaked(root.as_ref()).x_only_public_key().0.serialize(),
        signature: None,
    };
    let own = [expected(PLAIN, None, SighashFlag::Default), expected(ROOTED, Some(ROOT), SighashFlag::All)];
    assert_eq!(found(&psbt()).unwrap(), own);
    // A root without an internal key is proved by the tweak as well.
    let mut keyless = psbt();
    keyless.inputs[ROOTED].tap_internal_key = None;
    assert_eq!(found(&keyless).unwrap(), own);
    // Without any field nobody can tell that an output is the group's under a root.
    keyless.inputs[ROOTED].tap_merkle_root = None;
    assert_eq!(found(&keyless).unwrap(), own[..1]);
    let mut named = psbt();
    named.inputs[PLAIN].tap_internal_key = Some(Holder::group().0.x_only_public_key().0);
    assert_eq!(found(&named).unwrap(), own);
    let strangers = file.group_inputs(&Holder::stranger().id()).unwrap();
    assert_eq!(strangers.iter().map(|own| own.input).collect::<Vec<_>>(), [FOREIGN]);
}

#[test]
fn a_field_that_contradicts_the_output_spent_is_named_with_its_input() {
    let (group, stranger) = (Holder::group().0.x_only_public_key().0, Holder::stranger().0.x_only_public_key().0);
    let root = |byte| Some(TapNodeHash::from_byte_array([byte; 32]));
    type Change<'a> = &'a dyn Fn(&mut Psbt);
    let lies: [(Change<'_>, usize, InputField); 7] = [
        (&|psbt| psbt.inputs[PLAIN].tap_internal_key = Some(stranger), PLAIN, InputField::TapInternalKey),
        (&|psbt| psbt.inputs[PLAIN].tap_merkle_root = root(8), PLAIN, InputField::TapMerkleRoot),
        (&|psbt| psbt.inputs[ROOTED].tap_merkle_root = root(8), ROOTED, InputField::TapMerkleRoot),
        (&|psbt| psbt.inputs[ROOTED].tap_merkle_root = None, ROOTED, InputField::TapInternalKey),
        (&|psbt| psbt.inputs[FOREIGN].tap_internal_key = Some(group), FOREIGN, InputField::TapInternalKey),
        (&|psbt| psbt.inputs[ELSE].tap_internal_key = Some(group), ELSE, InputField::TapInternalKey),
        (
            &|psbt| {
                psbt.inputs[FOREIGN].tap_internal_key = Some(group);
                psbt.inputs[FOREIGN].tap_merkle_root = root(8);
            },
            FOREIGN,
            InputField::TapMerkleRoot,
        ),
    ];
    for (change, input, field) in lies {
        let mut lying = psbt();
        change(&mut lying);
        assert_eq!(found(&lying), Err(PsbtError::Contradiction { input, field }));
    }
    // What others tell one another about their outputs is their affair.
    let mut foreign = psbt();
    foreign.inputs[FOREIGN].tap_internal_key = Some(stranger);
    foreign.inputs[FOREIGN].tap_merkle_root = root(8);
    foreign.inputs[ELSE].tap_merkle_root = root(8);
    assert_eq!(found(&foreign), found(&psbt()));
    let nobody = KeyGroupId::new([[2].as_slice(), &[0; 32]].concat().try_into().unwrap()).unwrap();
    assert_eq!(file(&psbt()).group_inputs(&nobody), Err(PsbtError::KeyGroup { key_group: nobody }));
}

#[test]
fn signatures_go_into_own_inputs_and_not_a_byte_of_another_field_changes() {
    for before in [psbt().serialize(), reversed(&psbt())] {
        let mut file = PsbtFile::parse(&before).unwrap();
        let made = signatures(&file);
        file.put_signatures(&Holder::group().id(), &made).unwrap();
        let mut after = maps(&file.to_bytes());
        // 64 bytes under SIGHASH_DEFAULT, 65 under SIGHASH_ALL.
        for (input, value) in [(PLAIN, made[&PLAIN].to_vec()), (ROOTED, [&made[&ROOTED][..], &[1]].concat())] {
            let fields = &mut after[1 + input];
            let place = fields.iter().position(|(key, _)| key == &[0x13]).unwrap();
            assert_eq!(fields.remove(place).1, value);
        }
        assert_eq!(after, maps(&before));
        assert!(Psbt::deserialize(&file.to_bytes()).is_ok());
        let read = PsbtFile::parse(&file.to_bytes()).unwrap();
        assert_eq!(read, file);
        let own = read.group_inputs(&Holder::group().id()).unwrap();
        assert_eq!(own.iter().map(|own| (own.input, own.signature.unwrap())).collect::<BTreeMap<_, _>>(), made);
    }
    let sorted = signed(&psbt()).to_bytes();
    assert_eq!(Psbt::deserialize(&sorted).unwrap().serialize(), sorted, "fields in order stay in order");
}

#[test]
fn a_signature_that_does_not_verify_is_refused_and_none_goes_in() {
    let base = file(&psbt());
    let good = signatures(&base);
    for input in [PLAIN, ROOTED] {
        for bit in [0, 255, 256, 511] {
            let mut bad = good.clone();
            bad.get_mut(&input).unwrap()[bit / 8] ^= 1 << (bit % 8);
            let mut file = base.clone();
            let refused = file.put_signatures(&Holder::group().id(), &bad);
            assert_eq!(refused, Err(PsbtError::SignatureRefused { input }));
            assert_eq!(file, base);
        }
    }
    // Right for another type, another root, another input: wrong.
    let group = Holder::group();
    for (input, signature) in [
        (PLAIN, group.sign(&base, PLAIN, None, TapSighashType::All)),
        (ROOTED, group.sign(&base, ROOTED, None, TapSighashType::All)),
        (ROOTED, good[&PLAIN]),
    ] {
        let refused = base.clone().put_signatures(&group.id(), &BTreeMap::from([(input, signature)]));
        assert_eq!(refused, Err(PsbtError::SignatureRefused { input }));
    }
    for input in [FOREIGN, ELSE, 4] {
        let refused = base.clone().put_signatures(&group.id(), &BTreeMap::from([(input, good[&PLAIN])]));
        assert_eq!(refused, Err(PsbtError::NotOwn { input }));
    }
}

#[test]
fn a_signature_that_is_there_is_kept_if_it_verifies_and_never_replaced() {
    let group = Holder::group();
    let mut file = signed(&psbt());
    let before = file.to_bytes();
    // Another signature of the same message, as another pair of members makes it.
    let message = Hasher::new(&file.transaction).message(PLAIN, TapSighashType::Default).unwrap();
    let message = secp256k1::Message::from_digest(*message.as_bytes());
    let other = secp().sign_schnorr_with_aux_rand(&message, &group.tweaked(None), &[9; 32]).serialize();
    assert_ne!(signatures(&file)[&PLAIN], other);
    file.put_signatures(&group.id(), &BTreeMap::from([(PLAIN, other)])).unwrap();
    assert_eq!(file.to_bytes(), before);

    // A wrong one is nobody's to replace.
    let mut maps = maps(&before);
    let place = maps[1 + PLAIN].iter().position(|(key, _)| key == &[0x13]).unwrap();
    maps[1 + PLAIN][place].1[63] ^= 1;
    let mut wrong = PsbtFile::parse(&joined(&maps)).unwrap();
    let refused = Err(PsbtError::SignatureInvalid { input: PLAIN, field: InputField::TapKeySig });
    assert_eq!(wrong.put_signatures(&group.id(), &BTreeMap::from([(PLAIN, other)])), refused);
    assert_eq!(wrong.to_bytes(), joined(&maps));

    // The same in a finished witness.
    let mut finished = psbt();
    finished.inputs[PLAIN].final_script_witness = Some(Witness::from_slice(&[other]));
    assert_eq!(found(&finished).unwrap()[0].signature, Some(other));
    for witness in [Witness::new(), Witness::from_slice(&[&other[..63]]), Witness::from_slice(&[[1; 64]])] {
        finished.inputs[PLAIN].final_script_witness = Some(witness);
        let refused = PsbtError::SignatureInvalid { input: PLAIN, field: InputField::FinalScriptWitness };
        assert_eq!(found(&finished), Err(refused));
    }
}

#[test]
fn the_type_of_a_signature_is_the_one_that_was_asked_for() {
    let group = Holder::group();
    let base = file(&psbt());
    let with = |input: usize, value: Vec<u8>| {
        let mut maps = maps(&psbt().serialize());
        maps[1 + input].push((vec![0x13], value));
        PsbtFile::parse(&joined(&maps)).unwrap().group_inputs(&group.id())
    };
    let default = group.sign(&base, ROOTED, Some(&ROOT), TapSighashType::Default);
    let refused = PsbtError::SignatureType { input: ROOTED, field: InputField::TapKeySig, asked: 1, found: 0 };
    assert_eq!(with(ROOTED, default.to_vec()), Err(refused));
    // Nothing was asked: a signature of either type counts, and says which.
    let all = [group.sign(&base, PLAIN, None, TapSighashType::All).as_slice(), &[1]].concat();
    assert_eq!(with(PLAIN, all).unwrap()[0].flag, SighashFlag::All);
    // Type 0 written out is on no chain.
    let explicit = [group.sign(&base, PLAIN, None, TapSighashType::Default).as_slice(), &[0]].concat();
    assert_eq!(with(PLAIN, explicit), Err(PsbtError::SignatureInvalid { input: PLAIN, field: InputField::TapKeySig }));
    // The group's own signatures leave nothing open.
    let open = [group.sign(&base, PLAIN, None, TapSighashType::None).as_slice(), &[2]].concat();
    let refused = TransactionError::SighashType { input: PLAIN, found: 2 };
    assert_eq!(with(PLAIN, open), Err(PsbtError::Transaction(refused)));
    assert!(KeyPathSignature::read(&[1; 63]).is_none() && KeyPathSignature::read(&[1; 66]).is_none());
}

#[test]
fn a_psbt_that_is_not_complete_says_which_inputs_lack_what() {
    let lacking = |what: &[(usize, Lack)]| {
        let lacking = what.iter().map(|(input, what)| Lacking { input: *input, what: *what }).collect();
        Err(PsbtError::Incomplete { lacking })
    };
    let all = [
        (PLAIN, Lack::KeySignature),
        (FOREIGN, Lack::KeySignature),
        (ROOTED, Lack::KeySignature),
        (ELSE, Lack::FinalScript),
    ];
    assert_eq!(file(&psbt()).finalize(), lacking(&all));
    assert_eq!(signed(&psbt()).finalize(), lacking(&[all[1], all[3]]));
    let ours = file(&others_ready()).finalize();
    assert_eq!(ours, lacking(&[all[0], all[2]]));
    assert_eq!(
        ours.unwrap_err().to_string(),
        "the transaction is not complete: input 0 lacks PSBT_IN_TAP_KEY_SIG, input 2 lacks PSBT_IN_TAP_KEY_SIG"
    );
}

#[test]
fn a_complete_psbt_becomes_the_signed_transaction() {
    let file = signed(&others_ready());
    let finalized = file.finalize().unwrap();
    let transaction: Transaction = consensus::deserialize(&finalized.raw()).unwrap();
    let made = signatures(&file);
    assert_eq!(transaction.input[PLAIN].witness, Witness::from_slice(&[made[&PLAIN]]));
    assert_eq!(transaction.input[ROOTED].witness, Witness::from_slice(&[[&made[&ROOTED][..], &[1]].concat()]));
    assert_eq!(transaction.input[FOREIGN].witness.nth(0).unwrap().len(), 65);
    assert_eq!(Some(&transaction.input[ELSE].witness), others_ready().inputs[ELSE].final_script_witness.as_ref());
    assert_eq!(finalized.hex(), consensus::encode::serialize_hex(&transaction));
    assert_eq!(finalized.id(), file.transaction().id());

    // An input that was made final keeps its UTXO and what nobody here knows; an input that was final is untouched.
    let (before, after) = (maps(&file.to_bytes()), maps(&finalized.psbt().to_bytes()));
    let types = |fields: &Fields| fields.iter().map(|(key, _)| key[0]).collect::<Vec<_>>();
    assert_eq!(types(&before[1 + ROOTED]), [0x01, 0x03, 0x13, 0x17, 0x18]);
    assert_eq!(types(&after[1 + ROOTED]), [0x01, 0x08]);
    assert_eq!(types(&before[1 + PLAIN]), [0x01, 0x13, 0xfc, 0x60]);
    assert_eq!(types(&after[1 + PLAIN]), [0x01, 0x08, 0xfc, 0x60]);
    assert_eq!((&after[0], &after[1 + ELSE]), (&before[0], &before[1 + ELSE]));
    let again = PsbtFile::parse(&finalized.psbt().to_bytes()).unwrap();
    assert_eq!(again.finalize().unwrap(), finalized);
    assert_eq!(again.group_inputs(&Holder::group().id()).unwrap()[0].signature, Some(made[&PLAIN]));
}

#[test]
fn a_strangers_wrong_signature_is_found_before_the_network_does() {
    let mut maps = maps(&signed(&others_ready()).to_bytes());
    let place = maps[1 + FOREIGN].iter().position(|(key, _)| key == &[0x13]).unwrap();
    maps[1 + FOREIGN][place].1[0] ^= 1;
    let wrong = PsbtFile::parse(&joined(&maps)).unwrap();
    // It stops nobody from signing what is theirs.
    assert_eq!(wrong.group_inputs(&Holder::group().id()).unwrap().len(), 2);
    let refused = PsbtError::SignatureInvalid { input: FOREIGN, field: InputField::TapKeySig };
    assert_eq!(wrong.finalize(), Err(refused));
}

/// Everything that is done with a PSBT. What is read goes back as it came, whatever it is.
fn exercise(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(mut file) = PsbtFile::parse(bytes) else { return Ok(()) };
    prop_assert_eq!(file.to_bytes(), bytes);
    let _ = file.finalize();
    let before = maps(bytes);
    if let Ok(own) = file.group_inputs(&Holder::group().id()) {
        let group = Holder::group();
        let made =
            own.iter().map(|own| (own.input, group.sign(&file, own.input, own.root.as_ref(), own.flag.hash_type())));
        let made: BTreeMap<_, _> = made.collect();
        file.put_signatures(&group.id(), &made).unwrap();
        let strip = |maps: Vec<Fields>| {
            let strip = |fields: Fields| fields.into_iter().filter(|(key, _)| key != &[0x13]).collect();
            maps.into_iter().map(strip).collect::<Vec<Fields>>()
        };
        prop_assert_eq!(strip(maps(&file.to_bytes())), strip(before));
        let signed = file.group_inputs(&group.id()).unwrap();
        prop_assert!(signed.iter().all(|own| own.signature.is_some()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes)?;
        exercise(&[MAGIC, &bytes].concat())?;
    }

    #[test]
    fn mutated_psbts_never_panic_and_go_back_as_they_came(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        complete in any::<bool>(),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = if complete { signed(&others_ready()).to_bytes() } else { reversed(&psbt()) };
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        exercise(&bytes)?;
    }

    #[test]
    fn fields_of_any_content_and_order_survive_signing(
        values in proptest::collection::vec((0x40u8..0xfc, proptest::collection::vec(any::<u8>(), 0..300)), 0..6),
        rotate in 0usize..8,
    ) {
        let mut maps = maps(&psbt().serialize());
        for fields in &mut maps {
            for (number, (key_type, value)) in (0u8..).zip(&values) {
                fields.push((vec![*key_type, 0xaa, number], value.clone()));
            }
            let rotate = rotate % fields.len().max(1);
            fields.rotate_left(rotate);
        }
        exercise(&joined(&maps))?;
    }
}
