//! The methods a client can call, one file for each part of its life.

pub mod admin;
pub mod args;
pub mod blob;
pub mod commit;
pub mod iterate;
pub mod legacy;
pub mod load;
pub mod unanswered;

use args::Args;

use super::session::{Call, End, Registration, Session};
use crate::pickle::Value;
use crate::wire::dialect::Dialect;
use crate::wire::fault::Fault;

/// What a client may call before it has registered, besides `register`: old ones only.
const METHODS_BEFORE_REGISTRATION: &[&str] = &["getAuthProtocol", AUTH_GET_CHALLENGE, AUTH_RESPONSE];

/// How a client authenticates.
pub const AUTH_GET_CHALLENGE: &str = "auth_get_challenge";
/// See [`AUTH_GET_CHALLENGE`].
pub const AUTH_RESPONSE: &str = "auth_response";

/// What only old clients call. They know how to register twice.
const LEGACY_METHODS: &[&str] = &[
    "loadEx",
    "verify",
    "endZeoVerify",
    "undo",
    "register",
    "getAuthProtocol",
    "getExtensionMethods",
    "getSerial",
    "load",
    "zeoLoad",
    "zeoVerify",
    "versions",
    "versionEmpty",
    "modifiedInVersion",
    "commitVersion",
    "abortVersion",
];

/// Every method of protocol 5; older ones have no `ping`.
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

/// The method of this name, if a client may call it now: `register` first.
pub fn known(name: &[u8], dialect: Dialect, registered: bool) -> Option<&'static str> {
    let named = |methods: &[&'static str]| methods.iter().find(|method| method.as_bytes() == name).copied();
    let legacy = |methods| dialect.is_legacy().then(|| named(methods)).flatten();
    if registered {
        named(METHODS).or_else(|| legacy(LEGACY_METHODS))
    } else {
        named(&["register"]).or_else(|| legacy(METHODS_BEFORE_REGISTRATION))
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
            | b"undo"
            | b"storeBlobStart"
            | b"storeBlobChunk"
            | b"storeBlobEnd"
            | b"storeBlobShared"
            | b"checkCurrentSerialInTransaction"
            | b"vote"
            | b"tpc_finish"
            | b"tpc_abort"
    )
}

/// Whether a client that has just registered only finds out what it has missed, so that it cannot be told of more yet.
pub fn looks_back(method: &str) -> bool {
    matches!(method, "lastTransaction" | "getInvalidations")
}

/// Whether a client goes on with the verification of all that it has, object by object.
pub fn verifies_all(method: &str) -> bool {
    matches!(method, "verify" | "zeoVerify" | "endZeoVerify")
}

/// Answers a call of a client that has not registered.
pub fn dispatch_unregistered(session: &mut Session, call: &Call, args: Args) -> Result<(), End> {
    match call.method {
        "getAuthProtocol" => {
            let answer = legacy::auth_protocol(session, args);
            session.reply(call, answer)
        }
        AUTH_GET_CHALLENGE => session.challenge(call, args),
        AUTH_RESPONSE => session.respond(call, args),
        _ => session.register(call, args),
    }
}

/// Answers a call of a registered client.
pub fn dispatch(session: &mut Session, registration: &Registration, call: Call, args: Args) -> Result<(), End> {
    let served = &registration.served;
    let answer = match call.method {
        "loadBefore" => return load::load_before(session, served, &call, args),
        "getTid" | "getSerial" => return load::current_tid(session, served, &call, args),
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

        "storeBlobStart" => blob::start(session, registration, args),
        "storeBlobChunk" => match blob::chunk(session, registration, &call, args) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "storeBlobEnd" => match blob::end(session, registration, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "storeBlobShared" => match blob::shared(session, registration, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "sendBlob" => match blob::send(session, registration, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },

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
        "pack" => match admin::pack(session, served, &call, args) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "new_oids" => admin::new_oids(registration, args),
        "server_status" => admin::status(served, args),
        "set_client_label" => admin::set_label(session, args),
        "ping" => args.end().map(|()| Value::None),

        "loadEx" | "load" | "zeoLoad" => return legacy::load_current(session, served, &call, args),
        "verify" | "zeoVerify" => match legacy::verify(session, served, args) {
            Ok(()) => Ok(Value::None),
            Err(fault) => Err(fault),
        },
        "endZeoVerify" => legacy::end_verify(session, served, args),
        "undo" => match commit::undo_at_once(session, registration, &call, args) {
            Ok(()) => return Ok(()),
            Err(fault) => Err(fault),
        },
        "register" => Err(Fault::Value("duplicate register() call".to_owned())),
        "getAuthProtocol" => legacy::auth_protocol(session, args),
        "getExtensionMethods" => args.end().map(|()| legacy::extension_methods(session.authenticator().is_some())),
        "versions" => Ok(Value::Tuple(vec![])),
        "versionEmpty" => Ok(Value::Bool(true)),
        "modifiedInVersion" => Ok(Value::native("")),
        "commitVersion" | "abortVersion" => Err(Fault::Unsupported("Versions aren't supported".to_owned())),
        // The one that is left, `new_oid`: the original lists it and does not have it.
        method => Err(Fault::Attribute(format!("'ZEOStorage' object has no attribute '{method}'"))),
    };
    session.reply(&call, answer)
}
