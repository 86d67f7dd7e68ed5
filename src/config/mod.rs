//! `zeo.conf` in the language of `ZConfig`, as the original reads it.
//!
//! A file passes through layers: [`grammar`] takes a line apart; [`reader`] follows includes, defines
//! and imports and puts lines into [`section`]s, which check them against the [`schema`]; [`settings`]
//! turns a complete section into typed values with the conversions of [`datatypes`]; [`own`] has the settings
//! that are ours. Messages are the original's; where it does not say at which line, this reader does.
//!
//! This module opens no storage, no log and no socket, and reads no file but configuration files.

pub mod datatypes;
mod error;
mod event_log;
mod grammar;
mod listeners;
mod overrides;
mod own;
mod reader;
mod refusals;
mod schema;
mod section;
mod settings;
mod source;
mod substitution;

pub use datatypes::SocketAddress;
pub use error::{ConfigError, Position};
pub use listeners::{CertificateName, ClientSettings, ListenerSettings, TlsSettings};
pub use settings::{AuthenticationSettings, Configuration, FileStorageSettings, ServerSettings, StorageSettings};

/// Reads the configuration at `location`, a path or `file:` URL, with the arguments of all `-X`
/// options.
pub fn load(location: &str, overrides: &[String]) -> Result<Configuration, ConfigError> {
    let (top, own) = reader::read(location, overrides)?;
    settings::configuration(top, &own)
}
