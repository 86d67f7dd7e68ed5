//! `Data.fs.index` as ZODB 3.9 and earlier wrote it: one pickle of a dict with the index and its position.
//!
//! The index in it is a plain dict of oid to position, or an `fsIndex` object. That one holds pairs of prefix
//! and string as today's file does, or in its first form a mapping of prefix to bucket, which was a dict
//! or a tree. Such files are read, and replaced by today's form when the index is next saved.

use bytes::Bytes;

use super::format::{FIRST_TRANSACTION, POSITION_LIMIT};
use super::index::Index;
use super::index_file::{IndexFileError, Saved, number, read_bucket};
use crate::ids::Oid;
use crate::pickle::{self, Value};

/// Reads the one pickle of an old index file.
pub(super) fn read(content: &Bytes) -> Result<Saved, IndexFileError> {
    let Ok((Value::Dict(items), _)) = pickle::read_prefix(content) else {
        return Err(UNKNOWN);
    };
    let item = |name: &[u8]| {
        let mut named = items.iter().filter(|(key, _)| key.as_string().is_some_and(|key| key == name));
        named.next().map(|(_, value)| value).ok_or(UNKNOWN)
    };
    let end = position(item(b"pos")?)?;
    let mut index = Index::default();
    match item(b"index")? {
        Value::Dict(positions) => {
            for (oid, at) in positions {
                let oid = oid.as_string().and_then(|oid| Oid::from_slice(oid)).ok_or(UNKNOWN)?;
                insert(&mut index, end, oid, position(at)?)?;
            }
        }
        Value::Object(object) => match data_of(object.state.as_ref())? {
            Value::List(pairs) => {
                for pair in pairs {
                    let Value::Tuple(pair) = pair else { return Err(UNKNOWN) };
                    let [prefix, bucket] = pair.as_slice() else { return Err(UNKNOWN) };
                    let (prefix, bucket) = (prefix.as_string().ok_or(UNKNOWN)?, bucket.as_string().ok_or(UNKNOWN)?);
                    read_bucket(&mut index, end, prefix, bucket)?;
                }
            }
            Value::Dict(buckets) => {
                for (prefix, bucket) in buckets {
                    read_old_bucket(&mut index, end, prefix, bucket)?;
                }
            }
            Value::Object(tree) => read_tree(&mut index, end, tree.state.as_ref())?,
            _ => return Err(UNKNOWN),
        },
        _ => return Err(UNKNOWN),
    }
    Ok(Saved { index, end })
}

const UNKNOWN: IndexFileError = IndexFileError::Content("not an index of a known kind");

/// The `_data` in the state of an `fsIndex`.
fn data_of(state: Option<&Value>) -> Result<&Value, IndexFileError> {
    let Some(Value::Dict(attributes)) = state else {
        return Err(UNKNOWN);
    };
    let mut data = attributes.iter().filter(|(name, _)| name.as_string().is_some_and(|name| name == "_data"));
    data.next().map(|(_, data)| data).ok_or(UNKNOWN)
}

/// Reads the state of an `OOBTree` or of one of its buckets: nested tuples, in which a prefix is followed by its
/// bucket. In an inner node keys are followed by a child; those are known by what they hold.
fn read_tree(index: &mut Index, end: u64, state: Option<&Value>) -> Result<(), IndexFileError> {
    let Some(Value::Tuple(items)) = state else {
        // An empty tree has no state.
        return Ok(());
    };
    let mut key = None;
    for item in items {
        match item {
            Value::Tuple(_) => read_tree(index, end, Some(item))?,
            Value::Object(_) if is_positions(item) => read_old_bucket(index, end, key.ok_or(UNKNOWN)?, item)?,
            Value::Object(object) => read_tree(index, end, object.state.as_ref())?,
            _ => key = Some(item),
        }
    }
    Ok(())
}

/// Whether this is an `fsBucket`, as opposed to a part of the tree above.
fn is_positions(value: &Value) -> bool {
    let Value::Object(object) = value else {
        return false;
    };
    let mut names = vec![&object.callable];
    if let Value::Tuple(args) = &object.args {
        names.extend(args);
    }
    names.into_iter().any(|name| matches!(name, Value::Global(global) if global.name == "fsBucket"))
}

/// Reads a bucket of the first form: a tree's, whose state is a tuple of suffixes and positions by turns.
fn read_old_bucket(index: &mut Index, end: u64, prefix: &Value, bucket: &Value) -> Result<(), IndexFileError> {
    let prefix: [u8; 6] = six_bytes(prefix)?;
    let Value::Object(bucket) = bucket else {
        return Err(UNKNOWN);
    };
    let Some(Value::Tuple(state)) = &bucket.state else {
        return Err(UNKNOWN);
    };
    let Some(Value::Tuple(entries)) = state.first() else {
        return Err(UNKNOWN);
    };
    for entry in entries.chunks(2) {
        let [suffix, at] = entry else { return Err(UNKNOWN) };
        let suffix = suffix.as_string().and_then(|suffix| <[u8; 2]>::try_from(suffix.as_ref()).ok()).ok_or(UNKNOWN)?;
        let oid = Oid(number(prefix) << 16 | u64::from(u16::from_be_bytes(suffix)));
        insert(index, end, oid, number(six_bytes(at)?))?;
    }
    Ok(())
}

fn six_bytes(value: &Value) -> Result<[u8; 6], IndexFileError> {
    value.as_string().and_then(|bytes| bytes.as_ref().try_into().ok()).ok_or(UNKNOWN)
}

fn insert(index: &mut Index, end: u64, oid: Oid, position: u64) -> Result<(), IndexFileError> {
    if !(FIRST_TRANSACTION..end).contains(&position) {
        return Err(IndexFileError::Content("a position outside of the data file"));
    }
    index.insert(oid, position);
    Ok(())
}

fn position(value: &Value) -> Result<u64, IndexFileError> {
    match value {
        Value::Int(position) => {
            u64::try_from(*position).ok().filter(|&position| position < POSITION_LIMIT).ok_or(UNKNOWN)
        }
        _ => Err(UNKNOWN),
    }
}
