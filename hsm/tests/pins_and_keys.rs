//! What the provider does about PINs and keys that are not what they should be, on real tokens: one login too many locks some of
//! them for good. What reached the token is told by the token itself, or by a shim before it that counts and passes everything.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and make plain files")]

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use frostkeep_fixtures::{
    Fixture, Kind, KryopticToken, OpenCryptokiToken, Shim, SoftToken, Tool, TpmToken, kryoptic_module, make_token,
    softhsm_module,
};
use frostkeep_hsm::config::TokenConfig;
use frostkeep_hsm::entropy::os;
use frostkeep_hsm::health::{Outage, OutageClass, ProviderState};
use frostkeep_hsm::pkcs11_token::Pkcs11Token;
use frostkeep_hsm::provider::{DataKey, KeyProvider};
use frostkeep_hsm::provision::{CreateKey, init, show, unlatch};
use frostkeep_hsm::sealer::Provider;
use frostkeep_token_suite::{KEY, Sealed, configure, drive, is_present, kill_agent, object, provider, provision};

const PIN: &str = "fixtr-73";
const NEW_PIN: &str = "fixtr-74";

fn agent() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_frostkeep-token-agent"))
}

fn outage(provider: &Provider<Pkcs11Token>) -> Outage {
    provider.health().outage.unwrap()
}

/// Probes for a while; the outage must stay what it is.
fn stays_fenced(provider: &mut Provider<Pkcs11Token>, class: OutageClass) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        sleep(provider.tick());
        assert_eq!((provider.health().state, outage(provider).class), (ProviderState::Fenced, class));
        provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap_err();
    }
}

fn ready(config: &TokenConfig) -> Provider<Pkcs11Token> {
    let mut provider = provider(config);
    drive(&mut provider, ProviderState::Ready);
    provider.require(&provider.keys());
    provider
}

/// The same token with every call of its module counted, none hit.
fn watched(directory: &Path, token: &dyn Fixture, config: &TokenConfig) -> (Shim, TokenConfig) {
    let real = kryoptic_module().unwrap();
    let shim = Shim::new(directory, real.clone()).unwrap();
    shim.set_text("* 1000000 1 before delay 0\n").unwrap();
    let uri = config.uri.replace(&real.display().to_string(), &shim.module().display().to_string());
    assert_ne!(uri, config.uri);
    let environment = token.environment().into_iter().chain(shim.environment()).collect();
    (shim, TokenConfig { uri, environment, ..config.clone() })
}

/// The functions that were called so far, in their order.
fn calls(shim: &Shim) -> Vec<String> {
    let calls: Vec<_> = shim.hits().unwrap().into_iter().map(|hit| hit.function).collect();
    assert!(calls.contains(&"C_Initialize".to_owned()), "the shim is blind");
    calls
}

fn logins(shim: &Shim) -> usize {
    calls(shim).iter().filter(|call| *call == "C_Login").count()
}

/// A provisioned kryoptic token, and what somebody else does to it.
fn kryoptic(directory: &Path) -> Option<(KryopticToken, TokenConfig, Tool)> {
    is_present(Kind::Kryoptic).then(|| {
        let mut token = KryopticToken::make(directory, "vault", PIN).unwrap();
        let config = configure(&token, agent());
        provision(&mut token, &config);
        let tool = token.tool();
        (token, config, tool)
    })
}

fn softhsm(directory: &Path) -> (SoftToken, TokenConfig) {
    let mut token = make_token(directory, "vault", PIN).unwrap();
    let config = configure(&token, agent());
    provision(&mut token, &config);
    (token, config)
}

fn tpm(directory: &Path) -> Option<(TpmToken, TokenConfig)> {
    is_present(Kind::Tpm).then(|| {
        let mut token = TpmToken::make(directory, "vault", PIN).unwrap();
        let config = configure(&token, agent());
        provision(&mut token, &config);
        (token, config)
    })
}

// Wrong PINs.

#[test]
fn a_wrong_pin_reaches_the_token_once_however_long_it_is_probed() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config, tool)) = kryoptic(directory.path()) else { return };
    let (shim, watched) = watched(directory.path(), &token, &config);
    token.write_pin("wrong-pin").unwrap();
    let mut provider = provider(&watched);
    drive(&mut provider, ProviderState::Fenced);
    stays_fenced(&mut provider, OutageClass::Credential);
    assert_eq!(outage(&provider).next_try, None);
    assert_eq!((logins(&shim), provider.token().logins()), (1, 1), "seen before the token, and counted by us");
    // Nor does another process, even with the right one, before the operator has spoken.
    token.write_pin(PIN).unwrap();
    let mut restarted = self::provider(&watched);
    drive(&mut restarted, ProviderState::Fenced);
    stays_fenced(&mut restarted, OutageClass::Credential);
    assert_eq!((logins(&shim), restarted.token().logins()), (1, 0));
    // The token's own counter stands at one: it locks at the tenth, and shows the low count from the seventh.
    for more in 2..=6 {
        tool.wrong_pin().unwrap();
        assert!(!show(&config, false, Box::new(os())).unwrap().token.pin_count_low, "{more} wrong pins");
    }
    tool.wrong_pin().unwrap();
    assert!(show(&config, false, Box::new(os())).unwrap().token.pin_count_low);
    assert!(unlatch(&config, Box::new(os())).unwrap().before.latched);
    drive(&mut restarted, ProviderState::Ready);
    assert_eq!(restarted.token().logins(), 1);
}

#[test]
fn a_wrong_pin_reaches_the_token_once_however_many_come_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let token = make_token(directory.path(), "vault", PIN).unwrap();
    let config = configure(&token, agent());
    init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
    let real = softhsm_module().unwrap();
    let shim = Shim::new(directory.path(), real.clone()).unwrap();
    // Long enough that each would be past the latch before the first is answered.
    shim.set_text("C_Login 0 * before delay 150").unwrap();
    token.write_pin("wrong-pin").unwrap();
    let uri = config.uri.replace(&real.display().to_string(), &shim.module().display().to_string());
    let environment = token.environment().into_iter().chain(shim.environment()).collect();
    let watched = TokenConfig { uri, environment, ..config };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut provider = provider(&watched);
                drive(&mut provider, ProviderState::Fenced);
                assert_eq!(outage(&provider).class, OutageClass::Credential);
            });
        }
    });
    assert_eq!(logins_in(&shim), 1);
}

fn logins_in(shim: &Shim) -> usize {
    shim.hits().unwrap().iter().filter(|hit| hit.function == "C_Login").count()
}

#[test]
fn keys_of_two_tokens_may_have_one_id() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let configs: Vec<TokenConfig> = (0..2)
        .map(|number| {
            let token = make_token(directories[number].path(), &format!("vault-{number}"), PIN).unwrap();
            let config = configure(&token, agent());
            let uri = config.uri.replace("?module-path", ";id=%01?module-path");
            let config = TokenConfig { uri, ..config };
            init(&config, CreateKey::IfAbsent, Box::new(os())).unwrap();
            config
        })
        .collect();
    let mut providers: Vec<_> = configs.iter().map(ready).collect();
    let keys: Vec<_> = providers.iter().flat_map(|provider| provider.keys()).collect();
    assert_eq!(keys[0].id, keys[1].id);
    for (number, provider) in providers.iter_mut().enumerate() {
        // The state names both; a reconnection finds its own.
        provider.require(&keys);
        kill_agent(provider);
        drive(provider, ProviderState::Ready);
        provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap();
        assert_eq!(provider.keys(), [keys[number].clone()]);
    }
    // Another key under its own serial number is still another key.
    let changed = frostkeep_hsm::provider::KeyDescriptor { check_value: [9; 8], ..keys[0].clone() };
    providers[0].require(&[changed]);
    drive(&mut providers[0], ProviderState::Fenced);
    assert_eq!(outage(&providers[0]).class, OutageClass::Key);
}

#[test]
fn at_the_last_try_of_a_token_no_login_reaches_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config, tool)) = kryoptic(directory.path()) else { return };
    let (shim, watched) = watched(directory.path(), &token, &config);
    for _ in 0..9 {
        tool.wrong_pin().unwrap();
    }
    let shown = show(&config, false, Box::new(os())).unwrap().token;
    assert!(shown.pin_final_try && !shown.pin_locked, "{shown:?}");
    // With the right pin: the token is not to be trusted with it, nor the file.
    let mut provider = provider(&watched);
    drive(&mut provider, ProviderState::Fenced);
    stays_fenced(&mut provider, OutageClass::Credential);
    assert!(outage(&provider).detail.contains("pin_final_try"), "{:?}", outage(&provider));
    assert_eq!(provider.token().logins(), 0);
    assert_eq!(logins(&shim), 0);
    assert_eq!(show(&config, false, Box::new(os())).unwrap().token, shown, "the last try is still there");
    tool.run(&["--login", "--pin", PIN, "--list-objects"]).unwrap();
    drive(&mut provider, ProviderState::Ready);
    assert_eq!(provider.token().logins(), 1, "the tries are back, and nobody had to unlatch");
}

#[test]
fn a_token_that_somebody_else_has_locked_is_told_apart_from_a_refused_pin() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_token, config, tool)) = kryoptic(directory.path()) else { return };
    for _ in 0..9 {
        tool.wrong_pin().unwrap();
    }
    tool.wrong_pin().unwrap_err();
    let shown = show(&config, false, Box::new(os())).unwrap();
    assert!(shown.token.pin_locked && !shown.latch.latched, "{shown:?}");
    let mut provider = provider(&config);
    drive(&mut provider, ProviderState::Fenced);
    stays_fenced(&mut provider, OutageClass::Credential);
    assert!(outage(&provider).detail.contains("pin_locked"), "{:?}", outage(&provider));
    assert_eq!(provider.token().logins(), 0);
}

// Changed PINs.

/// Changes the PIN of a token under a running provider: the file first or last, as an operator may.
fn a_changed_pin_is_picked_up(token: &dyn Fixture, config: &TokenConfig, change: &dyn Fn()) {
    let mut provider = ready(config);
    let sealed = Sealed::new(&mut provider);
    let one_at_a_time = token.kind() == Kind::Tpm.name();
    if one_at_a_time {
        kill_agent(&provider);
    }
    change();
    token.write_pin(NEW_PIN).unwrap();
    if !one_at_a_time {
        // Who is logged in goes on; the next login reads the file again.
        sealed.come_back(&mut provider);
        kill_agent(&provider);
    }
    sealed.come_back(&mut provider);
    assert_eq!(provider.health().outages, 0, "no outage, no restart");
    assert!(provider.token().logins() >= 2);
    assert!(!show_latch(config, provider));
}

/// Whether it is latched. Without the provider: some tokens have one connection.
fn show_latch(config: &TokenConfig, provider: Provider<Pkcs11Token>) -> bool {
    drop(provider);
    show(config, false, Box::new(os())).unwrap().latch.latched
}

#[test]
fn a_pin_that_was_changed_while_running_is_used_at_the_next_login_on_softhsm() {
    let directory = tempfile::tempdir().unwrap();
    let (token, config) = softhsm(directory.path());
    let tool = token.tool().unwrap();
    if tool.run(&["--list-slots"]).is_err_and(|error| error.to_string().contains("not installed")) {
        assert!(!is_present(Kind::Kryoptic), "pkcs11-tool is there with it");
        return;
    }
    a_changed_pin_is_picked_up(&token, &config, &|| tool.change_pin(PIN, NEW_PIN).unwrap());
}

#[test]
fn a_pin_that_was_changed_while_running_is_used_at_the_next_login_on_kryoptic() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config, tool)) = kryoptic(directory.path()) else { return };
    a_changed_pin_is_picked_up(&token, &config, &|| tool.change_pin(PIN, NEW_PIN).unwrap());
}

#[test]
fn a_pin_that_was_changed_while_running_is_used_at_the_next_login_on_a_tpm() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config)) = tpm(directory.path()) else { return };
    a_changed_pin_is_picked_up(&token, &config, &|| token.change_pin(PIN, NEW_PIN).unwrap());
}

#[test]
fn a_pin_that_was_changed_while_running_is_used_at_the_next_login_on_opencryptoki() {
    if !is_present(Kind::OpenCryptoki) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut token = OpenCryptokiToken::make(directory.path(), "vault", PIN).unwrap();
    let config = configure(&token, agent());
    provision(&mut token, &config);
    a_changed_pin_is_picked_up(&token, &config, &|| token.change_pin(PIN, NEW_PIN).unwrap());
}

#[test]
fn a_token_whose_pin_was_changed_before_its_file_is_asked_once_and_heals_when_the_file_follows() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config, tool)) = kryoptic(directory.path()) else { return };
    let mut provider = ready(&config);
    let sealed = Sealed::new(&mut provider);
    let before = provider.token().logins();
    tool.change_pin(PIN, NEW_PIN).unwrap();
    kill_agent(&provider);
    provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap_err();
    stays_fenced(&mut provider, OutageClass::Credential);
    assert!(outage(&provider).detail.contains("login_latched"), "{:?}", outage(&provider));
    assert_eq!(provider.token().logins(), before + 1);
    token.write_pin(NEW_PIN).unwrap();
    drive(&mut provider, ProviderState::Ready);
    sealed.come_back(&mut provider);
    assert_eq!(provider.token().logins(), before + 2);
}

// A TPM's lock-out.

#[test]
fn a_tpm_locked_out_by_power_losses_is_told_as_such_and_heals_when_the_operator_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some((mut token, config)) = tpm(directory.path()) else { return };
    token.limit_tries(3, 1_000).unwrap();
    let mut provider = ready(&config);
    let sealed = Sealed::new(&mut provider);
    let begun = Instant::now();
    // The right pin, always; each loss of power counts as a failed try.
    while provider.health().state != ProviderState::Fenced {
        assert!(begun.elapsed() < Duration::from_secs(60), "never locked out: {:?}", provider.health());
        token.lose_power().unwrap();
        let settled = Instant::now();
        while settled.elapsed() < Duration::from_secs(10) {
            if provider.wrap(&object(1), &DataKey::new(&[1; 32])).is_ok() {
                break;
            }
            let health = provider.health();
            if health.state == ProviderState::Fenced {
                break;
            }
            sleep(provider.tick());
        }
    }
    let told = outage(&provider);
    assert_eq!(told.class, OutageClass::Credential);
    assert!(told.detail.contains("pin_locked") && told.detail.contains("none was refused here"), "{told:?}");
    assert!(!told.detail.contains("latched"), "{told:?}");
    stays_fenced(&mut provider, OutageClass::Credential);
    drop(provider);
    let shown = show(&config, false, Box::new(os())).unwrap();
    assert!(!shown.latch.latched, "nobody entered a wrong pin: {shown:?}");
    // A restarted node says the same, and needs no unlatching.
    let mut restarted = self::provider(&config);
    drive(&mut restarted, ProviderState::Fenced);
    assert!(outage(&restarted).detail.contains("none was refused here"), "{:?}", outage(&restarted));
    kill_agent(&restarted);
    token.clear_lockout().unwrap();
    drive(&mut restarted, ProviderState::Ready);
    sealed.come_back(&mut restarted);
}

#[test]
fn a_tpm_whose_lock_out_ends_by_itself_heals_by_itself_however_often_it_was_asked_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let Some((mut token, config)) = tpm(directory.path()) else { return };
    // A failed try is forgiven after some seconds.
    token.limit_tries(1, 4).unwrap();
    let mut provider = ready(&config);
    let sealed = Sealed::new(&mut provider);
    token.lose_power().unwrap();
    drive(&mut provider, ProviderState::Fenced);
    let asked = provider.token().logins();
    drive(&mut provider, ProviderState::Ready);
    assert!(provider.token().logins() > asked + 3, "it was asked while it was locked");
    sealed.come_back(&mut provider);
}

#[test]
fn a_wrong_pin_on_a_tpm_is_a_refused_pin_and_latches() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config)) = tpm(directory.path()) else { return };
    token.write_pin("wrong-pin").unwrap();
    let mut provider = provider(&config);
    drive(&mut provider, ProviderState::Fenced);
    stays_fenced(&mut provider, OutageClass::Credential);
    assert!(!outage(&provider).detail.contains("pin_locked"), "{:?}", outage(&provider));
    assert_eq!(provider.token().logins(), 1);
}

// Keys.

#[test]
fn a_key_that_is_not_found_counts_as_missing_only_after_a_full_reinitialisation() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config, tool)) = kryoptic(directory.path()) else { return };
    let (shim, watched) = watched(directory.path(), &token, &config);
    let mut provider = ready(&watched);
    let seen = calls(&shim).len();
    tool.destroy_key(token.pin(), KEY).unwrap();
    let told = provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap_err().0;
    assert_eq!(told.class, OutageClass::Key);
    assert!(told.detail.contains("key_missing"), "{told:?}");
    let calls = calls(&shim).split_off(seen);
    // The handle that failed, then everything from the start, and only then the verdict.
    let owed = ["C_Finalize", "C_Initialize", "C_Login", "C_FindObjects"];
    let mut owed_next = owed.iter();
    let mut next = owed_next.next();
    for call in &calls {
        if next.is_some_and(|owed| call == owed) {
            next = owed_next.next();
        }
    }
    assert_eq!(next, None, "{calls:?}");
    assert!(!calls.iter().any(|call| call.starts_with("C_Generate") || call.starts_with("C_Create")), "{calls:?}");
    stays_fenced(&mut provider, OutageClass::Key);
}

/// The same label, and the same `CKA_ID`: nothing but the check value tells the keys apart.
fn with_id(config: &TokenConfig) -> TokenConfig {
    TokenConfig { uri: config.uri.replacen('?', ";id=%F0%01?", 1), ..config.clone() }
}

#[test]
fn a_token_swapped_for_one_with_another_key_fences_and_heals_when_the_right_one_is_back_on_softhsm() {
    for named in [TokenConfig::clone, with_id] {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tokens = [ours.path(), other.path()].map(|directory| {
            let mut token = make_token(directory, "vault", PIN).unwrap();
            let config = named(&configure(&token, agent()));
            provision(&mut token, &config);
            (token, config)
        });
        let [(token, config), (other, _)] = &tokens;
        swapped(config, &|| exchange(&token.token_directory(), &other.token_directory()));
    }
}

#[test]
fn a_token_swapped_for_one_with_another_key_fences_and_heals_when_the_right_one_is_back_on_kryoptic() {
    if !is_present(Kind::Kryoptic) {
        return;
    }
    for named in [TokenConfig::clone, with_id] {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tokens = [ours.path(), other.path()].map(|directory| {
            let mut token = KryopticToken::make(directory, "vault", PIN).unwrap();
            let config = named(&configure(&token, agent()));
            provision(&mut token, &config);
            (token, config)
        });
        let [(token, config), (other, _)] = &tokens;
        swapped(config, &|| exchange(&token.database(), &other.database()));
    }
}

/// Token label and serial number are the same as well.
#[test]
fn a_token_swapped_for_one_with_another_key_fences_and_heals_when_the_right_one_is_back_on_a_tpm() {
    let ours = tempfile::tempdir().unwrap();
    let Some((mut token, config)) = tpm(ours.path()) else { return };
    let (store, first) = (ours.path().join("store"), ours.path().join("first"));
    copy(&store, &first);
    token.destroy_key(KEY).unwrap();
    assert!(token.make_key(KEY).unwrap());
    exchange(&store, &first);
    swapped(&config, &|| exchange(&store, &first));
}

fn swapped(config: &TokenConfig, swap: &dyn Fn()) {
    let mut provider = ready(config);
    let keys = provider.keys();
    let sealed = Sealed::new(&mut provider);
    swap();
    // Whoever is connected may go on; the next opening tells.
    kill_agent(&provider);
    let told = provider.wrap(&object(1), &DataKey::new(&[1; 32])).unwrap_err().0;
    assert_eq!(told.class, OutageClass::Key, "{told:?}");
    assert!(told.detail.contains("key_changed"), "{told:?}");
    stays_fenced(&mut provider, OutageClass::Key);
    swap();
    drive(&mut provider, ProviderState::Ready);
    assert_eq!(provider.keys(), keys);
    sealed.come_back(&mut provider);
}

fn exchange(one: &Path, other: &Path) {
    let between = one.with_extension("between");
    std::fs::rename(one, &between).unwrap();
    std::fs::rename(other, one).unwrap();
    std::fs::rename(&between, other).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn two_keys_that_match_are_refused_whoever_made_them() {
    let directory = tempfile::tempdir().unwrap();
    let Some((token, config, tool)) = kryoptic(directory.path()) else { return };
    let second =
        ["--keygen", "--key-type", "GENERIC:32", "--sensitive", "--usage-sign", "--label", KEY, "--id", "0203"];
    tool.run(&[["--login", "--pin", token.pin()].as_slice(), &second].concat()).unwrap();
    let mut provider = provider(&config);
    drive(&mut provider, ProviderState::Fenced);
    assert!(outage(&provider).detail.contains("key_not_unique"), "{:?}", outage(&provider));
    stays_fenced(&mut provider, OutageClass::Key);
    assert!(init(&config, CreateKey::IfAbsent, Box::new(os())).is_err(), "nor does provisioning choose");
}
