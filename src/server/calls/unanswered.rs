//! Requests that fail and want no reply. Clients before ZEO 5 send nearly all of a transaction that way, and go on when one fails.
//!
//! They must not believe that all is well: the next answer that the transaction gets, to its vote or its finish, is what failed
//! first. What concerns no transaction is only said in the log.

use crate::pickle::Value;
use crate::wire::fault::Fault;

/// What failed first, of one transaction: the client's current one, if something of that did.
#[derive(Default)]
pub struct Unanswered(Option<(Value, Fault)>);

impl Unanswered {
    /// A request for `transaction` failed, while `current` is the client's; answers whether it is the first of its transaction.
    pub fn note(&mut self, transaction: &Value, current: Option<&Value>, fault: &Fault) -> bool {
        match &self.0 {
            Some((known, _)) if known == transaction => false,
            Some((known, _)) if Some(known) == current => true,
            _ => {
                self.0 = Some((transaction.clone(), fault.clone()));
                true
            }
        }
    }

    /// What failed of `transaction`. From then on nothing is known of it.
    pub fn take(&mut self, transaction: &Value) -> Option<Fault> {
        self.0.take_if(|(known, _)| known == transaction).map(|(_, fault)| fault)
    }

    /// Another transaction begins.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// The id of the transaction that a call names.
pub fn transaction_of<'a>(method: &str, args: &'a [Value]) -> Option<&'a Value> {
    let id = match method {
        "tpc_begin" => args.first(),
        "storea"
        | "restorea"
        | "deleteObject"
        | "undoa"
        | "checkCurrentSerialInTransaction"
        | "storeBlobEnd"
        | "storeBlobShared" => args.last(),
        _ => None,
    };
    id.filter(|id| id.is_scalar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_of_a_transaction_is_kept_until_it_is_told() {
        let (one, two) = (Value::Int(1), Value::Int(2));
        let fault = |text: &str| Fault::Value(text.to_owned());
        let mut unanswered = Unanswered::default();
        assert!(unanswered.note(&one, Some(&one), &fault("first")));
        assert!(!unanswered.note(&one, Some(&one), &fault("second")));
        assert!(unanswered.note(&two, Some(&one), &fault("of no transaction that there is")));
        assert_eq!(unanswered.take(&two), None);
        assert_eq!(unanswered.take(&one), Some(fault("first")));
        assert_eq!(unanswered.take(&one), None);
        assert!(unanswered.note(&two, None, &fault("of another")));
        assert!(unanswered.note(&one, Some(&one), &fault("of the current one")));
        assert_eq!(unanswered.take(&one), Some(fault("of the current one")));
        assert!(unanswered.note(&two, None, &fault("of another")));
        unanswered.clear();
        assert_eq!(unanswered.take(&two), None);
    }
}
