//! What records refer to, in every spelling that was ever in use.

use proptest::prelude::*;

use super::*;
use crate::pickle::tests::opcodes;

fn scan(record: &[u8]) -> (Vec<u64>, Result<(), PickleError>) {
    let mut found = Vec::new();
    let outcome = ReferenceScanner::default().scan(record, |oid| found.push(oid.0));
    (found, outcome)
}

#[test]
fn strings_of_eight_are_oids() {
    let oid = 0x0102_0304_0506_07ff;
    for id in [
        &b"C\x08\x01\x02\x03\x04\x05\x06\x07\xff"[..],
        b"B\x08\0\0\0\x01\x02\x03\x04\x05\x06\x07\xff",
        b"\x8e\x08\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\xff",
        b"U\x08\x01\x02\x03\x04\x05\x06\x07\xff",
        b"T\x08\0\0\0\x01\x02\x03\x04\x05\x06\x07\xff",
        b"S'\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\xff' \n",
        b"X\x09\0\0\0\x01\x02\x03\x04\x05\x06\x07\xc3\xbf",
        b"\x8c\x09\x01\x02\x03\x04\x05\x06\x07\xc3\xbf",
        b"\x8d\x09\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\xc3\xbf",
        b"V\x01\\U00000002\\U00000003\\U00000004\\U00000005\\U00000006\\U00000007\\U000000ff\n",
        b"c_codecs\nencode\n\x8c\x09\x01\x02\x03\x04\x05\x06\x07\xc3\xbf\x8c\x06latin1\x86R",
        b"czodbpickle\nbinary\nU\x08\x01\x02\x03\x04\x05\x06\x07\xff\x85R",
    ] {
        for (before, behind) in [(&b"N."[..], &b"Q."[..]), (b"N.", b"cm\nC\n\x86Q."), (b"", b"q\x07.h\x07Q.")] {
            let record = [before, id, behind].concat();
            assert_eq!(scan(&record), (vec![oid], Ok(())), "{}", record.escape_ascii());
        }
    }
    assert_eq!(scan(b"N.P\x01\x02\x03\x04\x05\x06\x07\xff\n."), (vec![oid], Ok(())));
}

#[test]
fn lists_refer_to_nothing_here() {
    for list in [&b"](X\x01\0\0\0wC\x0812345678\x85e"[..], b"]C\x0812345678a", b"(C\x0812345678l", b"]"] {
        assert_eq!(scan(&[b"N.", list, b"Q."].concat()), (vec![], Ok(())));
    }
}

#[test]
fn an_unknown_id_hides_no_others() {
    let other = u64::from_be_bytes(*b"12345678");
    let error = Err(PickleError::PersistentId { position: 3 });
    assert_eq!(scan(b"N.NQ)Q0C\x0812345678Q."), (vec![other], error));
    assert_eq!(scan(b"N.NP12\n."), (vec![], Err(PickleError::PersistentId { position: 3 })));
}

#[test]
fn errors_say_where() {
    for (record, error) in [
        (&b"N.U\x08123"[..], PickleError::Truncated),
        (b"N.", PickleError::Truncated),
        (b"N.N\x97.", PickleError::Opcode { opcode: 0x97, position: 3 }),
        (b"N.\x80\x06N.", PickleError::Argument { opcode: op::PROTO, position: 2 }),
        (b"N.NN\x87.", PickleError::Stack { opcode: op::TUPLE3, position: 4 }),
        (b"Nq\x00.h\x01.", PickleError::Stack { opcode: op::BINGET, position: 4 }),
        (b".N.", PickleError::Stack { opcode: op::STOP, position: 0 }),
    ] {
        assert_eq!(scan(record).1, Err(error), "{}", record.escape_ascii());
    }
}

#[test]
fn nothing_is_left_of_the_record_before() {
    let mut scanner = ReferenceScanner::default();
    let mut found = Vec::new();
    scanner.scan(b"C\x0812345678q\x00r\0\0\0\xff(N.N.", |oid| found.push(oid)).unwrap();
    for record in [&b"h\x00Q.N."[..], b"j\0\0\0\xffQ.N.", b"Nt.N.", b"N(.1N."] {
        assert!(scanner.scan(record, |oid| found.push(oid)).is_err(), "{}", record.escape_ascii());
    }
    assert!(found.is_empty());
}

#[test]
fn memory_follows_the_record() {
    let mut scanner = ReferenceScanner::default();
    for index in [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"] {
        let record = [b"C\x0812345678r", &index[..], b".j", index, b"Q."].concat();
        let mut found = 0;
        scanner.scan(&record, |_| found += 1).unwrap();
        assert_eq!(found, 1);
        assert!(scanner.memo.low.capacity() < 100);
    }
    let long = [b"(N(t".repeat(KEPT), b"N2p300000\n".repeat(KEPT), b".N.".to_vec()].concat();
    scanner.scan(&long, |_| ()).unwrap();
    scanner.scan(b"N.N.", |_| ()).unwrap();
    assert!(scanner.memo.high.is_empty());
    for capacity in [scanner.stack.capacity(), scanner.marks.capacity(), scanner.memo.low.capacity()] {
        assert!(capacity <= KEPT, "{capacity}");
    }
}

#[test]
fn a_record_cannot_ask_for_any_amount_of_memory() {
    let memoize = b"N\x94".repeat(MOST_ITEMS / 2 + 1);
    let far = (0..MOST_ITEMS as u64).flat_map(|n| [&b"r"[..], &(n | 99 << 24).to_le_bytes()[..4]].concat());
    let far = std::iter::once(b'N').chain(far).collect::<Vec<_>>();
    for greedy in [&b"N".repeat(MOST_ITEMS + 1), &b"(".repeat(MOST_ITEMS + 1), &memoize, &far] {
        let mut scanner = ReferenceScanner::default();
        assert_eq!(scanner.scan(&[greedy, &b".N."[..]].concat(), |_| ()), Err(PickleError::TooMany));
        assert!(scanner.items() <= MOST_ITEMS + 4, "{}", scanner.items());
    }
    // As long, but never so many at a time.
    let modest = [
        b"(",
        &*b"N".repeat(MOST_ITEMS - 2),
        b"t.",
        &b"(NNNt0".repeat(MOST_ITEMS / 4),
        &[b"T", &(2 * MOST_ITEMS as u64).to_le_bytes()[..4], &b"N".repeat(2 * MOST_ITEMS)].concat(),
        &[b"r", &(2 * MOST_ITEMS as u64).to_le_bytes()[..4]].concat(),
        b"C\x0812345678Q.",
    ];
    assert_eq!(scan(&modest.concat()), (vec![u64::from_be_bytes(*b"12345678")], Ok(())));
}

#[test]
fn memo_entries_are_counted_as_python_counts_them() {
    // Two entries, one of them far off and one set twice: the next number is two.
    assert_eq!(scan(b"Nq\x05q\x05r\0\0\0\xff0C\x0812345678\x94.h\x02Q.").1, Ok(()));
    // Filling the gap does not count it twice.
    assert_eq!(scan(b"Nq\x01q\x000C\x0812345678\x94.h\x02Q.").1, Ok(()));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(record in opcodes()) {
        drop(scan(&record));
    }

    #[test]
    fn changed_records_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        length in 0..120_usize,
    ) {
        let mut record = b"\x80\x03cm\nC\nq\x00.\x80\x03}q\x01(X\x01\0\0\0aq\x02C\x08\0\0\0\0\0\0\0\x05q\x03h\x00\x86q\x04QU\x01b\
            (K\x01](X\x01\0\0\0wC\x0812345678\x85eQtr\x05\0\0\0u.".to_vec();
        for (place, byte) in changes {
            let place = place.index(record.len());
            record[place] = byte;
        }
        record.truncate(length);
        drop(scan(&record));
    }
}
