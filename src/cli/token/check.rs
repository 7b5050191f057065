//! `frostkeep token check`: whether a node can use a token, before one does.

use std::fmt;

use clap::Args;
use frostkeep_hsm::check::finding::{Fault, Finding, Level};
use frostkeep_hsm::check::report::{
    AnchorKindReport, CheckReport, Deadline, KeyReport, Loss, Outcome, Percentiles, PinReport, Primitive, SealedWith,
    Verdict,
};
use frostkeep_hsm::check::{self, Options, SAMPLES, SAMPLES_MAX};
use frostkeep_hsm::entropy;
use frostkeep_hsm::provision::ProvisionError;
use serde::Serialize;

use super::shown::write_latch;
use super::{TokenArgs, refused};
use crate::cli::table::table;
use crate::cli::{CliError, Output};
use crate::reasons::Reason;

pub(super) const HELP: &str = "The check logs in with the configured pin under the rules of the latch, and tries no other. It makes keys that end with
their session and, unless --no-write says otherwise, scratch objects labelled frostkeep-check-scratch, which it destroys
again; what a check that was cut off has left, the next one removes. One check of a token at a time.
The exit code is 0 when the token is usable, with or without warnings; 3 when the token or the key is at fault; 4 when it
could not be found out, since the token is away, hangs, or refuses the pin. The report is printed all the same.

Examples:
  frostkeep token check --latch-directory /var/lib/frostkeep/latch \\
    --uri 'pkcs11:token=vault;object=frostkeep?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/frostkeep/pin'
  With --no-login it says what the token tells everybody; with --json it fills tables.";

/// The arguments of `frostkeep token check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    token: TokenArgs,
    /// How often sealing, opening and deriving are timed
    #[arg(long, value_name = "N", default_value_t = SAMPLES, value_parser = clap::value_parser!(u32).range(1..=i64::from(SAMPLES_MAX)))]
    samples: u32,
    /// Do not log in: look only at what the token says of itself
    #[arg(long)]
    no_login: bool,
    /// Write nothing to the token: the kinds of anchor are not tried
    #[arg(long)]
    no_write: bool,
}

pub(super) fn run(args: &CheckArgs, out: &Output) -> Result<(), CliError> {
    let config = args.token.reach.config(&args.token.uri)?;
    let options = Options { samples: args.samples, login: !args.no_login, write: !args.no_write };
    let report = check::check(&config, options, Box::new(entropy::os()))
        .map_err(|error| refused(ProvisionError::Config(error)))?;
    let failed = failed(&report);
    out.show(&Checked(report))?;
    failed.map_or(Ok(()), Err)
}

/// The first failure, with the rest counted. The fault of the token outweighs what is around it.
fn failed(report: &CheckReport) -> Option<CliError> {
    let failures = || report.findings.iter().filter(|finding| finding.level() == Level::Failure);
    let first = failures().find(|finding| finding.fault() == Fault::Token).or_else(|| failures().next())?;
    let reason = match first.fault() {
        Fault::Token => Reason::InvalidRequest,
        Fault::Surroundings => Reason::KeyProviderUnavailable,
    };
    let more = match failures().count() {
        1 => String::new(),
        several => format!(" (and {} more)", several - 1),
    };
    let problem = format!("the token is not usable: {}: {}{more}", first.code().name(), first.problem());
    Some(CliError::refused(reason, problem).with_hint(first.hint()))
}

#[derive(Serialize)]
#[serde(transparent)]
struct Checked(CheckReport);

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        write_identity(f, report)?;
        write_pin(f, &report.pin)?;
        if let Some(latch) = &report.latch {
            write_latch(f, latch)?;
        }
        if report.pin.login == Outcome::Yes {
            write_key(f, &report.key)?;
        }
        write_primitives(f, report)?;
        if report.pin.login == Outcome::Yes {
            write_recovery(f, report)?;
            write_anchors(f, report)?;
        }
        write_times(f, report)?;
        write_findings(f, &report.findings)?;
        let text = match report.verdict {
            Verdict::NotUsable => "NOT USABLE",
            Verdict::Usable | Verdict::UsableWithWarnings => report.verdict.text(),
        };
        write!(f, "\nverdict      {text}")
    }
}

fn write_identity(f: &mut fmt::Formatter<'_>, report: &CheckReport) -> fmt::Result {
    match &report.token {
        Some(token) => {
            let (maker, model) = (&token.manufacturer, &token.model);
            writeln!(f, "token        {} ({maker} {model}), serial {}", token.label, token.serial)?;
            let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "not told".to_owned());
            let (firmware, hardware) = (version(&token.firmware_version), version(&token.hardware_version));
            writeln!(f, "versions     firmware {firmware}, hardware {hardware}")?;
        }
        None => writeln!(f, "token        not reached")?,
    }
    let module = &report.module;
    write!(f, "module       {}", module.path)?;
    if let (Some(description), Some(version), Some(interface)) =
        (&module.description, &module.version, &module.cryptoki_version)
    {
        write!(f, " ({description} {version}, PKCS#11 {interface})")?;
    }
    writeln!(f)
}

fn write_pin(f: &mut fmt::Formatter<'_>, pin: &PinReport) -> fmt::Result {
    let Some(low) = pin.count_low else { return Ok(()) };
    let flags = [
        (pin.locked, "locked"),
        (pin.final_try, "one wrong pin more locks it"),
        (Some(low), "a wrong pin was entered since the last login"),
        (pin.to_be_changed, "it has to be changed"),
    ];
    let said = flags.iter().find(|(set, _)| *set == Some(true)).map_or("nothing unusual", |(_, text)| text);
    write!(f, "pin          {said}, says the token")?;
    match (pin.bytes_min, pin.bytes_max) {
        (Some(min), Some(max)) => write!(f, "; {min} to {max} bytes")?,
        (Some(min), None) => write!(f, "; at least {min} bytes")?,
        (None, _) => {}
    }
    if pin.login_required == Some(false) {
        write!(f, "; no login is required")?;
    }
    writeln!(f)?;
    if let Some(known) = pin.known {
        let when = known.locks_at.map_or("never seen".to_owned(), |tries| format!("at wrong pin number {tries}"));
        writeln!(f, "locks        {when}, {} ({})", known.kind, known.source)?;
    }
    let login = match (pin.login, &pin.login_error) {
        (Outcome::Yes, _) => format!("accepted, {} in this check", pin.logins),
        (Outcome::No, Some(error)) => format!("FAILED: {error}"),
        (Outcome::NotTried, Some(error)) => format!("not tried: {error}"),
        (Outcome::No | Outcome::NotTried, None) => "not tried".to_owned(),
    };
    writeln!(f, "login        {login}")
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &KeyReport) -> fmt::Result {
    let (Some(id), Some(label)) = (&key.id, &key.label) else {
        return match key.found {
            Some(0) => writeln!(f, "key          none of the configured name"),
            Some(several) => writeln!(f, "key          {several} of the configured name, exactly one is needed"),
            None => writeln!(f, "key          not told: {}", key.refusal.as_deref().unwrap_or("not tried")),
        };
    };
    writeln!(f, "key          {label}, id {id}")?;
    if let Some(check_value) = &key.check_value {
        writeln!(f, "check value  {check_value}")?;
    }
    let accepted = match (key.accepted, &key.refusal) {
        (Outcome::Yes, _) => "yes".to_owned(),
        (Outcome::No, Some(refusal)) => format!("NO: {refusal}"),
        (Outcome::No, None) => "NO".to_owned(),
        (Outcome::NotTried, _) => "not tried".to_owned(),
    };
    writeln!(f, "accepted     {accepted}")?;
    let kind = key.key_type.as_deref().unwrap_or("not told");
    let length = key.value_bytes.map_or("length not told".to_owned(), |bytes| format!("{bytes} bytes"));
    writeln!(f, "kind         {kind}, {length}")?;
    let attributes = [
        ("sensitive", key.sensitive),
        ("extractable", key.extractable),
        ("always sensitive", key.always_sensitive),
        ("never extractable", key.never_extractable),
        ("local", key.local),
        ("private", key.private),
        ("token", key.token),
        ("sign", key.sign),
        ("derive", key.derive),
        ("modifiable", key.modifiable),
        ("copyable", key.copyable),
        ("destroyable", key.destroyable),
    ];
    for (title, wanted) in [("is", Some(true)), ("is not", Some(false)), ("not told", None)] {
        let names: Vec<&str> = attributes.iter().filter(|(_, told)| *told == wanted).map(|(name, _)| *name).collect();
        if !names.is_empty() {
            writeln!(f, "{title:<11}  {}", names.join(", "))?;
        }
    }
    Ok(())
}

fn write_primitives(f: &mut fmt::Formatter<'_>, report: &CheckReport) -> fmt::Result {
    if report.token.is_none() {
        return Ok(());
    }
    let primitives = &report.primitives;
    let row = |name: &str, primitive: &Primitive| {
        let with = match primitive.proved_with {
            Some(SealedWith::ConfiguredKey) => "with the configured key",
            Some(SealedWith::SessionKey) => "with a key of one session",
            None => "",
        };
        let seen = match (primitive.proved, &primitive.error) {
            (Outcome::Yes, _) => format!("works {with}").trim_end().to_owned(),
            (Outcome::No, Some(error)) => format!("FAILS: {error}"),
            (Outcome::No, None) => "FAILS".to_owned(),
            (Outcome::NotTried, _) => "not tried".to_owned(),
        };
        [name.to_owned(), listed(primitive).to_owned(), seen]
    };
    let host = match (primitives.hmac_equals_host, &primitives.hmac_equals_host_error) {
        (Outcome::Yes, _) => "the same as on the host".to_owned(),
        (Outcome::No, _) => "DIFFERS from the host".to_owned(),
        (Outcome::NotTried, Some(error)) => format!("not compared: {error}"),
        (Outcome::NotTried, None) => "not tried".to_owned(),
    };
    let rows = [
        row("CKM_SHA256_HMAC", &primitives.hmac_sha256),
        ["  of a known key".to_owned(), "-".to_owned(), host],
        row("CKM_GENERIC_SECRET_KEY_GEN", &primitives.generic_secret_key_gen),
    ];
    writeln!(f, "\n{}", table(["PRIMITIVE", "LISTED", "SEEN"], &rows))
}

fn listed(primitive: &Primitive) -> &'static str {
    match (primitive.listed, primitive.told) {
        (Some(true), Some(true)) => "yes",
        (Some(false), _) => "no",
        (Some(true), _) => "not for this",
        (None, _) => "not told",
    }
}

fn write_recovery(f: &mut fmt::Formatter<'_>, report: &CheckReport) -> fmt::Result {
    let row = |name: &str, loss: &Option<Loss>| {
        let Some(loss) = loss else { return [name.to_owned(), "not tried".to_owned(), "-".to_owned()] };
        let cure = match (loss.cured_in, loss.cure_us) {
            (Some(check::report::CuredIn::Call), Some(us)) => format!("in the same call, {us} us"),
            (Some(check::report::CuredIn::Probe), Some(us)) => format!("by a probe, {us} us"),
            _ => match loss.cured {
                Outcome::NotTried => "-".to_owned(),
                Outcome::Yes | Outcome::No => "NOT CURED".to_owned(),
            },
        };
        [name.to_owned(), loss.answer.clone(), cure]
    };
    let again = match &report.recovery.reinitialisation {
        Some(taken) => format!("{} us (median of {})", taken.p50_us, taken.count),
        None => "not tried".to_owned(),
    };
    let rows = [
        row("sessions", &report.recovery.session_loss),
        row("login", &report.recovery.logout),
        ["full re-initialisation".to_owned(), "-".to_owned(), again],
    ];
    writeln!(f, "\n{}", table(["LOST", "NEXT ANSWER", "CURED"], &rows))
}

fn write_anchors(f: &mut fmt::Formatter<'_>, report: &CheckReport) -> fmt::Result {
    let anchor = &report.anchor;
    let row = |name: &str, kind: &AnchorKindReport| {
        let us = |us: Option<u64>| us.map_or("-".to_owned(), |us| us.to_string());
        let works = match (kind.works, &kind.error) {
            (Outcome::Yes, _) => "yes".to_owned(),
            (Outcome::No, Some(error)) => format!("no: {error}"),
            (Outcome::No, None) => "no".to_owned(),
            (Outcome::NotTried, Some(error)) => format!("not tried: {error}"),
            (Outcome::NotTried, None) => "not tried".to_owned(),
        };
        let written = kind.write.as_ref();
        [
            name.to_owned(),
            us(kind.create_us),
            us(written.map(|write| write.p50_us)),
            us(written.map(|write| write.max_us)),
            us(kind.read_us),
            works,
        ]
    };
    let rows = [
        row("update_data", &anchor.update_data),
        row("replace_data", &anchor.replace_data),
        row("set_id", &anchor.set_id),
    ];
    writeln!(f, "\n{}", table(["ANCHOR", "CREATE US", "WRITE P50 US", "MAX US", "READ US", "WORKS"], &rows))?;
    let left = match anchor.left_behind {
        Some(0) => "nothing is left".to_owned(),
        Some(left) => format!("{left} objects ARE LEFT"),
        None if anchor.token_writes == 0 => "nothing was written".to_owned(),
        None => "what is left is NOT KNOWN".to_owned(),
    };
    writeln!(f, "{} writes to the token; {left}. Each anchor is such a write: flash wears out.", anchor.token_writes)
}

fn write_times(f: &mut fmt::Formatter<'_>, report: &CheckReport) -> fmt::Result {
    if let Some(latency) = &report.latency {
        let rows = [
            times("seal", latency.seal.as_ref()),
            times("open", latency.open.as_ref()),
            times("derive alone", latency.derive.as_ref()),
        ];
        writeln!(f, "\n{}", table(["LATENCY", "COUNT", "P50 US", "P90 US", "P99 US", "MAX US"], &rows))?;
    }
    let row = |name: &str, deadline: &Deadline| {
        let [_, count, _, _, p99, max] = times(name, deadline.taken.as_ref());
        let margin = match (deadline.near, deadline.taken) {
            (true, _) => "NEAR",
            (false, Some(_)) => "ample",
            (false, None) => "-",
        };
        [name.to_owned(), deadline.deadline_ms.to_string(), count, p99, max, margin.to_owned()]
    };
    let deadlines = &report.deadlines;
    let rows = [row("start", &deadlines.start), row("login", &deadlines.login), row("call", &deadlines.call)];
    writeln!(f, "\n{}", table(["DEADLINE", "MS", "COUNT", "P99 US", "MAX US", "MARGIN"], &rows))
}

fn times(name: &str, taken: Option<&Percentiles>) -> [String; 6] {
    let number = |of: fn(&Percentiles) -> u64| taken.map_or("-".to_owned(), |taken| of(taken).to_string());
    [
        name.to_owned(),
        number(|taken| taken.count),
        number(|taken| taken.p50_us),
        number(|taken| taken.p90_us),
        number(|taken| taken.p99_us),
        number(|taken| taken.max_us),
    ]
}

fn write_findings(f: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    for finding in findings {
        let level = match finding.level() {
            Level::Failure => "FAILURE",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        writeln!(f, "\n{level:<11}  {}: {}", finding.code().name(), finding.problem())?;
        writeln!(f, "hint         {}", finding.hint())?;
    }
    Ok(())
}
