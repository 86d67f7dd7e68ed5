//! Sound files, and files that Python can open but would not write itself today.

use zeolite::ids::Tid;
use zeolite::storage::{Begin, Publisher};

use crate::answers::check;
use crate::fixtures::{Copy, bytes, json, names};

/// Publishes to nobody.
pub struct Direct;

impl Publisher for Direct {
    fn publish(&mut self, _tid: Tid, install: &mut dyn FnMut()) {
        install();
    }
}

fn served(group: &str) {
    for name in names(group) {
        let answers = json(group, &format!("{name}.json"));
        let copy = Copy::of(group, &name);
        let storage = copy.open_read_only(&name);
        assert!(storage.is_read_only());
        check(&storage, &answers, &format!("{name}, read-only"));
        drop(storage);
        assert_eq!(copy.files(), ["Data.fs"], "{name}: a reader leaves nothing");
        let storage = copy.open(&name);
        check(&storage, &answers, &name);
        storage.close().expect("close");
        let storage = copy.open(&name);
        check(&storage, &answers, &format!("{name}, with the index just written"));
        storage.close().expect("close");
        let served = copy.read("Data.fs").expect("still there");
        let original = bytes(group, &format!("{name}.fs"));
        assert!(served == original || original.is_empty(), "{name}: serving does not change the file");
    }
}

#[test]
fn histories_are_served() {
    served("histories");
}

#[test]
fn odd_files_are_served() {
    served("odd");
}

#[test]
fn histories_are_served_with_python_s_index() {
    for name in names("histories") {
        let copy = Copy::of("histories", &name);
        copy.write("Data.fs.index", &bytes("histories", &format!("{name}.fs.index")));
        let storage = copy.open(&name);
        check(&storage, &json("histories", &format!("{name}.json")), &format!("{name}, with Python's index"));
    }
}

/// Python takes an index as it is, so it has to be the one that Python would write.
#[test]
fn the_index_made_by_a_scan_is_python_s() {
    for name in names("histories") {
        let copy = Copy::of("histories", &name);
        copy.open(&name).close().expect("close");
        let index = copy.read("Data.fs.index").expect("an index");
        assert!(index == bytes("histories", &format!("{name}.fs.index")), "index of {name}");
    }
}

/// An empty file becomes a data file, as Python makes it one.
#[test]
fn a_file_without_bytes_gets_its_magic() {
    let copy = Copy::of("odd", "zero_bytes");
    copy.open("zero_bytes").close().expect("close");
    assert_eq!(copy.read("Data.fs").expect("still there"), b"FS30");
}

/// Otherwise old clients would take new transactions for old ones.
#[test]
fn tids_go_on_from_a_last_one_in_the_future() {
    let copy = Copy::of("histories", "future");
    let storage = copy.open("future");
    let last = storage.last_transaction();
    let mut commit = std::sync::Arc::clone(&storage).begin(Begin::default()).expect("begin");
    commit.vote().expect("vote");
    assert_eq!(commit.finish(&mut Direct).expect("finish"), Tid(last.0 + 1));
}
