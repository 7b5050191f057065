//! A real token: agent, latch and PIN behind the trait [`Token`].

mod examining;
mod played;

use std::path::PathBuf;

use crate::agent::protocol::{FoundKey, Reply, Request, TokenSelector};
use crate::config::{ConfigError, Deadlines, TokenConfig};
use crate::drill::{Drill, DrillKind, DrillSwitch};
use crate::entropy::Entropy;
use crate::latch::{self, Latch, LatchError};
use crate::pin;
use crate::provider::{AnchorRead, AnchorValue, KeyDescriptor};
use crate::scheme;
use crate::supervisor::{Answer, Supervisor};
use crate::token::{Derived, FaultClass, Opened, Token, TokenError, TokenInfo};
use crate::uri::{PinSource, TokenUri};

/// Code of an error: the token is locked, whatever the PIN.
pub const PIN_LOCKED: &str = "pin_locked";
/// Code of an error: the token says that one more wrong PIN locks it.
pub const PIN_FINAL_TRY: &str = "pin_final_try";

/// A PKCS#11 token in a supervised agent.
pub struct Pkcs11Token {
    name: String,
    uri: TokenUri,
    module: String,
    pin_source: PinSource,
    credentials_directory: Option<PathBuf>,
    latch_directory: PathBuf,
    latch: Option<(String, Latch)>,
    drills: Option<DrillSwitch>,
    // The drill that is played, with its latch: the token's own is not touched.
    drilled: Option<(Drill, Latch)>,
    deadlines: Deadlines,
    supervisor: Supervisor,
    logins: u64,
    entropy: Box<dyn Entropy>,
    // Numbers of the open keys in the agent, in the order of `Opened::keys`.
    keys: Vec<u32>,
}

impl Pkcs11Token {
    /// The token that `config` names. Starts nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: &TokenConfig, entropy: Box<dyn Entropy>) -> Result<Self, ConfigError> {
        let uri = config.check()?;
        let module = uri.module_path.clone().ok_or(ConfigError::NoModule)?;
        let name = match (&uri.token, &uri.serial, &uri.slot_id) {
            (Some(label), _, _) => label.clone(),
            (None, Some(serial), _) => format!("serial {serial}"),
            (None, None, Some(slot)) => format!("slot {slot}"),
            (None, None, None) => return Err(ConfigError::NoToken),
        };
        Ok(Self {
            name,
            module: module.to_string_lossy().into_owned(),
            pin_source: uri.pin_source.clone().ok_or(ConfigError::NoPin)?,
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            latch_directory: config.latch_directory.clone(),
            latch: None,
            drills: None,
            drilled: None,
            deadlines: config.deadlines,
            supervisor: Supervisor::new(config.agent_command()?, config.environment.clone()),
            logins: 0,
            entropy,
            keys: Vec::new(),
            uri,
        })
    }

    /// The same, which plays the drills of `drills`.
    #[must_use]
    pub fn with_drills(self, drills: DrillSwitch) -> Self {
        Self { drills: Some(drills), ..self }
    }

    /// Process id of the live agent.
    pub fn agent_pid(&self) -> Option<u32> {
        self.supervisor.agent_pid()
    }

    /// Logins that the token was asked for.
    pub fn logins(&self) -> u64 {
        self.logins
    }

    /// The URI that names token and key.
    pub(crate) fn uri(&self) -> &TokenUri {
        &self.uri
    }

    /// Full re-initialisation, without a login.
    pub(crate) fn connect(&mut self) -> Result<TokenInfo, TokenError> {
        self.connected(None)
    }

    fn connected(&mut self, play: Option<&Drill>) -> Result<TokenInfo, TokenError> {
        self.keys.clear();
        self.supervisor.ensure_started(self.deadlines.start())?;
        let token = TokenSelector {
            label: self.uri.token.clone(),
            serial: self.uri.serial.clone(),
            manufacturer: self.uri.manufacturer.clone(),
            model: self.uri.model.clone(),
            slot: self.uri.slot_id,
        };
        let request = Request::Connect { module: self.module.clone(), token };
        match self.ask(play, &request, &[], self.deadlines.start()) {
            Ok(Answer::Reply(Reply::Token(info))) => {
                if let (Some(drills), None) = (&self.drills, play) {
                    drills.note_token(&info);
                }
                Ok(info)
            }
            Ok(_) => Err(self.supervisor.confused("connect")),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    /// The latch of the token that has just told its serial number.
    pub(crate) fn latch(&mut self, serial: &str) -> &mut Latch {
        let latch = match self.latch.take() {
            Some((known, latch)) if known == serial => latch,
            _ => Latch::new(&self.latch_directory, serial),
        };
        &mut self.latch.insert((serial.to_owned(), latch)).1
    }

    /// Logs in, when the latch and the token's own flags allow it. `info` is the token's answer of a moment ago: a login is never
    /// the first thing that a token is asked.
    pub(crate) fn login(&mut self, info: &TokenInfo) -> Result<(), TokenError> {
        self.logged_in(None, info)
    }

    fn logged_in(&mut self, play: Option<&Drill>, info: &TokenInfo) -> Result<(), TokenError> {
        if info.pin_locked || info.pin_final_try {
            let (code, detail) = if info.pin_locked {
                (PIN_LOCKED, "the token says that its pin is locked; no login is tried before it says otherwise")
            } else {
                (PIN_FINAL_TRY, "the token says that one more wrong pin locks it; log in once with another tool")
            };
            return Err(TokenError::new(FaultClass::Credential, "login", code, detail));
        }
        let pin = pin::read(&self.pin_source, self.credentials_directory.as_deref()).map_err(|cause| {
            let mut detail = cause.to_string();
            if let Some(source) = std::error::Error::source(&cause) {
                detail.push_str(&format!(": {source}"));
            }
            TokenError::new(FaultClass::Usage, "read_pin", "pin_not_read", detail)
        })?;
        if play.is_some_and(|drill| drill.kind != DrillKind::Slow) {
            return self.played_login(play, &pin);
        }
        let tries = self.deadlines.login_ms / latch::TURN_PAUSE_MS;
        let latch = self.latch(&info.serial);
        // From the look at the latch to the note in it: whoever comes next looks after the answer.
        let _turn = latch.turn(tries)?;
        latch.begin(&pin).map_err(|cause| latch_error(&cause))?;
        let lock = latch.path().with_extension("lock");
        self.logins += 1;
        let answer = match self.ask(play, &Request::Login { lock }, pin.expose(), self.deadlines.login()) {
            Ok(Answer::Reply(Reply::Done)) => Ok(()),
            Ok(_) => Err(self.supervisor.confused("login")),
            Err(error) if error.code == "CKR_PIN_LOCKED" => Err(locked(&error)),
            Err(error) => Err(error),
        };
        let Some((_, latch)) = self.latch.as_mut() else {
            return Err(TokenError::new(FaultClass::Usage, "login", "latch_missing", ""));
        };
        let noted = match &answer {
            Ok(()) => latch.succeeded(),
            Err(error) => match error.class {
                // It has looked at no PIN, so that nothing is known of this one.
                FaultClass::Credential if error.code == PIN_LOCKED => latch.answered(),
                FaultClass::Credential => latch.refused(&pin, self.entropy.as_mut()),
                // Unanswered: the mark stays.
                FaultClass::Deadline => Ok(()),
                FaultClass::Module if error.code == "agent_ended" || error.code == "agent_confused" => Ok(()),
                _ => latch.answered(),
            },
        };
        // The token's answer is the news, also when the disk is full.
        if let Err(cause) = noted {
            tracing::error!(%cause, "the latch could not be written; it holds in this process");
        }
        answer.map_err(|error| self.restart_after(error))
    }

    /// Keys by label and id.
    pub(crate) fn find(&mut self, label: Option<String>, id: Option<Vec<u8>>) -> Result<Vec<FoundKey>, TokenError> {
        self.found(None, label, id)
    }

    fn found(
        &mut self,
        play: Option<&Drill>,
        label: Option<String>,
        id: Option<Vec<u8>>,
    ) -> Result<Vec<FoundKey>, TokenError> {
        match self.ask(play, &Request::Find { label, id }, &[], self.deadlines.call()) {
            Ok(Answer::Reply(Reply::Keys(keys))) => Ok(keys),
            Ok(_) => Err(self.supervisor.confused("find")),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    /// Creates a key. Only provisioning asks for it.
    pub(crate) fn create_key(&mut self, label: String, id: Vec<u8>) -> Result<(), TokenError> {
        // The longer deadline: tokens may take seconds to make a key, nobody is served meanwhile, and one that is made after its
        // deadline would be made again.
        match self.supervisor.call(&Request::CreateKey { label, id }, &[], self.deadlines.login()) {
            Ok(Answer::Reply(Reply::Done)) => Ok(()),
            Ok(_) => Err(self.supervisor.confused("create_key")),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    /// Class `Module` is cured by a new process alone.
    fn restart_after(&mut self, error: TokenError) -> TokenError {
        if error.class == FaultClass::Module {
            self.supervisor.end_agent(0);
        }
        error
    }

    /// The one key that the URI names.
    fn find_named(&mut self, play: Option<&Drill>) -> Result<FoundKey, TokenError> {
        let found = self.found(play, self.uri.object.clone(), self.uri.id.clone())?;
        match <[FoundKey; 1]>::try_from(found) {
            Ok([key]) if key.id.is_empty() => {
                Err(TokenError::new(FaultClass::Usage, "find", "key_without_id", "the key needs a CKA_ID"))
            }
            Ok([key]) => guarded(&key).map(|()| key),
            Err(found) => Err(not_one(found.len(), "the configured name")),
        }
    }

    /// Those of `required` that are on this token, the configured one first.
    fn find_required(
        &mut self,
        play: Option<&Drill>,
        required: &[KeyDescriptor],
        info: &TokenInfo,
    ) -> Result<Vec<FoundKey>, TokenError> {
        let mut open: Vec<FoundKey> = Vec::new();
        let mut changed = None;
        for wanted in required.iter().filter(|wanted| wanted.scheme == scheme::HMAC) {
            let found = self.found(play, None, Some(wanted.id.clone()))?;
            match <[FoundKey; 1]>::try_from(found) {
                Ok([key]) if key.check_value == wanted.check_value => {
                    guarded(&key)?;
                    open.push(key);
                }
                Ok([key]) => {
                    let detail = format!(
                        "key {} has check value {}, the state was sealed under one with {}",
                        hex(&key.id),
                        hex(&key.check_value),
                        hex(&wanted.check_value)
                    );
                    let error = TokenError::new(FaultClass::Key, "find", "key_changed", detail);
                    // The key of another token may have the same id, chosen by its operator: only ours must be ours.
                    if (&wanted.token_serial, &wanted.token_label) == (&info.serial, &info.label) {
                        return Err(error);
                    }
                    changed = changed.or(Some(error));
                }
                Err(found) if found.is_empty() => {}
                Err(found) => return Err(not_one(found.len(), &format!("id {}", hex(&wanted.id)))),
            }
        }
        if let (true, Some(error)) = (open.is_empty(), changed) {
            return Err(error);
        }
        if open.is_empty() {
            let ids: Vec<String> = required.iter().map(|key| hex(&key.id)).collect();
            let others = self.found(play, self.uri.object.clone(), self.uri.id.clone())?;
            if others.iter().any(|other| required.iter().any(|key| key.id == other.id)) {
                let detail = "a key that one search did not find was found by the next";
                return Err(TokenError::new(FaultClass::Integrity, "find", "answers_differ", detail));
            }
            let (code, seen) = match others.first() {
                Some(other) => ("key_changed", format!("; key {} answers under its name", hex(&other.id))),
                None => ("key_missing", String::new()),
            };
            let detail = format!("no key with id {} on the token{seen}", ids.join(" or "));
            return Err(TokenError::new(FaultClass::Key, "find", code, detail));
        }
        let uri = &self.uri;
        open.sort_by_key(|key| {
            let named = uri.id.as_ref().is_none_or(|id| *id == key.id)
                && uri.object.as_ref().is_none_or(|label| *label == key.label);
            !named
        });
        Ok(open)
    }
}

impl Token for Pkcs11Token {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, required: &[KeyDescriptor]) -> Result<Opened, TokenError> {
        let play = self.playing();
        let play = play.as_ref();
        let info = self.connected(play)?;
        self.logged_in(play, &info)?;
        let found =
            if required.is_empty() { vec![self.find_named(play)?] } else { self.find_required(play, required, &info)? };
        self.keys = found.iter().map(|key| key.key).collect();
        let keys = found.into_iter().map(|key| descriptor(key, &info)).collect();
        Ok(Opened { info, keys })
    }

    fn derive(&mut self, key: usize, input: &[u8]) -> Result<Derived, TokenError> {
        let Some(key) = self.keys.get(key).copied() else {
            return Err(TokenError::new(FaultClass::Session, "derive", "not_open", ""));
        };
        let play = self.playing();
        match self.ask(play.as_ref(), &Request::Derive { key }, input, self.deadlines.call()) {
            Ok(Answer::Derived(derived)) => Ok(derived),
            Ok(Answer::Reply(_)) => Err(self.supervisor.confused("derive")),
            Err(error) => Err(self.restart_after(error)),
        }
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, TokenError> {
        Ok(AnchorRead::Unsupported)
    }

    fn anchor_write(&mut self, _value: &AnchorValue) -> Result<(), TokenError> {
        Err(TokenError::new(FaultClass::Usage, "anchor_write", "anchor_unsupported", "this token keeps no anchor"))
    }

    fn agents_started(&self) -> u64 {
        self.supervisor.started()
    }

    fn drills(&self) -> Option<DrillSwitch> {
        self.drills.clone()
    }
}

/// The descriptor of a found key.
pub(crate) fn descriptor(key: FoundKey, info: &TokenInfo) -> KeyDescriptor {
    KeyDescriptor {
        scheme: scheme::HMAC,
        id: key.id,
        check_value: key.check_value,
        token_label: info.label.clone(),
        token_serial: info.serial.clone(),
    }
}

/// The token key never leaves the token: sensitive and not extractable. A token that does not tell is not taken at its word.
pub(crate) fn guarded(key: &FoundKey) -> Result<(), TokenError> {
    let (attribute, seen, needed) = match (key.sensitive, key.extractable) {
        (Some(true), Some(false)) => return Ok(()),
        (Some(true), seen) => ("CKA_EXTRACTABLE", seen, false),
        (seen, _) => ("CKA_SENSITIVE", seen, true),
    };
    let seen = seen.map_or("not told".to_owned(), |seen| seen.to_string());
    let detail = format!("{attribute} of key {} is {seen}, it must be {needed}", hex(&key.id));
    Err(TokenError::new(FaultClass::Usage, "find", "key_exposed", detail))
}

fn not_one(found: usize, name: &str) -> TokenError {
    let code = if found == 0 { "key_missing" } else { "key_not_unique" };
    TokenError::new(FaultClass::Key, "find", code, format!("{found} keys match {name}, exactly one must"))
}

/// A token that is locked though the latch let this login through: nobody has entered a wrong PIN here since the last that was right.
fn locked(error: &TokenError) -> TokenError {
    let detail = "CKR_PIN_LOCKED: the token is locked and looks at no pin, not at the right one either; none was refused here. \
                  Somebody else's tries, or a TPM's lock-out after power losses: tried again until the token's lock ends";
    TokenError::new(FaultClass::Credential, &error.operation, PIN_LOCKED, detail)
}

fn latch_error(cause: &LatchError) -> TokenError {
    let (class, code) = match cause {
        LatchError::Refused | LatchError::Latched | LatchError::Unanswered => (FaultClass::Credential, "login_latched"),
        LatchError::File { .. } => (FaultClass::Usage, "latch_unusable"),
    };
    TokenError::new(class, "login", code, cause.to_string())
}

/// Lowercase hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "test files and real time")]
    use super::*;
    use crate::agent::protocol::Frame;
    use crate::config::AgentCommand;
    use crate::latch::LatchState;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A token whose agent gives `replies`, one after the other, whatever it is asked, and then nothing more.
    fn replying(directory: &Path, replies: &[Reply]) -> Pkcs11Token {
        let mut script = String::new();
        for (number, reply) in replies.iter().enumerate() {
            let path = directory.join(format!("reply-{number}"));
            Frame::new(reply, &[]).unwrap().write_to(&mut std::fs::File::create(&path).unwrap()).unwrap();
            // One request, length first, then the recorded answer.
            script.push_str(
                "n=$(dd bs=1 count=4 status=none | od -An -tu4); dd bs=1 count=$((n)) status=none >/dev/null; ",
            );
            script.push_str(&format!("cat {}; ", path.display()));
        }
        script.push_str("exec sleep 60");
        std::fs::write(directory.join("pin"), "1234").unwrap();
        std::fs::set_permissions(directory.join("pin"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let at = directory.display();
        let config = TokenConfig {
            agent: Some(AgentCommand { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script] }),
            ..serde_json::from_value(serde_json::json!({
                "uri": format!("pkcs11:token=a;object=b?module-path=/absent.so&pin-source=file:{at}/pin"),
                "latch_directory": directory,
            }))
            .unwrap()
        };
        Pkcs11Token::new(&config, Box::new(crate::entropy::os())).unwrap()
    }

    /// A latch file that says `state`, on a disk that takes no new file.
    fn full_disk(directory: &Path, state: &str) {
        let path = Latch::new(directory, "0123").path().to_owned();
        std::fs::write(&path, format!("frostkeep-latch 1\n{state}\n")).unwrap();
        std::fs::create_dir(path.with_extension("latch.new")).unwrap();
    }

    #[test]
    fn a_full_disk_does_not_keep_a_restarted_node_from_its_token() {
        // The second file is one whose login was answered but not noted.
        for state in ["latched no\nsucceeded yes\nbegun 0", "latched no\nsucceeded yes\nbegun 1"] {
            let directory = tempfile::tempdir().unwrap();
            full_disk(directory.path(), state);
            let replies = [Reply::Done, Reply::Token(info(false, false)), Reply::Done];
            let mut token = replying(directory.path(), &replies);
            let info = token.connect().unwrap();
            token.login(&info).unwrap();
            assert_eq!(token.logins(), 1);
        }
    }

    #[test]
    fn a_key_that_could_leave_the_token_is_not_used() {
        let cases = [
            (Some(true), Some(false), None),
            (Some(false), Some(false), Some("CKA_SENSITIVE of key 0102 is false, it must be true")),
            (None, Some(false), Some("CKA_SENSITIVE of key 0102 is not told, it must be true")),
            (Some(true), Some(true), Some("CKA_EXTRACTABLE of key 0102 is true, it must be false")),
            (Some(true), None, Some("CKA_EXTRACTABLE of key 0102 is not told, it must be false")),
        ];
        for (sensitive, extractable, refusal) in cases {
            let label = "b".to_owned();
            let key = FoundKey { key: 0, id: vec![1, 2], label, check_value: [3; 8], sensitive, extractable };
            // By its name, and by what a state needs.
            for required in [Vec::new(), vec![descriptor(key.clone(), &info(false, false))]] {
                let directory = tempfile::tempdir().unwrap();
                let replies =
                    [Reply::Done, Reply::Token(info(false, false)), Reply::Done, Reply::Keys(vec![key.clone()])];
                let opened = replying(directory.path(), &replies).open(&required);
                let expected = refusal.map(|detail| TokenError::new(FaultClass::Usage, "find", "key_exposed", detail));
                assert_eq!(opened.err(), expected);
            }
        }
    }

    #[test]
    fn a_search_has_the_deadline_of_a_call() {
        let directory = tempfile::tempdir().unwrap();
        let mut token = replying(directory.path(), &[Reply::Done, Reply::Token(info(false, false))]);
        token.deadlines.call_ms = 50;
        token.connect().unwrap();
        let error = token.find(None, None).unwrap_err();
        assert_eq!((error.class, error.operation.as_str()), (FaultClass::Deadline, "find"));
        assert!(error.detail.contains("within 50 ms"), "{error}");
    }

    #[test]
    fn what_the_token_answered_is_told_also_when_the_disk_is_full() {
        let answers = [
            (FaultClass::Token, "CKR_DEVICE_REMOVED", LatchState { latched: false, succeeded: true, begun: 0 }),
            (FaultClass::Credential, "CKR_PIN_INCORRECT", LatchState { latched: true, succeeded: true, begun: 0 }),
        ];
        for (class, code, owed) in answers {
            let directory = tempfile::tempdir().unwrap();
            full_disk(directory.path(), "latched no\nsucceeded yes\nbegun 1");
            let failed = TokenError::new(class, "C_Login", code, "");
            let replies = [Reply::Done, Reply::Token(info(false, false)), Reply::Failed(failed.clone())];
            let mut token = replying(directory.path(), &replies);
            let info = token.connect().unwrap();
            assert_eq!(token.login(&info), Err(failed));
            let latch = token.latch("0123");
            std::fs::remove_dir(latch.path().with_extension("latch.new")).unwrap();
            let pin = pin::read(&PinSource::File(directory.path().join("pin")), None).unwrap();
            assert_eq!(latch.begin(&pin).is_err(), owed.latched);
            assert_eq!(latch.state().unwrap(), owed);
        }
    }

    /// A clock that goes on by ten milliseconds with each look at it.
    #[derive(Default)]
    struct Stepping(std::sync::atomic::AtomicU64);

    impl crate::clock::Clock for Stepping {
        fn now(&self) -> crate::clock::Millis {
            crate::clock::Millis(self.0.fetch_add(10, std::sync::atomic::Ordering::SeqCst))
        }

        fn unix_seconds(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_drill_that_ends_in_the_middle_of_an_opening_is_followed_by_no_login_of_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let refused = TokenError::new(FaultClass::Credential, "C_Login", "CKR_PIN_INCORRECT", "");
        let replies = [Reply::Done, Reply::Token(info(false, false)), Reply::Failed(refused)];
        let token = replying(directory.path(), &replies);
        let config = TokenConfig::new("pkcs11:token=a", std::collections::BTreeMap::new(), "/latch".into());
        let drills = DrillSwitch::new(std::slice::from_ref(&config), std::sync::Arc::new(Stepping::default()));
        drills.note_token(&info(false, false));
        let mut token = token.with_drills(drills.clone());
        // The first look sees it on, the second over.
        drills.begin([1; 16], DrillKind::Pin, 15, "a test").unwrap();
        let error = token.open(&[]).unwrap_err();
        assert_eq!(error.operation, "drill: C_Login", "{error}");
        assert_eq!((token.logins(), drills.on()), (0, None));
        assert!(!token.latch("0123").path().exists());
    }

    #[test]
    fn a_token_that_is_locked_says_nothing_of_the_pin() {
        let directory = tempfile::tempdir().unwrap();
        let locked = TokenError::new(FaultClass::Credential, "C_Login", "CKR_PIN_LOCKED", "");
        let answers = [Reply::Failed(locked.clone()), Reply::Failed(locked), Reply::Done];
        let replies: Vec<_> = [Reply::Done, Reply::Token(info(false, false))].into_iter().chain(answers).collect();
        let mut token = replying(directory.path(), &replies);
        let info = token.connect().unwrap();
        for logins in 1..=2 {
            let error = token.login(&info).unwrap_err();
            assert_eq!((error.class, error.code.as_str()), (FaultClass::Credential, PIN_LOCKED));
            assert!(
                error.detail.contains("CKR_PIN_LOCKED") && error.detail.contains("none was refused here"),
                "{error}"
            );
            assert_eq!(token.logins(), logins);
            assert_eq!(token.latch("0123").state().unwrap(), LatchState::default(), "neither latched nor unanswered");
        }
        // The same pin, when the token's own lock has ended.
        token.login(&info).unwrap();
    }

    fn info(pin_final_try: bool, pin_locked: bool) -> TokenInfo {
        TokenInfo {
            label: "a".to_owned(),
            serial: "0123".to_owned(),
            manufacturer: String::new(),
            model: String::new(),
            pin_count_low: true,
            pin_final_try,
            pin_locked,
        }
    }

    #[test]
    fn no_login_is_tried_when_the_token_says_that_the_last_try_is_near() {
        let config: TokenConfig = serde_json::from_value(serde_json::json!({
            "uri": "pkcs11:token=a;object=b?module-path=/absent.so&pin-source=file:/absent",
            "latch_directory": "/nonexistent",
        }))
        .unwrap();
        for (final_try, locked, code) in
            [(true, false, "pin_final_try"), (true, true, "pin_locked"), (false, true, "pin_locked")]
        {
            let mut token = Pkcs11Token::new(&config, Box::new(crate::entropy::os())).unwrap();
            let error = token.login(&info(final_try, locked)).unwrap_err();
            assert_eq!((error.class, error.code.as_str()), (FaultClass::Credential, code));
            assert_eq!(token.logins(), 0);
        }
    }
}
