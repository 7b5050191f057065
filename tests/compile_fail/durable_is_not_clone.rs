use frostkeep::store::Durable;

fn copy(one: Durable<u64>) -> (Durable<u64>, Durable<u64>) {
    (one.clone(), one)
}

fn main() {}
