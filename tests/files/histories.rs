//! The same history gives the same bytes.

use std::sync::Arc;

use serde_json::Value;
use zeolite::storage::{Begin, Commit, Metadata, Result, Storage};

use crate::fixtures::{Copy, bytes, data, json, list, names, oid, some_data, some_tid, tid};
use crate::odd::Direct;

fn begin(storage: &Arc<dyn Storage>, entry: &Value) -> Box<dyn Commit> {
    let metadata = Metadata {
        user: some_data(&entry["user"]).into(),
        description: some_data(&entry["description"]).into(),
        extension: some_data(&entry["extension"]).into(),
    };
    let status = entry["status"].as_str().expect("a status").as_bytes()[0];
    Arc::clone(storage).begin(Begin { metadata, copied: Some((tid(&entry["tid"]), status)) }).expect("begin")
}

fn step(commit: &mut dyn Commit, step: &Value) -> Result<()> {
    match step[0].as_str().expect("a name") {
        "store" => commit.store(oid(&step[1]), tid(&step[2]), &some_data(&step[3])),
        "delete" => commit.delete(oid(&step[1]), tid(&step[2])),
        "restore" => commit.restore(oid(&step[1]), tid(&step[2]), data(&step[3]).as_deref(), some_tid(&step[4])),
        "undo" => commit.undo(tid(&step[1])).map(drop),
        other => panic!("no such step: {other}"),
    }
}

fn play(storage: &Arc<dyn Storage>, entry: &Value, context: &str) {
    let context = format!("{context}: {}", entry["tid"]);
    let mut commit = begin(storage, entry);
    let outcome = list(&entry["steps"]).iter().try_for_each(|one| step(commit.as_mut(), one));
    let end = entry["end"].as_str().expect("an end");
    if end == "refused" {
        assert!(outcome.is_err(), "{context}: Python refuses this");
        return;
    }
    if let Err(error) = outcome {
        panic!("{context}: {error}");
    }
    if end == "abort" {
        return;
    }
    commit.vote().unwrap_or_else(|error| panic!("{context}: {error}"));
    match end {
        "abort-voted" => {}
        "finish" => {
            commit.finish(&mut Direct).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        other => panic!("{context}: no such end: {other}"),
    }
}

/// Where two byte strings part.
fn difference(ours: &[u8], python: &[u8]) -> Option<usize> {
    let common = ours.iter().zip(python).position(|(a, b)| a != b);
    common.or_else(|| (ours.len() != python.len()).then(|| ours.len().min(python.len())))
}

fn same_bytes(name: &str) {
    let script = json("histories", &format!("{name}.script.json"));
    let copy = Copy::empty();
    let storage = copy.open(name);
    for entry in list(&script) {
        play(&storage, entry, name);
    }
    storage.close().expect("close");
    for (file, fixture) in [("Data.fs", format!("{name}.fs")), ("Data.fs.index", format!("{name}.fs.index"))] {
        let ours = copy.read(file).unwrap_or_else(|| panic!("{name}: no {file}"));
        let part = difference(&ours, &bytes("histories", &fixture));
        assert_eq!(part, None, "{name}: {file} differs from Python's at this position");
    }
}

#[test]
fn hand_written_histories_give_the_same_bytes() {
    names("histories").iter().filter(|name| !name.starts_with("random")).for_each(|name| same_bytes(name));
}

#[test]
fn random_histories_give_the_same_bytes() {
    names("histories").iter().filter(|name| name.starts_with("random")).for_each(|name| same_bytes(name));
}

/// A process that stops and starts between any two transactions writes the same.
#[test]
fn histories_interrupted_by_restarts_give_the_same_bytes() {
    for name in ["undos", "restores", "deletes", "same_oid_twice", "many_oids"] {
        let script = json("histories", &format!("{name}.script.json"));
        let copy = Copy::empty();
        for (number, entry) in list(&script).iter().enumerate() {
            let storage = copy.open(name);
            play(&storage, entry, name);
            if number % 2 == 0 {
                storage.close().expect("close");
            }
        }
        let ours = copy.read("Data.fs").expect("a data file");
        assert_eq!(difference(&ours, &bytes("histories", &format!("{name}.fs"))), None, "{name}");
    }
}
