use frostkeep::frost::{GroupKey, KeyShare, Nonces, SigningPackage, sign};

fn borrow(nonces: &Nonces, share: &KeyShare, group: &GroupKey, package: &SigningPackage) {
    let _ = sign(nonces, share, group, package, None);
}

fn main() {}
