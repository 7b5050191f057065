//! Decoders over arbitrary bytes, rows that cannot change places, appends at an expected head.

use std::sync::Arc;

use frostkeep_hsm::entropy::os;
use frostkeep_hsm::provider::{DataKey, KeyName, SealedObject, Wrap};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::durable::Position;
use super::files::{DirectoryLock, LockError};
use super::frame::{self, FrameError, Header};
use super::frames::{Append, FrameStore, FramesError, Genesis, HeadMark, RedbFrames};
use super::line::{RecordKind, Waiting};
use super::rows::{self, Head, RowError, RowKind, StoreRecord};
use super::seal::{BundleKey, OBJECT_FRAME, bundle_of, decrypt};
use super::snapshot::{ChunkPlace, Cutter, Joiner};
use super::{deny, files};
use crate::limits::{SNAPSHOT_ITEM_BYTES_MAX, WRAPS_MAX};

const STORE: [u8; 16] = [5; 16];

fn key() -> DataKey {
    DataKey::new(&[9; 32])
}

fn waiting(position: u64, bytes: &[u8]) -> Waiting {
    Waiting {
        position: Position::new(position),
        kind: RecordKind::Engine,
        bytes: Arc::new(Zeroizing::new(bytes.to_vec())),
        anchor_now: false,
    }
}

fn header(first: u64, last: u64) -> Header {
    Header { store: STORE, epoch: 3, first: Position::new(first), last: Position::new(last), previous: [4; 32] }
}

fn records(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, FrameError> {
    let mut found = Vec::new();
    frame::parse(bytes)?.open(&key())?.records::<FrameError>(|position, _, bytes| {
        found.push((position.number(), bytes.to_vec()));
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn a_frame_gives_back_its_records_and_no_flipped_bit_passes() {
    let sealed = frame::seal(&header(7, 8), &[waiting(7, b"one"), waiting(8, b"two")], &key(), &mut os());
    assert_eq!(records(&sealed).unwrap(), [(7, b"one".to_vec()), (8, b"two".to_vec())]);
    for bit in 0..sealed.len() * 8 {
        let mut broken = sealed.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(records(&broken).is_err(), "bit {bit}");
    }
    for cut in 0..sealed.len() {
        assert!(records(&sealed[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_frame_whose_header_counts_other_records_than_it_holds_does_not_open() {
    for last in [7, 9] {
        let sealed = frame::seal(&header(7, last), &[waiting(7, b"one"), waiting(8, b"two")], &key(), &mut os());
        assert!(matches!(records(&sealed), Err(FrameError::Record { .. })));
    }
}

#[test]
fn plain_rows_cannot_change_places() {
    let row = rows::plain(RowKind::FrameWraps, 7, b"body");
    assert_eq!(rows::open_plain(RowKind::FrameWraps, 7, &row).unwrap(), b"body");
    assert_eq!(rows::open_plain(RowKind::FrameWraps, 8, &row), Err(RowError::Checksum));
    assert_eq!(rows::open_plain(RowKind::BundleWraps, 7, &row), Err(RowError::Checksum));
}

#[test]
fn a_bundle_wrap_opens_for_its_own_frame_only() {
    let bundle = BundleKey { number: 2, key: key() };
    let object = SealedObject { store: STORE, kind: OBJECT_FRAME, id: 7 };
    let row = bundle.wrap(&object, &DataKey::new(&[1; 32]), &mut os());
    assert_eq!(bundle_of(&row), Some(2));
    assert_eq!(bundle.unwrap(&object, &row).unwrap().expose(), &[1; 32]);
    assert!(bundle.unwrap(&SealedObject { id: 8, ..object }, &row).is_err());
    assert!(BundleKey { number: 3, key: key() }.unwrap(&object, &row).is_err());
}

#[test]
fn what_is_larger_than_a_read_allows_is_refused_at_the_write() {
    let wrap = |bytes| Wrap { key: KeyName([1; 16]), scheme: 1, blob: vec![0; bytes] };
    let write = |wraps: &[Wrap]| rows::wraps_row(RowKind::FrameWraps, 1, wraps);
    assert!(write(&vec![wrap(80); WRAPS_MAX]).is_ok());
    assert!(write(&vec![wrap(80); WRAPS_MAX + 1]).is_err());
    assert!(write(&[wrap(crate::limits::WRAPS_BYTES_MAX)]).is_err());
    assert!(write(&[]).is_err(), "a frame without any wrap could never be opened");
    let item = Zeroizing::new(vec![1; SNAPSHOT_ITEM_BYTES_MAX + 1]);
    assert!(Cutter::new(Box::new(std::iter::once(item))).next().is_err());
}

#[test]
fn an_append_at_another_head_writes_nothing() {
    let file = tempfile::tempfile().unwrap();
    let head = Head {
        epoch: 0,
        last: 0,
        chain: [0; 32],
        bundle: 1,
        bundle_frames: 0,
        keys_digest: [0; 32],
        snapshot: None,
        anchors: Vec::new(),
    };
    let row = rows::head_row(&STORE, &head, &key(), &mut os());
    let genesis = Genesis { meta: &rows::meta_row(&STORE), keys: &[], bundle: (1, b"wraps"), head: &row };
    RedbFrames::create(super::recovery::file_backend(file.try_clone().unwrap()).unwrap(), &genesis).unwrap();
    let mut frames = RedbFrames::open(super::recovery::file_backend(file).unwrap()).unwrap();
    let append = Append { first: Position::new(1), frame: b"f", wraps: b"w", bundle_wrap: b"b", bundle: None };
    let other = HeadMark::of(b"another head");
    assert_eq!(frames.append(other, &append, b"new"), Err(FramesError::HeadMoved));
    assert_eq!(frames.frame_from(Position::ZERO).unwrap(), None);
    frames.append(HeadMark::of(&row), &append, b"new").unwrap();
    assert_eq!(frames.append(HeadMark::of(&row), &append, b"newer"), Err(FramesError::HeadMoved));
    assert_eq!(frames.head().unwrap().unwrap(), b"new");
}

#[test]
fn a_bare_name_has_the_current_directory_as_parent() {
    assert_eq!(files::parent("store".as_ref()), std::path::Path::new("."));
    assert_eq!(files::parent("a/store".as_ref()), std::path::Path::new("a"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_decoder_refuses_or_reads_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = records(&bytes);
        let _ = rows::open_meta(&bytes);
        let _ = rows::open_key(1, &bytes);
        let _ = rows::open_wraps(RowKind::FrameWraps, 1, &bytes);
        let _ = rows::decode::<Vec<Wrap>>(&bytes);
        let _ = rows::decode::<Head>(&bytes);
        let _ = rows::decode::<StoreRecord>(&bytes);
        let _ = rows::head_bundle(&STORE, &bytes);
        let _ = rows::open_head(&bytes, &key());
        let _ = decrypt(&key(), &[0; 24], b"", &bytes);
        let _ = bundle_of(&bytes);
        prop_assert!(deny::parse(&bytes).is_none());
        let mut items = 0;
        let _ = Joiner::new().push::<&str>(&bytes, |_| { items += 1; Ok(()) });
        prop_assert!(items <= bytes.len() / 5);
    }

    #[test]
    fn a_frame_with_an_arbitrary_tail_after_a_good_head_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let sealed = frame::seal(&header(1, 1), &[waiting(1, b"one")], &key(), &mut os());
        let bytes = [&sealed[..frame::HEADER_BYTES], &tail].concat();
        prop_assert!(records(&bytes).is_err() || bytes == sealed);
    }
}

proptest! {
    // Each case wipes two buffers of 4 MiB.
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_is_its_items_however_they_are_cut(sizes in proptest::collection::vec(1usize..200_000, 0..8)) {
        let items: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
        let mut cutter = Cutter::new(Box::new(items.clone().into_iter().map(Zeroizing::new)));
        let (mut joiner, mut found, mut index) = (Joiner::new(), Vec::new(), 0);
        loop {
            let piece = cutter.next().unwrap();
            let last = piece.last;
            let place = ChunkPlace { store: &STORE, snapshot: 1, position: 9, index, last };
            let row = place.seal(piece.text, &key(), &mut os());
            let (next, other) = (ChunkPlace { index: index + 1, ..place }, ChunkPlace { last: !last, ..place });
            prop_assert!(next.open(&row, &key()).is_err());
            prop_assert!(other.open(&row, &key()).is_err());
            let text = place.open(&row, &key()).unwrap();
            joiner.push::<&str>(&text, |item| { found.push(item.to_vec()); Ok(()) }).unwrap();
            index += 1;
            if last { break }
        }
        prop_assert!(joiner.is_complete());
        prop_assert_eq!(found, items);
    }
}

#[test]
fn a_lock_that_is_let_go_within_a_moment_is_waited_for_and_one_that_is_held_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    let held = DirectoryLock::take(&path).ok().unwrap();
    let letting_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(held);
    });
    let ours = DirectoryLock::take(&path);
    assert!(ours.is_ok());
    letting_go.join().unwrap();
    assert!(matches!(DirectoryLock::take(&path), Err(LockError::Busy)));
}
