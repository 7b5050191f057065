use frostkeep::store::Durable;

fn convert(value: u64) -> Durable<u64> {
    Durable::from(value)
}

fn main() {}
