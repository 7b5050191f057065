use frostkeep::frost::KeyShare;

fn copy(one: KeyShare) -> (KeyShare, KeyShare) {
    (one.clone(), one)
}

fn main() {}
