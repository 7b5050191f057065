use frostkeep::store::Durable;

fn other(value: Durable<u64>) -> Durable<u64> {
    value.map(|value| value + 1)
}

fn main() {}
