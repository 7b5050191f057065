use frostkeep::store::Durable;

fn change(value: &mut Durable<u64>) {
    *value.get() = 1;
}

fn main() {}
