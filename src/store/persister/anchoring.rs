//! The persister's anchor steps: compare, set, verify; fence when another instance wrote (I6).

use frostkeep_hsm::health::{Outage, OutageClass};
use frostkeep_hsm::provider::Unavailable;

use super::super::anchor::{Judgement, Strength};
use super::{Persister, RETRY_MS, Worked};

impl Persister {
    pub(super) fn fence(&mut self, detail: String) {
        tracing::error!(detail, "the anchor belongs to another instance: nothing is released any more");
        self.fenced = true;
        self.job = None;
        self.core.provider.fence_by_anchor(detail);
    }

    /// After a reconnection the anchor is read before the next seal: a clone may have run meanwhile.
    pub(super) fn check_connection(&mut self) -> Worked {
        let connection = self.core.provider.connection();
        if connection == self.keeper.connection {
            return Worked::Done;
        }
        match self.read_anchor() {
            Ok(()) if !self.fenced => {
                self.keeper.connection = connection;
                Worked::Done
            }
            Ok(()) => Worked::Waits,
            Err(unavailable) => {
                self.anchor_failed(unavailable.0);
                Worked::Waits
            }
        }
    }

    pub(super) fn read_anchor(&mut self) -> Result<(), Unavailable> {
        let read = self.core.provider.anchor_read()?;
        match self.keeper.judge(read) {
            Judgement::Foreign(detail) => self.fence(detail),
            // An update whose answer was lost may have landed.
            Judgement::Ours | Judgement::Unsupported => self.raise(),
        }
        Ok(())
    }

    pub(super) fn anchor_failed(&mut self, outage: Outage) {
        self.counters.anchors_failed += 1;
        self.anchor_failure = Some((outage, self.now()));
    }

    /// Makes the token keep the intended value: compare, set, verify.
    pub(super) fn complete_anchor(&mut self) {
        let Some(intended) = self.keeper.intended else {
            return;
        };
        if let Some((_, at)) = &self.anchor_failure
            && self.now().since(*at) < RETRY_MS
        {
            return;
        }
        let tried = self.read_anchor().and_then(|()| {
            if self.fenced || !self.keeper.unresolved() {
                return Ok(());
            }
            self.core.provider.anchor_write(&intended)?;
            self.read_anchor()
        });
        match tried {
            Err(unavailable) => self.anchor_failed(unavailable.0),
            Ok(()) if self.fenced => {}
            Ok(()) if self.keeper.unresolved() => {
                let outage = self.outage(OutageClass::Integrity, "the token accepted an anchor and does not hold it");
                self.anchor_failed(outage);
            }
            Ok(()) => {
                self.anchor_failure = None;
                self.counters.anchors += 1;
            }
        }
    }

    pub(super) fn outage(&self, class: OutageClass, detail: &str) -> Outage {
        let now = self.now();
        Outage {
            class,
            since: now,
            since_unix: self.core.environment.clock.unix_seconds(),
            next_try: Some(now.plus(RETRY_MS)),
            detail: detail.into(),
            token: String::new(),
        }
    }

    pub(super) fn blocked_by_anchor(&self) -> bool {
        self.keeper.unresolved()
            && (self.keeper.strength() == Strength::Strict || self.keeper.overdue(self.core.head.last))
    }

    /// Notes the end of the chain as intended and anchors it, without a frame.
    pub(super) fn anchor_head(&mut self) -> Worked {
        if !self.keeper.unresolved() {
            let mut head = self.core.head.clone();
            let value = self.core.anchor_value(&head);
            self.core.note(&mut head, self.keeper.confirmed, Some(value));
            let row = self.core.resealed_head(&head);
            if let Err(error) = self.core.frames.set_head(self.core.mark, &row) {
                self.fail("noting an anchor", &error);
                return Worked::Waits;
            }
            self.moved(head, &row);
            self.keeper.intended = Some(value);
        }
        self.complete_anchor();
        if self.fenced || self.keeper.unresolved() { Worked::Waits } else { Worked::Done }
    }

    pub(super) fn idle(&mut self) -> Worked {
        let wanted = self.keeper.owed(self.anchor_wanted) > 0;
        if self.keeper.due(self.core.head.last, wanted) && !self.keeper.unresolved() {
            return self.anchor_head();
        }
        Worked::Done
    }
}
