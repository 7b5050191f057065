use frostkeep::store::{DurablePosition, Position};

fn raise(position: &DurablePosition) {
    position.raise(Position::new(7));
}

fn main() {}
