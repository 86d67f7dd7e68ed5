//! What clients before ZEO 5 say and hear otherwise. Up to ZODB 3.8 objects had versions (branches, long gone): every call
//! that names an object names its version, too, which is always the empty one.

use super::dialect::{Dialect, Encoding, Version};
use super::fault::{Fault, Form};
use crate::ids::{Oid, Tid};
use crate::pickle::Value;

/// In place of a tid in `serialnos`, and a byte string like one: the record is another than the client has stored.
const RESOLVED: &[u8] = b"rs";

/// What became of a store, for the client that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is written as the client stored it.
    AsSent,
    /// The record is another one: the client must read it again.
    Changed,
}

impl Dialect {
    /// Whether objects are named together with their version.
    fn has_versions(self) -> bool {
        self.version < Version::V309
    }

    /// How exceptions are written down.
    pub(super) fn exception_form(self) -> Form {
        match self.encoding() {
            Encoding::Msgpack => Form::Told,
            Encoding::Pickle if self.version < Version::V308 => Form::Called,
            Encoding::Pickle => Form::Reconstructed(self.python()),
        }
    }

    /// What is said of the version of each revision in a history.
    pub fn history_version(self) -> Option<(Value, Value)> {
        self.has_versions().then(|| (Value::native("version"), no_version()))
    }

    /// Takes what is said of versions out of the arguments of a call.
    pub fn without_version(self, method: &str, mut args: Vec<Value>) -> Result<Vec<Value>, Fault> {
        let position = match method {
            "load" | "loadEx" | "history" | "verify" => 1,
            "zeoVerify" => 2,
            "storea" | "storeBlobEnd" => 3,
            "storeBlobShared" => 4,
            _ => return Ok(args),
        };
        if self.has_versions() && position < args.len() {
            let version = args.remove(position);
            let is_none = version == Value::None || version.as_string().is_some_and(bytes::Bytes::is_empty);
            if !is_none {
                return Err(Fault::Unsupported("Versions aren't supported".to_owned()));
            }
        }
        Ok(args)
    }

    /// An object, in a list of those that have changed.
    pub fn mention(self, oid: Oid) -> Value {
        let name = Value::bytes(&oid.to_bytes());
        if self.has_versions() { Value::Tuple(vec![name, no_version()]) } else { name }
    }

    /// What is known of a current revision, with its version where it has one.
    pub fn with_version(self, mut known: Vec<Value>) -> Value {
        known.extend(self.has_versions().then(no_version));
        Value::Tuple(known)
    }

    /// Appends the frame that tells, before a vote is answered, how each store went. `tid` is what the transaction will
    /// have. The client raises the fault, if there is one.
    pub fn put_serialnos(&self, out: &mut Vec<u8>, stores: &[(Oid, Stored)], tid: Tid, failure: Option<(Oid, &Fault)>) {
        let pair = |oid: Oid, outcome: Value| Value::Tuple(vec![Value::bytes(&oid.to_bytes()), outcome]);
        let stores = stores.iter().map(|(oid, stored)| match stored {
            Stored::AsSent => pair(*oid, Value::bytes(&tid.to_bytes())),
            Stored::Changed => pair(*oid, Value::bytes(RESOLVED)),
        });
        let failure = failure.map(|(oid, fault)| {
            let [_, instance] = fault.class_and_instance(self.exception_form(), self.python());
            pair(oid, instance)
        });
        self.put_call(out, "serialnos", &[Value::List(stores.chain(failure).collect())]);
    }

    /// Appends the frame that tells a client, while it verifies its cache, that it has an old revision of `oid`.
    pub fn put_invalidate_verify(&self, out: &mut Vec<u8>, oid: Oid) {
        self.put_call(out, "invalidateVerify", &[self.mention(oid)]);
    }

    /// Appends the frame that ends the verification of a cache.
    pub fn put_end_verify(&self, out: &mut Vec<u8>) {
        self.put_call(out, "endVerify", &[]);
    }
}

fn no_version() -> Value {
    Value::native("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::Python;
    use crate::wire::fault::{Collision, UndoRefusal};
    use crate::wire::handshake::{Answer, answer};

    const OID: Oid = Oid(0x1a7);
    const TID: Tid = Tid(0x040d_2553_e444_4444);

    fn dialect(name: &str) -> Dialect {
        match answer(name.as_bytes()) {
            Answer::Speak(dialect) => dialect.for_python(Python::Two),
            other => panic!("{other:?}"),
        }
    }

    /// What is appended, without the length of the frame.
    fn body(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out);
        out.split_off(4)
    }

    fn printable(put: impl FnOnce(&mut Vec<u8>)) -> String {
        body(put).escape_ascii().to_string()
    }

    #[test]
    fn a_missing_object_as_zeo_4_on_python_2_tells_of_it() {
        // Recorded from ZEO 4.3.1, but for the oid.
        assert_eq!(
            printable(|out| dialect("Z4").put_fault(out, &Value::Int(4), &Fault::PosKey(OID))),
            "(K\\x04K\\x00U\\x06.reply(cZODB.POSException\\nPOSKeyError\\ncZODB.POSException\\n_recon\\n\
             (cZODB.POSException\\nPOSKeyError\\n}U\\x04args(U\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\xa7tstRtt."
        );
    }

    #[test]
    fn zodb_3_7_makes_exceptions_by_calling_their_class() {
        // Recorded from ZODB 3.7.2, but for the number of the call.
        assert_eq!(
            printable(|out| dialect("Z303").put_fault(out, &Value::Int(4), &Fault::ReadOnly)),
            "(K\\x04K\\x00U\\x06.reply(cZODB.POSException\\nReadOnlyError\\n\
             cZODB.POSException\\nReadOnlyError\\n)Rtt."
        );
    }

    #[test]
    fn exceptions_of_python_itself_are_in_another_module_in_each_python() {
        let fault = Fault::unknown_storage("2");
        for (python, module) in [(Python::Two, "exceptions"), (Python::Three, "builtins")] {
            for name in ["Z303", "Z4"] {
                let [class, instance] =
                    fault.class_and_instance(dialect(name).exception_form(), dialect(name).for_python(python).python());
                assert!(class.is_global(module, "ValueError"), "{class:?}");
                assert_eq!(instance, Value::call(class, vec![Value::native("unknown storage: 2")]));
            }
            let told = dialect("Z5").for_python(python);
            assert!(
                printable(|out| told.put_fault(out, &Value::Int(1), &fault)).contains(&format!("{module}.ValueError"))
            );
        }
    }

    #[test]
    fn refusals_within_a_refusal_are_instances_as_well() {
        let refusal = UndoRefusal { oid: Some(OID), reason: "later".into() };
        let fault = Fault::MultipleUndo(vec![(OID, refusal)]);
        for (name, calls) in [("Z303", "UndoError"), ("Z308", "_recon")] {
            let text = printable(|out| dialect(name).put_fault(out, &Value::Int(1), &fault));
            // In the list, in place of an oid, and either among the arguments or as the whole.
            assert_eq!(text.matches(&format!("cZODB.POSException\\n{calls}\\n")).count(), 3, "{text}");
        }
    }

    #[test]
    fn serialnos_tells_of_every_store_and_of_the_failure() {
        let collision = Collision { oid: OID, class_name: None, committed: TID, read: Tid(1) };
        let stores = [(Oid(1), Stored::AsSent), (Oid(2), Stored::Changed)];
        let failed = Fault::Conflict(collision);
        let text = printable(|out| dialect("Z309").put_serialnos(out, &stores, TID, Some((OID, &failed))));
        let begin = "(K\\x00K\\x01U\\tserialnos(](\
             (U\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01U\\x08\\x04\\r%S\\xe4DDDt\
             (U\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02U\\x02rst\
             (U\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\xa7cZODB.POSException\\n_recon\\n(cZODB.POSException\\nConflictError\\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("tRtett."), "{text}");
    }

    #[test]
    fn objects_are_named_with_a_version_up_to_zodb_3_8() {
        for (name, has_versions) in [("Z201", true), ("Z303", true), ("Z308", true), ("Z309", false), ("Z4", false)] {
            let oid = Value::bytes(&OID.to_bytes());
            let pair = Value::Tuple(vec![oid.clone(), Value::native("")]);
            assert_eq!(dialect(name).mention(OID), if has_versions { pair } else { oid }, "{name}");
            let known = dialect(name).with_version(vec![Value::None]);
            assert_eq!(known, Value::Tuple([vec![Value::None], vec![Value::native(""); has_versions.into()]].concat()));
        }
    }

    #[test]
    fn versions_are_taken_out_of_calls_and_only_the_empty_one_is_accepted() {
        let args = |version: Value| vec![Value::Int(0), Value::Int(1), Value::Int(2), version, Value::Int(4)];
        let without = vec![Value::Int(0), Value::Int(1), Value::Int(2), Value::Int(4)];
        for version in [Value::native(""), Value::None, Value::bytes(b"")] {
            assert_eq!(dialect("Z308").without_version("storea", args(version)), Ok(without.clone()));
        }
        let refused = Fault::Unsupported("Versions aren't supported".to_owned());
        assert_eq!(dialect("Z308").without_version("storea", args(Value::native("v"))), Err(refused));
        // Nothing to take out: of calls and of clients that know no versions, and where arguments are missing.
        assert_eq!(dialect("Z308").without_version("tpc_finish", args(Value::None)), Ok(args(Value::None)));
        assert_eq!(dialect("Z309").without_version("storea", args(Value::None)), Ok(args(Value::None)));
        assert_eq!(dialect("Z308").without_version("storea", vec![Value::None]), Ok(vec![Value::None]));
    }

    #[test]
    fn python_2_gets_its_own_strings_numbers_and_tuples() {
        let value = Value::Tuple(vec![
            Value::Bool(true),
            Value::Int(1 << 40),
            Value::bytes(b"\xff"),
            Value::native("name"),
            Value::text("text"),
            Value::Tuple(vec![Value::None]),
            Value::bytes(&[b'x'; 256]),
        ]);
        let text = printable(|out| dialect("Z3101").put_reply(out, &Value::Int(-1), &value));
        let begin = "(J\\xff\\xff\\xff\\xffK\\x00U\\x06.reply(I01\\nI1099511627776\\nU\\x01\\xffU\\x04nameX\\x04\\x00\\x00\\x00text(NtT\\x00\\x01\\x00\\x00xx";
        assert!(text.starts_with(begin), "{text}");
    }
}
