//! Data files after a crash or worse.

use zeolite::storage::StorageError;

use crate::answers::check;
use crate::fixtures::{Copy, bytes, data, json, names};

/// The tails that are cut off, with Python's answers about what is before them.
fn tails() -> impl Iterator<Item = (String, serde_json::Value)> {
    let all = names("damaged").into_iter().map(|name| {
        let answers = json("damaged", &format!("{name}.json"));
        (name, answers)
    });
    all.filter(|(_, answers)| answers.get("repaired").is_some())
}

#[test]
fn a_damaged_tail_is_cut_off_and_kept() {
    for (name, answers) in tails() {
        let copy = Copy::of("damaged", &name);
        let storage = copy.open(&name);
        check(&storage, &answers, &name);
        let size = copy.read("Data.fs").expect("still there").len();
        assert_eq!(Some(size as u64), answers["repaired"]["size"].as_u64(), "{name}: size of the data file");
        assert!(copy.read("Data.fs.tr0") == data(&answers["repaired"]["tr0"]), "{name}: what was cut off");
        storage.close().expect("close");
        let storage = copy.open(&name);
        check(&storage, &answers, &format!("{name}, opened again"));
        assert_eq!(copy.read("Data.fs.tr1"), None, "{name}: nothing is cut off twice");
    }
}

#[test]
fn a_second_damage_does_not_replace_what_was_kept() {
    let copy = Copy::of("damaged", "voted");
    copy.open("voted").close().expect("close");
    let first = copy.read("Data.fs.tr0").expect("kept");
    copy.write("Data.fs", &bytes("damaged", "zeros.fs"));
    copy.open("zeros").close().expect("close");
    assert_eq!(copy.read("Data.fs.tr0").expect("still there"), first);
    assert_eq!(copy.read("Data.fs.tr1").expect("kept"), [0; 100]);
}

#[test]
fn a_reader_looks_past_a_damaged_tail_and_leaves_it() {
    for (name, answers) in tails() {
        let copy = Copy::of("damaged", &name);
        let storage = copy.open_read_only(&name);
        check(&storage, &answers, &format!("{name}, read-only"));
        assert_eq!(copy.files(), ["Data.fs"], "{name}: a reader leaves nothing");
        assert!(copy.read("Data.fs").expect("still there") == bytes("damaged", &format!("{name}.fs")), "{name}");
    }
}

#[test]
fn what_is_damaged_in_the_middle_is_refused_and_not_touched() {
    let mut refused = 0;
    for name in names("damaged") {
        let answers = json("damaged", &format!("{name}.json"));
        let Some(kind) = answers.get("error") else {
            continue;
        };
        refused += 1;
        let copy = Copy::of("damaged", &name);
        for (opened, how) in [(copy.try_open_read_only(), "read-only"), (copy.try_open(), "for writing")] {
            match opened {
                Err(StorageError::Format { path, .. }) if kind == "format" => assert_eq!(path, copy.path("Data.fs")),
                Err(StorageError::Corrupted { path, .. }) if kind == "corrupted" => {
                    assert_eq!(path, copy.path("Data.fs"));
                }
                Err(other) => panic!("{name}, opened {how}: expected kind {kind}, got {other:?}"),
                Ok(_) => panic!("{name} was opened {how}"),
            }
        }
        assert!(copy.read("Data.fs").expect("still there") == bytes("damaged", &format!("{name}.fs")), "{name}");
        assert_eq!(copy.read("Data.fs.tr0"), None, "{name}");
    }
    assert!(refused > 0);
}
