fn print(share: &frostkeep::frost::KeyShare) -> String {
    format!("{share:?}")
}

fn main() {}
