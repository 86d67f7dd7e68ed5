//! `ZopeUndo.Prefix`: what Zope puts into an `undoInfo` specification to find the transactions of
//! one folder.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::Bytes;

use crate::pickle::{Object, Value};

/// A path; equal to every user name or description that is at or below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// How many elements of a candidate count.
    pub length: usize,
    /// What they have to be.
    pub path: Vec<Bytes>,
}

impl Prefix {
    /// Whether `candidate`, such as `/folder/item user`, begins with this path.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let mut elements: Vec<&[u8]> = candidate.split(|&byte| byte == b'/').collect();
        if let Some(last) = elements.last_mut()
            && let Some(space) = last.iter().rposition(|&byte| byte == b' ')
        {
            *last = last.get(..space).unwrap_or_default();
        }
        let counted = elements.get(..self.length).unwrap_or(&elements);
        counted.iter().eq(self.path.iter())
    }
}

impl Value {
    /// The prefix that this object is, in any of the spellings of Python 2 and 3.
    pub fn as_prefix(&self) -> Option<Prefix> {
        let Self::Object(object) = self else {
            return None;
        };
        if !is_prefix_class(class(object)?) {
            return None;
        }
        let Self::Dict(state) = object.state.as_ref()? else {
            return None;
        };
        let attribute = |name: &str| {
            let named = |key: &Self| key.as_string().is_some_and(|key| key == name.as_bytes());
            state.iter().rev().find(|(key, _)| named(key)).map(|(_, value)| value)
        };
        let Self::Int(length) = attribute("length")? else {
            return None;
        };
        let (Self::List(path) | Self::Tuple(path)) = attribute("path")? else {
            return None;
        };
        Some(Prefix {
            length: usize::try_from(*length).ok()?,
            path: path.iter().map(|element| element.as_string().cloned()).collect::<Option<_>>()?,
        })
    }
}

/// The class of an instance without constructor arguments.
fn class(object: &Object) -> Option<&Value> {
    let Value::Tuple(args) = &object.args else {
        return None;
    };
    if args.is_empty() {
        return Some(&object.callable);
    }
    match args.as_slice() {
        [class, base, Value::None]
            if object.callable.is_global("copy_reg", "_reconstructor")
                && (base.is_global("__builtin__", "object") || base.is_global("builtins", "object")) =>
        {
            Some(class)
        }
        _ => None,
    }
}

fn is_prefix_class(class: &Value) -> bool {
    class.is_global("ZopeUndo.Prefix", "Prefix")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::read;

    /// `Prefix('/a b')` as ZODB 3.8, as ZODB 3.10 and ZEO 4 on Python 2, and as later clients pickle it.
    const SPELLINGS: [&[u8]; 3] = [
        b"(cZopeUndo.Prefix\nPrefix\no}(U\x06lengthK\x02U\x04path](U\x00U\x03a beub.",
        b"ccopy_reg\n_reconstructor\n(cZopeUndo.Prefix\nPrefix\nc__builtin__\nobject\nNtR\
          }(U\x06lengthK\x02U\x04path](U\x00U\x03a beub.",
        b"\x80\x03cZopeUndo.Prefix\nPrefix\n)\x81}(X\x04\0\0\0path](X\0\0\0\0X\x03\0\0\0a be\
          X\x06\0\0\0lengthK\x02ub.",
    ];

    fn prefix(path: &str) -> Prefix {
        let path: Vec<_> = path.split('/').map(|element| Bytes::copy_from_slice(element.as_bytes())).collect();
        Prefix { length: path.len(), path }
    }

    #[test]
    fn all_spellings() {
        for spelling in SPELLINGS {
            let value = read(&Bytes::from_static(spelling)).unwrap();
            assert_eq!(value.as_prefix(), Some(prefix("/a b")));
        }
        for other in
            [&b"N."[..], b"cos\npath\n)R}b.", b"cZopeUndo.Prefix\nPrefix\n)R.", b"(cZopeUndo.Prefix\nPrefix\no}b."]
        {
            assert_eq!(read(&Bytes::from_static(other)).unwrap().as_prefix(), None);
        }
    }
}
