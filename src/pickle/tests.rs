//! The reader and the writers against Python's pickles, against serde-pickle, and against hostile bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const PICKLES: &str = include_str!("../../fixtures/wire/pickles.txt");

/// Values that survive a round trip: all but strings of Python 2, which become text or bytes.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-70_000..70_000_i64).prop_map(Value::Int),
        prop::collection::vec(any::<u8>(), 9..300).prop_map(|bytes| Value::from_le_bytes(&bytes.into())),
        any::<f64>().prop_filter("NaN is not equal to itself", |float| !float.is_nan()).prop_map(Value::Float),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
        any::<String>().prop_map(|text| Value::text(&text)),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let key = prop_oneof![any::<String>().prop_map(|text| Value::text(&text)), any::<i64>().prop_map(Value::Int)];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Tuple),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((key, inner), 0..6).prop_map(|mut pairs| {
                pairs.sort_by_key(|(key, _)| format!("{key:?}"));
                pairs.dedup_by(|(one, _), (other, _)| one == other);
                Value::Dict(pairs)
            }),
        ]
    })
}

fn written(value: &Value) -> Bytes {
    let mut out = Vec::new();
    write(value, &mut out);
    out.into()
}

/// The value as serde-pickle has it.
fn foreign(value: &Value) -> serde_pickle::Value {
    use serde_pickle::Value as Foreign;
    let all = |items: &[Value]| items.iter().map(foreign).collect();
    match value {
        Value::None => Foreign::None,
        Value::Bool(bool) => Foreign::Bool(*bool),
        Value::Int(int) => Foreign::I64(*int),
        Value::BigInt(_) => panic!("compared apart"),
        Value::Float(float) => Foreign::F64(*float),
        Value::Bytes(bytes) => Foreign::Bytes(bytes.to_vec()),
        Value::Text(text) => Foreign::String(String::from_utf8(text.to_vec()).unwrap()),
        Value::Tuple(items) => Foreign::Tuple(all(items)),
        Value::List(items) => Foreign::List(all(items)),
        Value::Dict(pairs) => Foreign::Dict(
            pairs
                .iter()
                .map(|(key, value)| (foreign(key).into_hashable().unwrap(), foreign(value)))
                .collect::<BTreeMap<_, _>>(),
        ),
        Value::Native(_) | Value::Global(_) | Value::Object(_) => {
            panic!("not among the generated values")
        }
    }
}

fn has_big_int(value: &Value) -> bool {
    match value {
        Value::BigInt(_) => true,
        Value::Tuple(items) | Value::List(items) => items.iter().any(has_big_int),
        Value::Dict(pairs) => pairs.iter().any(|(_, value)| has_big_int(value)),
        _ => false,
    }
}

/// Bytes that are opcodes more often than chance would have it.
pub(crate) fn opcodes() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(
        b"(.0129FIJKLMNPQRSTUVXabcdeghijloprstuq}])BC\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x93\x94\x95\x96\n\0\x01".to_vec(),
    );
    prop::collection::vec(prop_oneof![4 => opcode, 1 => any::<u8>()], 0..200)
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in values()) {
        let pickle = written(&value);
        prop_assert_eq!(&read(&pickle).unwrap(), &value);
        let dumped = Bytes::from(dumps(&value).unwrap());
        prop_assert_eq!(&read(&dumped).unwrap(), &value);
        let interned = Bytes::from(dumps_interned(&value).unwrap());
        prop_assert_eq!(&read(&interned).unwrap(), &value);
    }

    #[test]
    fn serde_pickle_reads_what_is_written(value in values()) {
        prop_assume!(!has_big_int(&value));
        let expected = foreign(&value);
        for pickle in [written(&value).to_vec(), dumps(&value).unwrap(), dumps_interned(&value).unwrap()] {
            let got = serde_pickle::value_from_slice(&pickle, serde_pickle::DeOptions::new()).unwrap();
            prop_assert_eq!(&got, &expected);
        }
    }

    #[test]
    fn what_serde_pickle_writes_is_read(value in values()) {
        prop_assume!(!has_big_int(&value));
        for options in [serde_pickle::SerOptions::new(), serde_pickle::SerOptions::new().proto_v2()] {
            let pickle = serde_pickle::value_to_vec(&foreign(&value), options).unwrap();
            let got = read(&pickle.into()).unwrap();
            prop_assert_eq!(foreign(&got), foreign(&value));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(data in opcodes()) {
        let data = Bytes::from(data);
        if let Ok((value, used)) = read_prefix(&data) {
            prop_assert!(used <= data.len());
            let again = written(&value);
            // A tree that was read can be written, and read again.
            read(&again).unwrap();
            dumps(&value);
        }
        record::class_name(&data);
        record::is_blob_record(&data);
    }
}

/// The bytes of a vector.
pub(crate) fn unhex(text: &str) -> Bytes {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    assert!(odd.is_empty(), "odd number of hex digits");
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn pickles_of_all_protocols() {
    let mut count = 0;
    for line in PICKLES.lines() {
        let (pickle, plain) = line.split_once(' ').unwrap();
        let value = read(&unhex(pickle)).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(written(&value), unhex(plain), "{value:?}");
        count += 1;
    }
    assert!(count > 200, "only {count} vectors");
}

fn reads(pickle: &'static [u8]) -> Value {
    read(&Bytes::from_static(pickle)).unwrap()
}

fn refuses(pickle: impl Into<Bytes>) -> PickleError {
    read(&pickle.into()).unwrap_err()
}

fn native(text: &'static str) -> Value {
    Value::Native(Bytes::from_static(text.as_bytes()))
}

#[test]
fn strings_of_python_2_are_kept_apart() {
    assert_eq!(
        reads(b"(U\x01aT\x01\0\0\0bS'c\\x41\\n'\nS\"d'\"\nX\x01\0\0\0eVf\\u0041\nt."),
        Value::Tuple(vec![native("a"), native("b"), native("cA\n"), native("d'"), Value::text("e"), Value::text("fA")])
    );
    assert_eq!(written(&reads(b"U\x01\xff.")), b"\x80\x03C\x01\xff."[..]);
    assert_eq!(dumps(&reads(b"U\x01a.")).unwrap(), b"\x80\x03X\x01\0\0\0aq\0.");
    assert_eq!(dumps(&reads(b"U\x01\xff.")), None);
}

#[test]
fn bytes_that_are_spelled_as_calls() {
    assert_eq!(reads(b"c_codecs\nencode\n(X\x03\0\0\0a\xc3\xbfX\x06\0\0\0latin1tR."), Value::bytes(b"a\xff"));
    assert_eq!(reads(b"c__builtin__\nbytes\n)R."), Value::bytes(b""));
    assert_eq!(reads(b"czodbpickle\nbinary\n(U\x01\xfftR."), Value::bytes(b"\xff"));
    // Anything else remains a call, of which nobody makes anything.
    assert!(matches!(reads(b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0utf-8tR."), Value::Object(_)));
}

#[test]
fn sets_and_objects() {
    let set = |name| Value::call(Value::global("builtins", name), vec![Value::List(vec![Value::Int(1)])]);
    assert_eq!(reads(b"\x80\x04\x8f(K\x01\x90."), set("set"));
    assert_eq!(reads(b"\x80\x04(K\x01\x91."), set("frozenset"));
    assert_eq!(reads(b"cbuiltins\nset\n](K\x01e\x85R."), set("set"));
    let object = |bare, args, state| {
        let callable = Value::global("m", "C");
        Value::Object(Box::new(Object { callable, args: Value::Tuple(args), bare, state }))
    };
    let state = || Some(Value::Dict(vec![(native("a"), Value::Int(1))]));
    assert_eq!(reads(b"(cm\nC\no}U\x01aK\x01sb."), object(false, vec![], state()));
    assert_eq!(reads(b"(K\x05im\nC\n}U\x01aK\x01sb."), object(false, vec![Value::Int(5)], state()));
    assert_eq!(reads(b"cm\nC\n)\x81}U\x01aK\x01sb."), object(true, vec![], state()));
    assert_eq!(reads(b"\x80\x04\x8c\x01m\x8c\x01C\x93)R."), object(false, vec![], None));
}

#[test]
fn integers() {
    assert_eq!(reads(b"I01\n."), Value::Bool(true));
    assert_eq!(reads(b"I00\n."), Value::Bool(false));
    assert_eq!(reads(b"I140218764237008\n."), Value::Int(140_218_764_237_008));
    assert_eq!(reads(b"L-9223372036854775808L\n."), Value::Int(i64::MIN));
    let beyond = Value::BigInt(Bytes::from_static(b"\xff\xff\xff\xff\xff\xff\xff\x7f\xff"));
    assert_eq!(reads(b"L-9223372036854775809L\n."), beyond);
    assert_eq!(reads(b"I-9223372036854775809\n."), beyond);
    assert_eq!(reads(b"\x8a\x0b\xff\xff\xff\xff\xff\xff\xff\x7f\xff\xff\xff."), beyond);
    assert_eq!(reads(b"\x8a\x00."), Value::Int(0));
    assert_eq!(reads(b"\x8b\x02\0\0\0\xff\xff."), Value::Int(-1));
    for text in ["", "-", "0x10", "1_0", " 1", "1L1"] {
        assert!(matches!(refuses(format!("L{text}\n.")), PickleError::Argument { .. }), "{text:?}");
    }
    assert!(matches!(refuses(format!("L{}\n.", "9".repeat(1_000_000))), PickleError::Argument { .. }));
}

#[test]
fn malformed_pickles_are_refused() {
    use PickleError as E;
    assert_eq!(refuses(&b""[..]), E::Truncated);
    assert_eq!(refuses(&b"N"[..]), E::Truncated);
    assert_eq!(refuses(&b"N.N"[..]), E::Trailing(1));
    assert_eq!(refuses(&b"B\xff\xff\xff\xffabc."[..]), E::Truncated);
    assert_eq!(refuses(&b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc."[..]), E::Truncated);
    assert_eq!(refuses(&b"U\x05abc."[..]), E::Truncated);
    assert_eq!(refuses(&b"Iabc"[..]), E::Truncated);
    for pickle in [&b"."[..], b"(.", b"t.", b"K\x01\x86.", b"K\x01(\x85.", b"K\x01K\x01s.", b"](K\x01u.", b"}(K\x01u."]
    {
        assert!(matches!(refuses(pickle), E::Stack { .. }), "{pickle:?}");
    }
    for pickle in [&b"h\x00."[..], b"g5\n.", b"(K\x01d.", b"N}b.", b"cm\nC\n)R}b}b.", b"(o.", b"]q\x000(K\x01eh\x00."] {
        assert!(matches!(refuses(pickle), E::Stack { .. }), "{pickle:?}");
    }
    for pickle in [&b"\x8b\xff\xff\xff\xff."[..], b"\x80\x06N.", b"X\x01\0\0\0\xff.", b"S'a\n.", b"V\\u12\n.", b"gx\n."]
    {
        assert!(matches!(refuses(pickle), E::Argument { .. }), "{pickle:?}");
    }
    for pickle in [&b"Pabc\n."[..], b"NQ.", b"\x82\x01.", b"\x97.", b"\x92.", b"\xff."] {
        assert!(matches!(refuses(pickle), E::Opcode { .. }), "{pickle:?}");
    }
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| Bytes::from([&b")"[..], &b"\x85".repeat(depth), b"."].concat());
    let deepest = read(&nested(MAX_DEPTH)).unwrap();
    assert_eq!(deepest.clone(), deepest);
    assert_eq!(written(&deepest).len(), MAX_DEPTH + 4);
    assert!(dumps(&deepest).is_some());
    for depth in [MAX_DEPTH + 1, 1_000_000] {
        assert_eq!(refuses(nested(depth)), PickleError::TooDeep);
    }
    assert_eq!(
        refuses(Bytes::from([b"]".repeat(1_000_000), b"a".repeat(999_999), b".".to_vec()].concat())),
        PickleError::TooDeep
    );
    assert_eq!(refuses(b"(".repeat(1_000_000)), PickleError::TooDeep);
    // A list that holds itself, once and twice.
    assert_eq!(refuses(&b"]q\x00h\x00a."[..]), PickleError::TooDeep);
    assert!(matches!(refuses(&b"]q\x00(h\x00h\x00e."[..]), PickleError::TooDeep | PickleError::TooMany));
}

#[test]
fn the_memo_multiplies_little() {
    // Each level holds the one below ten times.
    let mut bomb = b"]q\x00".to_vec();
    for level in 0..100 {
        bomb.extend(b"0(");
        bomb.extend([b'h', level].repeat(10));
        bomb.extend([b'l', b'q', level + 1]);
    }
    bomb.push(b'.');
    assert_eq!(refuses(bomb), PickleError::TooMany);
    // One long string, many times.
    let mut bomb = [&b"B\0\0\x10\0"[..], &b"x".repeat(1 << 20), b"q\x000("].concat();
    bomb.extend(b"h\x00".repeat(1000));
    bomb.extend(b"t.");
    assert_eq!(refuses(bomb), PickleError::TooMany);
    // As honest picklers use it.
    assert_eq!(
        reads(b"X\x03\0\0\0abcq\x00h\x00\x86q\x01h\x01\x86."),
        Value::Tuple(vec![Value::Tuple(vec![Value::text("abc"), Value::text("abc")]); 2])
    );
}

#[test]
fn rules_are_kept() {
    let rules = Rules { max_values: 10, growth: 1, global: |module, _| module == b"good" };
    let read = |pickle: &[u8]| read_with(&Bytes::copy_from_slice(pickle), &rules);
    assert_eq!(read(&[b"(", &b"N".repeat(9)[..], b"t."].concat()).unwrap(), Value::Tuple(vec![Value::None; 9]));
    assert_eq!(read(&[b"(", &b"N".repeat(10)[..], b"t."].concat()), Err(PickleError::TooMany));
    assert_eq!(read(&[b"(N", &b"2".repeat(20)[..], b"t."].concat()), Err(PickleError::TooMany));
    assert_eq!(read(&[b"N", &b"\x94".repeat(20)[..], b"."].concat()), Err(PickleError::TooMany));
    assert!(read(b"cgood\nname\n.").is_ok());
    assert_eq!(read(b"cos\nsystem\n."), Err(PickleError::Global("os.system".into())));
    assert_eq!(read(b"(ios\nsystem\n."), Err(PickleError::Global("os.system".into())));
    assert_eq!(read(b"U\x02osU\x06system\x93."), Err(PickleError::Global("os.system".into())));
}

#[test]
fn a_key_given_twice_is_not_dumped() {
    let dict = |keys: Vec<Value>| Value::Dict(keys.into_iter().map(|key| (key, Value::None)).collect());
    for twice in [
        vec![Value::text("a"), Value::text("a")],
        vec![Value::text("a"), native("a")],
        vec![Value::Int(1), Value::Bool(true)],
        vec![Value::Int(1), Value::Float(1.0)],
        vec![Value::Tuple(vec![Value::Int(1)]), Value::Tuple(vec![Value::Bool(true)])],
    ] {
        assert_eq!(dumps(&dict(twice.clone())), None, "{twice:?}");
    }
    for apart in
        [vec![Value::text("a"), Value::bytes(b"a")], vec![Value::Float(0.5)], vec![Value::Int(1), Value::Int(2)]]
    {
        assert!(dumps(&dict(apart.clone())).is_some(), "{apart:?}");
    }
}

#[test]
fn classes_of_records() {
    let name = |record: &[u8]| record::class_name(record);
    for record in [
        &b"\x80\x03cmodule.sub\nClass\nq\x00.\x80\x03}q\x01."[..],
        b"\x80\x02cmodule.sub\nClass\nq\x01.}q\x02.",
        b"cmodule.sub\nClass\np0\n.(dp1\n.",
        b"(cmodule.sub\nClass\nq\x01Ntq\x02.}q\x03.",
        b"((U\x0amodule.subq\x01U\x05Classq\x02tq\x03Nt.}q\x04.",
        b"((S'module.sub'\nS'Class'\ntN\x86.}.",
        b"\x80\x03X\x0a\0\0\0module.subX\x05\0\0\0Class\x86K\x05\x85\x86.}.",
        b"\x80\x03(cmodule.sub\nClass\nq\x00K\x01\x85t.}.",
        b"\x80\x03cmodule.sub\nClass\nq\x00K\x01\x85q\x01\x86q\x02.}.",
        b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\nmodule.sub\x94\x8c\x05Class\x94\x93\x94.}.",
        b"\x80\x05\x8c\nmodule.sub\x8c\x05Class\x93N\x86.}.",
    ] {
        assert_eq!(name(record).as_deref(), Some("module.sub.Class"), "{:?}", record.escape_ascii().to_string());
    }
    assert_eq!(name(b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.").as_deref(), Some("ZODB.blob.Blob"));
    for record in [&b""[..], b"\x80\x03", b"N.}.", b"C\x08\0\0\0\0\0\0\0\x01Q.}.", b"cmodule", b"c\xff\nClass\n.}."] {
        assert_eq!(name(record), None, "{:?}", record.escape_ascii().to_string());
    }
}

#[test]
fn records_of_blobs() {
    for record in [
        &b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."[..],
        b"\x80\x02cZODB.blob\nBlob\nq\x01.N.",
        b"cZODB.blob\nBlob\np0\n.N.",
        b"cZODB.blob\nBlob\n.",
        b"cm\nC\n0cZODB.blob\nBlob\n.N.",
        b"\x80\x04\x8c\x09ZODB.blob\x8c\x04Blob\x93.N.",
    ] {
        assert!(record::is_blob_record(record), "{:?}", record.escape_ascii().to_string());
    }
    for record in [
        &b""[..],
        b"cZODB.blob\nBlob\n",
        b"cZODB.blob\nBlobFile\n.N.",
        b"(cZODB.blob\nBlob\nNt.N.",
        b"cZODB.blob\nBlob\n)\x86.N.",
        b"((U\x09ZODB.blobU\x04BlobtNt.N.",
        b"cZODB.blob\nBlob\n)\x81.N.",
        b"(iZODB.blob\nBlob\n.N.",
        b"cm\nC\n.\x80\x03cZODB.blob\nBlob\n.",
        b"C\x08aaaaaaaaQ0cZODB.blob\nBlob\n.N.",
    ] {
        assert!(!record::is_blob_record(record), "{:?}", record.escape_ascii().to_string());
    }
}
