use std::collections::BTreeMap;

use frostkeep::frost::DkgRoundOne;

fn twice(state: DkgRoundOne) {
    let _ = state.advance(&BTreeMap::new());
    let _ = state.advance(&BTreeMap::new());
}

fn main() {}
