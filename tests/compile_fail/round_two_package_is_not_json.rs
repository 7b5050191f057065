fn print(package: &frostkeep::frost::RoundTwoPackage) -> String {
    serde_json::to_string(package).unwrap()
}

fn main() {}
