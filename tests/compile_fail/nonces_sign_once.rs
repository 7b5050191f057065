use frostkeep::frost::{GroupKey, KeyShare, Nonces, SigningPackage, sign};

fn twice(nonces: Nonces, share: &KeyShare, group: &GroupKey, one: &SigningPackage, other: &SigningPackage) {
    let _ = sign(nonces, share, group, one, None);
    let _ = sign(nonces, share, group, other, None);
}

fn main() {}
