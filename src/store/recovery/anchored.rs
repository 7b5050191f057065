//! The anchor at an opening: it must lie on the disk's chain (I6).

use frostkeep_hsm::provider::{AnchorRead, AnchorValue};

use super::super::open_error::OpenError;
use super::super::rows::Head;
use super::Opening;
use crate::ids::to_hex;

impl Opening {
    pub(super) fn names_anchor(&self, head: &Head) -> (Option<AnchorValue>, Option<AnchorValue>) {
        let number = self.anchor_key();
        head.anchors.iter().find(|note| note.key == number).map_or((None, None), |note| (note.confirmed, note.intended))
    }

    pub(super) fn anchor_key(&self) -> u64 {
        self.keys.first().map_or(0, |(number, _)| *number)
    }

    /// What can be said before the frames are walked.
    pub(super) fn check_anchor_ahead(&self, head: &Head, anchor: &AnchorRead) -> Result<(), OpenError> {
        let (confirmed, _) = self.names_anchor(head);
        let missing = |found: String| match confirmed {
            Some(confirmed) => Err(OpenError::AnchorMissing { confirmed: confirmed.position, found }),
            None => Ok(()),
        };
        match anchor {
            AnchorRead::Unsupported => missing("none: it cannot keep one".into()),
            AnchorRead::Absent => missing("none".into()),
            AnchorRead::Value(value) if value.store != self.store => Err(OpenError::AnchorMissing {
                confirmed: confirmed.map_or(0, |confirmed| confirmed.position),
                found: format!("that of store {}", to_hex(&value.store)),
            }),
            AnchorRead::Value(value) if value.position > head.last => {
                Err(OpenError::RolledBack { disk: head.last, anchor: value.position, what: "the disk is behind" })
            }
            AnchorRead::Value(_) => Ok(()),
        }
    }

    /// An anchor that the walk did not meet: before the snapshot only a noted one is ours.
    pub(super) fn check_anchor_met(
        &self,
        head: &Head,
        value: &AnchorValue,
        met: Option<[u8; 32]>,
    ) -> Result<(), OpenError> {
        let (base, _) = head.base(&self.store);
        let (confirmed, intended) = self.names_anchor(head);
        let ours = match met {
            Some(chain) => chain == value.head,
            None => value.position < base && (Some(*value) == confirmed || Some(*value) == intended),
        };
        if ours {
            return Ok(());
        }
        Err(OpenError::RolledBack {
            disk: head.last,
            anchor: value.position,
            what: "the anchor does not lie on the disk's chain",
        })
    }
}
