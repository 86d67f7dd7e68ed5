//! zeolite: a drop-in replacement for `runzeo`, the ZEO storage server of ZODB.
//!
//! # Layout, in the order in which a request meets it
//!
//! - [`ids`]: object and transaction ids, and what a transaction id says of time
//! - [`wire`]: bytes to frame to message and back; no sockets, no storage
//! - [`server`]: one client's conversation, and what all clients of a storage share
//! - [`storage`]: one trait, and the storages behind it
//! - [`pickle`]: Python's pickles as plain values, never as objects
//! - [`passwords`]: the file of those who may connect
//! - [`config`]: what stands in `zeo.conf`
//! - [`literals`]: the notation for values of Python, in which `zeo.conf` and messages are written
//! - [`logging`]: log lines as Python's logging would write them
//! - [`client`]: connects to another server
//! - [`admin`]: one file for each command
//!
//! Dependencies point one way: `ids <- pickle <- wire <- server`, `ids, pickle <- storage <- server`,
//! `wire <- client <- admin`, `server, config, logging <- admin`; `tests/layers.rs` holds them to it.

pub mod admin;
pub mod client;
pub mod config;
pub mod ids;
pub mod literals;
pub mod logging;
pub mod passwords;
pub mod pickle;
pub mod server;
pub mod storage;
pub mod sync;
pub mod sys;
pub mod wire;
