//! Puts to a storage the questions that Python's was asked, and compares the answers.

use std::sync::Arc;

use serde_json::Value;
use zeolite::ids::Oid;
use zeolite::storage::{Result, Storage, StorageError, TransactionSummary};

use crate::fixtures::{data, list, oid, some_data, some_tid, tid};

/// Asserts that `storage` answers as the JSON beside the fixture says.
pub fn check(storage: &Arc<dyn Storage>, answers: &Value, context: &str) {
    assert_eq!(storage.last_transaction(), tid(&answers["last"]), "{context}: last transaction");
    assert_eq!(Some(storage.len()), answers["len"].as_u64(), "{context}: length");
    assert_eq!(Some(storage.size()), answers["size"].as_u64(), "{context}: size");
    for (name, object) in answers["objects"].as_object().expect("objects") {
        let id = oid(&Value::String(name.clone()));
        check_object(storage.as_ref(), id, object, &format!("{context}: {id}"));
    }
    check_iteration(storage, list(&answers["iterate"]), context);
    check_undo_log(storage.as_ref(), list(&answers["undo_log"]), context);
    check_walk(storage.as_ref(), list(&answers["walk"]), context);
    check_invalidations(storage.as_ref(), list(&answers["invalidations"]), context);
}

/// An answer, or `None` when Python says that there is no such object or revision.
#[track_caller]
fn found<T>(result: Result<T>, context: &str) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(StorageError::NoSuchObject(_)) => None,
        Err(error) => panic!("{context}: {error}"),
    }
}

fn is_missing(answer: &Value) -> bool {
    answer == "missing"
}

fn check_object(storage: &dyn Storage, id: Oid, answers: &Value, context: &str) {
    let current = found(storage.current_tid(id), context);
    let expected = (!is_missing(&answers["current"])).then(|| tid(&answers["current"]));
    assert_eq!(current, expected, "{context}: current tid");
    for (bound, answer) in answers["before"].as_object().expect("before") {
        let context = format!("{context} before {bound}");
        let revision = found(storage.load_before(id, tid(&Value::String(bound.clone()))), &context);
        match answer {
            Value::Null => assert_eq!(revision, Some(None), "{context}"),
            answer if is_missing(answer) => assert_eq!(revision, None, "{context}"),
            answer => {
                let revision = revision.flatten().unwrap_or_else(|| panic!("{context}: nothing found"));
                assert_eq!((revision.tid, revision.end), (tid(&answer[1]), some_tid(&answer[2])), "{context}");
                assert!(revision.data == some_data(&answer[0]), "{context}: data");
            }
        }
    }
    for (serial, answer) in answers["serials"].as_object().expect("serials") {
        let context = format!("{context} serial {serial}");
        let record = found(storage.load_serial(id, tid(&Value::String(serial.clone()))), &context);
        let expected = if is_missing(answer) { None } else { data(answer) };
        assert!(record.as_deref() == expected.as_deref(), "{context}");
    }
    let history = storage.history(id, usize::MAX).unwrap_or_else(|error| panic!("{context}: history: {error}"));
    let expected = list(&answers["history"]);
    assert_eq!(history.len(), expected.len(), "{context}: history");
    for (entry, answer) in history.iter().zip(expected) {
        assert_eq!((entry.tid, Some(entry.size)), (tid(&answer[0]), answer[1].as_u64()), "{context}: history");
        assert!(entry.metadata.user == some_data(&answer[2]), "{context}: user in history");
        assert!(entry.metadata.description == some_data(&answer[3]), "{context}: description in history");
    }
}

fn check_summary(summary: &TransactionSummary, answer: &Value, context: &str) {
    assert_eq!(summary.tid, tid(&answer["tid"]), "{context}");
    assert_eq!(Some(char::from(summary.status).to_string().as_str()), answer["status"].as_str(), "{context}: status");
    assert!(summary.metadata.user == some_data(&answer["user"]), "{context}: user");
    assert!(summary.metadata.description == some_data(&answer["description"]), "{context}: description");
    assert!(summary.metadata.extension == some_data(&answer["extension"]), "{context}: extension");
}

fn check_iteration(storage: &Arc<dyn Storage>, answers: &[Value], context: &str) {
    let context = format!("{context}: iteration");
    let mut transactions = Arc::clone(storage).iterate(None, None).expect("iterate");
    for answer in answers {
        let next = transactions.next().unwrap_or_else(|error| panic!("{context}: {error}"));
        let (summary, mut records) = next.unwrap_or_else(|| panic!("{context} ends before {}", answer["tid"]));
        let context = format!("{context}: {}", summary.tid);
        check_summary(&summary, answer, &context);
        for answer in list(&answer["records"]) {
            let next = records.next().unwrap_or_else(|error| panic!("{context}: {error}"));
            let record = next.unwrap_or_else(|| panic!("{context}: no record {answer}"));
            assert_eq!((record.oid, record.tid), (oid(&answer[0]), tid(&answer[1])), "{context}");
            assert!(record.data.as_deref() == data(&answer[2]).as_deref(), "{context}: data of {}", record.oid);
            assert_eq!(record.data_txn, some_tid(&answer[3]), "{context}: data_txn of {}", record.oid);
        }
        assert_eq!(records.next().expect("the end"), None, "{context}");
    }
    assert!(transactions.next().expect("the end").is_none(), "{context}: more than Python has");
}

fn check_undo_log(storage: &dyn Storage, answers: &[Value], context: &str) {
    let entries = storage.undo_log(0, usize::MAX, &mut |_| true).expect("undo log");
    let entries: Vec<_> = entries.iter().map(|entry| (entry.tid, Some(entry.size))).collect();
    let expected: Vec<_> = answers.iter().map(|answer| (tid(&answer[0]), answer[1].as_u64())).collect();
    assert_eq!(entries, expected, "{context}: undo log");
}

fn check_walk(storage: &dyn Storage, answers: &[Value], context: &str) {
    let context = format!("{context}: walk");
    let mut next = None;
    for answer in answers {
        let step = found(storage.record_iternext(next), &context);
        if is_missing(&answer[1]) {
            assert_eq!(step, None, "{context} at the deleted {}", answer[0]);
            return;
        }
        let record = step.flatten().unwrap_or_else(|| panic!("{context} ends before {}", answer[0]));
        assert_eq!((record.oid, record.tid), (oid(&answer[0]), tid(&answer[1])), "{context}");
        assert!(record.data == some_data(&answer[2]), "{context}: data of {}", record.oid);
        next = record.next;
    }
    if answers.is_empty() {
        assert_eq!(storage.record_iternext(None).expect("walk"), None, "{context}");
    }
    assert_eq!(next, None, "{context}: more than Python has");
}

fn check_invalidations(storage: &dyn Storage, answers: &[Value], context: &str) {
    let invalidations = storage.last_invalidations(5).expect("invalidations").expect("a file can tell");
    let expected: Vec<_> =
        answers.iter().map(|answer| (tid(&answer[0]), list(&answer[1]).iter().map(oid).collect::<Vec<_>>())).collect();
    assert_eq!(invalidations, expected, "{context}: invalidations");
}
