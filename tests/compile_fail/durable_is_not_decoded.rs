use frostkeep::store::Durable;

fn decode(bytes: &[u8]) -> Durable<u64> {
    postcard::from_bytes(bytes).unwrap()
}

fn main() {}
