//! What is neither reading nor committing: undo lists, packs, fresh oids, statistics.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tracing::{info, warn};

use super::args::Args;
use super::load::{extension, set};
use crate::ids::Tid;
use crate::pickle::Value;
use crate::server::packing;
use crate::server::served::{Served, integer};
use crate::server::session::{Answer, Call, Registration, Session, printable};
use crate::storage::TransactionSummary;
use crate::wire::fault::Fault;

/// Most oids a client gets at a time, and how many it gets if it does not say.
const MOST_NEW_OIDS: i64 = 100;

/// `new_oids(n=100)`
pub fn new_oids(registration: &Registration, mut args: Args) -> Answer {
    let count = match args.optional() {
        None => MOST_NEW_OIDS,
        Some(value) => super::args::as_integer(&value).ok_or_else(|| args.wrong("an integer", &value))?,
    };
    args.end()?;
    if registration.read_only {
        return Err(Fault::ReadOnly);
    }
    let count = usize::try_from(count.clamp(1, MOST_NEW_OIDS)).unwrap_or(1);
    let oids = registration.served.storage.new_oids(count)?;
    Ok(Value::List(oids.into_iter().map(super::load::oid_value).collect()))
}

/// `server_status()`
pub fn status(served: &Served, args: Args) -> Answer {
    args.end()?;
    Ok(Value::Dict(served.status().into_iter().map(|(key, value)| (Value::native(key), value)).collect()))
}

/// `set_client_label(label)`
pub fn set_label(session: &mut Session, mut args: Args) -> Answer {
    let label = args.string()?;
    args.end()?;
    session.set_label(&printable(&String::from_utf8_lossy(&label)));
    Ok(Value::None)
}

/// `undoLog(first, last)` and `undoInfo(first, last, specification)`: dicts, newest first.
pub fn undo_log(session: &mut Session, served: &Arc<Served>, call: &Call, mut args: Args) -> Result<(), Fault> {
    let (first, last) = (args.integer()?, args.integer()?);
    let specification = match call.method {
        "undoInfo" => match args.value()? {
            Value::None => Vec::new(),
            Value::Dict(dict) => dict,
            value => return Err(args.wrong("a dict", &value)),
        },
        _ => Vec::new(),
    };
    args.end()?;
    let first = usize::try_from(first).unwrap_or(0);
    // A negative `last` is a count.
    let last = usize::try_from(last)
        .unwrap_or_else(|_| first.saturating_add(usize::try_from(last.unsigned_abs()).unwrap_or(0)));
    let served = Arc::clone(served);
    session.answer_later(call.clone(), move || {
        if !served.storage.capabilities().undo {
            return Ok(Value::Tuple(vec![]));
        }
        let mut filter = |transaction: &TransactionSummary| matches(transaction, &specification);
        let log = served.storage.undo_log(first, last, &mut filter)?;
        Ok(Value::List(log.iter().map(|transaction| Value::Dict(undo_entry(transaction))).collect()))
    });
    Ok(())
}

/// `pack(time, wait=1)`, with the time in seconds since 1970. A client that does not want to write may pack, and so may
/// all where the whole server is read-only, as in the original; but whom its listener or its certificate keeps from
/// writing would take away what others may have wanted. If it does not wait, or goes away, only the log tells of a
/// failure.
pub fn pack(session: &mut Session, served: &Arc<Served>, call: &Call, mut args: Args) -> Result<Option<Value>, Fault> {
    let time = args.value()?;
    let waits = args.optional().is_none_or(|wait| super::args::is_true(&wait));
    args.end()?;
    if session.is_kept_from_writing() {
        return Err(Fault::ReadOnly);
    }
    let (served, label) = (Arc::clone(served), session.label.clone());
    let run = move || {
        let shown = match &time {
            Value::Int(seconds) => seconds.to_string(),
            Value::Float(seconds) => format!("{seconds:?}"),
            _ => "?".to_owned(),
        };
        info!(target: "ZEO.StorageServer", "({label}) pack(time={shown}) started...");
        let packed = pack_time(&time).and_then(|stop| Ok(packing::pack(&served, stop)?));
        match &packed {
            Ok(()) => {
                info!(target: "ZEO.StorageServer", "({label}) pack(time={shown}) complete");
                served.hub.call_all("info", || served.size_info());
            }
            // The client need not be there any more to hear of it.
            Err(fault) => warn!(target: "ZEO.StorageServer", "({label}) pack(time={shown}) failed: {fault}"),
        }
        packed.map(|()| Value::None)
    };
    if waits {
        session.answer_later(call.clone(), run);
        return Ok(None);
    }
    tokio::task::spawn_blocking(run);
    Ok(Some(Value::None))
}

/// The tid of a time in seconds since 1970; the complaints are the original's.
#[expect(clippy::cast_precision_loss, reason = "such large times are refused")]
fn pack_time(time: &Value) -> Result<Tid, Fault> {
    let seconds = match time {
        Value::Float(seconds) => *seconds,
        Value::BigInt(_) => f64::INFINITY,
        time => match super::args::as_integer(time) {
            Some(seconds) => seconds as f64,
            None => return Err(Fault::Type("pack() takes a time in seconds since 1970".to_owned())),
        },
    };
    match Tid::from_unix_seconds(seconds) {
        Some(stop) => Ok(stop),
        None if seconds.is_nan() => Err(Fault::Value("Invalid value NaN (not a number)".to_owned())),
        None if seconds > 0.0 => Err(Fault::Overflow("timestamp out of range for platform time_t".to_owned())),
        None => Err(Fault::Value("year must be greater than 1900".to_owned())),
    }
}

/// What is known for sure, then what the transaction's extension says: the extension wins.
fn undo_entry(transaction: &TransactionSummary) -> Vec<(Value, Value)> {
    let mut entry = vec![
        (Value::native("id"), Value::Bytes(undo_id(transaction.tid).into_bytes().into())),
        (Value::native("time"), Value::Float(transaction.tid.to_unix_seconds())),
        (Value::native("user_name"), Value::Bytes(transaction.metadata.user.clone())),
        (Value::native("size"), integer(transaction.size)),
        (Value::native("description"), Value::Bytes(transaction.metadata.description.clone())),
    ];
    for (key, value) in extension(transaction) {
        set(&mut entry, key, value);
    }
    entry
}

/// Whether every key of the specification is in the entry, with an equal value: text and bytes are
/// compared by their bytes, a `Prefix` by the leading steps of a path.
fn matches(transaction: &TransactionSummary, specification: &[(Value, Value)]) -> bool {
    if specification.is_empty() {
        return true;
    }
    let entry = undo_entry(transaction);
    specification.iter().all(|(key, wanted)| {
        entry.iter().any(|(present, value)| {
            present.as_string() == key.as_string()
                && match (wanted.as_prefix(), wanted.as_string(), value.as_string()) {
                    (Some(prefix), _, Some(value)) => prefix.matches(value),
                    (None, Some(wanted), Some(value)) => wanted == value,
                    _ => wanted == value,
                }
        })
    })
}

/// The id under which a client asks to undo a transaction: the tid in base64.
fn undo_id(tid: Tid) -> String {
    STANDARD.encode(tid.to_bytes())
}

/// The transaction that an undo id names.
pub fn tid_from_undo_id(id: &[u8]) -> Option<Tid> {
    let id = id.strip_suffix(b"\n").unwrap_or(id);
    STANDARD.decode(id).ok().and_then(|bytes| Tid::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_ids_are_base64_of_the_tid() {
        // base64.b64encode(bytes.fromhex('040d2553e4444444'))
        assert_eq!(undo_id(Tid(0x040d_2553_e444_4444)), "BA0lU+REREQ=");
        for tid in [0, 1, u64::MAX, 0x040d_2553_e444_4444] {
            assert_eq!(tid_from_undo_id(undo_id(Tid(tid)).as_bytes()), Some(Tid(tid)));
        }
        for bad in ["", "BA0lU+REREQ", "BA0lU+RERE=", "BA0lU-REREQ=", "BA0lU+REREQ=="] {
            assert_eq!(tid_from_undo_id(bad.as_bytes()), None, "{bad}");
        }
    }
}
