//! I10 on whole nodes: under the binary's wiping allocator, three nodes on SoftHSM make a key, sign, lose a token, get it
//! back, restart and stop. Then the process reads its own memory through the kernel: no signing share, identity seed or
//! PIN is left in it. Nothing that was logged at any level holds one, and no token agent carries the PIN where others look.
//!
//! What the search covers: every writable mapping but stacks. Stacks are left out because nothing wipes what a function
//! leaves below the stack pointer; they are reused while the node runs and go with the process, which is not dumpable.
//! Read-only mappings are left out because the test's own PIN is a constant of this binary.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod kit;

use std::alloc::System;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use frostkeep::engine::record::Record;
use frostkeep::engine::{Engine, Refusal};
use frostkeep::frost::{GroupKey, KeyShare};
use frostkeep::hsm::entropy;
use frostkeep::ids::{Member, to_hex};
use frostkeep::keygen::{Certificate, Prepared};
use frostkeep::store::{Environment, Opening, Position, RecoverySink, SinkError, VolumeSpace};
use kit::{Cluster, Kind, PIN, Plan, TestNode, durable_part, eventually, member, session, start, subject};
use rand_core::RngCore;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Metadata, Subscriber};
use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const MASK: u8 = 0xa5;
/// What Rust gives a thread.
const THREAD_STACK_BYTES: usize = 2 << 20;

/// A secret that is never written down as it is.
struct Masked {
    name: String,
    bytes: Vec<u8>,
}

impl Masked {
    fn new(name: impl Into<String>, secret: &[u8]) -> Self {
        Self { name: name.into(), bytes: secret.iter().map(|byte| byte ^ MASK).collect() }
    }

    /// As encoded, or in the order in which scalars lie in memory: little-endian.
    fn is(&self, window: &[u8]) -> bool {
        let equal = |(found, masked): (&u8, &u8)| found ^ MASK == *masked;
        window.iter().zip(&self.bytes).all(equal) || window.iter().rev().zip(&self.bytes).all(equal)
    }

    fn is_in(&self, memory: &[u8]) -> bool {
        memory.windows(self.bytes.len()).any(|window| self.is(window))
    }

    /// In text as it is, in hexadecimal of either case and either order, or as a list of numbers. Copies made here go to
    /// the heap, which is wiped.
    fn is_in_text(&self, text: &str) -> bool {
        let plain: Vec<u8> = self.bytes.iter().map(|byte| byte ^ MASK).collect();
        let reversed: Vec<u8> = plain.iter().rev().copied().collect();
        let lower = text.to_ascii_lowercase();
        let list = format!("{plain:?}");
        lower.contains(&to_hex(&plain))
            || lower.contains(&to_hex(&reversed))
            || text.contains(list.trim_matches(['[', ']']))
            || text.as_bytes().windows(plain.len()).any(|window| window == plain)
    }
}

/// A mapping of `/proc/self/maps`.
struct Mapping {
    from: usize,
    to: usize,
    readable: bool,
    writable: bool,
    name: String,
}

fn mappings() -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .map(|line| {
            let mut fields = line.split_whitespace();
            let (from, to) = fields.next().unwrap().split_once('-').unwrap();
            let access = fields.next().unwrap();
            Mapping {
                from: usize::from_str_radix(from, 16).unwrap(),
                to: usize::from_str_radix(to, 16).unwrap(),
                readable: access.starts_with('r'),
                writable: access.as_bytes()[1] == b'w',
                name: fields.nth(3).unwrap_or_default().to_owned(),
            }
        })
        .collect()
}

/// How much of the start of a mapping is a stack, of a thread that lives or of one that has ended: glibc puts a guard of one
/// page below each, which nothing can read. What lies above it was joined to it by the kernel, and is searched. The kernel
/// names the first thread's.
fn stack_bytes(mappings: &[Mapping], index: usize) -> usize {
    let mapping = &mappings[index];
    let bytes = mapping.to - mapping.from;
    let guarded = index.checked_sub(1).map(|below| &mappings[below]).is_some_and(|below| {
        below.to == mapping.from && !below.readable && !below.writable && below.to - below.from == page_bytes()
    });
    match (mapping.name.as_str(), guarded) {
        ("[stack]", _) => bytes,
        (_, true) => bytes.min(THREAD_STACK_BYTES),
        (_, false) => 0,
    }
}

fn page_bytes() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as usize
}

/// The first bytes that a copy of one of `secrets` can have, in either order.
fn first_bytes(secrets: &[Masked]) -> [bool; 256] {
    let mut first = [false; 256];
    for masked in secrets.iter().flat_map(|secret| [secret.bytes.first(), secret.bytes.last()]) {
        first[usize::from(masked.unwrap() ^ MASK)] = true;
    }
    first
}

/// Names of `secrets` that lie in writable memory, the stacks apart.
#[inline(never)]
fn found(secrets: &[Masked]) -> Vec<&str> {
    let local = 0u8;
    let here = std::ptr::from_ref(black_box(&local)).addr();
    let mappings = mappings();
    let memory = File::open("/proc/self/mem").unwrap();
    let overlap = secrets.iter().map(|secret| secret.bytes.len()).max().unwrap() - 1;
    let first = first_bytes(secrets);
    let mut chunk = vec![0; 1 << 20];
    let mut seen = vec![false; secrets.len()];
    let (mut stacks, mut searched_bytes) = (0, 0);
    for (index, mapping) in mappings.iter().enumerate() {
        if !mapping.writable || !mapping.readable {
            continue;
        }
        let mut at = mapping.from + stack_bytes(&mappings, index);
        stacks += usize::from(at > mapping.from);
        assert!(!(at..mapping.to).contains(&here), "this thread's stack was not told from the heap");
        while at < mapping.to {
            let take = chunk.len().min(mapping.to - at);
            if memory.read_exact_at(&mut chunk[..take], at as u64).is_ok() {
                searched_bytes += take;
                for (offset, _) in chunk[..take].iter().enumerate().filter(|(_, byte)| first[usize::from(**byte)]) {
                    for (secret, seen) in secrets.iter().zip(&mut seen) {
                        let window = chunk[..take].get(offset..offset + secret.bytes.len());
                        *seen = *seen || window.is_some_and(|window| secret.is(window));
                    }
                }
            }
            // Chunks overlap, so that none cuts a secret in two.
            at += if take == mapping.to - at { take } else { take - overlap };
        }
    }
    chunk.fill(0);
    assert!(stacks > 0 && searched_bytes > 1 << 20, "the search went nowhere: {stacks} stacks, {searched_bytes} bytes");
    secrets.iter().zip(seen).filter(|(_, seen)| *seen).map(|(secret, _)| secret.name.as_str()).collect()
}

static LOG: Mutex<String> = Mutex::new(String::new());

/// Everything that is logged, at every level, as text.
struct Everything;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        LOG.lock().unwrap().push_str(&line.0);
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, values: &Values<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        LOG.lock().unwrap().push_str(&line.0);
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        line.0.push('\n');
        LOG.lock().unwrap().push_str(&line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Reads the secrets of a stopped node out of its sealed state, through the front door: opening, records.
struct Secrets<'a> {
    certificate: &'a Certificate,
    masked: Vec<Masked>,
}

impl RecoverySink for Secrets<'_> {
    fn snapshot_item(&mut self, _: &[u8]) -> Result<(), SinkError> {
        Err(SinkError("this state is too small for a snapshot".into()))
    }

    fn record(&mut self, _: Position, bytes: &[u8]) -> Result<(), SinkError> {
        match postcard::from_bytes(bytes).unwrap() {
            Record::Identity(seed) => {
                assert_eq!(seed.expose().len(), 32);
                self.masked.push(Masked::new("identity seed", seed.expose()));
            }
            // PKCS#8 of a P-256 key: bytes 36 to 68 are the secret scalar.
            Record::ClientKey(key) => self.masked.push(Masked::new("client key", &key.expose()[36..68])),
            Record::Prepared(prepared) => {
                let prepared = Prepared::decode(prepared.prepared.expose()).unwrap();
                for share in prepared.activate(self.certificate).map_err(|(_, error)| error).unwrap() {
                    self.masked.push(signing_share(&share));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Bytes 37 to 69 of an encoded key share are the secret scalar.
fn signing_share(share: &KeyShare) -> Masked {
    Masked::new(format!("signing share of member {}", share.member()), &share.encode().as_bytes()[37..69])
}

#[inline(never)]
fn secrets_of(node: &TestNode, certificate: &Certificate) -> Vec<Masked> {
    let environment = Environment {
        clock: node.config.clock.clone(),
        entropy: (node.config.entropy)(),
        space: Box::new(VolumeSpace::of(node.state())),
    };
    let mut opening = Opening::begin(node.state(), node.token.provider(), environment, node.config.tuning).unwrap();
    let mut secrets = Secrets { certificate, masked: Vec::new() };
    opening.verify(&mut secrets).unwrap();
    assert_eq!(secrets.masked.len(), 3, "an identity seed, a client key and one share");
    secrets.masked
}

/// Processes that this one started and that live.
fn children() -> Vec<u32> {
    let me = std::process::id().to_string();
    let is_mine = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in brackets may hold anything; the parent is the second field after it.
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(me.as_str())
    };
    let names = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).filter(is_mine).collect()
}

/// What every user of the machine, or the same user, can read about the token agents.
fn agents_carry_no_pin(pin: &Masked) {
    let agents = children();
    assert!(agents.len() >= 3, "three nodes have three agents: {agents:?}");
    for agent in agents {
        let arguments = std::fs::read(format!("/proc/{agent}/cmdline")).unwrap();
        assert!(arguments.windows(11).any(|part| part == b"token-agent"), "{}", String::from_utf8_lossy(&arguments));
        assert!(!pin.is_in(&arguments), "the PIN is in the arguments of an agent");
        match std::fs::read(format!("/proc/{agent}/environ")) {
            Ok(environment) => {
                assert!(environment.windows(13).any(|part| part == b"SOFTHSM2_CONF"), "this is not its environment");
                assert!(!pin.is_in(&environment), "the PIN is in the environment of an agent");
            }
            // It is not dumpable: only the superuser reads it.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
    }
}

/// Key generation, signing, an outage, a restart. Returns with everything alive.
#[inline(never)]
async fn life(pin: &Masked) -> Cluster {
    let mut cluster = Cluster::new(Plan::two_of_three(Kind::Soft)).await;
    for (number, pair) in [[1, 2], [2, 3]].into_iter().enumerate() {
        cluster.sign(&session(&format!("life-{number}")), &subject(number as u8), &pair.map(member)).await;
    }
    agents_carry_no_pin(pin);

    let (name, what) = (session("outage"), subject(7));
    let package = cluster.package(&name, &what, &[member(1), member(3)]);
    let request = cluster.request(&name, &what, 1, &package, member(1));
    let served = durable_part(&start(&cluster.nodes[0].engine(), &request).await.unwrap());
    cluster.nodes[0].token.take_away();
    eventually("the outage is known", || !cluster.nodes[0].engine().status().admits_work()).await;
    let engine: Engine = cluster.nodes[0].engine();
    assert_eq!(durable_part(&start(&engine, &request).await.unwrap()), served);
    let late = session("late");
    let package = cluster.package(&late, &what, &[member(1), member(3)]);
    let fresh = cluster.request(&late, &what, 1, &package, member(1));
    assert!(matches!(start(&engine, &fresh).await, Err(Refusal::KeyProviderUnavailable { .. })));
    cluster.nodes[0].token.bring_back();
    eventually("the outage is over", || engine.status().admits_work()).await;
    start(&engine, &fresh).await.unwrap();
    drop(engine);

    cluster.nodes[0].stop();
    let engine = cluster.nodes[0].start_open().await;
    assert_eq!(durable_part(&start(&engine, &request).await.unwrap()), served);
    // Last on each node, so that nothing reuses the blocks: a commitment copies the share into buffers that it frees.
    for (number, node) in cluster.nodes.iter().enumerate() {
        cluster.commit(&node.engine(), &session("last"), member(number as u16 + 1)).unwrap();
    }
    cluster
}

#[inline(never)]
async fn snapshots(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        node.config.tuning.snapshot_floor_bytes = 1;
        node.start_open().await;
    }
    cluster.sign(&session("snapshot"), &subject(9), &[1, 2, 3].map(member)).await;
    for node in &mut cluster.nodes {
        eventually("a snapshot is in place", || node.engine().status().counters.snapshots > 0).await;
        node.stop();
        node.start_open().await;
    }
}

/// Which member's share is whose: the search must look for the real ones.
fn prove(secrets: &[Masked], group: &GroupKey) {
    let shares: Vec<&Masked> = secrets.iter().filter(|secret| secret.name.starts_with("signing share")).collect();
    let members: BTreeMap<Member, &Masked> = group.members().iter().copied().zip(shares).collect();
    assert_eq!(members.len(), 3);
    for (member, share) in members {
        assert_eq!(share.name, format!("signing share of member {member}"));
    }
}

#[test]
fn a_stopped_node_leaves_no_share_seed_or_pin_in_memory_logs_or_agents() {
    tracing::subscriber::set_global_default(Everything).unwrap();
    let pin = Masked::new("PIN", PIN.as_bytes());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut cluster = runtime.block_on(life(&pin));
    let mut secrets = vec![pin];
    for node in &mut cluster.nodes {
        node.stop();
        secrets.extend(secrets_of(node, cluster.confirmed.certificate()));
    }
    prove(&secrets, &cluster.group);
    assert_eq!(found(&secrets), ["PIN"], "nodes that have stopped; the PIN is the fixture's own copy of it");

    // Once more, with a snapshot of everything, and an opening from it.
    runtime.block_on(snapshots(&mut cluster));

    // Control: what is alive is found, every one of it.
    let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(found(&secrets), names, "the search is blind");

    // Control: a planted secret is found, as it is and backward, and is gone when it is freed.
    let mut planted = Box::new([0; 32]);
    entropy::os().fill_bytes(planted.as_mut());
    let mask = [Masked::new("planted", planted.as_ref())];
    assert_eq!(found(&mask), ["planted"]);
    planted.reverse();
    assert_eq!(found(&mask), ["planted"]);
    drop(planted);
    assert!(found(&mask).is_empty());

    drop(cluster);
    drop(runtime);
    assert_eq!(children(), [0; 0], "agents end with their nodes");
    let left = found(&secrets);
    assert!(left.is_empty(), "left in memory: {left:?}");

    tracing::info!(seen = %PIN, "control");
    let log = std::mem::take(&mut *LOG.lock().unwrap());
    let (log, control) = log.rsplit_once("INFO").unwrap();
    assert!(secrets[0].is_in_text(control), "the log is not watched");
    assert!(log.lines().count() > 1, "nothing was logged");
    for secret in &secrets {
        assert!(!secret.is_in_text(log), "{} was logged", secret.name);
    }
    let hex = Masked::new("hex", &[0xab; 4]);
    assert!(hex.is_in_text("x=ABABABAB") && hex.is_in_text("[171, 171, 171, 171]") && !hex.is_in_text("abab"));
}
