//! What only clients before ZEO 5 call: loads of whatever is current, the verification of their caches object by object, and
//! what is left of versions.

use super::args::Args;
use super::{AUTH_GET_CHALLENGE, AUTH_RESPONSE};
use crate::ids::Tid;
use crate::pickle::Value;
use crate::server::auth;
use crate::server::served::Served;
use crate::server::session::{Answer, Call, End, Session, tid_value};
use crate::storage::StorageError;
use crate::wire::fault::Fault;

/// `getAuthProtocol()`: how clients have to authenticate, if they have to.
pub fn auth_protocol(session: &Session, args: Args) -> Answer {
    args.end()?;
    Ok(session.authenticator().map_or(Value::None, |_| Value::native(auth::PROTOCOL)))
}

/// What clients may call beside the methods they know. The values mean nothing.
pub fn extension_methods(authenticates: bool) -> Value {
    let names: &[&str] = if authenticates { &[AUTH_GET_CHALLENGE, AUTH_RESPONSE] } else { &[] };
    Value::Dict(names.iter().map(|name| (Value::native(name), Value::None)).collect())
}

/// `load(oid)`: the current revision, `(data, tid)`. `loadEx` says its version, too, to clients that know some; `zeoLoad`, of
/// very old clients, says more about versions.
pub fn load_current(session: &mut Session, served: &Served, call: &Call, mut args: Args) -> Result<(), End> {
    let oid = match args.oid().and_then(|oid| args.end().map(|()| oid)) {
        Ok(oid) => oid,
        Err(fault) => return session.reply(call, Err(fault)),
    };
    served.stats.loads.up();
    session.reply_current(served, call, |storage| {
        let revision = storage.load_before(oid, Tid::MAX)?.ok_or(Fault::PosKey(oid))?;
        let known = vec![Value::Bytes(revision.data), tid_value(revision.tid)];
        Ok(match call.method {
            "zeoLoad" => Value::Tuple([known, vec![Value::native(""), Value::None, Value::None]].concat()),
            "loadEx" => session.dialect.with_version(known),
            _ => Value::Tuple(known),
        })
    })
}

/// `verify(oid, tid)`: calls `invalidateVerify` if that is not the current revision, or if nobody can say. `zeoVerify` is its
/// older name.
pub fn verify(session: &mut Session, served: &Served, mut args: Args) -> Result<(), Fault> {
    let oid = args.oid()?;
    let cached = args.optional_tid().and_then(|cached| args.end().map(|()| cached));
    let mut problem = None;
    served.hub.consistently(
        || served.storage.current_tid(oid),
        |current| {
            let is_current = matches!((&current, &cached), (Ok(tid), Ok(Some(cached))) if tid == cached);
            if !is_current {
                session.outbox.push(|out| session.dialect.put_invalidate_verify(out, oid));
            }
            problem = current.err().filter(|error| !matches!(error, StorageError::NoSuchObject(_)));
        },
    );
    problem.map_or(cached.map(|_| ()), |error| Err(error.into()))
}

/// `endZeoVerify()`: calls `endVerify`; the client waits for it.
pub fn end_verify(session: &mut Session, served: &Served, args: Args) -> Answer {
    args.end()?;
    served.hub.enqueue(|| session.outbox.push(|out| session.dialect.put_end_verify(out)));
    Ok(Value::None)
}
