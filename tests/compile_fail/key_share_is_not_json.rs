fn print(share: &frostkeep::frost::KeyShare) -> String {
    serde_json::to_string(share).unwrap()
}

fn main() {}
