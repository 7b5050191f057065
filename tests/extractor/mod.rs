//! What an attacker would do with every share that a node ever emitted: FROST gives the signing share away when a nonce
//! signs twice. Each share is one linear equation over secp256k1's scalars,
//!
//! `z = +-(d + rho e) + lambda c s`  (RFC 9591, 5.2; the sign is that of R, BIP-340)
//!
//! with the unknowns `d`, `e` (nonces) and `s` (signing share). Nonces are named by the x coordinate of their commitment,
//! so that a pair that comes again in half, swapped or negated is the same unknown. Binding factors come from frost-core,
//! everything else is done here anew.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use frost_core::Ciphersuite;
use frost_secp256k1_tr as tr;
use tr::{Field, Group, Secp256K1Group, Secp256K1ScalarField};

type Scalar = <Secp256K1ScalarField as Field>::Scalar;
type X = [u8; 32];

/// One share as it was emitted: everything that a coordinator sees.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Emission {
    pub member: u16,
    /// The signing package, canonical.
    pub package: Vec<u8>,
    pub share: [u8; 32],
    /// The x-only key under which the signature is made.
    pub output_key: X,
}

/// Shares that have a nonce in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Reuse {
    /// How many different shares.
    pub shares: usize,
    /// The signing share (tweaked, under the even output key), when the shares give it away.
    pub signing_share: Option<[u8; 32]>,
}

struct Equation {
    /// Nonces with their coefficients.
    nonces: [(X, Scalar); 2],
    of_share: Scalar,
    equals: Scalar,
}

fn signed(negative: bool, scalar: Scalar) -> Scalar {
    if negative { -scalar } else { scalar }
}

fn x_and_parity(point: &<Secp256K1Group as Group>::Element) -> (X, bool) {
    let bytes = Secp256K1Group::serialize(point).unwrap();
    (bytes[1..].try_into().unwrap(), bytes[0] == 3)
}

fn point(bytes: &[u8]) -> <Secp256K1Group as Group>::Element {
    Secp256K1Group::deserialize(bytes.try_into().unwrap()).unwrap()
}

fn number(value: u16) -> Scalar {
    let mut bytes = [0; 32];
    bytes[30..].copy_from_slice(&value.to_be_bytes());
    Secp256K1ScalarField::deserialize(&bytes).unwrap()
}

fn invert(scalar: &Scalar) -> Scalar {
    Secp256K1ScalarField::invert(scalar).unwrap()
}

impl Equation {
    fn of(emission: &Emission) -> Self {
        let package = tr::SigningPackage::deserialize(&emission.package).unwrap();
        let mut key = [2; 33];
        key[1..].copy_from_slice(&emission.output_key);
        let key = tr::VerifyingKey::deserialize(&key).unwrap();
        let factors = frost_core::compute_binding_factor_list(&package, &key, &[]).unwrap();
        let rho = |id: &tr::Identifier| {
            let bytes = factors.get(id).unwrap().serialize();
            Secp256K1ScalarField::deserialize(&bytes.try_into().unwrap()).unwrap()
        };
        let own = tr::Identifier::try_from(emission.member).unwrap();
        let mut commitment = Secp256K1Group::identity();
        let mut lambda = Secp256K1ScalarField::one();
        for (id, commitments) in package.signing_commitments() {
            let hiding = point(&commitments.hiding().serialize().unwrap());
            let binding = point(&commitments.binding().serialize().unwrap());
            commitment = commitment + hiding + binding * rho(id);
            if *id != own {
                let bytes = id.serialize();
                let other = number(u16::from_be_bytes(bytes[30..].try_into().unwrap()));
                lambda = lambda * other * invert(&(other - number(emission.member)));
            }
        }
        let (r, r_odd) = x_and_parity(&commitment);
        let challenge = tr::Secp256K1Sha256TR::H2(&[&r, &emission.output_key, package.message().as_slice()].concat());
        let mine = package.signing_commitments()[&own];
        let (hiding, hiding_odd) = x_and_parity(&point(&mine.hiding().serialize().unwrap()));
        let (binding, binding_odd) = x_and_parity(&point(&mine.binding().serialize().unwrap()));
        Self {
            nonces: [
                (hiding, signed(r_odd ^ hiding_odd, Secp256K1ScalarField::one())),
                (binding, signed(r_odd ^ binding_odd, rho(&own))),
            ],
            of_share: lambda * challenge,
            equals: Secp256K1ScalarField::deserialize(&emission.share).unwrap(),
        }
    }
}

/// Every set of different shares that have a nonce in common, and what it gives away. Empty is what must be.
pub fn extract(emissions: &[Emission]) -> Vec<Reuse> {
    let distinct: BTreeSet<&Emission> = emissions.iter().collect();
    let equations: Vec<Equation> = distinct.into_iter().map(Equation::of).collect();
    let mut users: BTreeMap<X, Vec<usize>> = BTreeMap::new();
    for (index, equation) in equations.iter().enumerate() {
        for (nonce, _) in &equation.nonces {
            users.entry(*nonce).or_default().push(index);
        }
    }
    let mut seen = vec![false; equations.len()];
    let mut found = Vec::new();
    for start in 0..equations.len() {
        let (mut connected, mut next) = (Vec::new(), vec![start]);
        while let Some(index) = next.pop() {
            if !std::mem::replace(&mut seen[index], true) {
                connected.push(index);
                next.extend(equations[index].nonces.iter().flat_map(|(nonce, _)| users[nonce].iter().copied()));
            }
        }
        if connected.len() > 1 {
            let connected: Vec<&Equation> = connected.into_iter().map(|index| &equations[index]).collect();
            found.push(Reuse { shares: connected.len(), signing_share: solve(&connected) });
        }
    }
    found
}

/// Gaussian elimination of every nonce; what is left says the signing share, if anything is left.
fn solve(equations: &[&Equation]) -> Option<[u8; 32]> {
    let zero = Secp256K1ScalarField::zero();
    let columns: BTreeSet<X> = equations.iter().flat_map(|equation| equation.nonces.map(|(nonce, _)| nonce)).collect();
    let columns: Vec<X> = columns.into_iter().collect();
    let share = columns.len();
    let mut rows: Vec<Vec<Scalar>> = equations
        .iter()
        .map(|equation| {
            let mut row = vec![zero; share + 2];
            for (nonce, coefficient) in &equation.nonces {
                let column = columns.binary_search(nonce).unwrap();
                row[column] += coefficient;
            }
            row[share] = equation.of_share;
            row[share + 1] = equation.equals;
            row
        })
        .collect();
    for column in 0..share {
        let Some(pivot) = rows.iter().position(|row| row[column] != zero) else { continue };
        let pivot = rows.swap_remove(pivot);
        let inverse = invert(&pivot[column]);
        for row in &mut rows {
            let factor = row[column] * inverse;
            for (value, subtracted) in row.iter_mut().zip(&pivot) {
                *value -= *subtracted * factor;
            }
        }
    }
    let row = rows.into_iter().find(|row| row[share] != zero)?;
    Some(Secp256K1ScalarField::serialize(&(row[share + 1] * invert(&row[share]))))
}
