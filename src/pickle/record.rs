//! The class of an object record: two pickles, the first of which tells the class, the second the state.

use bytes::Bytes;
use memchr::memmem;

use super::read::read_prefix;
use super::value::Value;

/// The first pickle of a record is a class and rarely its constructor's arguments; what does not fit
/// here is not searched for a name.
pub const MAX_CLASS_PICKLE: usize = 1 << 16;

/// Where the class of blobs is.
const BLOB_MODULE: &str = "ZODB.blob";

/// `module.Class` of an object record, if its class can be told.
///
/// All forms that ZODB has written: the class; the class or its two names, in a tuple with
/// arguments. An instance of a persistent class, whose class is itself an object, has no name.
pub fn class_name(record: &[u8]) -> Option<String> {
    if let Some(name) = leading_global(record) {
        return Some(name);
    }
    match &read_first(record)? {
        Value::Tuple(items) => match items.first()? {
            Value::Tuple(names) => match names.as_slice() {
                [module, name] => joined(module.as_string()?, name.as_string()?),
                _ => None,
            },
            class => global_name(class),
        },
        class => global_name(class),
    }
}

/// Whether this is the record of a blob: its class is `ZODB.blob.Blob`, without any arguments.
///
/// As ZODB's own test: what cannot be read is none.
pub fn is_blob_record(record: &[u8]) -> bool {
    memmem::find(record, BLOB_MODULE.as_bytes()).is_some()
        && read_first(record).is_some_and(|class| class.is_global(BLOB_MODULE, "Blob"))
}

fn read_first(record: &[u8]) -> Option<Value> {
    let first = record.get(..MAX_CLASS_PICKLE).unwrap_or(record);
    read_prefix(&Bytes::copy_from_slice(first)).ok().map(|(class, _)| class)
}

/// The class, where the pickle begins with it; nearly every record of protocols 0 to 3 does.
fn leading_global(record: &[u8]) -> Option<String> {
    let rest = if let [0x80, _protocol, rest @ ..] = record { rest } else { record };
    let rest = rest.strip_prefix(b"(").unwrap_or(rest).strip_prefix(b"c")?;
    let mut lines = rest.splitn(3, |&byte| byte == b'\n');
    let (module, name, _behind) = (lines.next()?, lines.next()?, lines.next()?);
    joined(module, name)
}

fn global_name(value: &Value) -> Option<String> {
    match value {
        Value::Global(global) => joined(&global.module, &global.name),
        _ => None,
    }
}

fn joined(module: &[u8], name: &[u8]) -> Option<String> {
    Some(format!("{}.{}", std::str::from_utf8(module).ok()?, std::str::from_utf8(name).ok()?))
}
