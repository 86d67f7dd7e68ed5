//! Against vectors recorded from Python (`fixtures/wire/record.py`), and against hostile bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::dialect::{Dialect, Encoding};
use super::fault::{Collision, Fault, UndoRefusal};
use super::frame::{self, FrameError};
use super::mac::SessionKey;
use super::message::{MessageError, Request};
use super::msgpack::MsgpackError;
use crate::ids::{Oid, Tid};
use crate::pickle::tests::{opcodes, unhex, values};
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

const DIALECTS: [Dialect; 2] = [Dialect::five(Encoding::Pickle), Dialect::five(Encoding::Msgpack)];

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
    let (rest, end) = hex.split_at(hex.len().saturating_sub(200));
    format!("{}..{}..{end}", &rest[..200], frame.len())
}

fn of_oid(oid: Oid) -> Value {
    Value::bytes(&oid.to_bytes())
}

fn of_tid(tid: Tid) -> Value {
    Value::bytes(&tid.to_bytes())
}

fn fault(name: &str) -> Fault {
    let collision = || Collision { oid: OID, class_name: None, committed: TID, read: OLD_TID };
    let undo = || UndoRefusal { oid: Some(OID), reason: "not undoable".into() };
    let bare_undo = || UndoRefusal { oid: None, reason: "too late".into() };
    match name {
        "pos-key" => Fault::PosKey(OID),
        "no-blob-file" => Fault::NoBlobFile { path: "/a/b".into(), oid: OID, serial: TID },
        "conflict" => Fault::Conflict(collision()),
        "conflict-class" => Fault::Conflict(Collision { class_name: Some("module.name.Class".into()), ..collision() }),
        "read-conflict" => Fault::ReadConflict(collision()),
        "btrees-conflict" => Fault::BTreesConflict { p1: -1, p2: 2, p3: 300, reason: 11 },
        "read-only" => Fault::ReadOnly,
        "wrong-transaction" => Fault::WrongTransaction { current: Value::None, given: Value::Int(139_862_373_246_928) },
        "storage-transaction" => Fault::StorageTransaction("Already voting (locked)".into()),
        "undo" => Fault::Undo(undo()),
        "undo-bare" => Fault::Undo(bare_undo()),
        "multiple-undo" => Fault::MultipleUndo(vec![(OID, undo()), (OTHER_OID, bare_undo())]),
        "storage-system" => Fault::StorageSystem("broken".into()),
        "file-storage" => Fault::FileStorage("Already packing".into()),
        "quota" => Fault::FileStorageQuota("The storage quota has been exceeded.".into()),
        "corrupted" => Fault::Corrupted("Tids out of order.".into()),
        "unsupported" => Fault::Unsupported("no".into()),
        "key" => Fault::Key(Value::Int(5)),
        "unknown-storage" => Fault::unknown_storage("2"),
        "type" => Fault::Type("few arguments".into()),
        "attribute" => Fault::Attribute("no such method".into()),
        "assertion" => Fault::Assertion(None),
        "assertion-text" => Fault::Assertion(Some("no".into())),
        "os" => Fault::Os { errno: 28, message: "No space left on device".into() },
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
            |_| Value::from_le_bytes(&argument.parse::<i128>().unwrap().to_le_bytes().to_vec().into()),
            Value::Int,
        ),
        "float" => Value::Float(argument.parse().unwrap()),
        "bytes" => Value::bytes(&vec![0xfe; length()]),
        "text" => Value::text(&"t".repeat(length())),
        "tuple" => Value::Tuple(sevens()),
        "list" => Value::List(sevens()),
        "dict" => {
            Value::Dict((0..i64::try_from(length()).unwrap()).map(|key| (Value::Int(key), Value::Int(7))).collect())
        }
        other => panic!("unknown result in vector: {other}"),
    }
}

#[test]
fn frames_as_python_sends_them() {
    let mut count = 0;
    for line in MESSAGES.lines() {
        let [letter, what, expected] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("vector: {line}") };
        let dialect = dialect(letter);
        let mut out = Vec::new();
        let five = Value::Int(5);
        let load_id = Value::Tuple(vec![of_oid(OID), of_tid(TID)]);
        match what.split_once(':') {
            Some(("fault", name)) => dialect.put_fault(&mut out, &five, &fault(name)),
            Some(("reply", description)) => dialect.put_reply(&mut out, &five, &result(description)),
            Some(("call", "invalidateTransaction")) => dialect.put_call(
                &mut out,
                "invalidateTransaction",
                &[of_tid(TID), Value::List(vec![of_oid(OID), of_oid(OTHER_OID)])],
            ),
            Some(("call", "info")) => {
                let info = [("length", 5), ("size", 1_234_567)];
                let info = info.map(|(key, value)| (Value::text(key), Value::Int(value)));
                dialect.put_call(&mut out, "info", &[Value::Dict(info.into())]);
            }
            None if what == "load" => dialect.put_load_reply(&mut out, &load_id, b"data", OLD_TID, Some(TID)),
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
        let [letter, body, expected] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("vector: {line}") };
        let dialect = dialect(letter);
        let request = dialect.decode(unhex(body)).unwrap();
        assert!(request.is_async && !request.is_keep_alive());
        assert_eq!(request.method, "tpc_begin");
        assert_eq!(request.args.len(), 6);
        let extension = dialect.dump_extension(&request.args[3]);
        assert_eq!(hex(&extension), expected, "{request:?}");
        count += 1;
    }
    assert!(count > 300, "only {count} vectors");
}

/// What the decoder makes of a whole message is written back as it came: clients write as we do.
#[test]
fn requests_are_written_back_as_they_came() {
    for line in EXTENSIONS.lines().filter(|line| line.starts_with("Z ")) {
        let body = unhex(line.split(' ').nth(1).unwrap());
        let mut out = Vec::new();
        pickle::write(&pickle::read(&body).unwrap(), &mut out);
        assert_eq!(hex(&out), hex(&body));
    }
}

#[test]
fn keep_alives_and_opaque_ids() {
    let decode = |dialect: Dialect, body: &'static [u8]| dialect.decode(Bytes::from_static(body)).unwrap();
    let [pickle, msgpack] = DIALECTS;
    for keep_alive in [
        decode(pickle, b"\x80\x03(J\xff\xff\xff\xffK\x00X\x06\0\0\0.replyNt."),
        decode(pickle, b"(J\xff\xff\xff\xffK\x00U\x06.replyNt."),
        decode(msgpack, b"\x94\xff\x00\xa6.reply\xc0"),
    ] {
        assert!(keep_alive.is_keep_alive());
        assert_eq!(keep_alive.args, []);
    }
    // The oid and tid of a load; both encodings, and names as bytes from Python 2.
    let load = decode(pickle, b"\x80\x03(C\x01oC\x01t\x86\x89X\x0a\0\0\0loadBeforeC\x01oC\x01t\x86t.");
    let o_t = || vec![Value::bytes(b"o"), Value::bytes(b"t")];
    let expected = Request {
        id: Value::Tuple(o_t()),
        is_async: false,
        method: Bytes::from_static(b"loadBefore"),
        args: o_t(),
        python: pickle::Python::Three,
    };
    assert_eq!(load, expected);
    assert_eq!(decode(msgpack, b"\x94\x92\xc4\x01o\xc4\x01t\xc2\xc4\x0aloadBefore\x92\xc4\x01o\xc4\x01t"), expected);
}

#[test]
fn what_is_no_request_is_refused() {
    let [pickle, msgpack] = DIALECTS;
    for body in
        [&b"N."[..], b")\x85.", b"(K\x01K\x00X\x01\0\0\0aNt.", b"(K\x01NX\x01\0\0\0a)t.", b"(K\x01K\x00K\x00)t."]
    {
        assert_eq!(pickle.decode(Bytes::from_static(body)), Err(MessageError::Shape), "{body:?}");
    }
    for body in [
        &b"\xc0"[..],
        b"\x93\x01\x00\xa1a",
        b"\x94\x01\x00\xa1a\xc0",
        b"\x94\x01\xc0\xa1a\x90",
        b"\x94\x01\x00\x05\x90",
    ] {
        assert_eq!(msgpack.decode(Bytes::from_static(body)), Err(MessageError::Shape), "{body:?}");
    }
    // No names but those that honest clients use for data, though the original takes all builtins.
    for global in
        ["os\nsystem", "builtins\neval", "__builtin__\ngetattr", "copy_reg\n__newobj__", "ZODB.POSException\n_recon"]
    {
        let body = format!("(K\x01K\x00X\x01\0\0\0ac{global}\n\u{5}t.");
        assert!(matches!(pickle.decode(body.into()), Err(MessageError::Pickle(PickleError::Global(_)))), "{global}");
    }
    for body in [&b""[..], b"\x94\x01", b"\xdd\xff\xff\xff\xff\x01", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"] {
        assert!(matches!(msgpack.decode(Bytes::from_static(body)), Err(MessageError::Msgpack(_))), "{body:?}");
    }
    for body in [&b"\xc1"[..], b"\xd4\x01\x01", b"\xc7\x00\x01", b"\xa1\xff", b"\x81\x01\x01", b"\xc0\xc0"] {
        assert!(matches!(msgpack.decode(Bytes::from_static(body)), Err(MessageError::Msgpack(_))), "{body:?}");
    }
}

#[test]
fn size_and_depth_of_messages_are_limited() {
    let [pickle, msgpack] = DIALECTS;
    for body in [b"N".repeat(300_000), [b"(N".to_vec(), b"2".repeat(300_000)].concat()] {
        assert_eq!(pickle.decode(body.into()), Err(MessageError::Pickle(PickleError::TooMany)));
    }
    let deep = [b")".to_vec(), b"\x85".repeat(1000), b".".to_vec()].concat();
    assert_eq!(pickle.decode(deep.into()), Err(MessageError::Pickle(PickleError::TooDeep)));
    let wide = [b"\xdd\xff\xff\xff\xff".to_vec(), b"\xc0".repeat(300_000)].concat();
    assert_eq!(msgpack.decode(wide.into()), Err(MessageError::Msgpack(MsgpackError::TooMany)));
    for deep in [b"\x91".repeat(1_000_000), b"\x81\xa0".repeat(1_000_000)] {
        assert_eq!(msgpack.decode(deep.into()), Err(MessageError::Msgpack(MsgpackError::TooDeep)));
    }
}

/// What the original's server says when it cannot encode a result, in the original's words.
#[test]
fn what_cannot_be_encoded_becomes_an_error() {
    let [pickle, msgpack] = DIALECTS;
    let id = Value::Int(7);
    for result in [
        Value::global("m", "C"),
        Value::from_le_bytes(&Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 1])),
        Value::Text(Bytes::from_static(b"\xed\xa0\x80")),
        Value::List(vec![Value::call(Value::global("m", "C"), vec![])]),
    ] {
        let (mut got, mut expected) = (b"before".to_vec(), b"before".to_vec());
        msgpack.put_reply(&mut got, &id, &result);
        msgpack.put_fault(&mut expected, &id, &Fault::Value("Couldn't pickle response".into()));
        assert_eq!(got, expected);
        let mut out = Vec::new();
        pickle.put_reply(&mut out, &id, &result);
        assert!(!contains(&out, b"ValueError"), "pickles can express {result:?}");
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn frames_are_cut_from_the_stream() {
    let mut stream = Vec::new();
    for body in [&b"one"[..], b"", b"three"] {
        assert!(frame::put(&mut stream, |out| out.extend(body)));
    }
    // However the bytes come in.
    for step in 1..=stream.len() {
        let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
        for chunk in stream.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(body) = frame::take(&mut buffer, 5).unwrap() {
                got.push(body);
            }
        }
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
        assert!(buffer.is_empty());
    }
}

#[test]
fn long_frames_are_refused_before_they_arrive() {
    let take = |length: u32, limit| frame::take(&mut length.to_be_bytes()[..].into(), limit);
    assert_eq!(take(5, 5), Ok(None));
    assert_eq!(take(6, 5), Err(FrameError::TooLong { length: 6, limit: 5 }));
    assert_eq!(take(0x8000_0005, frame::LIMIT), Err(FrameError::UnexpectedMac));
    let mut buffer = BytesMut::from(&0x3fff_ffff_u32.to_be_bytes()[..]);
    assert_eq!(frame::take(&mut buffer, frame::LIMIT), Ok(None));
    assert!(buffer.capacity() < 1024, "room was made for bytes that have not come");
}

#[test]
fn sealed_frames_are_taken_as_they_were_sealed() {
    let key = SessionKey::new(&[b'a'; 40], "nonce");
    let (mut stream, mut mac) = (b"before".to_vec(), key.running_mac());
    for bodies in [&[&b"one"[..], b""][..], &[b"three"]] {
        let start = stream.len();
        for body in bodies {
            assert!(frame::put(&mut stream, |out| out.extend_from_slice(body)));
        }
        frame::seal(&mut stream, start, &mut mac);
    }
    let sealed = stream.strip_prefix(b"before").expect("what was queued before stays as it is");
    for step in 1..=sealed.len() {
        let (mut buffer, mut got, mut mac) = (BytesMut::new(), Vec::new(), key.running_mac());
        for chunk in sealed.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(body) = frame::take_sealed(&mut buffer, 5, &mut mac).unwrap() {
                got.push(body);
            }
        }
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
    }
    let take = |bytes: &[u8], limit| frame::take_sealed(&mut bytes.into(), limit, &mut key.running_mac());
    assert_eq!(take(&sealed[1..], 5).unwrap_err(), FrameError::NoMac);
    assert_eq!(take(sealed, 2).unwrap_err(), FrameError::TooLong { length: 3, limit: 2 });
    for place in 4..27 {
        let mut spoilt = sealed.to_vec();
        spoilt[place] ^= 1;
        assert_eq!(take(&spoilt, 5).unwrap_err(), FrameError::WrongMac, "{place}");
    }
}

#[test]
fn integers_of_msgpack() {
    for (packed, expected) in [
        (&b"\x7f"[..], Value::Int(127)),
        (b"\xe0", Value::Int(-32)),
        (b"\xcc\xff", Value::Int(255)),
        (b"\xcd\xff\xff", Value::Int(65535)),
        (b"\xce\xff\xff\xff\xff", Value::Int(0xffff_ffff)),
        (b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", Value::Int(i64::MAX)),
        (b"\xd0\x80", Value::Int(-128)),
        (b"\xd1\x80\x00", Value::Int(-32768)),
        (b"\xd2\x80\x00\x00\x00", Value::Int(i32::MIN.into())),
        (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", Value::Int(i64::MIN)),
        (b"\xca\x3f\xc0\x00\x00", Value::Float(1.5)),
    ] {
        let body = [b"\x94\x01\x00\xa1a\x91", packed].concat();
        assert_eq!(DIALECTS[1].decode(body.into()).unwrap().args, [expected], "{packed:?}");
    }
}

/// What msgpack gives back of a value: arrays are tuples, and keys are text or bytes.
fn packable(value: Value) -> Value {
    match value {
        Value::BigInt(_) => Value::from_le_bytes(&Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0])),
        Value::Tuple(items) | Value::List(items) => Value::Tuple(items.into_iter().map(packable).collect()),
        Value::Dict(pairs) => Value::Dict(
            pairs
                .into_iter()
                .map(|(key, value)| match key {
                    Value::Int(int) => (Value::bytes(&int.to_be_bytes()), packable(value)),
                    key => (key, packable(value)),
                })
                .collect(),
        ),
        value => value,
    }
}

proptest! {
    #[test]
    fn requests_round_trip(value in values()) {
        let value = packable(value);
        for dialect in DIALECTS {
            let mut out = Vec::new();
            dialect.put_call(&mut out, "method", std::slice::from_ref(&value));
            let body = frame::take(&mut BytesMut::from(&out[..]), frame::LIMIT).unwrap().unwrap();
            let request = dialect.decode(body).unwrap();
            prop_assert_eq!(request.args, vec![value.clone()]);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(data in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), opcodes()]) {
        decode_all(&data);
    }

    #[test]
    fn spoilt_messages_are_decoded_or_refused(
        vector in prop::sample::select(EXTENSIONS.lines().filter(|line| line.len() < 4000).collect::<Vec<_>>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = unhex(vector.split(' ').nth(1).unwrap()).to_vec();
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        decode_all(&body);
        decode_all(&body[..cut.index(body.len())]);
    }
}

/// Decodes in every way, and uses what comes out.
fn decode_all(data: &[u8]) {
    for dialect in DIALECTS {
        let Ok(request) = dialect.decode(Bytes::copy_from_slice(data)) else {
            continue;
        };
        for arg in &request.args {
            dialect.dump_extension(arg);
            arg.as_prefix();
            dialect.put_reply(&mut Vec::new(), &request.id, arg);
        }
    }
    super::handshake::answer(data);
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(_)) = frame::take(&mut buffer, 1000) {}
}
