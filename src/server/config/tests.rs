use super::*;

const PATH: &str = "/etc/frostkeep/node.toml";

const SHORTEST: &str = r#"
name = "alpha"
state = "state"
roster = "roster.toml"
listen = "127.0.0.1:0"
address = "alpha.example:7460"

[[token]]
uri = "pkcs11:token=a;object=b?module-path=/m.so&pin-source=file:/pin"
latch_directory = "latch"
"#;

fn parsed(text: &str) -> Result<ServerConfig, ConfigError> {
    ServerConfig::parse(text, Path::new(PATH))
}

/// The example of the manual.
fn example() -> &'static str {
    let page = include_str!("../../manual/operations.md");
    page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap()
}

#[test]
fn the_shortest_configuration_is_complete_and_its_paths_are_relative_to_the_file() {
    let config = parsed(SHORTEST).unwrap();
    assert_eq!(config.state, Path::new("/etc/frostkeep/state"));
    assert_eq!(config.roster, Path::new("/etc/frostkeep/roster.toml"));
    assert_eq!(config.socket, Path::new("/etc/frostkeep/state/admin.sock"));
    assert_eq!(config.tokens[0].latch_directory, Path::new("/etc/frostkeep/latch"));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.admin_uids, BTreeSet::from([0, nix::unistd::geteuid().as_raw()]));
    assert!(!config.coordination && config.engine.tighten.is_none());
}

#[test]
fn the_manual_s_example_shows_every_setting_at_its_default() {
    let (example, shortest) = (parsed(example()).unwrap(), parsed(SHORTEST).unwrap());
    assert_eq!(example.limits, Limits::default());
    let engine = |config: &ServerConfig| EngineConfig { tighten: None, ..config.engine.clone() };
    assert_eq!(format!("{:?}", engine(&example)), format!("{:?}", engine(&shortest)));
    assert!(example.engine.tighten.is_some());
    let token = |config: &ServerConfig| {
        let TokenConfig { health_interval_ms, backoff_ms_min, backoff_ms_max, deadlines, .. } =
            config.tokens[0].clone();
        (health_interval_ms, backoff_ms_min, backoff_ms_max, deadlines)
    };
    assert_eq!(token(&example), token(&shortest));
    // Every field of the limits is there.
    let text = self::example();
    let limits = text.split("[limits]").nth(1).unwrap();
    let shown = limits.lines().filter(|line| line.contains(" = ")).count();
    assert_eq!(shown, format!("{:?}", Limits::default()).matches(": ").count());
}

#[test]
fn a_setting_that_is_not_known_is_refused_with_its_line() {
    for (added, line) in [("\npin = \"1234\"", 12), ("\n[limits]\nconections = 1", 13), ("\n[engine]\nx = 1", 13)] {
        match parsed(&format!("{SHORTEST}{added}")) {
            Err(ConfigError::Syntax { line: found, problem, .. }) => {
                assert_eq!(found, line, "{added}");
                assert!(problem.contains("unknown field"), "{added}: {problem}");
            }
            other => panic!("{added}: {other:?}"),
        }
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_by_name() {
    let replaced = |from: &str, to: &str| parsed(&SHORTEST.replace(from, to));
    for (from, to, named) in [
        ("alpha.example:7460", "alpha.example", "address"),
        ("name = \"alpha\"", "name = \"al pha\"", "name"),
        ("[[token]]", "[limits]\nconnections = 0\n[[token]]", "limits.connections"),
        ("[[token]]", "[limits]\nhandshakes = 500\n[[token]]", "limits.handshakes"),
        ("[[token]]", "[limits]\nmessage_bytes = 5000000\n[[token]]", "limits.message_bytes"),
        ("[[token]]", "[engine]\nreply_wait_ms_max = 99\n[[token]]", "engine.reply_wait_ms_max"),
        (
            "[[token]]",
            "[engine.tighten]\nrates = [{ window_s = 0, value_sat_max = 1, transactions_max = 1 }]\n[[token]]",
            "engine.tighten",
        ),
        ("state = \"state\"", &format!("state = \"{}\"", "s".repeat(120)), "socket"),
        ("object=b", "objekt=b", "token"),
    ] {
        let error = replaced(from, to).unwrap_err();
        assert!(error.to_string().contains(named) && error.to_string().contains(PATH), "{named}: {error}");
        assert!(!error.hint().is_empty());
    }
    let token = SHORTEST.split_at(SHORTEST.find("[[token]]").unwrap()).1;
    let second = token.replace("token=a", "token=b");
    let refusal = |text: &str| {
        let error = parsed(text).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    let twice = refusal(&format!("{SHORTEST}{token}"));
    assert!(twice.starts_with("two tokens have the uri pkcs11:token=a"), "{twice}");
    let many = refusal(&format!("{SHORTEST}{}", second.repeat(8)));
    assert_eq!(many, "9 tokens, 1 to 8 are allowed");
    let both = parsed(&format!("min_wraps = 2\n{SHORTEST}{second}")).unwrap();
    assert_eq!((both.tokens.len(), both.min_wraps), (2, 2));
    for min_wraps in [0, 2] {
        let found = refusal(&format!("min_wraps = {min_wraps}\n{SHORTEST}"));
        assert_eq!(found, format!("min_wraps is {min_wraps}, 1 to the number of tokens, 1, is allowed"));
    }
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    let long = vec![b'#'; usize::try_from(limits::SERVER_CONFIG_BYTES_MAX).unwrap() + 1];
    crate::store::files::write_synced(&path, &long).unwrap();
    assert!(matches!(ServerConfig::read(&path), Err(ConfigError::Syntax { .. })));
    assert!(matches!(ServerConfig::read(&directory.path().join("none")), Err(ConfigError::Unreadable { .. })));
}
