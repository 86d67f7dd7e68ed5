//! The methods a client can call, one file for each part of its life.

pub mod admin;
pub mod args;
pub mod commit;
pub mod iterate;
pub mod load;

use args::Args;

use super::session::{Call, End, Registration, Session};
use crate::wire::fault::Fault;

/// Every method of protocol 5.
const METHODS: &[&str] = &[
    "loadBefore",
    "storea",
    "vote",
    "tpc_begin",
    "tpc_finish",
    "tpc_abort",
    "checkCurrentSerialInTransaction",
    "lastTransaction",
    "new_oids",
    "getInvalidations",
    "get_info",
    "getTid",
    "loadSerial",
    "history",
    "record_iternext",
    "restorea",
    "deleteObject",
    "undoa",
    "undoLog",
    "undoInfo",
    "iterator_start",
    "iterator_next",
    "iterator_record_start",
    "iterator_record_next",
    "iterator_gc",
    "server_status",
    "set_client_label",
    "ping",
    "pack",
    "new_oid",
    "storeBlobStart",
    "storeBlobChunk",
    "storeBlobEnd",
    "storeBlobShared",
    "sendBlob",
];

/// The method of this name, if a client may call it now: `register` first, and only once.
pub fn known(name: &[u8], registered: bool) -> Option<&'static str> {
    if registered {
        METHODS.iter().find(|method| method.as_bytes() == name).copied()
    } else {
        (name == b"register").then_some("register")
    }
}

/// Whether a call acts on the client's transaction, so that it must wait for one that is being finished.
pub fn concerns_transaction(name: &[u8]) -> bool {
    matches!(
        name,
        b"tpc_begin"
            | b"storea"
            | b"restorea"
            | b"deleteObject"
            | b"undoa"
            | b"checkCurrentSerialInTransaction"
            | b"vote"
            | b"tpc_finish"
            | b"tpc_abort"
    )
}

/// Answers a call of a registered client.
pub fn dispatch(session: &mut Session, registration: &Registration, call: Call, args: Args) -> Result<(), End> {
    let served = &registration.served;
    let answer = match call.method {
        "loadBefore" => return load::load_before(session, served, &call, args),
        "getTid" => return load::current_tid(session, served, &call, args),
        "loadSerial" => return load::load_serial(session, served, &call, args),
        "record_iternext" => return load::record_iternext(session, served, &call, args),
        "lastTransaction" => return load::last_transaction(session, served, &call, args),
        "getInvalidations" => return load::invalidations(session, served, call, args),
        "history" => return load::history(session, served, call, args),
        "get_info" => return load::info(session, served, &call, args),

        "tpc_begin" => commit::begin(session, registration, args),
        "storea" => commit::store(session, registration, args),
        "restorea" => commit::restore(session, registration, args),
        "deleteObject" => commit::delete(session, registration, args),
        "checkCurrentSerialInTransaction" => commit::check_current(session, registration, args),
        "undoa" => commit::undo(session, registration, args),
        "vote" => match commit::vote(session, registration, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "tpc_finish" => match commit::finish(session, registration, &call, args) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "tpc_abort" => commit::abort(session, registration, args),

        "iterator_start" => match iterate::start(session, served, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "iterator_next" => iterate::next(session, args),
        "iterator_record_start" => iterate::record_start(session, served, args),
        "iterator_record_next" => iterate::record_next(session, args),
        "iterator_gc" => iterate::forget(session, args),

        "undoLog" | "undoInfo" => match admin::undo_log(session, served, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "new_oids" => admin::new_oids(registration, args),
        "server_status" => admin::status(served, args),
        "set_client_label" => admin::set_label(session, args),
        "ping" => args.end().map(|()| crate::pickle::Value::None),
        "new_oid" => Err(Fault::Attribute("'ZEOStorage' object has no attribute 'new_oid'".to_owned())),
        method => Err(Fault::Unsupported(format!("this server does not offer {method} yet"))),
    };
    session.reply(&call, answer)
}
