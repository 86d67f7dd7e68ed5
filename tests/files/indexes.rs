//! Index files of every generation, and unusable ones.

use crate::answers::check;
use crate::fixtures::{Copy, bytes, json};

/// Whatever the index file is, the answers are the same; only the time to start differs.
#[test]
fn every_index_serves_the_same() {
    let answers = json("indexes", "data.json");
    let variants = json("indexes", "variants.json");
    for name in variants.as_object().expect("variants").keys() {
        let copy = Copy::of("indexes", "data");
        copy.write("Data.fs.index", &bytes("indexes", &format!("{name}.index")));
        let storage = copy.open_read_only(name);
        check(&storage, &answers, &format!("{name}, read-only"));
        drop(storage);
        assert_eq!(copy.read("Data.fs.index").expect("still there"), bytes("indexes", &format!("{name}.index")));
        let storage = copy.open(name);
        check(&storage, &answers, name);
        storage.close().expect("close");
        assert!(
            copy.read("Data.fs.index").expect("an index") == bytes("indexes", "data.fs.index"),
            "{name}: Python's own index afterwards"
        );
    }
}

/// The index of a newer copy of the data file, next to an older one.
#[test]
fn an_index_of_another_file_is_ignored() {
    let copy = Copy::of("histories", "plain");
    copy.write("Data.fs.index", &bytes("indexes", "data.fs.index"));
    let storage = copy.open("plain");
    check(&storage, &json("histories", "plain.json"), "plain, with the index of another file");
}
