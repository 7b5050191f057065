use frostkeep::store::Durable;

fn default() -> Durable<u64> {
    Durable::<u64>::default()
}

fn main() {}
