//! A regtest chain in this process: blocks made here, judged by Bitcoin Core's validation.

use std::sync::{Arc, Mutex};

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::constants::genesis_block;
use bitcoin::hashes::Hash;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, Block, BlockHash, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode, TxOut, Witness,
    consensus,
};
use bitcoinkernel::prelude::*;
use bitcoinkernel::{ChainType, ChainstateManager, ContextBuilder, ValidationMode};

/// What a block may make, before the first halving.
const SUBSIDY: Amount = Amount::from_sat(50 * 100_000_000);
/// Seconds between two blocks.
const SPACING_S: u32 = 600;

/// What the validation said of a block, as its callback heard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Valid,
    Invalid,
}

/// The chain, and the script that its coinbases pay to.
pub(crate) struct Regtest {
    chain: ChainstateManager,
    checked: Arc<Mutex<Vec<Checked>>>,
    script: ScriptBuf,
    time: u32,
    _directory: tempfile::TempDir,
}

impl Regtest {
    pub(crate) fn new(script: ScriptBuf) -> Self {
        let checked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&checked);
        let context = ContextBuilder::new()
            .chain_type(ChainType::Regtest)
            .with_block_checked_validation(
                move |_block: bitcoinkernel::Block, state: bitcoinkernel::BlockValidationStateRef<'_>| {
                    let said = match state.mode() {
                        ValidationMode::Valid => Checked::Valid,
                        ValidationMode::Invalid => Checked::Invalid,
                        ValidationMode::InternalError => panic!("the validation failed: that is no verdict"),
                    };
                    heard.lock().unwrap().push(said);
                },
            )
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let chain = ChainstateManager::builder(&context, &place("data"), &place("blocks"))
            .unwrap()
            .block_tree_db_in_memory(true)
            .chainstate_db_in_memory(true)
            .build()
            .unwrap();
        chain.import_blocks().unwrap();
        let time = genesis_block(Network::Regtest).header.time;
        Self { chain, checked, script, time, _directory: directory }
    }

    /// The height of the best valid block; the genesis block's is 0.
    pub(crate) fn height(&self) -> i32 {
        self.chain.active_chain().height()
    }

    pub(crate) fn tip(&self) -> BlockHash {
        BlockHash::from_byte_array(self.chain.active_chain().tip().block_hash().to_bytes())
    }

    /// A block on the tip with these transactions, whose coinbase takes the subsidy and `fees`.
    pub(crate) fn block(&mut self, transactions: &[Transaction], fees: Amount) -> Block {
        self.time += SPACING_S;
        let mut coinbase = self.coinbase(fees);
        let mut block = Block {
            header: Header {
                version: BlockVersion::from_consensus(0x2000_0000),
                prev_blockhash: self.tip(),
                merkle_root: TxMerkleNode::all_zeros(),
                time: self.time,
                bits: genesis_block(Network::Regtest).header.bits,
                nonce: 0,
            },
            txdata: [std::slice::from_ref(&coinbase), transactions].concat(),
        };
        // BIP-141: the coinbase commits to every witness, its own reserved value of zeros included.
        let witnesses = block.witness_root().unwrap();
        let commitment = Block::compute_witness_commitment(&witnesses, &[0; 32]);
        let mut script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
        script.extend(commitment.to_byte_array());
        coinbase.output.push(TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::from_bytes(script) });
        block.txdata[0] = coinbase;
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        while block.header.validate_pow(block.header.target()).is_err() {
            block.header.nonce += 1;
        }
        block
    }

    fn coinbase(&self, fees: Amount) -> Transaction {
        // BIP-34: the height is the first element of the script, which has two bytes at least.
        let script = Builder::new().push_int(i64::from(self.height() + 1)).push_int(0).into_script();
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: script,
                sequence: Sequence::MAX,
                witness: Witness::from_slice(&[[0u8; 32]]),
            }],
            output: vec![TxOut { value: SUBSIDY + fees, script_pubkey: self.script.clone() }],
        }
    }

    /// Hands a block to the validation. `process_block` calls a block new whether or not it is valid: the callback says
    /// which, and the tip shows it.
    pub(crate) fn submit(&self, block: &Block) -> Checked {
        self.checked.lock().unwrap().clear();
        let raw = consensus::serialize(block);
        let _ = self.chain.process_block(&bitcoinkernel::Block::new(&raw).unwrap());
        let checked = self.checked.lock().unwrap();
        *checked.last().expect("a new block on the tip is checked")
    }

    /// Mines a block; returns its coinbase.
    pub(crate) fn mine(&mut self, transactions: &[Transaction], fees: Amount) -> Transaction {
        let block = self.block(transactions, fees);
        assert_eq!(self.submit(&block), Checked::Valid);
        block.txdata[0].clone()
    }
}
