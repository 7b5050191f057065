//! How the story is told: what was expected and what was seen, for people or for machines; and whether they differed.

use std::cell::Cell;

use frostkeep::cli::{Colour, Output};
use serde::Serialize;

use crate::Failed;

/// Tells the story and counts the differences.
pub(crate) struct Tell {
    out: Output,
    act: Cell<&'static str>,
    checks: Cell<u32>,
    differences: Cell<u32>,
}

/// One line for machines.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Act { title: &'a str },
    Fact { act: &'a str, name: &'a str, value: &'a str },
    Check { act: &'a str, what: &'a str, expected: &'a str, saw: &'a str, detail: &'a str, ok: bool },
    End { checks: u32, differences: u32 },
}

impl Tell {
    pub(crate) fn new(out: Output) -> Self {
        Self { out, act: Cell::new(""), checks: Cell::new(0), differences: Cell::new(0) }
    }

    /// A new act.
    pub(crate) fn act(&self, title: &'static str) -> Result<(), Failed> {
        let first = self.act.replace(title).is_empty();
        if self.out.is_json() {
            return self.json(&Line::Act { title });
        }
        if !first {
            self.line("")?;
        }
        self.line(&self.out.paint(Colour::Cyan, title))
    }

    /// Something worth knowing.
    pub(crate) fn fact(&self, name: &str, value: &str) -> Result<(), Failed> {
        if self.out.is_json() {
            return self.json(&Line::Fact { act: self.act.get(), name, value });
        }
        self.line(&format!("      {name:<12}{value}"))
    }

    /// Compares. `detail` is printed and not compared: what differs from run to run.
    pub(crate) fn check(&self, what: &str, expected: &str, saw: &str, detail: &str) -> Result<(), Failed> {
        let ok = expected == saw;
        self.checks.set(self.checks.get() + 1);
        if !ok {
            self.differences.set(self.differences.get() + 1);
        }
        if self.out.is_json() {
            return self.json(&Line::Check { act: self.act.get(), what, expected, saw, detail, ok });
        }
        let mark = if ok { self.out.paint(Colour::Green, "ok") } else { self.out.paint(Colour::Red, "!!") };
        self.line(&format!("  {mark}  {what}"))?;
        self.line(&format!("      expected  {expected}"))?;
        self.line(&format!("      saw       {saw}"))?;
        if detail.is_empty() { Ok(()) } else { self.line(&format!("                {detail}")) }
    }

    /// The last line. Says whether everything was as expected.
    pub(crate) fn end(&self, elapsed_s: f64) -> Result<bool, Failed> {
        let (checks, differences) = (self.checks.get(), self.differences.get());
        if self.out.is_json() {
            self.json(&Line::End { checks, differences })?;
        } else {
            let verdict = match differences {
                0 => self.out.paint(Colour::Green, &format!("all {checks} as expected")),
                _ => self.out.paint(Colour::Red, &format!("{differences} of {checks} NOT as expected")),
            };
            self.line("")?;
            self.line(&format!("{verdict}, {elapsed_s:.1} s"))?;
        }
        Ok(differences == 0 && checks > 0)
    }

    fn json(&self, line: &Line<'_>) -> Result<(), Failed> {
        self.out.object(line).map_err(|_| Failed::from("standard output cannot be written"))
    }

    fn line(&self, text: &str) -> Result<(), Failed> {
        self.out.line(text).map_err(|_| Failed::from("standard output cannot be written"))
    }
}
