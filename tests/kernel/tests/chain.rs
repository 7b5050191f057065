//! Goal: blocks that spend a key group's outputs are valid by Bitcoin's consensus, whichever members signed, and a signature
//! with one bit flipped is not. Method: Bitcoin Core's validation in this process, on a regtest chain whose coinbases pay to
//! the group; three real engines on scripted tokens, a key without a dealer, approvals under a policy, PSBTs.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../kit/mod.rs"]
mod kit;
mod regtest;

use std::collections::BTreeMap;

use bitcoin::absolute::LockTime;
use bitcoin::psbt::Psbt;
use bitcoin::transaction::Version;
use bitcoin::{Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, consensus};
use frostkeep::bitcoin::PsbtFile;
use frostkeep::engine::{BuildRequest, Subject};
use frostkeep::policy::SigningPolicy;
use kit::{Cluster, Kind, Plan, coordinator, member, session};
use regtest::{Checked, Regtest};

const FEE: Amount = Amount::from_sat(2_000);
/// A coinbase is spent by the hundredth block after it, at the earliest.
const MATURITY: i32 = 100;

/// A PSBT that spends the only output of a coinbase: a tenth to a stranger, the rest back.
fn spend(coinbase: &Transaction) -> Psbt {
    let spent = coinbase.output[0].clone();
    let stranger = ScriptBuf::from_bytes([vec![0, 20], vec![0x57; 20]].concat());
    let paid = spent.value / 10;
    let transaction = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(coinbase.compute_txid(), 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![
            TxOut { value: paid, script_pubkey: stranger },
            TxOut { value: spent.value - paid - FEE, script_pubkey: spent.script_pubkey.clone() },
        ],
    };
    let mut psbt = Psbt::from_unsigned_tx(transaction).unwrap();
    psbt.inputs[0].witness_utxo = Some(spent);
    psbt
}

/// The PSBT, signed by these two members after every node has approved it, as a transaction.
async fn signed(cluster: &Cluster, psbt: &Psbt, pair: [u16; 2]) -> Transaction {
    let mut file = PsbtFile::parse(&psbt.serialize()).unwrap();
    let request =
        BuildRequest { key_group: cluster.key_group, transaction: file.transaction().clone(), roots: Vec::new() };
    for node in &cluster.nodes {
        node.engine().build_taproot_tx(&coordinator(), &request).await.unwrap();
    }
    let own = file.group_inputs(&cluster.key_group).unwrap();
    let subject = Subject { message: own[0].message, root: own[0].root };
    let name = session(&format!("spend-by-{}-{}", pair[0], pair[1]));
    let signature = cluster.sign(&name, &subject, &pair.map(member)).await;
    file.put_signatures(&cluster.key_group, &BTreeMap::from([(0, signature)])).unwrap();
    consensus::deserialize(&file.finalize().unwrap().raw()).unwrap()
}

fn flipped(transaction: &Transaction, bit: usize) -> Transaction {
    let mut signature = transaction.input[0].witness.nth(0).unwrap().to_vec();
    signature[bit / 8] ^= 1 << (bit % 8);
    let mut tampered = transaction.clone();
    tampered.input[0].witness = Witness::from_slice(&[signature]);
    tampered
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_of_a_two_of_three_spends_on_a_chain_and_a_flipped_bit_never_does() {
    // A tenth of a coinbase is more than the standard policy lets go at once.
    let policy = SigningPolicy { value_sat_max: 600_000_000, rates: [].into(), ..SigningPolicy::standard() };
    let cluster = Cluster::new(Plan { policy, ..Plan::two_of_three(Kind::Scripted) }).await;
    let script = cluster.confirmed.address(Network::Regtest).script_pubkey();
    let mut chain = Regtest::new(script);
    let coinbases: Vec<Transaction> = (0..=MATURITY).map(|_| chain.mine(&[], Amount::ZERO)).collect();
    assert_eq!(chain.height(), 101);

    for (coinbase, pair) in coinbases.iter().zip([[1, 2], [1, 3], [2, 3]]) {
        let height = chain.height();
        let transaction = signed(&cluster, &spend(coinbase), pair).await;
        for bit in [0, 255, 256, 511] {
            let block = chain.block(&[flipped(&transaction, bit)], FEE);
            assert_eq!(chain.submit(&block), Checked::Invalid, "bit {bit} of the signature of {pair:?}");
            assert_eq!(chain.height(), height, "bit {bit} of the signature of {pair:?}");
        }
        // Unsigned, it is not anyone's to spend either.
        let mut unsigned = transaction.clone();
        unsigned.input[0].witness.clear();
        let block = chain.block(&[unsigned], FEE);
        assert_eq!((chain.submit(&block), chain.height()), (Checked::Invalid, height));

        let block = chain.block(std::slice::from_ref(&transaction), FEE);
        assert_eq!(chain.submit(&block), Checked::Valid, "{pair:?}");
        assert_eq!(chain.height(), height + 1, "{pair:?}");
        assert_eq!(chain.tip(), block.block_hash());
        // What is spent is spent.
        let again = chain.block(&[transaction], FEE);
        assert_eq!((chain.submit(&again), chain.height()), (Checked::Invalid, height + 1));
    }
    assert_eq!(chain.height(), 104);
}

#[test]
fn a_coinbase_that_takes_too_much_is_refused() {
    // The chain judges at all: a block that no signature is in.
    let mut chain = Regtest::new(ScriptBuf::from_bytes(vec![0x51]));
    let greedy = chain.block(&[], Amount::ONE_SAT);
    assert_eq!((chain.submit(&greedy), chain.height()), (Checked::Invalid, 0));
    chain.mine(&[], Amount::ZERO);
    assert_eq!(chain.height(), 1);
}
