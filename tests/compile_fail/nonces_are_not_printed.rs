fn print(nonces: &frostkeep::frost::Nonces) -> String {
    format!("{nonces:?}")
}

fn main() {}
