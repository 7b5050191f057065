//! What `token init`, `show` and `unlatch` print for people.

use std::fmt;

use frostkeep_hsm::provision::{InitReport, KeyReport, LatchReport, ShowReport, TokenReport, UnlatchReport};
use serde::Serialize;

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Initialised(pub(super) InitReport);

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Shown(pub(super) ShowReport);

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Unlatched(pub(super) UnlatchReport);

impl fmt::Display for Initialised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        write_token(f, &report.token)?;
        write_key(f, &report.key)?;
        writeln!(f, "created      {}", if report.created { "now" } else { "before: it was found" })?;
        write!(f, "scheme       {}, proved in a fresh session", report.scheme)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        write_token(f, &report.token)?;
        let pin = [
            (report.token.pin_locked, "locked"),
            (report.token.pin_final_try, "one wrong pin more locks it"),
            (report.token.pin_count_low, "a wrong pin was entered since the last login"),
        ];
        let said = pin.iter().find(|(holds, _)| *holds).map_or("nothing unusual", |(_, text)| text);
        writeln!(f, "pin          {said}, says the token")?;
        write_latch(f, &report.latch)?;
        match &report.keys {
            None => write!(f, "keys         not asked for: --login shows them"),
            Some(keys) if keys.is_empty() => write!(f, "keys         none of the configured name"),
            Some(keys) => keys.iter().try_for_each(|key| write_key(f, key)),
        }
    }
}

impl fmt::Display for Unlatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        writeln!(f, "token        serial {}", report.serial)?;
        let was = if report.before.latched { "was latched" } else { "was not latched" };
        write!(f, "latch        {was}; lifted: {}", report.before.path)
    }
}

fn write_token(f: &mut fmt::Formatter<'_>, token: &TokenReport) -> fmt::Result {
    let TokenReport { label, serial, manufacturer, model, .. } = token;
    writeln!(f, "token        {label} ({manufacturer} {model}), serial {serial}")
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &KeyReport) -> fmt::Result {
    let told = |said: Option<bool>, yes, no| match said {
        Some(true) => yes,
        Some(false) => no,
        None => "not told by the token",
    };
    writeln!(f, "key          {}, id {}", key.label, key.id)?;
    writeln!(f, "check value  {}", key.check_value)?;
    writeln!(f, "sensitive    {}", told(key.sensitive, "yes", "NO"))?;
    writeln!(f, "extractable  {}", told(key.extractable, "YES", "no"))
}

pub(super) fn write_latch(f: &mut fmt::Formatter<'_>, latch: &LatchReport) -> fmt::Result {
    let state = match (latch.latched, latch.succeeded) {
        (true, _) => "LATCHED: no login is tried",
        (false, true) => "open, a login has succeeded",
        (false, false) => "open, no login has succeeded yet",
    };
    writeln!(f, "latch        {state}: {}", latch.path)
}
