fn encode(nonces: &frostkeep::frost::Nonces) -> Vec<u8> {
    postcard::to_allocvec(nonces).unwrap()
}

fn main() {}
