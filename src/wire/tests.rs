//! Against vectors recorded from Python (`fixtures/wire/record.py`), and against hostile bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::dialect::{Dialect, Encoding};
use super::fault::{Collision, Fault, UndoRefusal};
use super::frame::{self, FrameError};
use super::message::{MessageError, Request};
use crate::ids::{Oid, Tid};
use crate::pickle::{self, PickleError, Value};

const MESSAGES: &str = include_str!("../../fixtures/wire/messages.txt");
const EXTENSIONS: &str = include_str!("../../fixtures/wire/extensions.txt");

const OID: Oid = Oid(0x1a7);
const OTHER_OID: Oid = Oid(0x1a8);
const TID: Tid = Tid(0x040d_2553_e444_4444);
const OLD_TID: Tid = Tid(0x040d_2553_e444_4400);

fn dialect(letter: &str) -> Dialect {
    Dialect::five(match letter {
        "Z" => Encoding::Pickle,
        "M" => Encoding::Msgpack,
        other => panic!("unknown encoding in vector: {other}"),
    })
}

const DIALECTS: [Dialect; 2] = [
    Dialect::five(Encoding::Pickle),
    Dialect::five(Encoding::Msgpack),
];

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd number of hex digits");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Long frames are recorded as their beginning, their length and their end.
fn abridged(frame: &[u8]) -> String {
    let hex = hex(frame);
    if hex.len() <= 4000 {
        return hex;
    }
    format!(
        "{}..{}..{}",
        &hex[..200],
        frame.len(),
        &hex[hex.len() - 200..]
    )
}

fn of_oid(oid: Oid) -> Value {
    Value::bytes(&oid.to_bytes())
}

fn of_tid(tid: Tid) -> Value {
    Value::bytes(&tid.to_bytes())
}

fn fault(name: &str) -> Fault {
    let collision = || Collision {
        oid: OID,
        class_name: None,
        committed: TID,
        read: OLD_TID,
    };
    let undo = || UndoRefusal {
        oid: Some(OID),
        reason: "not undoable".into(),
    };
    let bare_undo = || UndoRefusal {
        oid: None,
        reason: "too late".into(),
    };
    match name {
        "pos-key" => Fault::PosKey(OID),
        "no-blob-file" => Fault::NoBlobFile {
            path: "/a/b".into(),
            oid: OID,
            serial: TID,
        },
        "conflict" => Fault::Conflict(collision()),
        "conflict-class" => Fault::Conflict(Collision {
            class_name: Some("module.name.Class".into()),
            ..collision()
        }),
        "read-conflict" => Fault::ReadConflict(collision()),
        "btrees-conflict" => Fault::BTreesConflict {
            p1: -1,
            p2: 2,
            p3: 300,
            reason: 11,
        },
        "read-only" => Fault::ReadOnly,
        "wrong-transaction" => Fault::WrongTransaction {
            current: Value::None,
            given: Value::Int(139_862_373_246_928),
        },
        "storage-transaction" => Fault::StorageTransaction("Already voting (locked)".into()),
        "undo" => Fault::Undo(undo()),
        "undo-bare" => Fault::Undo(bare_undo()),
        "multiple-undo" => Fault::MultipleUndo(vec![(OID, undo()), (OTHER_OID, bare_undo())]),
        "storage-system" => Fault::StorageSystem("broken".into()),
        "file-storage" => Fault::FileStorage("Already packing".into()),
        "quota" => Fault::FileStorageQuota("The storage quota has been exceeded.".into()),
        "corrupted" => Fault::Corrupted("Tids out of order.".into()),
        "storage-server" => Fault::StorageServer("Versions aren't supported.".into()),
        "unsupported" => Fault::Unsupported("no".into()),
        "key" => Fault::Key(Value::Int(5)),
        "unknown-storage" => Fault::unknown_storage("2"),
        "type" => Fault::Type("few arguments".into()),
        "attribute" => Fault::Attribute("no such method".into()),
        "assertion" => Fault::Assertion(None),
        "assertion-text" => Fault::Assertion(Some("no".into())),
        "not-implemented" => Fault::NotImplemented,
        "os" => Fault::Os {
            errno: 28,
            message: "No space left on device".into(),
        },
        "other" => Fault::Other("strange".into()),
        other => panic!("unknown fault in vector: {other}"),
    }
}

fn result(description: &str) -> Value {
    let Some((kind, argument)) = description.split_once(':') else {
        return match description {
            "none" => Value::None,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            other => panic!("unknown result in vector: {other}"),
        };
    };
    let length = || argument.parse::<usize>().unwrap();
    let sevens = || vec![Value::Int(7); length()];
    match kind {
        "int" => argument.parse().map_or_else(
            |_| {
                Value::from_le_bytes(
                    &argument
                        .parse::<i128>()
                        .unwrap()
                        .to_le_bytes()
                        .to_vec()
                        .into(),
                )
            },
            Value::Int,
        ),
        "float" => Value::Float(argument.parse().unwrap()),
        "bytes" => Value::bytes(&vec![0xfe; length()]),
        "text" => Value::text(&"t".repeat(length())),
        "tuple" => Value::Tuple(sevens()),
        "list" => Value::List(sevens()),
        "dict" => Value::Dict(
            (0..i64::try_from(length()).unwrap())
                .map(|key| (Value::Int(key), Value::Int(7)))
                .collect(),
        ),
        other => panic!("unknown result in vector: {other}"),
    }
}

#[test]
fn frames_as_python_sends_them() {
    let mut count = 0;
    for line in MESSAGES.lines() {
        let [letter, what, expected] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("vector: {line}")
        };
        let dialect = dialect(letter);
        let mut out = Vec::new();
        let five = Value::Int(5);
        let load_id = Value::Tuple(vec![of_oid(OID), of_tid(TID)]);
        match what.split_once(':') {
            Some(("fault", name)) => dialect.put_fault(&mut out, &five, &fault(name)),
            Some(("reply", description)) => {
                dialect.put_reply(&mut out, &five, &result(description))
            }
            Some(("call", "invalidateTransaction")) => dialect.put_call(
                &mut out,
                "invalidateTransaction",
                &[
                    of_tid(TID),
                    Value::List(vec![of_oid(OID), of_oid(OTHER_OID)]),
                ],
            ),
            Some(("call", "info")) => {
                let info = [("length", 5), ("size", 1_234_567)];
                let info = info.map(|(key, value)| (Value::text(key), Value::Int(value)));
                dialect.put_call(&mut out, "info", &[Value::Dict(info.into())]);
            }
            None if what == "load" => {
                dialect.put_load_reply(&mut out, &load_id, b"data", OLD_TID, Some(TID))
            }
            None if what == "load-current" => {
                dialect.put_load_reply(&mut out, &load_id, &[b'd'; 300], OLD_TID, None);
            }
            _ => panic!("unknown vector: {what}"),
        }
        assert_eq!(abridged(&out), expected, "{letter} {what}");
        count += 1;
    }
    assert!(count > 200, "only {count} vectors");
}

#[test]
fn extensions_as_python_writes_them() {
    let mut count = 0;
    for line in EXTENSIONS.lines() {
        let [letter, body, expected] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("vector: {line}")
        };
        let dialect = dialect(letter);
        let request = dialect.decode(unhex(body).into()).unwrap();
        assert!(request.is_async && !request.is_keep_alive());
        assert_eq!(request.method, "tpc_begin");
        assert_eq!(request.args.len(), 6);
        let extension = dialect.dump_extension(&request.args[3]).unwrap();
        assert_eq!(hex(&extension), expected, "{request:?}");
        count += 1;
    }
    assert!(count > 300, "only {count} vectors");
}

/// What the decoder makes of a whole message is written back as it came: clients write as we do.
#[test]
fn requests_are_written_back_as_they_came() {
    for line in EXTENSIONS.lines().filter(|line| line.starts_with("Z ")) {
        let body = Bytes::from(unhex(line.split(' ').nth(1).unwrap()));
        let mut out = Vec::new();
        pickle::write(&pickle::read(&body).unwrap(), &mut out);
        assert_eq!(hex(&out), hex(&body));
    }
}
