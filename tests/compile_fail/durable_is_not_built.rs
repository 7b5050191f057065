use frostkeep::store::Durable;

fn build(value: u64) -> Durable<u64> {
    Durable { value }
}

fn main() {}
