//! A scripted token for tests: an HMAC key in memory and a handle that makes it fail, hang, change and lie. It goes through the
//! same [`crate::sealer::Provider`] as a real one. Only with `danger-scripted-token`: no release build has it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::provider::{AnchorRead, AnchorValue, KeyDescriptor};
use crate::scheme;
use crate::token::{Derived, FaultClass, Opened, Token, TokenError, TokenInfo};

/// What happens to one anchor write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorScript {
    /// Applied, but the answer is lost: the writer sees a deadline.
    AppliedAnswerLost,
    /// Not applied; the writer sees a deadline.
    NotAppliedAnswerLost,
}

/// How often what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Full openings.
    pub opens: u64,
    /// Derivations.
    pub derives: u64,
    /// Anchor reads.
    pub anchor_reads: u64,
    /// Anchor writes.
    pub anchor_writes: u64,
}

#[derive(Clone)]
struct Script {
    label: String,
    key: Option<[u8; 32]>,
    key_id: Vec<u8>,
    /// A number that a session must know: raised by everything that ends sessions.
    life: u64,
    failures: VecDeque<FaultClass>,
    absent: Option<FaultClass>,
    hanging: bool,
    deadline: Duration,
    anchors: bool,
    anchor: Option<AnchorValue>,
    anchor_script: VecDeque<AnchorScript>,
    calls: Calls,
    waiting: usize,
}

struct Shared {
    script: Mutex<Script>,
    changed: Condvar,
}

/// The test's side of a scripted token. Clones are the same token.
#[derive(Clone)]
pub struct ScriptedHandle(Arc<Shared>);

impl ScriptedHandle {
    /// A token with this label and key, which keeps anchors.
    pub fn new(label: &str, key: [u8; 32]) -> Self {
        Self::of(Script {
            label: label.to_owned(),
            key: Some(key),
            key_id: label.as_bytes().to_vec(),
            life: 0,
            failures: VecDeque::new(),
            absent: None,
            hanging: false,
            deadline: Duration::from_millis(200),
            anchors: true,
            anchor: None,
            anchor_script: VecDeque::new(),
            calls: Calls::default(),
            waiting: 0,
        })
    }

    fn of(script: Script) -> Self {
        Self(Arc::new(Shared { script: Mutex::new(script), changed: Condvar::new() }))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Script) -> R) -> R {
        let result = change(&mut self.script());
        self.0.changed.notify_all();
        result
    }

    /// The token's side. Several may be made: several processes at one token.
    pub fn token(&self) -> ScriptedToken {
        let script = self.script();
        ScriptedToken { handle: self.clone(), name: script.label.clone(), session: None }
    }

    /// Another token with the same key and anchor from now on: a restored backup, a cloned HSM image.
    pub fn clone_token(&self) -> ScriptedHandle {
        let script = self.script().clone();
        Self::of(Script { waiting: 0, ..script })
    }

    /// The next `calls` calls (openings included) fail with `class`.
    pub fn fail(&self, class: FaultClass, calls: usize) {
        self.change(|script| script.failures.extend(std::iter::repeat_n(class, calls)));
    }

    /// Every call fails with `class`, and sessions are lost, until [`ScriptedHandle::heal`].
    pub fn fail_until_healed(&self, class: FaultClass) {
        self.change(|script| {
            script.absent = Some(class);
            script.life += 1;
        });
    }

    /// Ends every failure; scripted ones too.
    pub fn heal(&self) {
        self.change(|script| {
            script.absent = None;
            script.failures.clear();
            script.hanging = false;
        });
    }

    /// Every call hangs until [`ScriptedHandle::release`], at most for the deadline; then it fails with class `Deadline` and the
    /// session is lost, as with a killed agent.
    pub fn hang(&self) {
        self.change(|script| script.hanging = true);
    }

    /// Lets the hanging calls go on, successfully.
    pub fn release(&self) {
        self.change(|script| script.hanging = false);
    }

    /// The longest that a call hangs.
    pub fn set_deadline(&self, deadline: Duration) {
        self.change(|script| script.deadline = deadline);
    }

    /// Waits until a call hangs, at most for `longest`. Says whether one does.
    pub fn wait_until_hanging(&self, longest: Duration) -> bool {
        let script = self.script();
        let (script, _) = self
            .0
            .changed
            .wait_timeout_while(script, longest, |script| script.waiting == 0)
            .unwrap_or_else(PoisonError::into_inner);
        script.waiting > 0
    }

    /// Every session is lost; the next call fails with class `Session`.
    pub fn drop_sessions(&self) {
        self.change(|script| script.life += 1);
    }

    /// Another key answers under the same id (none: the key is deleted). Open sessions notice.
    pub fn swap_key(&self, key: Option<[u8; 32]>) {
        self.change(|script| {
            script.key = key;
            script.life += 1;
        });
    }

    /// Whether this kind of token keeps anchors.
    pub fn set_anchors(&self, anchors: bool) {
        self.change(|script| script.anchors = anchors);
    }

    /// The anchor.
    pub fn anchor(&self) -> Option<AnchorValue> {
        self.script().anchor
    }

    /// Puts an anchor, as another instance would.
    pub fn set_anchor(&self, anchor: Option<AnchorValue>) {
        self.change(|script| script.anchor = anchor);
    }

    /// What happens to the next anchor writes, one each.
    pub fn script_anchor_write(&self, script: AnchorScript) {
        self.change(|state| state.anchor_script.push_back(script));
    }

    /// How often what was asked.
    pub fn calls(&self) -> Calls {
        self.script().calls
    }
}

/// A scripted token. See [`ScriptedHandle`].
pub struct ScriptedToken {
    handle: ScriptedHandle,
    name: String,
    session: Option<u64>,
}

fn error(class: FaultClass, operation: &str) -> TokenError {
    TokenError::new(class, operation, "scripted", "")
}

impl ScriptedToken {
    /// Counts the call, hangs and fails as the script says.
    fn enter(
        &mut self,
        operation: &'static str,
        count: impl FnOnce(&mut Calls),
    ) -> Result<MutexGuard<'_, Script>, TokenError> {
        let shared = &self.handle.0;
        let mut script = shared.script.lock().unwrap_or_else(PoisonError::into_inner);
        count(&mut script.calls);
        if script.hanging {
            script.waiting += 1;
            shared.changed.notify_all();
            let deadline = script.deadline;
            let (back, waited) = shared
                .changed
                .wait_timeout_while(script, deadline, |script| script.hanging)
                .unwrap_or_else(PoisonError::into_inner);
            script = back;
            script.waiting -= 1;
            if waited.timed_out() {
                self.session = None;
                return Err(error(FaultClass::Deadline, operation));
            }
        }
        if let Some(class) = script.absent {
            self.session = None;
            return Err(error(class, operation));
        }
        if let Some(class) = script.failures.pop_front() {
            return Err(error(class, operation));
        }
        if operation != "open" && self.session != Some(script.life) {
            return Err(error(FaultClass::Session, operation));
        }
        Ok(script)
    }
}

fn hmac(key: &[u8; 32], input: &[u8], operation: &str) -> Result<Derived, TokenError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| error(FaultClass::Usage, operation))?;
    mac.update(input);
    Derived::from_slice(&mac.finalize().into_bytes()).ok_or_else(|| error(FaultClass::Integrity, operation))
}

impl Token for ScriptedToken {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, required: &[KeyDescriptor]) -> Result<Opened, TokenError> {
        self.session = None;
        let script = self.enter("open", |calls| calls.opens += 1)?;
        let key = script.key.ok_or_else(|| error(FaultClass::Key, "open"))?;
        let check_value = scheme::check_value(&hmac(&key, &scheme::check_value_input(), "open")?);
        let life = script.life;
        let info = TokenInfo {
            label: script.label.clone(),
            serial: format!("scripted-{}", script.label),
            manufacturer: String::new(),
            model: "scripted".to_owned(),
            pin_count_low: false,
            pin_final_try: false,
            pin_locked: false,
        };
        let descriptor = KeyDescriptor {
            scheme: scheme::HMAC,
            id: script.key_id.clone(),
            check_value,
            token_label: info.label.clone(),
            token_serial: info.serial.clone(),
        };
        drop(script);
        let known = |key: &KeyDescriptor| key.id == descriptor.id && key.check_value == descriptor.check_value;
        if !required.is_empty() && !required.iter().any(known) {
            return Err(error(FaultClass::Key, "open"));
        }
        self.session = Some(life);
        Ok(Opened { info, keys: vec![descriptor] })
    }

    fn derive(&mut self, _key: usize, input: &[u8]) -> Result<Derived, TokenError> {
        let script = self.enter("derive", |calls| calls.derives += 1)?;
        let key = script.key.ok_or_else(|| error(FaultClass::AmbiguousKey, "derive"))?;
        hmac(&key, input, "derive")
    }

    fn anchor_read(&mut self) -> Result<AnchorRead, TokenError> {
        let script = self.enter("anchor_read", |calls| calls.anchor_reads += 1)?;
        Ok(match (script.anchors, script.anchor) {
            (false, _) => AnchorRead::Unsupported,
            (true, None) => AnchorRead::Absent,
            (true, Some(value)) => AnchorRead::Value(value),
        })
    }

    fn anchor_write(&mut self, value: &AnchorValue) -> Result<(), TokenError> {
        let mut script = self.enter("anchor_write", |calls| calls.anchor_writes += 1)?;
        if !script.anchors {
            return Err(error(FaultClass::Usage, "anchor_write"));
        }
        match script.anchor_script.pop_front() {
            None => {
                script.anchor = Some(*value);
                Ok(())
            }
            Some(AnchorScript::AppliedAnswerLost) => {
                script.anchor = Some(*value);
                Err(error(FaultClass::Deadline, "anchor_write"))
            }
            Some(AnchorScript::NotAppliedAnswerLost) => Err(error(FaultClass::Deadline, "anchor_write")),
        }
    }

    fn agents_started(&self) -> u64 {
        0
    }
}
