//! I10: no freed memory keeps a key share. The whole life of a key (generation, encoding, signing) runs under the binary's
//! wiping allocator; then the process reads its own memory through the kernel and looks for the shares.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use frostkeep::frost::{KeyShare, SigningPackage, commit, sign};
use frostkeep::hsm::entropy;
use frostkeep::identity::NodeIdentity;
use frostkeep::ids::{AttemptPolicy, CeremonyId, Member, Message};
use frostkeep::keygen::{Certificate, Parameters, Prepared, begin};
use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const MASK: u8 = 0xa5;

/// A secret that is never written down as it is.
struct Masked([u8; 32]);

impl Masked {
    fn new(secret: &[u8]) -> Self {
        let mut masked = [0; 32];
        masked.iter_mut().zip(secret).for_each(|(to, from)| *to = from ^ MASK);
        Self(masked)
    }

    /// Big-endian as encoded, or little-endian as scalars lie in memory.
    fn is_in(&self, memory: &[u8]) -> bool {
        let forward = |window: &[u8]| window.iter().zip(&self.0).all(|(a, b)| a ^ MASK == *b);
        let backward = |window: &[u8]| window.iter().rev().zip(&self.0).all(|(a, b)| a ^ MASK == *b);
        memory.windows(32).any(|window| forward(window) || backward(window))
    }
}

/// How many of `secrets` lie in writable memory, the stacks apart (what is on a stack was never freed).
#[inline(never)]
fn found(secrets: &[Masked]) -> usize {
    let local = 0u8;
    let here = std::ptr::from_ref(&local).addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut seen = vec![false; secrets.len()];
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (from, to) = fields.next().unwrap().split_once('-').unwrap();
        let (from, to) = (usize::from_str_radix(from, 16).unwrap(), usize::from_str_radix(to, 16).unwrap());
        let writable = fields.next().unwrap().starts_with("rw");
        if !writable || (from..to).contains(&here) || line.ends_with("[stack]") {
            continue;
        }
        let mut at = from;
        while at < to {
            let take = chunk.len().min(to - at);
            if memory.read_exact_at(&mut chunk[..take], at as u64).is_ok() {
                for (secret, seen) in secrets.iter().zip(&mut seen) {
                    *seen |= secret.is_in(&chunk[..take]);
                }
            }
            // Chunks overlap, so that none cuts a secret in two.
            at += if take == to - at { take } else { take - 31 };
        }
    }
    chunk.fill(0);
    seen.iter().filter(|seen| **seen).count()
}

/// Bytes 37 to 69 of an encoded key share are the secret scalar.
fn secret(share: &KeyShare) -> Masked {
    Masked::new(&share.encode().as_bytes()[37..69])
}

#[inline(never)]
fn generate() -> (Vec<Prepared>, Certificate) {
    let nodes: Vec<_> = (0..2).map(|_| Arc::new(NodeIdentity::generate(&mut entropy::os()))).collect();
    let seats = (1..).map(|n| Member::new(n).unwrap()).zip(nodes.iter().map(|node| node.public())).collect();
    let parameters = Parameters::new(CeremonyId::new([1; 16]), 2, seats, AttemptPolicy::Roast, [0; 32]).unwrap();
    let (mut one, mut messages) = (Vec::new(), Vec::new());
    for node in &nodes {
        let (state, sent) = begin(parameters.clone(), Arc::clone(node), &mut entropy::os()).unwrap();
        one.push(state);
        messages.extend(sent);
    }
    let (mut two, mut next) = (Vec::new(), Vec::new());
    for mut state in one {
        messages.iter().for_each(|message| assert!(state.receive(&message.to_bytes()).is_ok()));
        let (state, sent) = state.advance(&mut entropy::os()).unwrap();
        two.push(state);
        next.extend(sent);
    }
    let mut prepared = Vec::new();
    for mut state in two {
        next.iter().for_each(|message| assert!(state.receive(&message.to_bytes()).is_ok()));
        prepared.push(state.finish().unwrap());
    }
    let statements = prepared.iter().map(|one| *one.statement());
    let certificate = Certificate::new(prepared[0].transcript().clone(), statements).unwrap();
    (prepared, certificate)
}

#[inline(never)]
fn signs(shares: &[KeyShare], certificate: &Certificate) {
    let (mut nonces, mut commitments) = (Vec::new(), BTreeMap::new());
    for share in shares {
        let (pair, public) = commit(share, &mut entropy::os());
        nonces.push(pair);
        commitments.insert(share.member(), public);
    }
    let package = SigningPackage::new(Message::new([2; 32]), commitments).unwrap();
    let made: Vec<_> = nonces
        .into_iter()
        .zip(shares)
        .map(|(nonces, share)| (share.member(), sign(nonces, share, certificate.group(), &package, None).unwrap()))
        .collect();
    let signature = certificate.group().aggregate(&package, &made, None).unwrap();
    certificate.group().verify(package.message(), None, &signature).unwrap();
}

#[test]
fn freed_memory_keeps_no_key_share() {
    let (prepared, certificate) = generate();
    let shares: Vec<KeyShare> = prepared
        .into_iter()
        .flat_map(|one| {
            let bytes = one.encode();
            drop(one);
            Prepared::decode(&bytes).unwrap().activate(&certificate).map_err(|(_, error)| error).unwrap()
        })
        .collect();
    let secrets: Vec<Masked> = shares.iter().map(secret).collect();
    assert_eq!(found(&secrets), 2, "the search finds shares that are alive");
    signs(&shares, &certificate);
    // Last, so that nothing reuses the blocks: a commitment copies the share into buffers that it frees as they are.
    shares.iter().for_each(|share| drop(commit(share, &mut entropy::os())));
    drop(shares);
    assert_eq!(found(&secrets), 0, "a freed block still holds a share");
}
