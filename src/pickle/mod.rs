//! Python pickles as plain values.
//!
//! Nothing here makes an object, imports a name or calls anything: a pickle is read into a [`Value`]
//! tree whose size is bounded by the bytes that arrived, and written from one. Used for messages
//! ([`crate::wire`]), for transaction extensions and old `.index` files ([`crate::storage`]), and to
//! find the class of an object record ([`record`]). What an object record refers to is found without
//! the tree ([`references`]).

// What is read here was written by strangers.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod number;
pub(crate) mod opcode;
mod python;
mod read;
pub mod record;
pub mod references;
mod string;
mod value;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use python::{dumps, dumps_interned};
pub use read::{MAX_DEPTH, PickleError, Rules, read, read_prefix, read_with};
pub use value::{Dict, Global, Object, Value};
pub use write::{Python, write};
