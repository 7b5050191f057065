fn print(identity: &frostkeep::identity::NodeIdentity) -> String {
    serde_json::to_string(identity).unwrap()
}

fn main() {}
