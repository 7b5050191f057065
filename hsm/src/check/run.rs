//! The course of a check: who is asked next, and what happens after a failure or a hang.
//!
//! Every question goes through [`Run::ask`]. After a failure that may have cost the session, the next question is asked on a new
//! connection; when that fails too, the rest is not tried. What was made on the token is cleaned up whatever happened.

use std::time::Duration;

use super::finding::{Code, Finding, Level};
use super::latency::percentiles;
use super::report::{
    AnchorReport, CheckReport, Deadline, Deadlines, Identity, KeyReport, ModuleReport, Outcome, PinReport, Primitive,
    Primitives, REPORT_VERSION, Recovery, Verdict,
};
use super::subject::Subject;
use super::{Options, pins};
use crate::agent::examine::{Examine, Examined, Mechanism, MechanismTold, TokenDetails};
use crate::config::{ConfigError, TokenConfig};
use crate::entropy::Entropy;
use crate::health::{Outage, OutageClass};
use crate::pkcs11_token::Pkcs11Token;
use crate::provision::latch_report;
use crate::supervisor::Timing;
use crate::token::{FaultClass, TokenError, TokenInfo};

/// Above this part of a deadline the 99th percentile is near it.
const NEAR: u32 = 4;

/// Whether a failure may be that of the connection: then a new one may answer. A missed deadline is not asked again: it would only be
/// missed again.
const fn may_be_lost(class: FaultClass) -> bool {
    match class {
        FaultClass::Session | FaultClass::AmbiguousKey | FaultClass::Token | FaultClass::Module => true,
        FaultClass::Deadline | FaultClass::Credential | FaultClass::Key | FaultClass::Integrity | FaultClass::Usage => {
            false
        }
    }
}

/// A check under way.
pub(super) struct Run<'a> {
    pub(super) config: &'a TokenConfig,
    pub(super) options: Options,
    pub(super) subject: Subject,
    pub(super) report: CheckReport,
    info: Option<TokenInfo>,
    /// Connected and logged in, as far as is known.
    ready: bool,
    /// A reconnection failed: the rest is not tried.
    gone: Option<FaultClass>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        config: &'a TokenConfig,
        options: Options,
        entropy: Box<dyn Entropy>,
    ) -> Result<Self, ConfigError> {
        let mut token = Pkcs11Token::new(config, entropy)?;
        token.record_timings();
        let path = token.uri().module_path.clone().unwrap_or_default().display().to_string();
        Ok(Self {
            config,
            options,
            subject: Subject::new(token),
            report: CheckReport {
                report_version: REPORT_VERSION,
                options,
                verdict: Verdict::NotUsable,
                findings: Vec::new(),
                token: None,
                module: ModuleReport { path, ..ModuleReport::default() },
                pin: PinReport::default(),
                latch: None,
                key: KeyReport::default(),
                primitives: Primitives::default(),
                deadlines: Deadlines::default(),
                latency: None,
                recovery: Recovery::default(),
                anchor: AnchorReport::default(),
                hung: Vec::new(),
                agents_started: 0,
            },
            info: None,
            ready: false,
            gone: None,
        })
    }

    pub(super) fn find(&mut self, code: Code, problem: impl Into<String>) {
        self.report.findings.push(Finding::new(code, problem));
    }

    /// The first connection, and what module and token say of themselves.
    pub(super) fn reach(&mut self) -> bool {
        let info = match self.subject.token.connect() {
            Ok(info) => info,
            Err(error) => {
                self.hangs(&error);
                self.find(Code::Unreachable, error.to_string());
                return false;
            }
        };
        let details = self.subject.token.examine(Examine::Details);
        self.identify(&info, details.as_ref().ok());
        if let Err(error) = &details {
            self.note_failure(error);
        }
        self.info = Some(info);
        true
    }

    fn identify(&mut self, info: &TokenInfo, details: Option<&Examined>) {
        let details = match details {
            Some(Examined::Details(details)) => Some(details.as_ref()),
            _ => None,
        };
        let flags = details.and_then(|details| details.token.as_ref());
        let library = details.and_then(|details| details.library.as_ref());
        self.report.token = Some(Identity {
            label: info.label.clone(),
            serial: info.serial.clone(),
            manufacturer: info.manufacturer.clone(),
            model: info.model.clone(),
            hardware_version: flags.map(|flags| flags.hardware_version.clone()),
            firmware_version: flags.map(|flags| flags.firmware_version.clone()),
            write_protected: flags.map(|flags| flags.write_protected),
        });
        let module = &mut self.report.module;
        module.manufacturer = library.map(|library| library.manufacturer.clone());
        module.description = library.map(|library| library.description.clone());
        module.version = library.map(|library| library.version.clone());
        module.cryptoki_version = library.map(|library| library.cryptoki_version.clone());
        let known = pins::known(info, library);
        self.report.pin = PinReport {
            count_low: Some(info.pin_count_low),
            final_try: Some(info.pin_final_try),
            locked: Some(info.pin_locked),
            initialized: flags.map(|flags| flags.pin_initialized),
            to_be_changed: flags.map(|flags| flags.pin_to_be_changed),
            login_required: flags.map(|flags| flags.login_required),
            protected_path: flags.map(|flags| flags.protected_path),
            bytes_min: flags.map(|flags| flags.pin_bytes_min),
            bytes_max: flags.and_then(|flags| flags.pin_bytes_max),
            known,
            ..PinReport::default()
        };
        if let Some(details) = details {
            self.mechanisms(details);
        }
        self.judge_flags(info);
    }

    fn mechanisms(&mut self, details: &TokenDetails) {
        let primitive = |mechanism: &Mechanism, does: fn(&MechanismTold) -> bool| {
            let told = mechanism.told.as_ref();
            Primitive {
                listed: mechanism.listed,
                told: Some(told.is_ok_and(does)),
                key_size_min: told.ok().map(|told| told.key_size_min),
                key_size_max: told.ok().map(|told| told.key_size_max),
                hardware: told.ok().map(|told| told.hardware),
                error: told.err().cloned(),
                ..Primitive::default()
            }
        };
        self.report.primitives.hmac_sha256 = primitive(&details.sha256_hmac, |told| told.sign);
        self.report.primitives.generic_secret_key_gen =
            primitive(&details.generic_secret_key_gen, |told| told.generate);
        if details.token.as_ref().is_some_and(|flags| flags.error_state) {
            self.find(Code::ErrorState, "the token says that it is in its error state");
        }
    }

    fn judge_flags(&mut self, info: &TokenInfo) {
        let pin = self.report.pin.clone();
        if info.pin_locked {
            self.find(Code::PinLocked, "the token says that the pin is locked");
        } else if info.pin_final_try {
            self.find(Code::PinFinalTry, "the token says that one more wrong pin locks it");
        } else if info.pin_count_low {
            self.find(Code::PinCountLow, "the token says that a wrong pin was entered");
        }
        if pin.initialized == Some(false) {
            self.find(Code::PinNotInitialized, "the token says that its user pin was never set");
        }
        if pin.to_be_changed == Some(true) {
            self.find(Code::PinToBeChanged, "the token says that its pin has to be changed");
        }
        if pin.protected_path == Some(true) {
            self.find(Code::ProtectedPath, "the token has a protected authentication path");
        }
        if let Some(known) = pin.known {
            let kind = known.kind;
            let problem = match known.locks_at {
                Some(tries) => format!("{kind} was seen to lock at wrong pin number {tries} in a row"),
                None => format!("{kind} was not seen to lock, however many wrong pins were tried"),
            };
            self.find(Code::PinLocks, problem);
        }
    }

    /// One login with the configured PIN, under the rules of the latch.
    pub(super) fn log_in(&mut self) -> bool {
        let Some(info) = self.info.clone() else { return false };
        if !self.options.login {
            self.report.pin.login_error = Some("not asked for".to_owned());
            self.find(Code::LoginNotTried, "no login was asked for");
            return false;
        }
        let before = self.subject.token.logins();
        let answer = match self.subject.token.agent_pid() {
            Some(_) => self.subject.token.login(&info),
            // It was lost over the details.
            None => self.subject.reconnect().map(drop),
        };
        let error = match answer {
            Ok(()) => {
                self.report.pin.login = Outcome::Yes;
                self.ready = true;
                return true;
            }
            Err(error) => error,
        };
        self.hangs(&error);
        if self.subject.token.logins() > before {
            self.report.pin.login = Outcome::No;
        }
        self.report.pin.login_error = Some(error.to_string());
        let code = match (error.code.as_str(), error.class) {
            // Said already, by the token's flags: then no login was tried. A TPM in its lock-out has no flag.
            ("pin_locked" | "pin_final_try", _) if self.subject.token.logins() == before => None,
            ("pin_locked", _) => Some(Code::PinLocked),
            ("login_latched", _) => Some(Code::LoginLatched),
            ("pin_not_read" | "latch_unusable", _) => Some(Code::PinNotRead),
            (_, FaultClass::Credential) => Some(Code::PinRefused),
            // Said already, as a hang.
            (_, FaultClass::Deadline) => None,
            _ => Some(Code::LoginFailed),
        };
        if let Some(code) = code {
            self.find(code, error.to_string());
        }
        false
    }

    /// Asks the token something; once more, on a new connection, when the answer may be that of a lost session. None when the token
    /// is gone. So an answer that is an error is the token's answer to this question, not the end of its connection.
    pub(super) fn ask<R>(
        &mut self,
        mut question: impl FnMut(&mut Subject) -> Result<R, TokenError>,
    ) -> Option<Result<R, TokenError>> {
        match self.ask_once(&mut question)? {
            Err(error) if may_be_lost(error.class) => self.ask_once(question),
            answer => Some(answer),
        }
    }

    /// [`Run::ask`], for what must not be done twice.
    pub(super) fn ask_once<R>(
        &mut self,
        question: impl FnOnce(&mut Subject) -> Result<R, TokenError>,
    ) -> Option<Result<R, TokenError>> {
        if !self.ensure_ready() {
            return None;
        }
        let answer = question(&mut self.subject);
        if let Err(error) = &answer {
            self.note_failure(error);
        }
        Some(answer)
    }

    /// Connected and logged in, if that can be had.
    pub(super) fn ensure_ready(&mut self) -> bool {
        if self.ready {
            return true;
        }
        if self.gone.is_some() {
            return false;
        }
        let error = match self.reconnect() {
            Ok(()) => return true,
            Err(error) => error,
        };
        // A missed deadline has ended the agent already; a refused PIN is not tried again.
        if may_be_lost(error.class) || error.class == FaultClass::Usage {
            self.subject.token.end_agent();
            if self.reconnect().is_ok() {
                // A module that only a new process brings back; a node starts one after a crash or a hang alone.
                self.find(Code::ReinitialisationFailed, error.to_string());
                return true;
            }
        }
        self.gone = Some(error.class);
        self.find(Code::TokenLost, format!("a reconnection failed: {error}"));
        false
    }

    fn reconnect(&mut self) -> Result<(), TokenError> {
        let answer = self.subject.reconnect().map(drop);
        match &answer {
            Ok(()) => self.ready = true,
            Err(error) => self.hangs(error),
        }
        answer
    }

    /// The next question is asked on a new connection.
    pub(super) fn hang_up(&mut self) {
        self.ready = false;
    }

    /// For cleaning up: a token that was lost is tried once more, unless its PIN was refused.
    pub(super) fn forgive(&mut self) {
        if self.gone.is_some_and(|class| class != FaultClass::Credential) {
            self.gone = None;
        }
    }

    /// What a failure means for the next question.
    pub(super) fn note_failure(&mut self, error: &TokenError) {
        self.hangs(error);
        if may_be_lost(error.class) || error.class == FaultClass::Deadline {
            self.ready = false;
        }
    }

    fn hangs(&mut self, error: &TokenError) {
        if error.class == FaultClass::Deadline {
            self.report.hung.push(error.operation.clone());
            self.find(Code::Hung, error.to_string());
        }
    }

    /// The provider has met an outage.
    pub(super) fn lost_in_provider(&mut self, outage: &Outage) {
        self.ready = false;
        if outage.class == OutageClass::Deadline {
            // Its text begins with the operation.
            let operation = outage.detail.split(':').next().unwrap_or_default();
            self.report.hung.push(operation.to_owned());
            self.find(Code::Hung, outage.detail.clone());
        } else if outage.class == OutageClass::Integrity {
            // Two answers to one question: no outage passes it by.
            self.find(Code::SealFailed, outage.detail.clone());
        } else {
            self.find(Code::SealInterrupted, outage.detail.clone());
        }
    }

    /// What was measured and found, judged.
    pub(super) fn finish(mut self) -> CheckReport {
        let logins = self.subject.token.logins();
        self.report.pin.logins = logins;
        self.report.agents_started = crate::token::Token::agents_started(&self.subject.token);
        if let Some(info) = self.info.clone() {
            // A latch that does not read is told by the login.
            self.report.latch = latch_report(self.subject.token.latch(&info.serial)).ok();
        }
        let timings = self.subject.token.take_timings();
        self.judge_deadlines(&timings);
        let report = &mut self.report;
        report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.level()));
        report.verdict = match report.worst() {
            None | Some(Level::Note) => Verdict::Usable,
            Some(Level::Warning) => Verdict::UsableWithWarnings,
            Some(Level::Failure) => Verdict::NotUsable,
        };
        self.report
    }

    fn judge_deadlines(&mut self, timings: &[Timing]) {
        let taken = |wanted: fn(&str) -> bool| -> Vec<Duration> {
            timings.iter().filter(|timing| wanted(timing.operation)).map(|timing| timing.taken).collect()
        };
        let starts = taken(|name| matches!(name, "start" | "connect" | "lose_sessions"));
        let logins = taken(|name| name == "login");
        // Making something has the longer deadline, and no node waits for it.
        let calls = taken(|name| {
            !matches!(name, "start" | "connect" | "lose_sessions" | "login" | "session_key" | "anchor_create")
        });
        let configured = self.config.deadlines;
        let judge = |durations: &[Duration], deadline: Duration, deadline_ms: u64| {
            let taken = percentiles(durations);
            let near = taken.is_some_and(|taken| Duration::from_micros(taken.p99_us) * NEAR > deadline);
            Deadline { deadline_ms, taken, near }
        };
        let deadlines = Deadlines {
            start: judge(&starts, configured.start(), configured.start_ms),
            login: judge(&logins, configured.login(), configured.login_ms),
            call: judge(&calls, configured.call(), configured.call_ms),
        };
        for (deadline, code, name) in [
            (&deadlines.start, Code::StartNearDeadline, "start"),
            (&deadlines.login, Code::LoginNearDeadline, "login"),
            (&deadlines.call, Code::CallNearDeadline, "call"),
        ] {
            if let (true, Some(taken)) = (deadline.near, deadline.taken) {
                let ms = deadline.deadline_ms;
                self.find(code, format!("p99 of {name} is {} us, its deadline {ms} ms", taken.p99_us));
            }
        }
        self.report.deadlines = deadlines;
    }
}
