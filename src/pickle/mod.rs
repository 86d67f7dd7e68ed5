//! Python pickles as plain values.
//!
//! Nothing here makes an object, imports a name or calls anything: a pickle is read into a [`Value`]
//! tree whose size is bounded by the bytes that arrived, and written from one. Used for messages
//! ([`crate::wire`]), for transaction extensions and old `.index` files ([`crate::storage`]), and to
//! find the class of an object record ([`record`]).

mod python;
mod read;
pub mod record;
mod value;
mod write;

pub use python::dumps;
pub use read::{PickleError, read, read_prefix};
pub use value::{Dict, Value};
pub use write::write;
