//! References in object records, beside those that Python finds.

use std::collections::BTreeMap;

use serde_json::Value;
use zeolite::pickle::references::ReferenceScanner;

use crate::fixtures::{json, list, oid, some_data};

#[test]
fn references_are_those_that_python_finds() {
    let answers: BTreeMap<String, Value> = serde_json::from_value(json("records", "references.json")).expect("a dict");
    assert!(answers.len() > 500, "only {} records", answers.len());
    let mut scanner = ReferenceScanner::default();
    for (name, answer) in answers {
        let mut found = Vec::new();
        let outcome = scanner.scan(&some_data(&answer["record"]), |oid| found.push(oid));
        if answer["references"].is_null() {
            assert!(outcome.is_err(), "{name}: found {found:?}");
            continue;
        }
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected: Vec<_> = list(&answer["references"]).iter().map(oid).collect();
        assert_eq!(found, expected, "{name}");
    }
}
