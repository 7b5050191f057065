//! Goal: the proto file alone is enough to talk to a node, from another language and with another TLS library. Method: the same
//! client in Python over two builds of gRPC (Debian's grpcio with Debian's protoc, PyPI's grpcio with its own), real sockets,
//! mutual TLS; it reads a status, asks for a durable round while the token hangs, and reads the typed outage.
//!
//! Needs what `scripts/setup --python` installs. Where that is missing the tests say so and pass, unless
//! `FROSTKEEP_REQUIRE_PYTHON` is set, as it is in CI.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout
)]

mod kit;
mod net;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use frostkeep::client::{Client, Endpoint, ServedRound};
use frostkeep::coordinator::{Setting, session_id};
use frostkeep::engine::{CommitRequest, SignRequest};
use frostkeep::frost::{Commitments, SigningPackage};
use frostkeep::hsm::token::FaultClass;
use frostkeep::ids::{AttemptPolicy, Member, to_hex};
use frostkeep::server::SERVING_KEY;
use frostkeep::tls::TlsKey;
use frostkeep::wire::v1;
use kit::{eventually, member, subject};
use net::{Net, NetPlan};
use prost::Message as _;
use serde_json::{Value, json};

const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire");
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");

/// An interpreter with gRPC, and the compiler that makes its modules.
struct Python {
    interpreter: PathBuf,
    compiler: Vec<String>,
}

impl Python {
    fn debian() -> Self {
        let plugin = "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin";
        Self { interpreter: "/usr/bin/python3".into(), compiler: vec!["protoc".into(), plugin.into()] }
    }

    /// The environment that `scripts/setup --python` makes beside the build.
    fn pypi() -> Self {
        let build = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let interpreter = build.join("python/bin/python");
        let compiler = vec![interpreter.display().to_string(), "-m".into(), "grpc_tools.protoc".into()];
        Self { interpreter, compiler }
    }

    /// Compiles the proto files; why not, if that cannot be done here.
    fn generate(&self, to: &Path) -> Result<(), String> {
        let usable = Command::new(&self.interpreter).args(["-c", "import grpc, google.protobuf"]).output();
        if !usable.is_ok_and(|run| run.status.success()) {
            return Err(format!("{} has no grpcio", self.interpreter.display()));
        }
        let mut command = Command::new(&self.compiler[0]);
        command.args(&self.compiler[1..]).args(["-I", PROTO, "-I", HERE]);
        command.arg(format!("--python_out={}", to.display())).arg(format!("--grpc_python_out={}", to.display()));
        let made = command.args(["frostkeep.proto", "error_details.proto"]).output();
        let made = made.map_err(|error| format!("{}: {error}", self.compiler[0]))?;
        if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
    }
}

/// The client's command line, as far as it is the same for all calls.
struct Caller {
    python: PathBuf,
    arguments: Vec<String>,
}

impl Caller {
    fn new(python: &Python, generated: &Path, net: &Net, key: &TlsKey) -> Self {
        let node = &net.nodes[0];
        let files = net.directory();
        let write = |name: &str, text: &[u8]| {
            let path = files.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let serving = TlsKey::read(&node.config.state.join(SERVING_KEY)).unwrap();
        let arguments = vec![
            format!("{HERE}/client.py"),
            generated.display().to_string(),
            node.address().to_string(),
            write("root.pem", serving.certificate_pem().as_bytes()),
            write("caller.key", key.private_key_pem().as_bytes()),
            write("caller.pem", key.certificate_pem().as_bytes()),
        ];
        Self { python: python.interpreter.clone(), arguments }
    }

    async fn call(&self, verb: &[&str]) -> Value {
        let mut command = Command::new(&self.python);
        command.args(&self.arguments).args(verb);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// The request of one member in a session's first attempt, and the way to its node.
async fn requests(net: &Net, setting: &Setting, included: &[Member]) -> Vec<(Client, SignRequest)> {
    let client = |seat: &Member| {
        let line = &net.nodes[usize::from(seat.number()) - 1].line;
        let key = net.clients["operator"].clone();
        Client::connect(&Endpoint::Tls { address: line.address.clone(), key, pin: line.serving_pin }).unwrap()
    };
    let mut commitments = BTreeMap::new();
    for seat in included {
        let request =
            CommitRequest { session: setting.session().clone(), key_group: setting.key_group(), member: *seat };
        commitments.insert(*seat, Commitments::from_bytes(&client(seat).commit(&request).await.unwrap()).unwrap());
    }
    let package = SigningPackage::new(setting.subject().message, commitments).unwrap();
    let request = |seat: &Member| SignRequest {
        session: setting.session().clone(),
        key_group: setting.key_group(),
        member: *seat,
        subject: *setting.subject(),
        context: setting.derive(1, included).unwrap().parts(),
        package: package.clone(),
        evidence: Vec::new(),
    };
    included.iter().map(|seat| (client(seat), request(seat))).collect()
}

/// What the client builds its message from: plain fields, none of this crate's encodings.
fn plain(request: &SignRequest) -> String {
    let attempt = &request.context;
    json!({
        "session": request.session.as_str(),
        "key_group": request.key_group.to_string(),
        "member": request.member.number(),
        "message": request.subject.message.to_string(),
        "attempt": {
            "number": attempt.number,
            "coordinator": attempt.coordinator,
            "included": attempt.included,
            "included_fingerprint": to_hex(&attempt.included_fingerprint),
            "attempt_id": to_hex(&attempt.attempt_id),
        },
        "signing_package": to_hex(request.package.as_bytes()),
    })
    .to_string()
}

fn wire(round: &ServedRound) -> String {
    let message = v1::Round {
        round_id: round.round.as_bytes().to_vec(),
        attempt_id: round.attempt.as_bytes().to_vec(),
        member: round.member.number().into(),
        signature_share: round.share.to_vec(),
        position: round.position,
        round_signature: round.round_signature.to_vec(),
    };
    to_hex(&message.encode_to_vec())
}

async fn reads_a_status_a_durable_round_and_an_outage(python: Python) {
    let generated = tempfile::tempdir().unwrap();
    if let Err(missing) = python.generate(generated.path()) {
        assert!(
            std::env::var_os("FROSTKEEP_REQUIRE_PYTHON").is_none(),
            "{missing}: scripts/setup --python installs it"
        );
        println!("skipped: {missing}; scripts/setup --python installs it");
        return;
    }
    let net = Net::started(NetPlan::of(2)).await;
    let confirmed = net.generate_key(2, AttemptPolicy::Roast).await;
    let setting = |byte| {
        let (certificate, subject) = (confirmed.certificate(), subject(byte));
        Setting::new(certificate.group().clone(), certificate.seats().clone(), session_id(&subject, 0), subject)
    };
    let included = [member(1), member(2)];
    let durable = requests(&net, &setting(1), &included).await.swap_remove(0);
    let fresh = requests(&net, &setting(2), &included).await.swap_remove(0);
    let served = durable.0.start_sign_round(&durable.1).await.unwrap();

    let caller = Caller::new(&python, generated.path(), &net, &net.clients["operator"]);
    let status = caller.call(&["status"]).await;
    assert_eq!(status["answer"], json!({ "name": "node-0", "phase": "PHASE_OPEN", "ready": true }));

    net.nodes[0].token.fail_until_healed(FaultClass::Token);
    let file = |name: &str, request: &SignRequest| {
        let path = net.directory().join(name);
        std::fs::write(&path, plain(request)).unwrap();
        path.display().to_string()
    };
    let (durable_file, fresh_file) = (file("durable.json", &durable.1), file("fresh.json", &fresh.1));
    let server = net.nodes[0].server();
    eventually("the node knows of the outage", || !server.is_ready()).await;
    let outage = caller.call(&["round", &fresh_file]).await;
    let refused = &outage["refusal"];
    assert_eq!((&refused["reason"], &refused["domain"]), (&json!("key_provider_unavailable"), &json!("frostkeep")));
    assert_eq!((&refused["code"], &refused["metadata"]["outage_class"]), (&json!("UNAVAILABLE"), &json!("token")));
    assert_eq!(refused["metadata"].get("pending"), None, "no nonce was taken");
    assert_eq!(refused["metadata"]["durable_served"], json!("true"));
    let next_try = refused["metadata"]["next_try_ms"].as_str().unwrap();
    assert_eq!(refused["retry_ms"].to_string(), next_try, "RetryInfo says the same");

    let cached = caller.call(&["round", &durable_file]).await;
    assert_eq!(cached["answer"], json!({ "durable": true, "round": wire(&served) }), "the same bytes, in an outage");

    let stranger = Caller::new(&python, generated.path(), &net, &TlsKey::generate().unwrap());
    let refused = stranger.call(&["status"]).await;
    assert_eq!(refused["refusal"]["code"], json!("UNAVAILABLE"), "no connection");
    assert_eq!(refused["refusal"].get("reason"), None, "nobody talked to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_of_debian_s_grpcio_reads_a_status_a_durable_round_and_an_outage() {
    reads_a_status_a_durable_round_and_an_outage(Python::debian()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_of_pypi_s_grpcio_reads_a_status_a_durable_round_and_an_outage() {
    reads_a_status_a_durable_round_and_an_outage(Python::pypi()).await;
}
