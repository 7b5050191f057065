//! Which kinds of anchor a token can keep, tried on scratch objects that are destroyed again.

use std::time::Duration;

use super::finding::Code;
use super::latency::{micros, percentiles};
use super::report::{AnchorKindReport, Outcome};
use super::run::Run;
use super::{SCRATCH_APPLICATION, SCRATCH_LABEL};
use crate::agent::anchor::{ANCHOR_BYTES_MAX, AnchorAct, AnchorKind, AnchorName, AnchorRequest, Anchored};
use crate::clock::Stopwatch;
use crate::token::{FaultClass, TokenError};

/// Writes of each kind: enough for a median, and few for the flash of a token.
const WRITES: u8 = 8;

const SAME: &str = "the same";

/// The token answered that it has written, and another value came back.
const DIFFERS: &str = "anchor_differs";

/// One kind for each class of object: what is destroyed by it is all of that class.
const CLASSES: [AnchorKind; 2] = [AnchorKind::ReplaceData, AnchorKind::SetId];

fn request(kind: AnchorKind, act: AnchorAct) -> AnchorRequest {
    let name = AnchorName { label: SCRATCH_LABEL.to_owned(), application: SCRATCH_APPLICATION.to_owned() };
    AnchorRequest { kind, name, act }
}

/// As in the report.
const fn name(kind: AnchorKind) -> &'static str {
    match kind {
        AnchorKind::UpdateData => "update_data",
        AnchorKind::ReplaceData => "replace_data",
        AnchorKind::SetId => "set_id",
    }
}

/// What is written at this number.
fn value(number: u8) -> [u8; ANCHOR_BYTES_MAX] {
    [number; ANCHOR_BYTES_MAX]
}

fn show(read: &[u8]) -> String {
    match read {
        [number, ..] if *read == value(*number) => format!("value {number}"),
        other => format!("{} other bytes", other.len()),
    }
}

impl Run<'_> {
    /// What an earlier check has left, when it was cut off.
    pub(super) fn remove_leftovers(&mut self) {
        let Some(found) = self.scratch_objects() else { return };
        self.report.anchor.leftovers_found = Some(found);
        if found == 0 {
            return;
        }
        if !self.options.write {
            return self
                .find(Code::LeftoversFound, format!("{found} scratch objects of an earlier check are on the token"));
        }
        self.report.anchor.leftovers_removed = self.destroy_scratch();
        let removed = self.report.anchor.leftovers_removed;
        self.find(
            Code::LeftoversRemoved,
            format!("{removed} of {found} scratch objects of an earlier check were removed"),
        );
    }

    /// Tries each kind, and leaves nothing behind.
    pub(super) fn try_anchors(&mut self) {
        if !self.options.write {
            return self.find(Code::AnchorNotTried, "no writes were asked for");
        }
        if self.report.token.as_ref().and_then(|token| token.write_protected) == Some(true) {
            return self.find(Code::AnchorNotTried, "the token says that it is write protected");
        }
        self.report.anchor.update_data = self.try_kind(AnchorKind::UpdateData);
        self.report.anchor.replace_data = self.try_kind(AnchorKind::ReplaceData);
        self.report.anchor.set_id = self.try_kind(AnchorKind::SetId);
        self.clean();
        let anchor = &self.report.anchor;
        let outcomes = [anchor.update_data.works, anchor.replace_data.works, anchor.set_id.works];
        if outcomes.contains(&Outcome::NotTried) {
            self.find(Code::AnchorNotTried, "the token was lost before every kind was tried");
        } else if !outcomes.contains(&Outcome::Yes) {
            self.find(Code::AnchorNone, "none of update_data, replace_data and set_id works");
        }
    }

    fn try_kind(&mut self, kind: AnchorKind) -> AnchorKindReport {
        let mut report = AnchorKindReport::default();
        if !self.ensure_ready() {
            return report;
        }
        let mut writes = Vec::new();
        let result = self.exercise(kind, &mut report, &mut writes);
        report.write = percentiles(&writes);
        match result {
            Some(Ok(())) => report.works = Outcome::Yes,
            Some(Err(error)) => {
                report.works = Outcome::No;
                report.error = Some(error.to_string());
                if error.code == DIFFERS {
                    self.find(Code::AnchorForgets, format!("{}: {}", name(kind), error.detail));
                }
            }
            None => {
                report.error = Some("the token was lost before it was finished".to_owned());
            }
        }
        // The next kind begins with nothing of this one.
        self.destroy_scratch();
        report
    }

    /// Makes one object, replaces its value, and reads it back: at last in a fresh session, where nothing remembers what was asked.
    fn exercise(
        &mut self,
        kind: AnchorKind,
        report: &mut AnchorKindReport,
        writes: &mut Vec<Duration>,
    ) -> Option<Result<(), TokenError>> {
        let watch = Stopwatch::start();
        if let Err(error) = self.write(kind, AnchorAct::Create, 0)? {
            return Some(Err(error));
        }
        report.create_us = Some(micros(watch.elapsed()));
        if let Err(error) = self.holds(kind, 0, SAME)? {
            return Some(Err(error));
        }
        for number in 1..=WRITES {
            let watch = Stopwatch::start();
            if let Err(error) = self.write(kind, AnchorAct::Write, number)? {
                return Some(Err(error));
            }
            writes.push(watch.elapsed());
        }
        let watch = Stopwatch::start();
        if let Err(error) = self.holds(kind, WRITES, SAME)? {
            return Some(Err(error));
        }
        report.read_us = Some(micros(watch.elapsed()));
        self.hang_up();
        self.holds(kind, WRITES, "a fresh")
    }

    fn write(&mut self, kind: AnchorKind, act: AnchorAct, number: u8) -> Option<Result<(), TokenError>> {
        self.report.anchor.token_writes += match (kind, act) {
            (AnchorKind::ReplaceData, AnchorAct::Write) => 2,
            _ => 1,
        };
        Some(self.ask_once(|subject| subject.token.anchor(request(kind, act), &value(number)))?.map(drop))
    }

    /// Exactly one object, with the value of this number.
    fn holds(&mut self, kind: AnchorKind, number: u8, session: &str) -> Option<Result<(), TokenError>> {
        let read = match self.ask(|subject| subject.token.anchor(request(kind, AnchorAct::Read), &[]))? {
            Ok(Anchored::Values(values)) => values,
            Ok(Anchored::Done | Anchored::Destroyed(_)) => Vec::new(),
            Err(error) => return Some(Err(error)),
        };
        let shown: Vec<String> = read.iter().map(|value| show(value)).collect();
        if shown == [show(&value(number))] {
            return Some(Ok(()));
        }
        let shown = if shown.is_empty() { "no value".to_owned() } else { shown.join(", ") };
        let detail = format!("{shown} in {session} session, value {number} was written");
        Some(Err(TokenError::new(FaultClass::Integrity, "anchor_read", DIFFERS, detail)))
    }

    /// Verified gone, in a fresh session.
    fn clean(&mut self) {
        if self.report.anchor.token_writes == 0 {
            return;
        }
        self.forgive();
        self.hang_up();
        let mut left = self.scratch_objects();
        if left.is_some_and(|left| left > 0) {
            self.destroy_scratch();
            left = self.scratch_objects();
        }
        self.report.anchor.left_behind = left;
        match left {
            Some(0) => {}
            Some(left) => self.find(Code::ScratchLeft, format!("{left} scratch objects could not be destroyed")),
            None => self.find(Code::ScratchLeft, "the token was lost: whether scratch objects are left is not known"),
        }
    }

    /// How many there are; none when the token is gone.
    fn scratch_objects(&mut self) -> Option<u32> {
        let mut count = 0;
        for kind in CLASSES {
            match self.ask(|subject| subject.token.anchor(request(kind, AnchorAct::Read), &[]))? {
                Ok(Anchored::Values(values)) => count += u32::try_from(values.len()).unwrap_or(u32::MAX),
                Ok(Anchored::Done | Anchored::Destroyed(_)) => {}
                // There is something, whatever it is.
                Err(error)
                    if matches!(error.code.as_str(), "anchor_length" | "anchor_not_told" | "anchor_not_unique") =>
                {
                    count += 1;
                }
                // Tokens without objects of this class.
                Err(error) if error.class == FaultClass::Usage => {}
                Err(_) => return None,
            }
        }
        Some(count)
    }

    fn destroy_scratch(&mut self) -> u32 {
        let mut destroyed = 0;
        for kind in CLASSES {
            if let Some(Ok(Anchored::Destroyed(count))) =
                self.ask(|subject| subject.token.anchor(request(kind, AnchorAct::Destroy), &[]))
            {
                destroyed += count;
            }
        }
        self.report.anchor.token_writes += destroyed;
        destroyed
    }
}
