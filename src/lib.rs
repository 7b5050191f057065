//! Frostkeep: a threshold Schnorr signer for Bitcoin Taproot whose state is sealed under a PKCS#11 token.
//!
//! A group of nodes holds one key (FROST, t of n; ROAST attempts). A signature share leaves a node only when the round it
//! belongs to is durable. When the token is gone or hangs, durable rounds are still served, byte for byte; rounds that are
//! not durable are refused, and come out later as the same bytes.
//!
//! ```text
//!  request --> engine: checks, gate --> FROST off the lock --> record in line --> persister --> frame on disk
//!                |                                                                  |  one seal, one sync,
//!                | durable already?                                                 |  one anchor step
//!                v                                                                  v
//!              reply <------------------ Durable<Round>, freeze gate <------- durable position
//! ```
//!
//! | room | what it is |
//! | --- | --- |
//! | [`ids`], [`limits`], [`hash`], [`reasons`] | names, bounds, framed hashes, the stable reasons of refusals |
//! | [`frost`] | the only room that names the FROST crates; nonces by value |
//! | [`identity`] | node identities, Ed25519 |
//! | [`roast`] | attempt contexts, coordinator selection, evidence, transcript, scores: pure |
//! | [`bitcoin`], [`policy`] | transactions and signature hashes; what may be signed: pure |
//! | [`keygen`] | key generation without a dealer, sans-io |
//! | [`store`] | records in line, sealed and chained frames, positions that prove durability |
//! | [`engine`] | sessions, rounds, the cached serve, freeze, approvals |
//! | [`ceremony`] | drives a key generation between nodes |
//! | [`coordinator`] | drives signing sessions over the members' nodes, sans-io, with a driver; nothing on disk |
//! | [`wire`] | the messages that travel between nodes, and their way from and to the engine's types |
//! | [`roster`] | who is who between nodes: addresses, identities, pins, roles |
//! | [`tls`] | TLS 1.3 with pinned keys: keys, certificates, the two verifiers |
//! | [`client`] | calls nodes: typed, repeated safely; every node of a roster, for the drivers of signing and key generation |
//! | [`node`] | wires a state directory, a key provider and an engine together |
//! | [`drill`] | shows what an outage of the token does to a node, and what it does not |
//! | [`server`] | a node as a server: gRPC over TLS and over a Unix socket, who may call what, limits, graceful stop |
//! | [`hsm`] | the key provider: a crate of its own, which knows the token and not FROST |
//! | [`cli`], [`process`] | the command; hardening of its process |
//! | [`manual`] | threat model, store format, outage behaviour, operations, decisions |
//!
//! # Invariants
//!
//! Code and tests cite them by number.
//!
//! - **I1** No share leaves the process unless the record that holds its consumed marker and the share itself is durable:
//!   sealed, synced and, where the strength says so, anchored.
//! - **I2** A durable round is served again, byte for byte, with the token absent or hanging: no token call, no disk write,
//!   and no lock that a token call or a disk write can hold.
//! - **I3** An authorised advance that fails any later check leaves the active attempt exactly as it was.
//! - **I4** A round that is not durable is never served. Its replay is refused while the line cannot move; once it can, the
//!   same share is persisted and served.
//! - **I5** Records have one total order. One that could not be persisted stays first in line, so that any later success
//!   makes it durable too. One session's pending round never delays or refuses another session's durable one.
//! - **I6** A nonce pair signs at most one signing package, across crashes, restarts and restored backups. Nonces live in
//!   RAM only and are never in a record. A clone that runs with a copy of the memory is found by the anchor.
//! - **I7** An outage at start makes a sealed node. Missing, corrupt, rolled back, wrong key, busy and unsupported version
//!   are six errors; none starts empty, and nothing is reset or renamed away.
//! - **I8** A freeze works at once: sealed, in an outage, with a full line; it survives a crash. It is checked again at the
//!   moment of every release, and returns when every release that passed before it has been handed over.
//! - **I9** No state lock is held during a token call, a disk write or a FROST computation.
//! - **I10** Unsealed secrets never cross the API, never reach a log, and are wiped on every path out.

pub mod bitcoin;
pub mod ceremony;
pub mod cli;
pub mod client;
pub mod coordinator;
pub mod drill;
pub mod engine;
pub mod frost;
pub mod hash;
pub mod identity;
pub mod ids;
pub mod keygen;
pub mod limits;
pub mod manual;
pub mod node;
pub mod policy;
pub mod process;
pub mod reasons;
pub mod roast;
pub mod roster;
pub mod server;
pub mod store;
pub mod tls;
pub mod wire;

pub use frostkeep_hsm as hsm;
