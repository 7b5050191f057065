//! Whether verifying shares belong together: those of a group lie on one polynomial, whose value at 0 is the group key.

use frost_secp256k1_tr as tr;
use tr::keys::PublicKeyPackage;
use tr::{Ciphersuite, Field, Group, Secp256K1Group, Secp256K1ScalarField, Secp256K1Sha256TR};

type Scalar = <Secp256K1ScalarField as Field>::Scalar;

const CONTEXT: &[u8] = b"frostkeep-verifying-shares-v1";

/// Whether the group key and all verifying shares lie on one polynomial of degree `threshold` - 1, so that any `threshold` of
/// the shares interpolate to the key. `encoded` is the encoding of `package`.
///
/// The points are multiplied with a codeword of the dual Reed-Solomon code (SCRAPE, Cascudo and David 2017, lemma 1): the sum
/// is the identity for each such polynomial, and for anything else with a chance of at most n / 2^256. The codeword is drawn
/// from the hash of the points themselves, which nobody can choose after it.
pub(super) fn is_one_polynomial(package: &PublicKeyPackage, threshold: u16, encoded: &[u8]) -> bool {
    let shares = package.verifying_shares().iter().map(|(id, share)| (id.to_scalar(), share.to_element()));
    let key = (Secp256K1ScalarField::zero(), package.verifying_key().to_element());
    let points: Vec<_> = std::iter::once(key).chain(shares).collect();
    let Some(degree) = package.verifying_shares().len().checked_sub(threshold.into()) else { return false };
    let challenge = Secp256K1Sha256TR::H1(&[CONTEXT, encoded].concat());
    let mut sum = Secp256K1Group::identity();
    for (at, point) in &points {
        let others = points.iter().map(|(other, _)| *other).filter(|other| other != at);
        let product = others.fold(Secp256K1ScalarField::one(), |product, other| product * (*at - other));
        // Zero only where two members are one.
        let Ok(weight) = Secp256K1ScalarField::invert(&product) else { return false };
        sum += *point * (weight * geometric(challenge * at, degree));
    }
    sum == Secp256K1Group::identity()
}

/// 1 + x + ... + x^degree.
fn geometric(x: Scalar, degree: usize) -> Scalar {
    let one = Secp256K1ScalarField::one();
    (0..degree).fold(one, |sum, _| sum * x + one)
}
