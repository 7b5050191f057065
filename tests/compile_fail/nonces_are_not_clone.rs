use frostkeep::frost::Nonces;

fn copy(one: Nonces) -> (Nonces, Nonces) {
    (one.clone(), one)
}

fn main() {}
