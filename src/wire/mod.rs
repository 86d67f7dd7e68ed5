//! ZEO's protocol: bytes to frame to message, and back.
//!
//! In the order of a connection: [`handshake`] agrees on a [`dialect`], [`frame`] cuts the stream, with a [`mac`] in each
//! frame where the client has authenticated,
//! [`message`] decodes requests and encodes replies, as [pickles](crate::pickle) or as `msgpack`, and
//! [`upstream`] does the opposite, for those who are a client themselves; [`legacy`] is what clients before ZEO 5 say and hear otherwise;
//! [`fault`] is how errors look to Python, [`prefix`] a pattern that clients send when they look for
//! transactions to undo. No sockets, no async, no storage: everything here is a function of bytes.

// What is read here was written by strangers.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod dialect;
pub mod fault;
pub mod frame;
pub mod handshake;
pub mod legacy;
pub mod mac;
pub mod message;
mod msgpack;
pub mod prefix;
#[cfg(test)]
mod tests;
pub mod upstream;
