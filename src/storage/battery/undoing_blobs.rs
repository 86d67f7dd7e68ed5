//! Blobs, for storages that can undo and restore.

use super::bench::{Bench, copied, no_such};
use super::blobs::{BLOB, OTHER, RECORD, content, contents, directory, files, no_file, staged, store};
use crate::ids::Tid;
use crate::storage::{Commit, StorageError};

fn revisions<const N: usize>(t: &Bench, contents: [&[u8]; N]) -> [Tid; N] {
    let mut serial = Tid::ZERO;
    contents.map(|content| {
        serial = store(t, BLOB, serial, content);
        serial
    })
}

/// The content before, as a revision of the undoing transaction.
pub fn undo_of_a_changed_blob(t: &mut Bench) {
    let [first, second] = revisions(t, [b"first", b"second"]);
    let undone = t.undo(second);
    assert_eq!(t.load(BLOB).expect("load").tid, undone);
    assert_eq!(content(t, BLOB, undone).expect("undone"), b"first");
    assert_eq!(content(t, BLOB, first).expect("first"), b"first");
    assert_eq!(content(t, BLOB, second).expect("second"), b"second");
    assert_eq!(contents(t).len(), 3);
}

/// There is no content any more, but there was.
pub fn undo_of_a_created_blob(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    let undone = t.undo(first);
    no_such(BLOB, t.load(BLOB));
    no_file(BLOB, undone, directory(t).open_revision(BLOB, undone));
    assert_eq!(contents(t), [b"first".to_vec()]);
    let again = t.undo(undone);
    assert_eq!(content(t, BLOB, again).expect("again"), b"first");
}

/// The content comes from the record that has the data.
pub fn undo_of_an_undone_blob(t: &mut Bench) {
    let [_, second] = revisions(t, [b"first", b"second"]);
    let undone = t.undo(second);
    let again = t.undo(undone);
    assert_eq!(content(t, BLOB, again).expect("again"), b"second");
    let third = store(t, BLOB, again, b"third");
    let back = t.undo(third);
    assert_eq!(content(t, BLOB, back).expect("back"), b"second");
}

/// The undo is refused, and leaves nothing.
pub fn undo_without_the_file(t: &mut Bench) {
    let [first, second] = revisions(t, [b"first", b"second"]);
    let path = directory(t).path().to_owned();
    let lost = files(&path).into_iter().find(|(_, content)| content == b"first").expect("the file").0;
    std::fs::remove_file(lost).expect("remove");
    no_file(BLOB, first, Err::<(), _>(t.refused(|commit| commit.undo(second).map(drop))));
    assert_eq!(contents(t), [b"second".to_vec()]);
    assert_eq!(t.load(BLOB).expect("load").tid, second);
}

/// The last one counts.
pub fn several_undos_of_a_blob(t: &mut Bench) {
    let [_, second, third] = revisions(t, [b"first", b"second", b"third"]);
    let undone = t.commit(|commit| {
        commit.undo(third)?;
        commit.undo(second).map(drop)
    });
    assert_eq!(content(t, BLOB, undone).expect("undone"), b"first");
    assert_eq!(contents(t).len(), 4);
}

/// What was stored before is undone, too, if it looks the same; so is its content.
pub fn undo_after_a_store_in_one_transaction(t: &mut Bench) {
    let [_, second] = revisions(t, [b"first", b"second"]);
    let third = staged(t, b"third");
    let undone = t.commit(|commit| {
        commit.store_blob(BLOB, second, RECORD, third)?;
        commit.undo(second).map(drop)
    });
    assert_eq!(content(t, BLOB, undone).expect("undone"), b"first");
    assert_eq!(contents(t).len(), 3);
}

/// Neither in its place nor on its way.
pub fn aborted_undo_leaves_no_file(t: &mut Bench) {
    let [_, second] = revisions(t, [b"first", b"second"]);
    for vote in [false, true] {
        let mut commit = t.begin();
        commit.undo(second).expect("undo");
        if vote {
            commit.vote().expect("vote");
        }
        drop(commit);
        assert_eq!(contents(t).len(), 2, "vote: {vote}");
    }
}

/// Only blobs have content.
pub fn undo_of_other_objects_has_no_file(t: &mut Bench) {
    let first = t.store(OTHER, Tid::ZERO, b"first");
    let second = t.store(OTHER, first, b"second");
    t.undo(second);
    assert!(contents(t).is_empty());
}

/// A copied transaction has the tid that it had elsewhere, and so have its files.
pub fn copied_with_its_tid(t: &mut Bench) {
    let tid = Tid(0x0300_0000_0000_1234);
    let upload = staged(t, b"copied");
    let store = |commit: &mut dyn Commit| commit.store_blob(BLOB, Tid::ZERO, RECORD, upload);
    assert_eq!(t.try_commit(copied(tid, b' '), store).expect("commit"), tid);
    assert_eq!(content(t, BLOB, tid).expect("open"), b"copied");
    assert_eq!(t.data(BLOB), RECORD);
}

/// Not even when its transaction is copied again. Only a file that no record goes with is.
pub fn a_file_with_a_record_is_never_replaced(t: &mut Bench) {
    let first = store(t, BLOB, Tid::ZERO, b"first");
    let mut commit = t.try_begin(copied(first, b' ')).expect("begin");
    commit.store_blob(BLOB, first, RECORD, staged(t, b"another")).expect("store");
    assert!(matches!(commit.vote(), Err(StorageError::Io { .. })));
    drop(commit);
    assert_eq!(content(t, BLOB, first).expect("first"), b"first");
    assert_eq!(contents(t), [b"first".to_vec()]);
    assert_eq!(t.load(BLOB).expect("load").tid, first);
}
