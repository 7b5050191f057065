//! The ledger: the state twice. Admission reads the *admitted* view, with the records that are still in line; replies
//! read the *durable* view. One view for both would serve what a crash forgets (I4) or lose what an advance that never
//! became durable had replaced (I3).

use std::collections::VecDeque;
use std::sync::Arc;

use super::record::Record;
use super::state::{State, StateError};
use crate::store::Position;

/// The two views, and the records between them.
pub(crate) struct Ledger {
    admitted: State,
    durable: State,
    between: VecDeque<(Position, Arc<Record>)>,
}

impl Ledger {
    /// A ledger whose state is all durable.
    pub(crate) fn new(state: State) -> Self {
        Self { admitted: state.clone(), durable: state, between: VecDeque::new() }
    }

    /// With the records that are in line.
    pub(crate) fn admitted(&self) -> &State {
        &self.admitted
    }

    /// At the durable position that was settled last.
    pub(crate) fn durable(&self) -> &State {
        &self.durable
    }

    /// Checks that `record` fits the admitted view, before it goes into line: a record that does not is our bug, and
    /// must not be written.
    pub(crate) fn rehearse(&self, position: Position, record: &Record) -> Result<State, StateError> {
        let mut admitted = self.admitted.clone();
        admitted.apply(position, record)?;
        Ok(admitted)
    }

    /// Installs a rehearsed record as pending.
    pub(crate) fn install(&mut self, position: Position, record: Arc<Record>, admitted: State) {
        self.admitted = admitted;
        self.between.push_back((position, record));
    }

    /// Moves the durable view up to `durable`.
    pub(crate) fn settle(&mut self, durable: Position) -> Result<(), StateError> {
        while let Some((position, record)) = self.between.front() {
            if *position > durable {
                break;
            }
            self.durable.apply(*position, record)?;
            self.between.pop_front();
        }
        Ok(())
    }
}
