//! The reader: Python's pickle machine, protocols 0 to 5, with values in place of objects.
//!
//! Opcodes are carried out on an arena of nodes, because the memo lets a list be named before it is
//! filled; the tree is built from the arena at the end. Every length is checked against the bytes
//! that are there, the depth of the tree is limited so that recursion over it is safe, and what the
//! memo may multiply is limited by [`Rules::growth`].

use std::collections::HashMap;

use bytes::Bytes;

use super::value::{Global, Object, Value, is_text};
use super::{number, opcode as op, string};

/// The deepest tree of values: deep enough for any message or extension, shallow enough to recurse on.
pub const MAX_DEPTH: usize = 200;

/// The most containers that may be under construction at once: at each depth one is filled, by an
/// opcode that takes all from a mark.
const MAX_MARKS: usize = 2 * MAX_DEPTH;

/// How much of a name is worth an error message.
const SHOWN: usize = 64;

/// What a pickle may hold.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most values, counting each element of a container.
    pub max_values: usize,
    /// How many times larger than the pickle its tree may be; only the memo can make it larger at all.
    pub growth: usize,
    /// Which globals (module, name) are accepted.
    pub global: fn(&[u8], &[u8]) -> bool,
}

impl Rules {
    /// Any data, as large as its bytes allow, with any globals (which are names only).
    pub const ANY: Self = Self { max_values: usize::MAX, growth: 16, global: |_, _| true };
}

/// Why a pickle was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The bytes end before the pickle does.
    #[error("the pickle is cut short")]
    Truncated,
    /// There are bytes behind the end of the pickle.
    #[error("{0} bytes behind the end of the pickle")]
    Trailing(usize),
    /// An opcode that does not exist, or that data does not need (persistent ids, extension codes, buffers).
    #[error("opcode {opcode:#04x} at {position} is not accepted")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where.
        position: usize,
    },
    /// An opcode found something else on the stack than it needs.
    #[error("opcode {opcode:#04x} at {position} does not fit what is before it")]
    Stack {
        /// The opcode.
        opcode: u8,
        /// Where.
        position: usize,
    },
    /// The argument of an opcode is malformed.
    #[error("opcode {opcode:#04x} at {position} has a malformed argument")]
    Argument {
        /// The opcode.
        opcode: u8,
        /// Where.
        position: usize,
    },
    /// A persistent id that refers neither to an object of this database nor to one of another.
    #[error("the persistent id at {position} has no known form")]
    PersistentId {
        /// Where.
        position: usize,
    },
    /// A global that is not accepted here.
    #[error("global not allowed: {0}")]
    Global(String),
    /// Nested deeper than [`MAX_DEPTH`], or cyclic.
    #[error("values are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More values than the rules allow.
    #[error("more values than allowed")]
    TooMany,
}

/// Reads data that is exactly one pickle.
pub fn read(data: &Bytes) -> Result<Value, PickleError> {
    read_with(data, &Rules::ANY)
}

/// Reads data that is exactly one pickle, by narrower rules.
pub fn read_with(data: &Bytes, rules: &Rules) -> Result<Value, PickleError> {
    let (value, used) = Machine::new(data, rules).run()?;
    match data.len().saturating_sub(used) {
        0 => Ok(value),
        behind => Err(PickleError::Trailing(behind)),
    }
}

/// Reads the pickle that `data` begins with; also tells how many bytes it takes.
pub fn read_prefix(data: &Bytes) -> Result<(Value, usize), PickleError> {
    Machine::new(data, &Rules::ANY).run()
}

/// The place of a node in the arena.
type Id = usize;

enum Node {
    Leaf(Value),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Keys and values by turns.
    Dict(Vec<Id>),
    Set {
        name: &'static str,
        items: Vec<Id>,
    },
    Object {
        callable: Id,
        args: Id,
        bare: bool,
        state: Option<Id>,
    },
}

/// What is left to give out while the tree is built.
struct Budget {
    values: usize,
    bytes: usize,
}

/// Why an opcode failed, before its place is added.
pub(super) enum Flaw {
    Truncated,
    Opcode,
    Stack,
    Argument,
    PersistentId,
    Global(String),
    TooDeep,
    TooMany,
}

pub(super) type Step<T> = Result<T, Flaw>;

impl Flaw {
    pub(super) fn at(self, opcode: u8, position: usize) -> PickleError {
        match self {
            Self::Truncated => PickleError::Truncated,
            Self::Opcode => PickleError::Opcode { opcode, position },
            Self::Stack => PickleError::Stack { opcode, position },
            Self::Argument => PickleError::Argument { opcode, position },
            Self::PersistentId => PickleError::PersistentId { position },
            Self::Global(name) => PickleError::Global(name),
            Self::TooDeep => PickleError::TooDeep,
            Self::TooMany => PickleError::TooMany,
        }
    }
}

struct Machine<'a> {
    data: &'a Bytes,
    position: usize,
    rules: &'a Rules,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at each `MARK`.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn new(data: &'a Bytes, rules: &'a Rules) -> Self {
        let expected = data.len().min(16);
        Self {
            data,
            position: 0,
            rules,
            nodes: Vec::with_capacity(expected),
            stack: Vec::with_capacity(expected),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    fn run(mut self) -> Result<(Value, usize), PickleError> {
        loop {
            let position = self.position;
            let Ok([opcode]) = self.array() else {
                return Err(PickleError::Truncated);
            };
            if opcode == op::STOP {
                let root = self.pop().map_err(|_| PickleError::Stack { opcode, position })?;
                let size = self.data.len().saturating_mul(self.rules.growth).saturating_add(4096);
                let mut budget = Budget { values: self.rules.max_values.min(size), bytes: size };
                let value = self.build(root, 0, &mut budget)?;
                return Ok((value, self.position));
            }
            self.step(opcode).map_err(|flaw| flaw.at(opcode, position))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            op::PROTO => match self.array()? {
                [0..=5] => Ok(()),
                _ => Err(Flaw::Argument),
            },
            op::FRAME => self.array::<8>().map(drop),

            op::NONE => self.leaf(Value::None),
            op::NEWTRUE => self.leaf(Value::Bool(true)),
            op::NEWFALSE => self.leaf(Value::Bool(false)),

            op::INT
            | op::LONG
            | op::FLOAT
            | op::BININT
            | op::BININT1
            | op::BININT2
            | op::BINFLOAT
            | op::LONG1
            | op::LONG4 => {
                let number = self.number(opcode)?;
                self.leaf(number)
            }
            op::STRING
            | op::BINSTRING
            | op::SHORT_BINSTRING
            | op::UNICODE
            | op::BINUNICODE
            | op::BINBYTES
            | op::SHORT_BINBYTES
            | op::SHORT_BINUNICODE
            | op::BINUNICODE8
            | op::BINBYTES8 => {
                let string = self.string(opcode)?;
                self.leaf(string)
            }

            op::MARK => {
                if self.marks.len() >= MAX_MARKS {
                    return Err(Flaw::TooDeep);
                }
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP => self.discard(),
            op::POP_MARK => self.pop_mark().map(drop),
            op::DUP => {
                let top = self.top()?;
                self.push_again(top)
            }

            op::EMPTY_TUPLE
            | op::TUPLE
            | op::TUPLE1..=op::TUPLE3
            | op::EMPTY_LIST
            | op::LIST
            | op::EMPTY_DICT
            | op::DICT
            | op::EMPTY_SET
            | op::FROZENSET => self.container(opcode),
            op::APPEND | op::APPENDS | op::SETITEM | op::SETITEMS | op::ADDITEMS => self.fill(opcode),

            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::GET | op::BINGET | op::LONG_BINGET => {
                self.memo(opcode)
            }

            op::GLOBAL | op::STACK_GLOBAL | op::REDUCE | op::NEWOBJ | op::INST | op::OBJ | op::BUILD => {
                self.object(opcode)
            }

            // Persistent ids, extension codes and buffers mean nothing without their Python process;
            // the rest does not exist.
            _ => Err(Flaw::Opcode),
        }
    }

    fn number(&mut self, opcode: u8) -> Step<Value> {
        Ok(match opcode {
            op::INT => number::int(&self.line()?).ok_or(Flaw::Argument)?,
            op::LONG => number::long(&self.line()?).ok_or(Flaw::Argument)?,
            op::FLOAT => number::float(&self.line()?).ok_or(Flaw::Argument)?,
            op::BININT => Value::Int(i32::from_le_bytes(self.array()?).into()),
            op::BININT1 => Value::Int(self.array::<1>().map(u8::from_le_bytes)?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(self.array()?)),
            op::LONG1 => {
                let length = self.short_length()?;
                Value::from_le_bytes(&self.take(length)?)
            }
            _ => {
                let length = usize::try_from(i32::from_le_bytes(self.array()?)).map_err(|_| Flaw::Argument)?;
                Value::from_le_bytes(&self.take(length)?)
            }
        })
    }

    fn string(&mut self, opcode: u8) -> Step<Value> {
        let line = |text: Option<Vec<u8>>| text.map(Bytes::from).ok_or(Flaw::Argument);
        let length = match opcode {
            op::STRING => return Ok(Value::Native(line(string::quoted(&self.line()?))?)),
            op::UNICODE => {
                return Ok(Value::Text(line(string::raw_unicode_escape(&self.line()?))?));
            }
            op::SHORT_BINSTRING | op::SHORT_BINBYTES | op::SHORT_BINUNICODE => self.short_length()?,
            op::BINSTRING | op::BINBYTES | op::BINUNICODE => {
                usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| Flaw::Argument)?
            }
            _ => usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| Flaw::Argument)?,
        };
        let bytes = self.take(length)?;
        Ok(match opcode {
            op::SHORT_BINSTRING | op::BINSTRING => Value::Native(bytes),
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 => Value::Bytes(bytes),
            _ if is_text(&bytes) => Value::Text(bytes),
            _ => return Err(Flaw::Argument),
        })
    }

    fn container(&mut self, opcode: u8) -> Step<()> {
        let node = match opcode {
            op::EMPTY_TUPLE => Node::Tuple(Vec::new()),
            op::EMPTY_LIST => Node::List(Vec::new()),
            op::EMPTY_DICT => Node::Dict(Vec::new()),
            op::EMPTY_SET => Node::Set { name: "set", items: Vec::new() },
            op::TUPLE => Node::Tuple(self.pop_mark()?),
            op::LIST => Node::List(self.pop_mark()?),
            op::DICT => {
                let items = self.pop_mark()?;
                if !items.len().is_multiple_of(2) {
                    return Err(Flaw::Stack);
                }
                Node::Dict(items)
            }
            op::FROZENSET => Node::Set { name: "frozenset", items: self.pop_mark()? },
            op::TUPLE1 => Node::Tuple(self.pop_several(1)?),
            op::TUPLE2 => Node::Tuple(self.pop_several(2)?),
            _ => Node::Tuple(self.pop_several(3)?),
        };
        self.push(node)
    }

    /// `APPEND`, `APPENDS`, `SETITEM`, `SETITEMS`, `ADDITEMS`: puts what is on top into the container below.
    fn fill(&mut self, opcode: u8) -> Step<()> {
        let added = match opcode {
            op::APPEND => self.pop_several(1)?,
            op::SETITEM => self.pop_several(2)?,
            _ => self.pop_mark()?,
        };
        let container = self.top()?;
        match (opcode, self.nodes.get_mut(container)) {
            (op::APPEND | op::APPENDS, Some(Node::List(items))) | (op::ADDITEMS, Some(Node::Set { items, .. })) => {
                items.extend(added);
            }
            (op::SETITEM | op::SETITEMS, Some(Node::Dict(items))) if added.len().is_multiple_of(2) => {
                items.extend(added);
            }
            _ => return Err(Flaw::Stack),
        }
        Ok(())
    }

    fn memo(&mut self, opcode: u8) -> Step<()> {
        let key = match opcode {
            op::PUT | op::GET => {
                let line = self.line()?;
                std::str::from_utf8(&line).ok().and_then(|text| text.parse().ok()).ok_or(Flaw::Argument)?
            }
            op::BINPUT | op::BINGET => self.array::<1>().map(u8::from_le_bytes)?.into(),
            op::LONG_BINPUT | op::LONG_BINGET => u32::from_le_bytes(self.array()?).into(),
            _ => u64::try_from(self.memo.len()).unwrap_or(u64::MAX),
        };
        if matches!(opcode, op::GET | op::BINGET | op::LONG_BINGET) {
            let id = *self.memo.get(&key).ok_or(Flaw::Stack)?;
            self.push_again(id)
        } else {
            if self.memo.len() >= self.rules.max_values {
                return Err(Flaw::TooMany);
            }
            let top = self.top()?;
            self.memo.insert(key, top);
            Ok(())
        }
    }

    fn object(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(module, name)?;
                self.push(global)
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                let global = self.global(module, name)?;
                self.push(global)
            }
            op::REDUCE | op::NEWOBJ => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let node = match self.bytes_of_call(callable, args) {
                    Some(bytes) => Node::Leaf(Value::Bytes(bytes)),
                    None => Node::Object { callable, args, bare: opcode == op::NEWOBJ, state: None },
                };
                self.push(node)
            }
            op::INST => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(module, name)?;
                let callable = self.add(global)?;
                let items = self.pop_mark()?;
                let args = self.add(Node::Tuple(items))?;
                self.push(Node::Object { callable, args, bare: false, state: None })
            }
            op::OBJ => {
                let mut items = self.pop_mark()?.into_iter();
                let callable = items.next().ok_or(Flaw::Stack)?;
                let args = self.add(Node::Tuple(items.collect()))?;
                self.push(Node::Object { callable, args, bare: false, state: None })
            }
            _ => {
                let given = self.pop()?;
                let object = self.top()?;
                match self.nodes.get_mut(object) {
                    Some(Node::Object { state: state @ None, .. }) => *state = Some(given),
                    _ => return Err(Flaw::Stack),
                }
                Ok(())
            }
        }
    }

    fn global(&self, module: Bytes, name: Bytes) -> Step<Node> {
        if (self.rules.global)(&module, &name) {
            Ok(Node::Leaf(Value::Global(Box::new(Global { module, name }))))
        } else {
            let shown = |part: &Bytes| part.get(..SHOWN).unwrap_or(part).escape_ascii().to_string();
            Err(Flaw::Global(format!("{}.{}", shown(&module), shown(&name))))
        }
    }

    /// The bytes that protocols 0 to 2 spell as a call: `bytes()`, `_codecs.encode(text, 'latin1')`,
    /// `zodbpickle.binary(bytes)`.
    fn bytes_of_call(&self, callable: Id, args: Id) -> Option<Bytes> {
        let (Some(Node::Leaf(callable)), Some(Node::Tuple(args))) = (self.nodes.get(callable), self.nodes.get(args))
        else {
            return None;
        };
        let leaf = |id: &Id| match self.nodes.get(*id) {
            Some(Node::Leaf(value)) => Some(value),
            _ => None,
        };
        match args.as_slice() {
            [] if callable.is_global("__builtin__", "bytes") || callable.is_global("builtins", "bytes") => {
                Some(Bytes::new())
            }
            [only] if callable.is_global("zodbpickle", "binary") => match leaf(only)? {
                Value::Bytes(bytes) | Value::Native(bytes) => Some(bytes.clone()),
                _ => None,
            },
            [text, encoding] if callable.is_global("_codecs", "encode") => {
                let Value::Text(text) = leaf(text)? else {
                    return None;
                };
                let encoding: &[u8] = leaf(encoding)?.as_string()?;
                if !matches!(encoding, b"latin1" | b"latin-1") {
                    return None;
                }
                let text = std::str::from_utf8(text).ok()?;
                text.chars().map(|char| u8::try_from(char).ok()).collect()
            }
            _ => None,
        }
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let rest = self.data.get(self.position..).unwrap_or_default();
        let (array, _) = rest.split_first_chunk().ok_or(Flaw::Truncated)?;
        self.position = self.position.saturating_add(N);
        Ok(*array)
    }

    fn short_length(&mut self) -> Step<usize> {
        self.array::<1>().map(|byte| u8::from_le_bytes(byte).into())
    }

    fn take(&mut self, length: usize) -> Step<Bytes> {
        let end = self.position.checked_add(length).ok_or(Flaw::Truncated)?;
        if end > self.data.len() {
            return Err(Flaw::Truncated);
        }
        let bytes = self.data.slice(self.position..end);
        self.position = end;
        Ok(bytes)
    }

    /// Up to the next newline, without it.
    fn line(&mut self) -> Step<Bytes> {
        let rest = self.data.get(self.position..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(Flaw::Truncated)?;
        let line = self.take(length)?;
        self.take(1)?;
        Ok(line)
    }

    fn add(&mut self, node: Node) -> Step<Id> {
        let id = self.nodes.len();
        if id >= self.rules.max_values {
            return Err(Flaw::TooMany);
        }
        self.nodes.push(node);
        Ok(id)
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_again(&mut self, id: Id) -> Step<()> {
        if self.stack.len() >= self.rules.max_values {
            return Err(Flaw::TooMany);
        }
        self.stack.push(id);
        Ok(())
    }

    fn leaf(&mut self, value: Value) -> Step<()> {
        self.push(Node::Leaf(value))
    }

    /// The height below which the stack belongs to an outer `MARK`.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err(Flaw::Stack),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_several(&mut self, count: usize) -> Step<Vec<Id>> {
        let start = self.stack.len().checked_sub(count).ok_or(Flaw::Stack)?;
        if start < self.floor() {
            return Err(Flaw::Stack);
        }
        Ok(self.stack.split_off(start))
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or(Flaw::Stack)?;
        if mark > self.stack.len() {
            return Err(Flaw::Stack);
        }
        Ok(self.stack.split_off(mark))
    }

    fn pop_text(&mut self) -> Step<Bytes> {
        let id = self.pop()?;
        match self.nodes.get(id) {
            Some(Node::Leaf(Value::Text(text) | Value::Native(text))) => Ok(text.clone()),
            _ => Err(Flaw::Stack),
        }
    }

    /// `POP`: drops a value, or a mark if that is what is on top.
    fn discard(&mut self) -> Step<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// The tree under a node. The budget counts again what was counted on arrival, since the memo may
    /// have made many of one.
    fn build(&self, id: Id, depth: usize, budget: &mut Budget) -> Result<Value, PickleError> {
        let node = self.nodes.get(id).ok_or(PickleError::TooMany)?;
        budget.values = budget.values.checked_sub(1).ok_or(PickleError::TooMany)?;
        if let Node::Leaf(leaf) = node {
            let bytes = leaf.as_string().map_or(0, Bytes::len);
            budget.bytes = budget.bytes.checked_sub(bytes).ok_or(PickleError::TooMany)?;
        }
        if depth > MAX_DEPTH {
            return Err(PickleError::TooDeep);
        }
        let below = depth.saturating_add(1);
        let mut all = |items: &[Id], depth| -> Result<Vec<Value>, PickleError> {
            items.iter().map(|&item| self.build(item, depth, budget)).collect()
        };
        Ok(match node {
            Node::Leaf(leaf) => leaf.clone(),
            Node::Tuple(items) => Value::Tuple(all(items, below)?),
            Node::List(items) => Value::List(all(items, below)?),
            Node::Dict(items) => {
                let mut pairs = Vec::with_capacity(items.len() / 2);
                for pair in items.chunks_exact(2) {
                    if let [key, value] = *pair {
                        pairs.push((self.build(key, below, budget)?, self.build(value, below, budget)?));
                    }
                }
                Value::Dict(pairs)
            }
            // As protocol 3 would have it: a call with a list.
            Node::Set { name, items } => {
                let items = all(items, depth.saturating_add(3))?;
                Value::call(Value::global("builtins", name), vec![Value::List(items)])
            }
            Node::Object { callable, args, bare, state } => Value::Object(Box::new(Object {
                callable: self.build(*callable, below, budget)?,
                args: self.build(*args, below, budget)?,
                bare: *bare,
                state: state.map(|state| self.build(state, below, budget)).transpose()?,
            })),
        })
    }
}
