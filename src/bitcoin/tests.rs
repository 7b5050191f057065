//! Transactions in, signature hashes and facts out; every fault typed.

use std::collections::BTreeSet;

use ::bitcoin::absolute::LockTime;
use ::bitcoin::base64::Engine;
use ::bitcoin::base64::engine::general_purpose::STANDARD;
use ::bitcoin::hashes::Hash;
use ::bitcoin::psbt::Psbt;
use ::bitcoin::transaction::Version;
use ::bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, consensus};
use proptest::prelude::*;

use super::*;
use crate::hash::sha256;
use crate::ids::Message;
use crate::limits::{SCRIPT_BYTES_MAX, TRANSACTION_BYTES_MAX, TRANSACTION_INPUTS_MAX};

const OWN: [u8; 32] = [1; 32];
const FOREIGN: [u8; 32] = [2; 32];

fn own() -> OutputKeys {
    BTreeSet::from([OWN])
}

fn output(value_sat: u64, script: &[u8]) -> TxOut {
    TxOut { value: Amount::from_sat(value_sat), script_pubkey: ScriptBuf::from_bytes(script.to_vec()) }
}

fn input(number: u8) -> TxIn {
    TxIn {
        previous_output: OutPoint::new(Txid::from_byte_array([number; 32]), u32::from(number)),
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    }
}

/// Two own inputs of 60 000 and a foreign one of 30 000; 100 000 to somebody, 49 000 back; fee 1 000.
fn transaction() -> (Transaction, Vec<TxOut>) {
    let mut p2wpkh = [0u8; 22];
    p2wpkh[1] = 20;
    let transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input(1), input(2), input(3)],
        output: vec![output(100_000, &p2wpkh), output(49_000, &key_path_script(&OWN))],
    };
    let prevouts = vec![
        output(60_000, &key_path_script(&OWN)),
        output(30_000, &key_path_script(&FOREIGN)),
        output(60_000, &key_path_script(&OWN)),
    ];
    (transaction, prevouts)
}

fn parts(transaction: &Transaction, prevouts: &[TxOut]) -> Result<UnsignedTransaction, TransactionError> {
    let prevouts: Vec<Prevout> = prevouts
        .iter()
        .map(|output| Prevout {
            value_sat: output.value.to_sat(),
            script: ScriptBytes::new(output.script_pubkey.to_bytes()),
        })
        .collect();
    UnsignedTransaction::from_parts(&consensus::serialize(transaction), &prevouts)
}

fn good() -> UnsignedTransaction {
    let (transaction, prevouts) = transaction();
    parts(&transaction, &prevouts).unwrap()
}

fn psbt() -> Psbt {
    let (transaction, prevouts) = transaction();
    let mut psbt = Psbt::from_unsigned_tx(transaction).unwrap();
    for (fields, prevout) in psbt.inputs.iter_mut().zip(prevouts) {
        fields.witness_utxo = Some(prevout);
    }
    psbt
}

fn from_psbt(psbt: &Psbt) -> Result<UnsignedTransaction, TransactionError> {
    UnsignedTransaction::from_psbt(&psbt.serialize(), &own())
}

#[test]
fn parts_and_psbt_in_either_form_give_the_same_transaction() {
    let good = good();
    let binary = psbt().serialize();
    let text = format!("{}\n", STANDARD.encode(&binary));
    assert_eq!(UnsignedTransaction::from_psbt(&binary, &own()).as_ref(), Ok(&good));
    assert_eq!(UnsignedTransaction::from_psbt(text.as_bytes(), &own()).as_ref(), Ok(&good));
    assert_eq!(UnsignedTransaction::from_parts(&good.raw(), &good.prevouts()), Ok(good.clone()));
    assert_eq!(good.id().to_string(), transaction().0.compute_txid().to_string());
    assert_eq!(good.id().to_string().parse(), Ok(good.id()));
}

#[test]
fn trap_12_a_message_is_a_signature_hash_of_an_own_input_and_never_the_hash_of_the_transaction() {
    let good = good();
    assert_eq!(good.inputs_of(&OWN), [0, 2]);
    for input in [0, 2] {
        for flag in SighashFlag::ALL {
            let message = good.sighash(input, flag).unwrap();
            assert_eq!(good.find_message(&OWN, &message), Some((input, flag)));
            assert_eq!(good.find_message(&FOREIGN, &message), None);
        }
    }
    let foreign = good.sighash(1, SighashFlag::Default).unwrap();
    assert_eq!(good.find_message(&OWN, &foreign), None);
    for hash in [*good.id().as_bytes(), sha256(&good.raw()), sha256(&sha256(&good.raw()))] {
        assert_eq!(good.find_message(&OWN, &Message::new(hash)), None);
    }
}

#[test]
fn the_signature_hash_and_the_prevouts_hash_cover_every_prevout() {
    let good = good();
    let (transaction, prevouts) = transaction();
    for index in 0..3 {
        for change in [
            |out: &mut TxOut| out.value += Amount::ONE_SAT,
            |out: &mut TxOut| out.script_pubkey = key_path_script(&[9; 32]).to_vec().into(),
        ] {
            let mut other = prevouts.clone();
            change(&mut other[index]);
            let other = parts(&transaction, &other).unwrap();
            assert_eq!(other.id(), good.id());
            assert_ne!(other.prevouts_hash(), good.prevouts_hash());
            assert_ne!(other.sighash(0, SighashFlag::Default), good.sighash(0, SighashFlag::Default));
        }
    }
}

#[test]
fn facts_tell_own_from_foreign_and_add_up() {
    let facts = good().facts(&own());
    assert_eq!(facts.inputs.iter().map(|input| input.own).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(facts.outputs.iter().map(|output| output.own).collect::<Vec<_>>(), [false, true]);
    assert_eq!((facts.paid_out_sat(), facts.fee_sat), (100_000, 1_000));
    // Sizes counted by hand: 4 + 1 + 3 * 41 + 1 + 31 + 43 + 4 bytes, and three key-path witnesses.
    assert_eq!(facts.weight_wu, 207 * 4 + 2 + 3 * 66);
    assert_eq!(facts.feerate_sat_per_kvb(), (1_000 * 4_000u64).div_ceil(1_028));
}

#[test]
fn script_classes_are_told_apart() {
    let mut p2pkh = vec![0x76, 0xa9, 20];
    p2pkh.extend([0; 20]);
    p2pkh.extend([0x88, 0xac]);
    let mut p2sh = vec![0xa9, 20];
    p2sh.extend([0; 20]);
    p2sh.push(0x87);
    let witness = |version: u8, length: u8| [vec![version, length], vec![0; usize::from(length)]].concat();
    for (script, class) in [
        (witness(0x51, 32), ScriptClass::P2tr),
        (witness(0, 20), ScriptClass::P2wpkh),
        (witness(0, 32), ScriptClass::P2wsh),
        (p2pkh, ScriptClass::P2pkh),
        (p2sh, ScriptClass::P2sh),
        (vec![0x6a, 1, 0], ScriptClass::OpReturn),
        (witness(0x52, 32), ScriptClass::Other),
        (vec![], ScriptClass::Other),
    ] {
        assert_eq!(ScriptClass::of(&script), class);
    }
}

#[test]
fn only_default_and_all_are_signed() {
    for hash_type in [2, 3, 0x80, 0x81, 0x82, 0x83, 0x100, u32::MAX] {
        let refused = Err(TransactionError::SighashType { input: 7, found: hash_type });
        assert_eq!(SighashFlag::from_hash_type(7, hash_type), refused);
    }
    assert_eq!(SighashFlag::from_hash_type(7, 0), Ok(SighashFlag::Default));
    assert_eq!(SighashFlag::from_hash_type(7, 1), Ok(SighashFlag::All));
}

#[test]
fn only_existing_taproot_inputs_have_a_signature_hash() {
    let (transaction, mut prevouts) = transaction();
    prevouts[1] = output(30_000, &[0x6a]);
    let mixed = parts(&transaction, &prevouts).unwrap();
    assert!(mixed.sighash(0, SighashFlag::All).is_ok());
    assert_eq!(mixed.sighash(1, SighashFlag::All), Err(TransactionError::NotTaproot { input: 1 }));
    let missing = TransactionError::NoSuchInput { input: 3, count: 3 };
    assert_eq!(mixed.sighash(3, SighashFlag::All), Err(missing));
}

#[test]
fn a_psbt_asks_for_nothing_unusual_on_own_inputs_and_for_anything_on_foreign_ones() {
    type Change = fn(&mut ::bitcoin::psbt::Input);
    let unusual: [(Change, TransactionError); 4] = [
        (
            |fields| fields.sighash_type = Some(::bitcoin::psbt::PsbtSighashType::from_u32(0x83)),
            TransactionError::SighashType { input: 0, found: 0x83 },
        ),
        (
            |fields| {
                let key = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798".parse().unwrap();
                let leaf = ::bitcoin::TapLeafHash::from_byte_array([0; 32]);
                let signature = ::bitcoin::taproot::Signature::from_slice(&[1; 64]).unwrap();
                fields.tap_script_sigs.insert((key, leaf), signature);
            },
            TransactionError::ScriptPath { input: 0 },
        ),
        (
            |fields| fields.final_script_witness = Some(Witness::from_slice(&[vec![1; 64], vec![0x50, 1]])),
            TransactionError::Annex { input: 0 },
        ),
        (
            |fields| {
                fields.final_script_witness = Some(Witness::from_slice(&[vec![1; 64], vec![0x51], vec![0xc0; 33]]))
            },
            TransactionError::ScriptPath { input: 0 },
        ),
    ];
    for (change, refused) in unusual {
        let mut own_asks = psbt();
        change(&mut own_asks.inputs[0]);
        assert_eq!(from_psbt(&own_asks), Err(refused));
        let mut foreign_asks = psbt();
        change(&mut foreign_asks.inputs[1]);
        assert_eq!(from_psbt(&foreign_asks), Ok(good()));
    }
    let mut plain = psbt();
    plain.inputs[0].sighash_type = Some(::bitcoin::psbt::PsbtSighashType::from_u32(1));
    plain.inputs[0].final_script_witness = Some(Witness::from_slice(&[vec![1; 64]]));
    assert_eq!(from_psbt(&plain), Ok(good()));
}

#[test]
fn a_psbts_previous_transaction_must_hold_what_is_spent() {
    let (_, prevouts) = transaction();
    let previous = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input(9)],
        output: vec![output(5, &[]), prevouts[0].clone()],
    };
    let mut spending = psbt();
    spending.unsigned_tx.input[0].previous_output = OutPoint::new(previous.compute_txid(), 1);
    spending.inputs[0].non_witness_utxo = Some(previous.clone());
    assert!(from_psbt(&spending).is_ok());
    // Without a witness UTXO the previous transaction alone says it.
    let mut alone = spending.clone();
    alone.inputs[0].witness_utxo = None;
    assert_eq!(from_psbt(&alone), from_psbt(&spending));

    let mut differs = spending.clone();
    differs.inputs[0].witness_utxo = Some(output(60_001, &key_path_script(&OWN)));
    let mut no_such_output = spending.clone();
    no_such_output.unsigned_tx.input[0].previous_output.vout = 2;
    let mut other = spending.clone();
    other.inputs[0].non_witness_utxo.as_mut().unwrap().output[0] = output(6, &[]);
    for bad in [differs, no_such_output, other] {
        assert_eq!(from_psbt(&bad), Err(TransactionError::PrevoutMismatch { input: 0 }));
    }
    let mut silent = psbt();
    silent.inputs[1].witness_utxo = None;
    assert_eq!(from_psbt(&silent), Err(TransactionError::PrevoutMissing { input: 1 }));
}

#[test]
fn each_fault_of_a_transaction_is_named() {
    let (base, prevouts) = transaction();
    let with = |change: fn(&mut Transaction)| {
        let mut changed = base.clone();
        change(&mut changed);
        parts(&changed, &prevouts)
    };
    assert_eq!(with(|tx| tx.output.clear()), Err(TransactionError::Empty { inputs: 3, outputs: 0 }));
    assert_eq!(with(|tx| tx.input[1].script_sig = vec![1].into()), Err(TransactionError::Signed { input: 1 }));
    assert_eq!(with(|tx| tx.input[2].witness.push([1])), Err(TransactionError::Signed { input: 2 }));
    assert_eq!(with(|tx| tx.input[0].previous_output = OutPoint::null()), Err(TransactionError::Coinbase { input: 0 }));
    assert_eq!(
        with(|tx| tx.input[2].previous_output = tx.input[0].previous_output),
        Err(TransactionError::SpentTwice { input: 2 })
    );
    assert_eq!(
        with(|tx| tx.output[0].value = Amount::from_sat(101_001)),
        Err(TransactionError::Overspent { inputs_sat: 150_000, outputs_sat: 150_001 })
    );
    assert_eq!(with(|tx| tx.output[0].value = Amount::MAX_MONEY), Err(TransactionError::ValueOverflow));
    assert_eq!(
        with(|tx| tx.output[0].script_pubkey = vec![0; SCRIPT_BYTES_MAX + 1].into()),
        Err(TransactionError::ScriptTooLong { found: SCRIPT_BYTES_MAX + 1 })
    );
    assert_eq!(parts(&base, &prevouts[..2]), Err(TransactionError::PrevoutCount { found: 2, inputs: 3 }));
    let mut huge = prevouts.clone();
    huge[0].value = Amount::from_sat(u64::MAX);
    assert_eq!(parts(&base, &huge), Err(TransactionError::ValueOverflow));
    assert_eq!(
        UnsignedTransaction::from_parts(&[0; TRANSACTION_BYTES_MAX + 1], &[]),
        Err(TransactionError::TooLong { found: TRANSACTION_BYTES_MAX + 1 })
    );
    let mut trailing = consensus::serialize(&base);
    trailing.push(0);
    assert!(matches!(UnsignedTransaction::from_parts(&trailing, &[]), Err(TransactionError::Encoding { .. })));
    let mut trailing = psbt().serialize();
    trailing.push(0);
    let refused = UnsignedTransaction::from_psbt(&trailing, &own());
    assert!(matches!(refused, Err(TransactionError::PsbtEncoding { .. })));
    let many: Vec<TxIn> = (0..=TRANSACTION_INPUTS_MAX as u32)
        .map(|vout| TxIn { previous_output: OutPoint::new(Txid::from_byte_array([1; 32]), vout), ..input(1) })
        .collect();
    let crowd = Transaction { input: many, ..base };
    let refused = parts(&crowd, &vec![prevouts[0].clone(); crowd.input.len()]);
    assert_eq!(refused, Err(TransactionError::TooManyInputs { found: TRANSACTION_INPUTS_MAX + 1 }));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = UnsignedTransaction::from_parts(&bytes, &[]);
        let _ = UnsignedTransaction::from_psbt(&bytes, &own());
        let _ = UnsignedTransaction::from_psbt(&[b"psbt\xff".to_vec(), bytes].concat(), &own());
    }

    #[test]
    fn a_flipped_bit_of_a_psbt_never_panics_and_never_widens_what_is_signed(offset: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = psbt().serialize();
        let offset = offset.index(bytes.len());
        bytes[offset] ^= 1 << bit;
        if let Ok(other) = UnsignedTransaction::from_psbt(&bytes, &own()) {
            let base = good();
            let message = base.sighash(0, SighashFlag::Default).unwrap();
            let same = (other.id(), other.prevouts_hash()) == (base.id(), base.prevouts_hash());
            prop_assert_eq!(other.find_message(&OWN, &message).is_some(), same);
        }
    }
}
