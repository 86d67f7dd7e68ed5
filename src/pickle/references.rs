//! What an object record refers to, for garbage collection.
//!
//! A record is two pickles read by one machine: the memo of the first is there in the second. The
//! machine here is made for speed, since a pack runs it over every record of a database: it keeps
//! apart only what a persistent id can be made of, and a tuple is no more than its first item.
//! Nothing is allocated but its buffers, which are kept from record to record.
//!
//! # Persistent ids
//!
//! | Persistent id | Given as a reference |
//! |---|---|
//! | `oid`, `(oid, class)` | yes |
//! | `[...]`: a weak reference, or one to another database | no |
//! | anything else | [`PickleError::PersistentId`] |
//!
//! An oid is a string of eight, of whatever kind: `bytes`, `str` of Python 2, text with each byte as
//! one character (Latin-1), or `bytes` spelled as a call, as below protocol 3.
//!
//! # What cannot be read
//!
//! As for ZODB's own `referencesf`, that is a record that ends before its second pickle does, an
//! opcode that does not exist, takes more from the stack or the memo than is there, or has an argument
//! by which nobody can find the next opcode, and a persistent id of another form. What does not bear
//! on references is not looked at: digits of numbers, encodings of text, whether keys are hashable,
//! bytes behind the second pickle. A record that needs more than [`MOST_ITEMS`] is not read to its end, so
//! that its bytes cannot ask for many times as much memory. Two things ZODB cannot read are read here: protocols 4 and 5, and
//! Python 2's strings outside of ASCII.

use std::collections::HashMap;

use memchr::memchr;

use super::read::{Flaw, PickleError, Step};
use super::{opcode as op, string};
use crate::ids::Oid;

/// How many entries of each buffer are kept from one record to the next; few records need more.
const KEPT: usize = 1 << 16;

/// How many entries all buffers may have together while a record is read. A pickler empties the stack after each
/// thousand values, so that only a record with millions of different strings or containers can need so many.
pub const MOST_ITEMS: usize = 1 << 22;

/// The longest `STRING` argument that can be an oid: eight bytes as `\xff`, in quotes, and a little white space.
const LONGEST_QUOTED_OID: usize = 8 * 4 + 2 + 8;

/// The longest `UNICODE` argument that can be an oid: eight characters as `\U000000ff`.
const LONGEST_ESCAPED_OID: usize = 8 * 10;

/// Finds the references in object records, one record after the other.
#[derive(Debug, Default)]
pub struct ReferenceScanner {
    stack: Vec<Item>,
    /// Heights of the stack at each `MARK`.
    marks: Vec<usize>,
    memo: Memo,
}

/// What a value is, as far as it matters to persistent ids.
#[derive(Clone, Copy, Debug, Default)]
enum Item {
    /// No value at all: a gap in the memo.
    #[default]
    Absent,
    /// A value that is no part of a persistent id.
    Other,
    /// A string of eight.
    Oid(Oid),
    /// A tuple that begins with such a string.
    TupleOf(Oid),
    List,
    /// A function that makes `bytes` of its first argument.
    BytesMaker,
}

impl ReferenceScanner {
    /// Hands each reference in `record` to another object of the same database to `each`, as often as it occurs.
    ///
    /// When this fails, what was handed out is right, but there may be more.
    pub fn scan(&mut self, record: &[u8], each: impl FnMut(Oid)) -> Result<(), PickleError> {
        self.memo.clear();
        let mut machine = Machine { scanner: self, record, rest: record, each, unknown: None };
        let read = machine.pickle().and_then(|()| machine.pickle());
        let unknown = machine.unknown;
        self.stack.shrink_to(KEPT);
        self.marks.shrink_to(KEPT);
        read?;
        unknown.map_or(Ok(()), Err)
    }

    fn items(&self) -> usize {
        [self.stack.len(), self.marks.len(), self.memo.low.len(), self.memo.high.len()].iter().sum()
    }
}

struct Machine<'a, F> {
    scanner: &'a mut ReferenceScanner,
    record: &'a [u8],
    /// What of the record is still to be read.
    rest: &'a [u8],
    each: F,
    /// The first persistent id of no known form; it does not keep the others from being found.
    unknown: Option<PickleError>,
}

impl<'a, F: FnMut(Oid)> Machine<'a, F> {
    /// Reads one pickle.
    fn pickle(&mut self) -> Result<(), PickleError> {
        self.scanner.stack.clear();
        self.scanner.marks.clear();
        // A short one cannot need so many: each byte adds an entry at most, and gaps in the memo no more than its length.
        let may_be_too_many = self.record.len() > MOST_ITEMS / 2;
        loop {
            if may_be_too_many && self.scanner.items() > MOST_ITEMS {
                return Err(PickleError::TooMany);
            }
            let start = self.rest;
            let Some((&opcode, rest)) = start.split_first() else {
                return Err(PickleError::Truncated);
            };
            self.rest = rest;
            let done = if opcode == op::STOP { self.pop().map(drop) } else { self.step(opcode) };
            if let Err(flaw) = done {
                let error = flaw.at(opcode, self.record.len().saturating_sub(start.len()));
                if !matches!(error, PickleError::PersistentId { .. }) {
                    return Err(error);
                }
                self.unknown.get_or_insert(error);
            }
            if opcode == op::STOP {
                return Ok(());
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            op::SHORT_BINBYTES | op::SHORT_BINSTRING => self.bytes::<1>()?,
            op::BINBYTES | op::BINSTRING => self.bytes::<4>()?,
            op::BINUNICODE => self.text::<4>()?,
            op::SHORT_BINUNICODE => self.text::<1>()?,
            op::NONE | op::NEWTRUE | op::NEWFALSE | op::EMPTY_TUPLE | op::EMPTY_DICT | op::EMPTY_SET => {
                self.push(Item::Other);
            }
            op::EMPTY_LIST => self.push(Item::List),
            op::BININT1 => self.skip_and_push(1)?,
            op::BININT2 => self.skip_and_push(2)?,
            op::BININT => self.skip_and_push(4)?,
            op::BINFLOAT => self.skip_and_push(8)?,

            op::BINPUT => {
                let index = self.number::<1>()?;
                self.put(index)?;
            }
            op::BINGET => {
                let index = self.number::<1>()?;
                self.get(index)?;
            }
            op::LONG_BINPUT => {
                let index = self.number::<4>()?;
                self.put(index)?;
            }
            op::LONG_BINGET => {
                let index = self.number::<4>()?;
                self.get(index)?;
            }
            op::MEMOIZE => self.put(self.scanner.memo.len())?,

            op::MARK => self.scanner.marks.push(self.scanner.stack.len()),
            op::TUPLE1 => self.make_tuple(1)?,
            op::TUPLE2 => self.make_tuple(2)?,
            op::TUPLE3 => self.make_tuple(3)?,
            op::TUPLE => {
                let first = self.pop_mark()?;
                self.push(tuple(first));
            }
            op::APPEND => self.fold(1)?,
            op::BUILD => drop(self.pop()?),
            op::SETITEM => self.fold(2)?,
            op::APPENDS | op::SETITEMS | op::ADDITEMS => {
                self.pop_mark()?;
                // What is filled has to be there.
                self.fold(0)?;
            }

            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                let makes_bytes = matches!((module, name), (b"_codecs", b"encode") | (b"zodbpickle", b"binary"));
                self.push(if makes_bytes { Item::BytesMaker } else { Item::Other });
            }
            op::STACK_GLOBAL | op::NEWOBJ => self.pop_and_push(2, Item::Other)?,
            op::REDUCE => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.push(match (callable, args) {
                    (Item::BytesMaker, Item::TupleOf(oid)) => Item::Oid(oid),
                    _ => Item::Other,
                });
            }
            op::BINPERSID => {
                let id = self.pop()?;
                self.refer(id)?;
            }
            op::PROTO => match self.take(1)? {
                [0..=5] => {}
                _ => return Err(Flaw::Argument),
            },
            op::FRAME => drop(self.take(8)?),
            _ => self.rare_step(opcode)?,
        }
        Ok(())
    }

    /// Opcodes of protocol 0, and those that few pickles have.
    fn rare_step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            op::EXT1 => self.skip_and_push(1)?,
            op::EXT2 => self.skip_and_push(2)?,
            op::EXT4 => self.skip_and_push(4)?,
            op::LONG1 => {
                let length = self.length::<1>()?;
                self.skip_and_push(length)?;
            }
            op::LONG4 => {
                let length = self.length::<4>()?;
                self.skip_and_push(length)?;
            }
            op::BYTEARRAY8 => {
                let length = self.length::<8>()?;
                self.skip_and_push(length)?;
            }
            op::INT | op::LONG | op::FLOAT => {
                self.line()?;
                self.push(Item::Other);
            }
            op::BINBYTES8 => self.bytes::<8>()?,
            op::BINUNICODE8 => self.text::<8>()?,
            op::STRING | op::UNICODE => self.escaped(opcode)?,

            op::PUT => {
                let index = self.decimal()?;
                self.put(index)?;
            }
            op::GET => {
                let index = self.decimal()?;
                self.get(index)?;
            }

            op::POP => self.discard()?,
            op::POP_MARK => drop(self.pop_mark()?),
            op::DUP => {
                let top = *self.scanner.stack.last().ok_or(Flaw::Stack)?;
                self.push(top);
            }
            op::LIST => {
                self.pop_mark()?;
                self.push(Item::List);
            }
            op::DICT | op::FROZENSET => {
                self.pop_mark()?;
                self.push(Item::Other);
            }
            op::INST => {
                self.line()?;
                self.line()?;
                self.pop_mark()?;
                self.push(Item::Other);
            }
            op::OBJ => {
                // The class comes first.
                self.pop_mark()?.ok_or(Flaw::Stack)?;
                self.push(Item::Other);
            }
            op::NEWOBJ_EX => self.pop_and_push(3, Item::Other)?,
            op::PERSID => {
                let id = self.line()?;
                self.refer(bytes(id))?;
            }
            op::READONLY_BUFFER => self.fold(0)?,
            _ => return Err(Flaw::Opcode),
        }
        Ok(())
    }

    /// `BINPERSID` and `PERSID`: hands the reference out; in its place is an object.
    fn refer(&mut self, id: Item) -> Step<()> {
        self.push(Item::Other);
        match id {
            Item::Oid(oid) | Item::TupleOf(oid) => (self.each)(oid),
            Item::List => {}
            Item::Absent | Item::Other | Item::BytesMaker => return Err(Flaw::PersistentId),
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Step<()> {
        let length = self.length::<N>()?;
        let string = self.take(length)?;
        self.push(bytes(string));
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Step<()> {
        let length = self.length::<N>()?;
        let string = self.take(length)?;
        self.push(text(string));
        Ok(())
    }

    /// The strings of protocol 0.
    fn escaped(&mut self, opcode: u8) -> Step<()> {
        let line = self.line()?;
        let item = match opcode {
            op::STRING if line.len() <= LONGEST_QUOTED_OID => string::quoted(line).map(|string| bytes(&string)),
            op::UNICODE if line.len() <= LONGEST_ESCAPED_OID => {
                string::raw_unicode_escape(line).map(|string| text(&string))
            }
            _ => None,
        };
        self.push(item.unwrap_or(Item::Other));
        Ok(())
    }

    fn put(&mut self, index: u64) -> Step<()> {
        let top = *self.scanner.stack.last().ok_or(Flaw::Stack)?;
        self.scanner.memo.put(index, top, self.record.len().min(MOST_ITEMS));
        Ok(())
    }

    fn get(&mut self, index: u64) -> Step<()> {
        match self.scanner.memo.get(index) {
            Item::Absent => Err(Flaw::Stack),
            item => {
                self.push(item);
                Ok(())
            }
        }
    }

    fn push(&mut self, item: Item) {
        self.scanner.stack.push(item);
    }

    fn pop(&mut self) -> Step<Item> {
        self.scanner.stack.pop().ok_or(Flaw::Stack)
    }

    /// Takes all above the newest mark from the stack; gives the first of it.
    fn pop_mark(&mut self) -> Step<Option<Item>> {
        let mark = self.scanner.marks.pop().ok_or(Flaw::Stack)?;
        let first = self.scanner.stack.get(mark..).ok_or(Flaw::Stack)?.first().copied();
        self.scanner.stack.truncate(mark);
        Ok(first)
    }

    /// Takes `count` items from the stack and puts one in their place.
    fn pop_and_push(&mut self, count: usize, item: Item) -> Step<()> {
        let below = self.scanner.stack.len().checked_sub(count).ok_or(Flaw::Stack)?;
        self.scanner.stack.truncate(below);
        self.push(item);
        Ok(())
    }

    fn make_tuple(&mut self, count: usize) -> Step<()> {
        let below = self.scanner.stack.len().checked_sub(count).ok_or(Flaw::Stack)?;
        self.pop_and_push(count, tuple(self.scanner.stack.get(below).copied()))
    }

    /// Takes `count` items from the stack, into what is below them.
    fn fold(&mut self, count: usize) -> Step<()> {
        match self.scanner.stack.len().checked_sub(count) {
            None | Some(0) => Err(Flaw::Stack),
            Some(below) => {
                self.scanner.stack.truncate(below);
                Ok(())
            }
        }
    }

    /// `POP`: drops a mark if that is what is on top.
    fn discard(&mut self) -> Step<()> {
        if self.scanner.marks.last() == Some(&self.scanner.stack.len()) {
            self.scanner.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn skip_and_push(&mut self, count: usize) -> Step<()> {
        self.take(count)?;
        self.push(Item::Other);
        Ok(())
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Flaw::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Up to the next newline, without it.
    fn line(&mut self) -> Step<&'a [u8]> {
        let length = memchr(b'\n', self.rest).ok_or(Flaw::Truncated)?;
        let line = self.take(length)?;
        self.take(1)?;
        Ok(line)
    }

    /// A little-endian number of N bytes, at most eight.
    fn number<const N: usize>(&mut self) -> Step<u64> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(Flaw::Truncated)?;
        self.rest = rest;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn length<const N: usize>(&mut self) -> Step<usize> {
        self.number::<N>().and_then(|number| usize::try_from(number).map_err(|_| Flaw::Truncated))
    }

    fn decimal(&mut self) -> Step<u64> {
        std::str::from_utf8(self.line()?).ok().and_then(|digits| digits.parse().ok()).ok_or(Flaw::Argument)
    }
}

fn tuple(first: Option<Item>) -> Item {
    match first {
        Some(Item::Oid(oid)) => Item::TupleOf(oid),
        _ => Item::Other,
    }
}

fn bytes(string: &[u8]) -> Item {
    Oid::from_slice(string).map_or(Item::Other, Item::Oid)
}

fn text(string: &[u8]) -> Item {
    // Keys and words of about that length are common, and nearly all are ASCII.
    let oid = match string.len() {
        8..=16 if string.is_ascii() => Oid::from_slice(string),
        8..=16 => latin1(string).map(Oid::from_bytes),
        _ => None,
    };
    oid.map_or(Item::Other, Item::Oid)
}

/// The bytes of a text of eight characters that stand for one byte each.
fn latin1(text: &[u8]) -> Option<[u8; 8]> {
    let mut chars = std::str::from_utf8(text).ok()?.chars();
    let mut bytes = [0; 8];
    for byte in &mut bytes {
        *byte = u8::try_from(chars.next()?).ok()?;
    }
    chars.next().is_none().then_some(bytes)
}

/// The memo: nearly always numbered from zero or one without gaps.
#[derive(Debug, Default)]
struct Memo {
    low: Vec<Item>,
    /// How many of `low` are absent.
    gaps: usize,
    /// Entries with numbers beyond what the length of the record explains.
    high: HashMap<u64, Item>,
}

impl Memo {
    fn clear(&mut self) {
        self.low.clear();
        self.low.shrink_to(KEPT);
        self.gaps = 0;
        if !self.high.is_empty() {
            self.high = HashMap::new();
        }
    }

    /// How many entries there are: the number that `MEMOIZE` gives.
    fn len(&self) -> u64 {
        (self.low.len().saturating_add(self.high.len()).saturating_sub(self.gaps)) as u64
    }

    fn get(&self, index: u64) -> Item {
        let low = usize::try_from(index).ok().and_then(|index| self.low.get(index));
        low.or_else(|| self.high.get(&index)).copied().unwrap_or_default()
    }

    /// Sets an entry. `limit` is up to where gaps may be filled, since they take memory too.
    fn put(&mut self, index: u64, item: Item, limit: usize) {
        let Some(place) = usize::try_from(index).ok().filter(|&place| place <= limit) else {
            self.high.insert(index, item);
            return;
        };
        if let Some(entry) = self.low.get_mut(place) {
            self.gaps = self.gaps.saturating_sub(usize::from(matches!(entry, Item::Absent)));
            *entry = item;
            return;
        }
        self.gaps = self.gaps.saturating_add(place.saturating_sub(self.low.len()));
        self.low.resize(place, Item::Absent);
        self.low.push(item);
    }
}

#[cfg(test)]
mod tests;
