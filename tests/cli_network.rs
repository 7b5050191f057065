//! Goal: from the command line a key is made, money moves under its policy, and whatever stands in the way is named with an exit
//! code that scripts can rely on. Method: the real binary against real servers over TLS and Unix sockets; Bitcoin Core's script
//! engine judges the transactions.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;
mod net;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::key::{Keypair, TapTweak};
use bitcoin::psbt::Psbt;
use bitcoin::secp256k1::{self, Secp256k1};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, OutPoint, ScriptBuf, Sequence, TapNodeHash, Transaction, TxIn, TxOut, Txid, Witness, XOnlyPublicKey,
    consensus, taproot,
};
use frostkeep::bitcoin::{PsbtFile, SighashFlag, key_path_script};
use frostkeep::engine::Engine;
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::{AttemptPolicy, CeremonyId, MerkleRoot, to_hex};
use frostkeep::keygen::{ConfirmedKeyGroup, Parameters};
use frostkeep::policy::SigningPolicy;
use frostkeep::server::SERVING_KEY;
use frostkeep::tls::{TlsKey, server_config};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::{deliver, eventually, peer};
use net::{Net, NetNode, NetPlan};
use serde_json::{Value, json};

/// What a run of the command left.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// The object that it printed.
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The error that it printed, as the only thing on standard error.
    fn error(&self) -> Value {
        let object: Value = serde_json::from_str(&self.stderr).unwrap_or_else(|_| panic!("{}", self.stderr));
        assert_eq!(object["error"]["exit"], self.code, "{}", self.stderr);
        assert!(object["error"]["hint"].is_string(), "{}", self.stderr);
        object["error"].clone()
    }
}

/// Somebody who operates the nodes from a machine of their own.
struct Operator {
    roster: PathBuf,
    key: PathBuf,
    directory: PathBuf,
}

impl Operator {
    fn of(net: &Net) -> Self {
        let key = net.directory().join("operator.key");
        net.clients["operator"].write(&key).unwrap();
        Self { roster: net.roster.clone(), key, directory: net.directory().to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frostkeep"));
        command.args(arguments).env("FROSTKEEP_ROSTER", &self.roster).env("FROSTKEEP_KEY", &self.key);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: out.status.code().unwrap(), stdout: text(out.stdout), stderr: text(out.stderr) }
    }

    /// A key of a 2-of-n group made by the command; what it printed.
    async fn keygen(&self, more: &[&str]) -> Value {
        let arguments = [&["keygen", "--json", "--threshold", "2", "--network", "regtest"], more].concat();
        self.run(&arguments).await.json()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// A signing policy in a file.
    fn policy(&self, policy: &SigningPolicy) -> String {
        self.file("policy.json", serde_json::to_string(policy).unwrap().as_bytes())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// What a transaction of a key group spends, and who else has a part in it.
struct Payment {
    transaction: Transaction,
    spent: Vec<TxOut>,
    stranger: Keypair,
    internal: XOnlyPublicKey,
}

const ROOT: MerkleRoot = MerkleRoot::new([0x33; 32]);

impl Payment {
    /// Two outputs of the group, the second under [`ROOT`], and between them one of a stranger if `shared`.
    fn of(key_group: &str, shared: bool, fee: u64) -> Self {
        let secp = Secp256k1::new();
        let internal = XOnlyPublicKey::from_slice(&hex(&key_group[2..])).unwrap();
        let stranger = Keypair::from_seckey_slice(&secp, &[0x77; 32]).unwrap();
        let script = |key: XOnlyPublicKey| ScriptBuf::from_bytes(key_path_script(&key.serialize()).to_vec());
        let own = |root: Option<TapNodeHash>| script(internal.tap_tweak(&secp, root).0.to_x_only_public_key());
        let foreign = script(stranger.x_only_public_key().0.tap_tweak(&secp, None).0.to_x_only_public_key());
        let mut scripts = vec![own(None), own(Some(TapNodeHash::from_byte_array(*ROOT.as_bytes())))];
        if shared {
            scripts.insert(1, foreign.clone());
        }
        let output = |script: &ScriptBuf| TxOut { value: Amount::from_sat(100_000), script_pubkey: script.clone() };
        let spent: Vec<TxOut> = scripts.iter().map(output).collect();
        let input = |number: usize| TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([u8::try_from(number).unwrap() + 1; 32]), 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        };
        let transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: (0..spent.len()).map(input).collect(),
            output: vec![TxOut {
                value: Amount::from_sat(100_000 * u64::try_from(spent.len()).unwrap() - fee),
                script_pubkey: foreign,
            }],
        };
        Self { transaction, spent, stranger, internal }
    }

    fn psbt(&self) -> Psbt {
        let mut psbt = Psbt::from_unsigned_tx(self.transaction.clone()).unwrap();
        for (fields, output) in psbt.inputs.iter_mut().zip(&self.spent) {
            fields.witness_utxo = Some(output.clone());
        }
        let last = psbt.inputs.last_mut().unwrap();
        last.tap_internal_key = Some(self.internal);
        last.tap_merkle_root = Some(TapNodeHash::from_byte_array(*ROOT.as_bytes()));
        psbt
    }

    /// The stranger signs its input.
    fn stranger_signs(&self, psbt: &str) -> Vec<u8> {
        let secp = Secp256k1::new();
        let file = PsbtFile::parse(psbt.as_bytes()).unwrap();
        let message = file.transaction().sighash(1, SighashFlag::Default).unwrap();
        let key = self.stranger.tap_tweak(&secp, None).to_keypair();
        let signature = secp.sign_schnorr_no_aux_rand(&secp256k1::Message::from_digest(*message.as_bytes()), &key);
        let mut psbt = Psbt::deserialize(&file.to_binary()).unwrap();
        psbt.inputs[1].tap_key_sig =
            Some(taproot::Signature { signature, sighash_type: bitcoin::TapSighashType::Default });
        psbt.serialize()
    }

    /// Bitcoin Core accepts every input.
    fn is_spent_by(&self, transaction: &str) {
        let raw = hex(transaction.trim());
        let spent: Vec<bitcoinconsensus::Utxo> = self
            .spent
            .iter()
            .map(|output| bitcoinconsensus::Utxo {
                script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
                script_pubkey_len: u32::try_from(output.script_pubkey.len()).unwrap(),
                value: i64::try_from(output.value.to_sat()).unwrap(),
            })
            .collect();
        for (input, output) in self.spent.iter().enumerate() {
            let (script, value) = (output.script_pubkey.as_bytes(), output.value.to_sat());
            bitcoinconsensus::verify(script, value, &raw, Some(&spent), input)
                .unwrap_or_else(|error| panic!("input {input}: {error:?}"));
        }
        let transaction: Transaction = consensus::deserialize(&raw).unwrap();
        assert_eq!(transaction.compute_txid(), self.transaction.compute_txid());
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// A policy for tests: payments like the tests'.
fn payments() -> SigningPolicy {
    SigningPolicy::standard()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_proved_and_shown_and_every_command_tells_the_same_of_it() {
    let net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let made = operator.keygen(&[]).await;
    let id = text(&made["key_group"]);
    assert_eq!(made["threshold"], 2);
    assert_eq!(made["attempt_policy"], "roast");
    let seat = |index: usize| {
        json!({
            "member": index + 1, "node": format!("node-{index}"), "identity": net.nodes[index].line.identity.to_string(),
        })
    };
    assert_eq!(made["members"], json!([seat(0), seat(1), seat(2)]));
    let internal = XOnlyPublicKey::from_slice(&hex(&id[2..])).unwrap();
    let address =
        bitcoin::Address::p2tr(&Secp256k1::verification_only(), internal, None, bitcoin::Network::Regtest).to_string();
    assert_eq!(text(&made["address"]), address);
    assert_eq!(text(&made["descriptor"]), format!("tr({})", &id[2..]));
    // The trial is a signature of the trial message, by whoever wants to check it.
    let (session, subject) =
        frostkeep::engine::trial_subject(&id.parse().unwrap(), &text(&made["ceremony"]).parse().unwrap());
    assert_eq!(text(&made["trial"]["session"]), session.as_str());
    let output_key = internal.tap_tweak(&Secp256k1::verification_only(), None).0.to_x_only_public_key();
    let signature = secp256k1::schnorr::Signature::from_slice(&hex(text(&made["trial"]["signature"]))).unwrap();
    let message = secp256k1::Message::from_digest(*subject.message.as_bytes());
    Secp256k1::verification_only().verify_schnorr(&signature, &message, &output_key).unwrap();

    let shown = operator.run(&["keygroup", "show", id, "--network", "regtest", "--json"]).await.json();
    assert_eq!((&shown["address"], &shown["descriptor"]), (&made["address"], &made["descriptor"]));
    assert_eq!(shown["members"].as_array().unwrap().len(), 3);
    assert!(shown["nodes"].as_array().unwrap().iter().all(|node| {
        node["phase"] == "active" && node["certificate_agrees"] == true && node["roster_agrees"] == true
    }));
    assert_eq!(shown["signing_policies"][0]["hash"], made["signing_policy_hash"]);
    let listed = operator.run(&["keygroup", "list", "--all", "--json"]).await.json();
    assert_eq!(listed["key_groups"][0]["id"], id);
    assert_eq!(listed["key_groups"][0]["nodes"].as_array().unwrap().len(), 3);
    let status = operator.run(&["status", "--json"]).await.json();
    for (index, node) in status["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            (&node["name"], &node["phase"], &node["ready"]),
            (&json!(format!("node-{index}")), &json!("open"), &json!(true))
        );
        assert_eq!(node["roster_is_ours"], true);
        assert_eq!(node["key_groups"][0]["id"], id);
    }
    let policy = operator.run(&["policy", "show", id, "--all"]).await;
    assert_eq!(serde_json::from_str::<SigningPolicy>(&policy.stdout).unwrap(), SigningPolicy::standard());

    // The same for people: on a pipe, without colours, and what is a result is on standard output alone.
    let people = operator.run(&["keygroup", "show", id, "--network", "regtest"]).await;
    assert!(people.stdout.contains(&address) && !people.stdout.contains('\u{1b}'), "{}", people.stdout);
    let people = operator.run(&["status"]).await;
    assert_eq!((people.code, people.stdout.lines().count()), (0, 4), "{}", people.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_names_every_node_and_step_in_lines_and_the_result_stands_alone() {
    let net = Net::started(NetPlan::of(2)).await;
    let operator = Operator::of(&net);
    let ran = operator.run(&["keygen", "--threshold", "2", "--network", "testnet"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for node in ["node-0", "node-1"] {
        for step in ["pre-flight", "begin", "advance", "finish", "certificate"] {
            assert!(ran.stderr.contains(&format!("{node}: {step}: done\n")), "{node} {step}: {}", ran.stderr);
        }
    }
    assert!(ran.stderr.contains("trial: "), "{}", ran.stderr);
    assert!(ran.stdout.contains("address      tb1p") && !ran.stdout.contains("pre-flight"), "{}", ran.stdout);
    assert!(!ran.stderr.contains('\u{1b}') && !ran.stdout.contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_named_before_any_secret_exists_and_the_same_command_passes_when_it_is_back() {
    let mut net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    net.nodes[1].stop().await;
    let ran = operator.run(&["keygen", "--json", "--threshold", "2"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
    let error = ran.error();
    let details = &error["details"];
    assert_eq!(details["stands"], "nothing_begun");
    let named: BTreeMap<&str, &str> = details["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (text(&finding["who"][0]["node"]), text(&finding["kind"])))
        .collect();
    // The others say of themselves that they do not reach it.
    assert_eq!(named, BTreeMap::from([("node-0", "refused"), ("node-1", "absent"), ("node-2", "refused")]));
    assert!(text(&error["problem"]).contains("node-1 (member 2): absent in pre-flight"), "{error}");
    net.nodes[1].start_ready().await;
    operator.keygen(&[]).await;
}

/// Leaves a key generation prepared on every node and certified on none, as a driver does that dies.
async fn left_prepared(net: &Net, threshold: u16, policy: &SigningPolicy) -> CeremonyId {
    let engines: Vec<Engine> = net.nodes.iter().map(NetNode::engine).collect();
    let id = CeremonyId::new([u8::try_from(threshold).unwrap(); 16]);
    let hash = policy.hash().unwrap();
    let parameters = Parameters::new(id, threshold, net.seats(), AttemptPolicy::Roast, hash).unwrap();
    let mut messages = Vec::new();
    for engine in &engines {
        messages.extend(engine.keygen_begin(&peer(), parameters.clone(), policy.clone()).await.unwrap());
    }
    deliver(&engines, &id, &messages).await;
    let mut messages = Vec::new();
    for engine in &engines {
        messages.extend(engine.keygen_advance(&peer(), &id).await.unwrap());
    }
    deliver(&engines, &id, &messages).await;
    for engine in &engines {
        engine.keygen_finish(&peer(), &id).await.unwrap();
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_has_left_is_completed_first_and_another_one_is_told_of() {
    let net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let (same, other) =
        (left_prepared(&net, 2, &SigningPolicy::standard()).await, left_prepared(&net, 3, &payments()).await);
    let ran = operator.run(&["keygen", "--threshold", "2"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("frostkeep keygen --resume {other}")), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(&format!("{same} of 2 of 3 members is unfinished on node-0, node-1, node-2")),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains(&format!("ceremony     {same}")), "{}", ran.stdout);
    // Under another threshold than the one asked for it is nobody's key.
    let weaker = operator.run(&["keygen", "--json", "--threshold", "2", "--resume", &other.to_string()]).await;
    assert_eq!((weaker.code, weaker.stdout.as_str()), (2, ""));
    let ran = operator.run(&["keygen", "--json", "--threshold", "3", "--resume", &other.to_string()]).await.json();
    assert_eq!((text(&ran["ceremony"]), &ran["threshold"]), (other.to_string().as_str(), &json!(3)));
    // Repeated, it proves the same key again.
    let again = operator.run(&["keygen", "--json", "--threshold", "3", "--resume", &other.to_string()]).await.json();
    assert_eq!(again, ran);
    let unknown = operator.run(&["keygen", "--json", "--threshold", "2", "--resume", &"ee".repeat(16)]).await;
    assert_eq!((unknown.code, text(&unknown.error()["reason"])), (3, "ceremony_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_in_a_key_generation_leaves_nothing_in_the_way_of_the_next() {
    let net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let child = operator.command(&["keygen", "--json", "--threshold", "2"]).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(120)).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
    let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    if out.status.code() != Some(0) {
        // It did not get to its end before: it ends by itself and says what to do, or at once by the signal.
        assert!(matches!(out.status.code(), Some(4) | None), "{out:?}");
    }
    operator.keygen(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_signed_only_where_the_policy_says_so_and_a_refusal_names_every_member_with_its_node() {
    let mut net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let made = operator.keygen(&[]).await;
    let id = text(&made["key_group"]);
    let message = "42".repeat(32);
    let sign = ["sign", "--json", "--key-group", id, "--message", &message];
    let ran = operator.run(&sign).await;
    assert_eq!(ran.code, 3);
    let error = ran.error();
    assert_eq!(error["reason"], "message_not_approved");
    assert_eq!(error["details"]["members"].as_array().unwrap().len(), 3);
    assert!(text(&error["problem"]).contains("member 1 (node-0)"), "{error}");

    let policy = operator.policy(&SigningPolicy { danger_sign_any_message: true, ..payments() });
    let set = operator.run(&["policy", "set", id, &policy, "--all", "--json"]).await.json();
    assert_eq!(set["nodes"].as_array().unwrap().len(), 3);
    // t others sign when a node is down, and whose node has not heard of the signature is said.
    net.nodes[2].stop().await;
    let signed = operator.run(&[&sign[..], &["--root", &"55".repeat(32)]].concat()).await.json();
    assert_eq!(signed["unconfirmed"], json!([3]));
    let key = XOnlyPublicKey::from_slice(&hex(text(&signed["output_key"]))).unwrap();
    let signature = secp256k1::schnorr::Signature::from_slice(&hex(text(&signed["signature"]))).unwrap();
    let digest = secp256k1::Message::from_digest([0x42; 32]);
    Secp256k1::verification_only().verify_schnorr(&signature, &digest, &key).unwrap();
    // Again: the finished session is found.
    let again = operator.run(&[&sign[..], &["--root", &"55".repeat(32)]].concat()).await.json();
    assert_eq!(again["signature"], signed["signature"]);
    // By a node that coordinates; for people the signature stands alone.
    let via = operator.run(&["sign", "--key-group", id, "--message", &message, "--via", "node-1"]).await;
    assert_eq!((via.code, via.stdout.len()), (0, 129), "{}", via.stderr);
    assert!(via.stderr.contains("message: node-1: "), "{}", via.stderr);

    // Two of three away: not enough, and who is away is named.
    net.nodes[1].stop().await;
    let ran = operator.run(&["sign", "--json", "--key-group", id, "--message", &message, "--deadline", "5"]).await;
    assert_eq!(ran.code, 4);
    let problem = ran.error()["problem"].to_string();
    assert!(problem.contains("node-1: not reached") && problem.contains("node-2: not reached"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_psbt_is_signed_for_the_group_alone_and_bitcoin_core_accepts_what_becomes_of_it() {
    let net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let made = operator.keygen(&[]).await;
    let id = text(&made["key_group"]);
    let payment = Payment::of(id, true, 3_000);
    let before = payment.psbt();
    let file = operator.file("payment.psbt", before.to_string().as_bytes());

    let incomplete = operator.run(&["sign", "--json", "--key-group", id, "--psbt", &file, "--finalize"]).await;
    assert_eq!(incomplete.code, 3);
    assert!(text(&incomplete.error()["problem"]).contains("input 1 lacks PSBT_IN_TAP_KEY_SIG"));

    let signed = operator.run(&["sign", "--json", "--key-group", id, "--psbt", &file]).await.json();
    let numbers: Vec<&Value> = signed["inputs"].as_array().unwrap().iter().map(|input| &input["input"]).collect();
    assert_eq!(numbers, [&json!(0), &json!(2)]);
    assert_eq!((&signed["other_inputs"], &signed["already_signed"]), (&json!([1]), &json!([])));
    assert_eq!(text(&signed["inputs"][1]["taproot_merkle_root"]), ROOT.to_string());
    assert_eq!(text(&signed["txid"]), payment.transaction.compute_txid().to_string());
    // Two signatures more, and nothing else.
    let psbt: Psbt = text(&signed["psbt"]).parse().unwrap();
    let mut expected = before.clone();
    for (at, input) in [(0, 0), (1, 2)] {
        let signature = hex(text(&signed["inputs"][at]["signature"]));
        expected.inputs[input].tap_key_sig = Some(taproot::Signature::from_slice(&signature).unwrap());
    }
    assert_eq!(psbt, expected);

    // Into a file, in the form in which it came, here from standard input; then the stranger signs, and it is complete.
    let out = operator.directory.join("signed.psbt").display().to_string();
    let mut command = operator.command(&["sign", "--key-group", id, "--psbt", "-", "--out", &out]);
    let mut child = command.stdin(std::fs::File::open(&file).unwrap()).spawn().unwrap();
    assert!(tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap().success());
    let written = std::fs::read_to_string(&out).unwrap();
    assert_eq!(written.parse::<Psbt>().unwrap(), expected);
    let complete = operator.file("complete.psbt", &payment.stranger_signs(&written));
    let ran = operator.run(&["sign", "--key-group", id, "--psbt", &complete, "--finalize"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("inputs signed before, and left as they are: 0, 2\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("inputs of others, and left alone: 1\n"), "{}", ran.stderr);
    payment.is_spent_by(&ran.stdout);

    let others = operator
        .run(&[
            "sign",
            "--json",
            "--key-group",
            &format!("02{}", "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
            "--psbt",
            &file,
        ])
        .await;
    assert_eq!((others.code, text(&others.error()["reason"])), (3, "key_group_unknown"));
    let foreign =
        Payment::of(&format!("02{}", "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"), false, 1_000);
    let foreign = operator.file("foreign.psbt", foreign.psbt().to_string().as_bytes());
    let none = operator.run(&["sign", "--json", "--key-group", id, "--psbt", &foreign]).await;
    assert_eq!((none.code, text(&none.error()["reason"])), (3, "invalid_request"));
    let garbage = operator.file("garbage.psbt", b"cHNidP8");
    assert_eq!(operator.run(&["sign", "--json", "--key-group", id, "--psbt", &garbage]).await.code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_approved_by_every_node_and_signed_and_what_the_policy_forbids_is_refused_with_the_rule() {
    let mut net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let policy = operator.policy(&SigningPolicy { fee_sat_max: 2_999, ..payments() });
    let made = operator.keygen(&["--signing-policy", &policy]).await;
    let id = text(&made["key_group"]);
    // Without the node that is down, too.
    net.nodes[0].stop().await;
    for (fee, code) in [(3_000, 3), (2_999, 0)] {
        let payment = Payment::of(id, false, fee);
        let raw = to_hex(&consensus::serialize(&payment.transaction));
        let mut arguments: Vec<String> =
            ["sign", "--json", "--key-group", id, "--transaction", &raw, "--root"].map(String::from).to_vec();
        arguments.push(ROOT.to_string());
        for output in &payment.spent {
            arguments.extend([
                "--prevout".into(),
                format!("{}:{}", output.value.to_sat(), to_hex(output.script_pubkey.as_bytes())),
            ]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ran = operator.run(&arguments).await;
        assert_eq!(ran.code, code, "{}", ran.stderr);
        if code == 0 {
            payment.is_spent_by(text(&ran.json()["transaction"]));
        } else {
            let error = ran.error();
            assert_eq!(error["reason"], "policy_denied");
            assert!(text(&error["problem"]).contains("2999"), "{error}");
            assert!(text(&error["hint"]).contains("frostkeep policy"), "{error}");
        }
    }
    let usage = operator.run(&["sign", "--key-group", id, "--transaction", "00"]).await;
    assert_eq!(usage.code, 2, "{}", usage.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_evidence_a_node_coordinates_the_trial_and_the_signature() {
    let settings = "[engine]\nattempt_timeout_ms = 500\n".to_owned();
    let net = Net::started(NetPlan { settings, ..NetPlan::of(3) }).await;
    let operator = Operator::of(&net);
    let policy = operator.policy(&SigningPolicy { danger_sign_any_message: true, ..payments() });
    let made = operator.keygen(&["--policy", "evidence", "--signing-policy", &policy]).await;
    assert_eq!(made["attempt_policy"], "evidence");
    let id = text(&made["key_group"]);
    let message = "17".repeat(32);
    let signed = operator.run(&["sign", "--json", "--key-group", id, "--message", &message]).await.json();
    let via = ["sign", "--json", "--key-group", id, "--message", &message, "--via", "node-2"];
    assert_eq!(operator.run(&via).await.json()["signature"], signed["signature"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_has_proved_says_so_and_has_no_address() {
    let net = Net::started(NetPlan::of(2)).await;
    // It may make keys, and not sign.
    let key = net.directory().join("admin.key");
    net.clients["admin"].write(&key).unwrap();
    let admin = Operator { roster: net.roster.clone(), key, directory: net.directory().to_owned() };
    let ran = admin.run(&["keygen", "--json", "--threshold", "2"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    let error = ran.error();
    assert_eq!(error["reason"], "permission_denied");
    let ceremony = text(&error["details"]["ceremony"]);
    assert!(text(&error["hint"]).contains(&format!("frostkeep keygen --resume {ceremony}")), "{error}");
    let proved = Operator::of(&net).run(&["keygen", "--json", "--threshold", "2", "--resume", ceremony]).await.json();
    assert_eq!(proved["key_group"], error["details"]["key_group"]);
    assert!(text(&proved["address"]).starts_with("bc1p"));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_evidence_no_key_is_begun_that_no_node_could_prove() {
    let net = Net::started(NetPlan { coordination: false, ..NetPlan::of(2) }).await;
    let operator = Operator::of(&net);
    let ran = operator.run(&["keygen", "--json", "--threshold", "2", "--policy", "evidence"]).await;
    assert_eq!((ran.code, text(&ran.error()["reason"])), (3, "coordination_off"));
    let listed = operator.run(&["keygroup", "list", "--all", "--json"]).await.json();
    assert_eq!(listed["key_groups"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_stops_signing_everywhere_at_once_is_seen_and_is_lifted_by_name() {
    let net = Net::started(NetPlan::of(2)).await;
    let operator = Operator::of(&net);
    let confirmed: ConfirmedKeyGroup = net.generate_key(2, AttemptPolicy::Roast).await;
    let id = confirmed.id().to_string();
    let frozen = operator.run(&["freeze", &id, "--all", "--reason", "a look at it", "--json"]).await.json();
    let freezes: Vec<String> =
        frozen["nodes"].as_array().unwrap().iter().map(|node| text(&node["freeze"]).to_owned()).collect();
    assert_eq!(freezes.len(), 2);
    let status = operator.run(&["status"]).await;
    assert!(status.stdout.contains("1 of 1"), "{}", status.stdout);
    let shown = operator.run(&["keygroup", "show", &id, "--json"]).await.json();
    assert_eq!(shown["nodes"][1]["freezes"], json!([freezes[1]]));
    let message = "01".repeat(32);
    let sign = ["sign", "--json", "--key-group", &id, "--message", &message];
    let ran = operator.run(&sign).await;
    assert_eq!((ran.code, text(&ran.error()["reason"])), (4, "frozen"));

    // One more on the first node, over its socket.
    let socket = net.nodes[0].config.socket.display().to_string();
    let local = operator.run(&["freeze", &id, "--socket", &socket, "--reason", "and another", "--json"]).await.json();
    let more = text(&local["nodes"][0]["freeze"]).to_owned();
    let thaw =
        operator.run(&["thaw", &id, "--all", "--freeze", &freezes[0], "--freeze", &freezes[1], "--json"]).await.json();
    assert_eq!(thaw["nodes"][0]["in_force"], json!([more]));
    assert_eq!(thaw["nodes"][1]["in_force"], json!([]));
    let unknown = operator.run(&["thaw", &id, "--node", "node-1", "--freeze", &more, "--json"]).await;
    assert_eq!((unknown.code, text(&unknown.error()["reason"])), (3, "invalid_request"));
    let thaw = operator.run(&["thaw", &id, "--socket", &socket, "--freeze", &more]).await;
    assert_eq!((thaw.code, thaw.stdout.ends_with("no freeze is in force\n")), (0, true), "{}", thaw.stdout);
    operator.run(&sign).await.json();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_sealed_out_or_gone_is_seen_in_the_table_and_in_the_exit_code() {
    let mut net = Net::started(NetPlan::of(4)).await;
    let operator = Operator::of(&net);
    net.nodes[1].stop().await;
    net.nodes[2].token.fail_until_healed(FaultClass::Token);
    net.nodes[3].stop().await;
    net.nodes[3].token.fail_until_healed(FaultClass::Token);
    net.nodes[3].start().await;
    let engine = net.nodes[2].engine();
    eventually("the outage is seen", || !engine.status().health.admits_work()).await;
    let ran = operator.run(&["status"]).await;
    assert_eq!(ran.code, 4);
    let line = |name: &str| ran.stdout.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    for (name, words) in [
        ("node-0", ["open", "yes"]),
        ("node-1", ["unreachable", "no"]),
        ("node-2", ["open", "no"]),
        ("node-3", ["sealed", "no"]),
    ] {
        assert_eq!(line(name).split_whitespace().skip(1).take(2).collect::<Vec<_>>(), words, "{}", ran.stdout);
    }
    assert!(line("node-2").contains("(token)"), "{}", ran.stdout);
    assert!(ran.stderr.contains("3 of 4 nodes need attention: node-1, node-2, node-3"), "{}", ran.stderr);
    let one = operator.run(&["status", "--node", "node-0"]).await;
    assert_eq!(one.code, 0, "{}", one.stderr);
    let nobody = operator.run(&["status", "--node", "north"]).await;
    assert_eq!(nobody.code, 2);
    assert!(nobody.stderr.contains("hint: it has node-0, node-1, node-2, node-3"), "{}", nobody.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_is_checked_against_the_nodes_reloaded_and_an_identity_is_replaced() {
    let mut net = Net::started(NetPlan::of(3)).await;
    let operator = Operator::of(&net);
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    let id = confirmed.id().to_string();
    let checked = operator.run(&["roster", "check", "--nodes", "--json"]).await.json();
    assert!(checked["nodes"].as_array().unwrap().iter().all(|node| node["agrees"] == true), "{checked}");

    // The third node is lost; one of another identity is to take its seat.
    net.nodes[2].stop().await;
    let replacement = frostkeep::identity::NodeIdentity::generate(&mut frostkeep::hsm::entropy::os()).public();
    net.write_roster(|nodes, _| nodes[2].identity = replacement);
    let ran = operator.run(&["roster", "check", "--nodes", "--json"]).await;
    assert_eq!((ran.code, text(&ran.error()["reason"])), (4, "roster_mismatch"));
    let reloaded = operator.run(&["roster", "reload", "--node", "node-0", "--node", "node-1", "--json"]).await.json();
    assert_eq!(reloaded["nodes"][0]["disagreeing_key_groups"], json!([id]));
    let message = "01".repeat(32);
    let sign = ["sign", "--json", "--key-group", &id, "--message", &message, "--deadline", "5"];
    assert_eq!(operator.run(&sign).await.code, 4);
    let identity = replacement.to_string();
    let replace =
        ["identity", "replace", &id, "--member", "3", "--identity", &identity, "--node", "node-0", "--node", "node-1"];
    let replaced = operator.run(&[&replace[..], &["--json"]].concat()).await.json();
    assert_eq!(replaced["nodes"].as_array().unwrap().len(), 2);
    operator.run(&sign).await.json();
    let shown = operator.run(&["keygroup", "show", &id, "--json"]).await.json();
    assert_eq!(text(&shown["members"][2]["identity"]), identity);
    assert_eq!(text(&shown["members"][2]["replaces"]), net.nodes[2].line.identity.to_string());
    assert!(shown["address"].is_null() && shown["no_address_because"].is_string());

    std::fs::write(&net.roster, "[[node]]\nname = \"x\"\nnick = \"y\"\n").unwrap();
    let broken = operator.run(&["roster", "check"]).await;
    assert_eq!(broken.code, 2);
    assert!(broken.stderr.contains("nick"), "{}", broken.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_policies_and_key_groups_end_by_command_and_a_second_time_is_no_error_where_it_is_none() {
    let net = Net::started(NetPlan::of(2)).await;
    let operator = Operator::of(&net);
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    let id = confirmed.id().to_string();
    let message = "0a".repeat(32);
    let first = operator.run(&["sign", "--json", "--key-group", &id, "--message", &message]).await.json();
    // It has its signature: that cannot be undone.
    let over = operator.run(&["session", "abort", &id, text(&first["session"]), "--all", "--json"]).await;
    assert_eq!((over.code, text(&over.error()["reason"])), (3, "session_finalized"));
    let none = operator.run(&["session", "abort", &id, "never-begun", "--all", "--json"]).await.json();
    assert!(none["nodes"].as_array().unwrap().iter().all(|node| node["ended"] == true));

    let policy = operator.policy(&SigningPolicy::default());
    operator.run(&["policy", "set", &id, &policy, "--node", "node-0", "--json"]).await.json();
    let show = operator.run(&["policy", "show", &id, "--all", "--json"]).await;
    assert_eq!(show.code, 4, "{}", show.stderr);
    let shown: Value = serde_json::from_str(&show.stdout).unwrap();
    assert_eq!(shown["signing_policies"].as_array().unwrap().len(), 2);
    let wrong = operator.file("wrong.json", b"{\"value_sat_max\": 1}");
    assert_eq!(operator.run(&["policy", "set", &id, &wrong, "--all"]).await.code, 2);

    assert_eq!(operator.run(&["keygroup", "retire", &id, "--all"]).await.code, 2);
    for _ in 0..2 {
        let retired =
            operator.run(&["keygroup", "retire", &id, "--all", "--danger-wipe-shares", "--json"]).await.json();
        assert_eq!(retired["nodes"].as_array().unwrap().len(), 2);
    }
    let ran = operator.run(&["sign", "--json", "--key-group", &id, "--message", &message]).await;
    assert_eq!((ran.code, text(&ran.error()["reason"])), (3, "key_group_retired"));
    let left = left_prepared(&net, 2, &SigningPolicy::standard()).await;
    let listed = operator.run(&["keygroup", "list", "--all", "--json"]).await.json();
    let prepared =
        listed["key_groups"].as_array().unwrap().iter().find(|group| group["ceremony"] == left.to_string()).unwrap();
    let dropped = operator.run(&["keygroup", "danger-drop-prepared", text(&prepared["id"]), "--all", "--json"]).await;
    dropped.json();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_gets_its_key_its_line_and_is_let_in_when_the_roster_has_it() {
    let net = Net::started(NetPlan::of(1)).await;
    let directory = net.directory().to_owned();
    let key = directory.join("ops.key");
    let stranger = Operator { roster: net.roster.clone(), key: key.clone(), directory };
    let made =
        stranger.run(&["client", "init", "--name", "ops", "--key", &key.display().to_string(), "--json"]).await.json();
    assert_eq!(made["roles"], json!(["coordinator", "admin", "observer"]));
    let ran = stranger.run(&["status"]).await;
    assert_eq!(ran.code, 4);
    assert!(ran.stdout.contains("its roster does not name it"), "{}", ran.stdout);
    let roster = std::fs::read_to_string(&net.roster).unwrap();
    std::fs::write(&net.roster, format!("{roster}\n{}", text(&made["roster_line"]))).unwrap();
    let socket = net.nodes[0].config.socket.display().to_string();
    assert_eq!(stranger.run(&["roster", "reload", "--socket", &socket]).await.code, 0);
    assert_eq!(stranger.run(&["status"]).await.code, 0);
    let again = stranger.run(&["client", "init", "--name", "ops", "--key", &key.display().to_string(), "--json"]).await;
    assert_eq!((again.code, text(&again.error()["reason"])), (3, "state_exists"));
    let none = Operator { key: PathBuf::from("/nowhere/ops.key"), ..stranger };
    assert_eq!(none.run(&["status"]).await.code, 4);
}

#[test]
fn every_verb_for_people_has_a_manual_page_and_those_that_talk_to_nodes_have_examples() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_frostkeep")).args(arguments).output().unwrap();
    assert!(run(&["man", "--out", &directory.path().display().to_string()]).status.success());
    for verb in [
        "keygen",
        "sign",
        "status",
        "keygroup list",
        "keygroup show",
        "keygroup retire",
        "keygroup danger-drop-prepared",
        "freeze",
        "thaw",
        "policy show",
        "policy set",
        "policy template",
        "roster check",
        "roster reload",
        "session abort",
        "client init",
        "completions",
        "identity replace",
    ] {
        let page = directory.path().join(format!("frostkeep-{}.1", verb.replace(' ', "-")));
        assert!(std::fs::metadata(&page).is_ok_and(|page| page.len() > 200), "{}", page.display());
        for flag in ["-h", "--help"] {
            let arguments: Vec<&str> = verb.split(' ').chain([flag]).collect();
            let help = String::from_utf8(run(&arguments).stdout).unwrap();
            assert!(help.contains(&format!("Examples:\n  frostkeep {verb}")), "{verb} {flag}: {help}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("keygroup") && script.contains("danger-wipe-shares"), "{shell}");
    }
}

/// Puts something in the place of a node that has its key, keeps connections alive and never answers.
async fn replace_with_silence(net: &mut Net, index: usize) {
    net.nodes[index].stop().await;
    let node = &net.nodes[index];
    let key = TlsKey::read(&node.config.state.join(SERVING_KEY)).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(server_config(&key, Arc::new(|_| true)).unwrap());
    let listener = tokio::net::TcpListener::bind(node.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|_: http::Request<hyper::body::Incoming>| {
                    std::future::pending::<Result<http::Response<String>, std::io::Error>>()
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                let _ = server.serve_connection(stream, service).await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_of_all_nodes_is_told_soon_though_one_of_them_never_answers() {
    let mut net = Net::started(NetPlan::of(2)).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    replace_with_silence(&mut net, 1).await;
    let operator = Operator::of(&net);
    let id = confirmed.id().to_string();
    let arguments = ["freeze", &id, "--all", "--reason", "unknown spend seen"];
    let run = operator.run(&arguments);
    let ran =
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("a node that is silent holds the command");
    assert_ne!(ran.code, 0);
    assert!(ran.stdout.starts_with("node-0: frozen"), "{}", ran.stdout);
    assert!(ran.stderr.contains("node-1: not reached"), "{}", ran.stderr);
}
