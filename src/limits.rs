//! Every bound, with its unit and its reason. Nothing grows without one.

/// Session id, bytes. Long enough for a hex hash and a label; short enough for a log line.
pub const SESSION_ID_BYTES_MAX: usize = 128;

/// Members of one key group. FROST's cost per participant grows with n; 100 is measured, 255 bounded.
pub const MEMBERS_MAX: usize = 255;

/// Attempt numbers of one session. Bounds evidence chains and the answers a member can be asked for.
pub const ATTEMPTS_MAX: u32 = 1_000;

/// Answers of one member to one session under the `roast` policy: n - t + 1 attempts plus readmissions.
pub const ANSWERS_MAX: usize = 512;

/// One record, encoded, bytes. A certificate of a group of 255 fits; the same on write and on read.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Records of one batch (one seal, one transaction).
pub const BATCH_RECORDS_MAX: usize = 4_096;

/// Plaintext bytes of one batch. One record always fits.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Records in line. A full line refuses new rounds; freezes have slots of their own.
pub const LINE_RECORDS_MAX: usize = 8_192;

/// Bytes in line.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Slots of the line kept for freezes.
pub const LINE_RESERVED_FOR_FREEZES: usize = 64;

/// Plaintext bytes of one snapshot chunk: one transaction between two group commits stays short.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 256 << 10;

/// Frames whose data keys one bundle key wraps: an opening calls the token once per bundle.
pub const BUNDLE_FRAMES_MAX: u64 = 32_768;

/// Live nonce pairs of one key group. They live in RAM only.
pub const NONCE_PAIRS_MAX: usize = 16_384;

/// Life of an unspent nonce pair, milliseconds.
pub const NONCE_PAIR_AGE_MS_MAX: u64 = 60 * 60 * 1_000;

/// Open sessions of one key group.
pub const SESSIONS_OPEN_MAX: usize = 65_536;

/// A session idle for this long is closed by a record, milliseconds. The clock stands still in an outage.
pub const SESSION_IDLE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// The longest time between two looks for idle sessions, milliseconds.
pub const IDLE_SCAN_MS_MAX: u64 = 60 * 1_000;

/// Key groups of one node.
pub const KEY_GROUPS_MAX: usize = 256;

/// Steps of one chain of evidence: attempts that a node may have missed and still be led through in one request.
pub const EVIDENCE_STEPS_MAX: usize = 64;

/// A signing package, encoded, bytes: 40 (a count of two bytes) and 103 for each of [`MEMBERS_MAX`] commitments, measured.
pub const SIGNING_PACKAGE_BYTES_MAX: usize = 40 + 103 * MEMBERS_MAX;

/// A transaction without its witness, bytes: what relays of the network accept (400 000 weight units).
pub const TRANSACTION_BYTES_MAX: usize = 100_000;

/// Inputs of one transaction; each brings a prevout and at most one session.
pub const TRANSACTION_INPUTS_MAX: usize = 1_024;

/// Outputs of one transaction.
pub const TRANSACTION_OUTPUTS_MAX: usize = 3_072;

/// Bytes of one script, the consensus limit.
pub const SCRIPT_BYTES_MAX: usize = 10_000;

/// A PSBT, binary, bytes. Previous transactions ride along in it.
pub const PSBT_BYTES_MAX: usize = 2 << 20;

/// A signing policy, encoded, bytes. It fits a record beside what else a record holds.
pub const POLICY_BYTES_MAX: usize = 256 << 10;

/// Destinations on a policy's list.
pub const POLICY_DESTINATIONS_MAX: usize = 4_096;

/// Rate limits of one policy.
pub const POLICY_RATES_MAX: usize = 8;

/// The longest window of a rate limit, seconds (31 days): approvals older than that are not needed to apply one.
pub const POLICY_WINDOW_S_MAX: u64 = 31 * 24 * 60 * 60;

/// Charges that count at one time. A full list refuses new transactions; it never forgets one that still counts.
pub const POLICY_CHARGES_MAX: usize = 65_536;

/// One message of a key generation, bytes: 255 envelopes of 82 bytes, or 255 coefficients of 33, and what names them.
pub const KEYGEN_MESSAGE_BYTES_MAX: usize = 32 << 10;

/// A freeze record, encoded, bytes: its slots are kept free in a full line, so it must be small.
pub const FREEZE_RECORD_BYTES_MAX: usize = 4_096;

/// Wraps of one sealed object: one per token, old and new key during a rotation.
pub const WRAPS_MAX: usize = 16;

/// Rows of wraps that are looked at between two batches when a key is caught up: a disk read each.
pub const WRAPS_LOOKED_AT_PER_STEP_MAX: usize = 256;

/// Rows that get a wrap between two batches: a batch waits for as many calls of the token that is caught up.
pub const WRAPS_CARED_PER_STEP_MAX: usize = 16;

/// How long a piece of catching up may go on between two batches, milliseconds; it ends after one row when a record waits.
pub const CARE_MS_MAX: u64 = 100;

/// Encoded wraps of one object, bytes. Every scheme of `tokens` fits with room; the same on write and on read.
pub const WRAPS_BYTES_MAX: usize = 16 << 10;

/// Token keys that one store names over its life, retired ones included.
pub const STORE_KEYS_MAX: usize = 256;

/// The head row, plaintext bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// One item of a snapshot, bytes: at least a record, and a key group with all that its certificate holds.
pub const SNAPSHOT_ITEM_BYTES_MAX: usize = 4 << 20;

/// Chunks of one snapshot: 256 GiB.
pub const SNAPSHOT_CHUNKS_MAX: u32 = 1 << 20;

/// Journal bytes below which no snapshot is made, however small the last one was.
pub const SNAPSHOT_FLOOR_BYTES: u64 = 1 << 20;

/// Free bytes of the volume below which no write is issued: a batch, its copy-on-write pages and a snapshot chunk fit many times.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// Reason of a freeze, bytes of text.
pub const DENY_REASON_BYTES_MAX: usize = 256;

/// Deny files of one node. More are a mistake or an attack; the freeze itself still holds in memory.
pub const DENY_FILES_MAX: usize = 4_096;

/// Lifted freezes of one key group that are remembered, so that a deny file that stayed behind does not bring them back. With
/// those in force they fit a snapshot item.
pub const FREEZES_LIFTED_MAX: usize = 16_384;

/// Freezes that one thaw can name.
pub const FREEZES_PER_THAW_MAX: usize = 256;

/// Attempt timers of one key group. Only attempts under the `evidence` policy have one; a full registry forgets the oldest.
pub const VOTE_TIMERS_MAX: usize = 65_536;

/// Age at which an attempt's timer is dropped, milliseconds.
pub const VOTE_TIMER_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// Silence of a coordinator after which a member votes for a timeout, milliseconds.
pub const ATTEMPT_TIMEOUT_MS: u64 = 30_000;

/// The longest that a request waits for its record to become durable, milliseconds.
pub const REPLY_WAIT_MS_MAX: u64 = 60_000;

/// The longest that a freeze waits for its deny file, milliseconds: a hung sync must not hold the answer.
pub const DENY_FILE_WAIT_MS_MAX: u64 = 2_000;

/// A day, milliseconds.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A node's configuration file, bytes. A tightening with every destination that a policy may list is in the middle of it.
pub const SERVER_CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The path of a Unix socket, bytes: `sun_path` of Linux without its end.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connections over the network, by default. Every node and client of a large group has several.
pub const CONNECTIONS_MAX: u64 = 256;

/// Connections of one client key, by default: no single caller takes all.
pub const CONNECTIONS_PER_PIN_MAX: u64 = 32;

/// TLS handshakes under way, by default: strangers can hold these, and the other connections stay for those who are known.
pub const HANDSHAKES_MAX: u64 = 64;

/// The longest that a TLS handshake may take, milliseconds, by default.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;

/// Connections of the Unix socket, by default.
pub const SOCKET_CONNECTIONS_MAX: u64 = 32;

/// Calls under way on one connection, by default.
pub const CALLS_PER_CONNECTION_MAX: u64 = 128;

/// Calls under way in all, by default.
pub const CALLS_MAX: u64 = 1_024;

/// Requests that are being read or worked on, and long replies that wait to be read, bytes in all, by default: 32 of the
/// largest.
pub const BUFFERED_BYTES_MAX: u64 = 128 << 20;

/// The longest that the body of a request may take to come, milliseconds, by default.
pub const REQUEST_BODY_MS_MAX: u64 = 10_000;

/// The longest that a caller may take to read its reply, milliseconds, by default.
pub const REPLY_READ_MS_MAX: u64 = 30_000;

/// Headers of one request, bytes, by default: what HTTP/2 libraries take as theirs.
pub const HEADER_LIST_BYTES_MAX: u64 = 16 << 10;

/// Silence after which a connection is asked whether it lives, milliseconds, by default.
pub const PING_INTERVAL_MS: u64 = 20_000;

/// The longest that it may take to say so, milliseconds, by default.
pub const PING_TIMEOUT_MS: u64 = 10_000;

/// The longest that a stopping node waits for the calls under way, milliseconds, by default.
pub const STOP_MS_MAX: u64 = 30_000;

/// What a caller may send on one stream before it is read, bytes.
pub const STREAM_WINDOW_BYTES: u32 = 64 << 10;

/// The same on one connection: 256 connections hold 64 MiB.
pub const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// What HTTP/2 buffers of one reply before its caller reads, bytes. A share fits many times.
pub const SEND_BUFFER_BYTES_MAX: usize = 16 << 10;

/// Streams that a caller opened and reset, and that wait to be accepted: more is an attack (CVE-2023-44487).
pub const RESET_STREAMS_PENDING_MAX: usize = 32;

/// Streams of one connection that are reset because its caller breaks the protocol; then the connection ends.
pub const RESET_STREAMS_OWN_MAX: usize = 1_024;

/// Sessions that one node drives for its callers at one time: each asks every member of its key group.
pub const DRIVES_MAX: usize = 64;

/// Lines of progress that wait for the caller of a session to read them; more are left out.
pub const SIGN_EVENTS_MAX: usize = 64;

/// Nodes that a pre-flight asks at one time.
pub const PREFLIGHT_DIALS_MAX: usize = 16;

/// The longest that a pre-flight waits for one node, milliseconds: its driver waits longer for all of them.
pub const PREFLIGHT_PEER_MS_MAX: u64 = 5_000;

/// Approved transactions of one key group.
pub const APPROVALS_MAX: usize = 65_536;

/// Age at which an approval is forgotten, seconds, measured between approvals (32 days). Longer than any session, and than
/// any rate window: a snapshot holds charges as the approvals that made them.
pub const APPROVAL_AGE_S_MAX: u64 = 32 * 24 * 60 * 60;

const _: () = assert!(APPROVAL_AGE_S_MAX > POLICY_WINDOW_S_MAX, "a rate must not outlive the approvals that it counts");

/// Taproot roots that one approval names.
pub const APPROVAL_ROOTS_MAX: usize = 64;

/// Names of key generations that one node remembers as used; they fit a snapshot item. The oldest is forgotten.
pub const CEREMONIES_REMEMBERED_MAX: usize = 65_536;

/// Key generations under way in one node.
pub const CEREMONIES_MAX: usize = 8;

/// A key generation that nobody asks for during this time is dropped, milliseconds: its driver is gone, and it would hold
/// its slot and its secrets until a restart. Longer than a driver tries one step.
pub const CEREMONY_IDLE_MS_MAX: u64 = 15 * 60 * 1_000;

/// The longest that a driver of a key generation tries one step with one node, milliseconds.
pub const CEREMONY_STEP_MS_MAX: u64 = 2 * 60 * 1_000;

/// The longest that it waits for one answer, milliseconds: a node may wait [`REPLY_WAIT_MS_MAX`] for its disk.
pub const CEREMONY_CALL_MS_MAX: u64 = 75_000;

const _: () = assert!(
    CEREMONY_IDLE_MS_MAX > 2 * CEREMONY_STEP_MS_MAX && CEREMONY_CALL_MS_MAX > REPLY_WAIT_MS_MAX,
    "a node must not give up a ceremony that its driver still works on"
);

/// Calls that a driver has under way with one node.
pub const CEREMONY_CALLS_MAX: usize = 8;

/// Trial sessions of one key group: their message is always allowed, so their number is not left to the caller.
pub const TRIALS_MAX: u8 = 8;

/// Drill sessions of one key group that are open at one time: their message is always allowed. A drill ends its own.
pub const DRILL_SESSIONS_OPEN_MAX: usize = 16;

/// The longest outage drill, milliseconds. Whoever begins it may be gone: the node ends it.
pub const DRILL_MS_MAX: u64 = 5 * 60 * 1_000;

/// The length of an outage drill, milliseconds, by default.
pub const DRILL_MS: u64 = 10_000;

/// How long nobody may have signed on a node before a drill begins on it, milliseconds: longer than a coordinator pauses between
/// two questions.
pub const DRILL_QUIET_MS: u64 = 30_000;

/// What an outage must not make slower, and what is to come at once in one, milliseconds: less than people notice, and less than any
/// sensible deadline of a token.
pub const DRILL_AT_ONCE_MS: u64 = 250;

/// Or this many times the p99 before the drill, on a machine that is slow by itself.
pub const DRILL_LATENCY_FACTOR: u64 = 5;

/// Tries of one subject that a coordinator goes through before it gives up: each is a session that members have ended.
pub const SESSION_TRIES_MAX: u32 = 64;

/// Questions that a coordinator has under way at one time: two to each member of the largest key group.
pub const ASKS_MAX: usize = 2 * MEMBERS_MAX;

/// One message of the network interface, bytes: a chain of evidence of 64 steps, a PSBT, a finalisation of 255 shares fit.
pub const WIRE_MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Sessions that a command line coordinates at one time: the inputs of one transaction.
pub const SESSIONS_AT_ONCE_MAX: usize = 16;

/// The longest that a client waits for a connection and its handshake, milliseconds.
pub const WIRE_CONNECT_MS_MAX: u64 = 5_000;

/// How often a client asks a silent connection whether it stands, milliseconds: a node that is gone without a word, or that
/// hangs, is found out by it.
pub const WIRE_KEEPALIVE_MS: u64 = 10_000;

/// The longest that it waits for the answer to that, milliseconds.
pub const WIRE_KEEPALIVE_WAIT_MS_MAX: u64 = 10_000;

/// Text for people in a refusal as it travels, bytes: gRPC puts it into a header, and headers are bounded.
pub const WIRE_PROBLEM_BYTES_MAX: usize = 1_024;

/// A roster file, bytes. [`ROSTER_NODES_MAX`] nodes and [`ROSTER_CLIENTS_MAX`] clients fit several times.
pub const ROSTER_BYTES_MAX: usize = 1 << 20;

/// Nodes of one roster: each holds a seat of the largest key group.
pub const ROSTER_NODES_MAX: usize = MEMBERS_MAX;

/// Clients of one roster: people and machines that are no nodes. As many as nodes, so that a look-up stays a short scan.
pub const ROSTER_CLIENTS_MAX: usize = 255;

/// A name in a roster, bytes: it stands in every log line and refusal.
pub const ROSTER_NAME_BYTES_MAX: usize = 64;

/// An address in a roster, bytes: the longest host name (253, RFC 1035), a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 259;

/// A TLS key or certificate as text, bytes. A P-256 key has 241, its certificate about 600; other tools add remarks.
pub const TLS_FILE_BYTES_MAX: usize = 16 << 10;
