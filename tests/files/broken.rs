//! Files broken in every place, one place at a time. Nothing in them may bring the process down.

use std::sync::Arc;

use zeolite::ids::{Oid, Tid};
use zeolite::storage::Storage;

use crate::fixtures::{Copy, bytes};

/// The first transaction begins after the magic.
const START: usize = 4;
/// A rest that is shorter than a transaction header is not worth keeping.
const HEADER: usize = 23;
/// A bit that makes a number slightly wrong, one that makes it huge, and all of them.
const CHANGES: [u8; 3] = [0x01, 0x80, 0xff];

/// Where the transactions of a sound data file begin, and where the last one ends.
fn boundaries(data: &[u8]) -> Vec<usize> {
    let mut found = vec![START];
    let mut at = START;
    while at < data.len() {
        let length: [u8; 8] = data[at + 8..at + 16].try_into().expect("eight bytes");
        at += usize::try_from(u64::from_be_bytes(length)).expect("a small file") + 8;
        found.push(at);
    }
    found
}

/// A crash may leave any part of what was being written.
#[test]
fn a_file_cut_at_any_byte_is_repaired() {
    let whole = bytes("histories", "deletes.fs");
    let boundaries = boundaries(&whole);
    for length in boundaries[boundaries.len() - 3]..whole.len() {
        let sound = boundaries.iter().copied().filter(|&at| at <= length).max().expect("the start");
        let copy = Copy::empty();
        copy.write("Data.fs", &whole[..length]);
        let storage = copy.open(&format!("cut at {length}"));
        assert_eq!(storage.size(), sound as u64, "cut at {length}");
        assert!(copy.read("Data.fs").expect("still there") == whole[..sound], "cut at {length}");
        let rest = (length - sound >= HEADER).then(|| whole[sound..length].to_vec());
        assert_eq!(copy.read("Data.fs.tr0"), rest, "cut at {length}: what was kept");
    }
}

/// Puts all questions; any answer will do, and any error.
fn exercise(storage: &Arc<dyn Storage>) {
    let oids = (0..10).map(Oid).chain([Oid(u64::MAX)]);
    for oid in oids {
        for before in [Tid::ZERO, Tid(0x03dd_0882_0000_0000), Tid::MAX] {
            drop(storage.load_before(oid, before));
            drop(storage.load_serial(oid, before));
        }
        drop(storage.history(oid, 20));
        drop(storage.record_iternext(Some(oid)));
    }
    drop(storage.undo_log(0, 20, &mut |_| true));
    drop(storage.last_invalidations(20));
    if let Ok(mut transactions) = Arc::clone(storage).iterate(None, None) {
        while let Ok(Some((_, mut records))) = transactions.next() {
            while let Ok(Some(_)) = records.next() {}
        }
    }
}

/// Opened or refused, but in an orderly way; a reader never changes the file.
#[test]
fn a_data_file_with_any_byte_changed_does_no_harm() {
    let sound = bytes("histories", "undo_of_undo.fs");
    let copy = Copy::empty();
    for at in 0..sound.len() {
        let mut broken = sound.clone();
        broken[at] ^= CHANGES[at % CHANGES.len()];
        copy.write("Data.fs", &broken);
        if let Ok(storage) = copy.try_open_read_only() {
            exercise(&storage);
        }
        assert!(copy.read("Data.fs").expect("still there") == broken);
    }
}

/// The file changes under a storage that has its index already.
#[test]
fn records_that_change_behind_the_index_do_no_harm() {
    let sound = bytes("histories", "undo_of_undo.fs");
    let copy = Copy::empty();
    copy.write("Data.fs", &sound);
    let storage = copy.open_read_only("sound");
    for at in START..sound.len() {
        let mut broken = sound.clone();
        broken[at] ^= CHANGES[at % CHANGES.len()];
        copy.write("Data.fs", &broken);
        exercise(&storage);
    }
    copy.write("Data.fs", b"FS30");
    exercise(&storage);
}

/// An index is a cache: whatever it holds, the data file is served.
#[test]
fn an_index_with_any_byte_changed_does_no_harm() {
    let (data, index) = (bytes("histories", "undo_of_undo.fs"), bytes("histories", "undo_of_undo.fs.index"));
    let copy = Copy::empty();
    copy.write("Data.fs", &data);
    for at in 0..index.len() {
        for change in CHANGES {
            let mut broken = index.clone();
            broken[at] ^= change;
            copy.write("Data.fs.index", &broken);
            let storage = copy.open_read_only(&format!("index byte {at} ^ {change:#x}"));
            assert_eq!(storage.size(), data.len() as u64);
            exercise(&storage);
        }
        copy.write("Data.fs.index", &index[..at]);
        exercise(&copy.open_read_only(&format!("index cut at {at}")));
    }
}
