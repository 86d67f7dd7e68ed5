//! What the configuration language has and this server does not: always refused by name and with a
//! remedy, never ignored in silence. A feature that arrives takes its line out of here.

use super::error::{ConfigError, Position};

const BACKENDS: &str =
    "it serves <filestorage>, <mappingstorage> and <blobstorage>; keep serving this storage with the original runzeo";
const HANDLERS: &str = "log to a file with <logfile>, or to the service manager with <logfile> and path STDERR";

/// Refuses a section of type `kind`, if this server does not have it.
pub fn section(kind: &str, position: &Position) -> Result<(), ConfigError> {
    let remedy = match kind {
        "demostorage" | "zeoclient" | "clientstorage" | "zlibstorage" | "serverzlibstorage" | "zrs" => BACKENDS,
        "temporarystorage" => "use <mappingstorage>, which is in memory, too",
        "fullstorage" | "minimalstorage" => "BerkeleyDB storages are long gone; convert the data to a <filestorage>",
        "relstorage" => "clients of RelStorage connect to its database directly and need no ZEO server",
        "syslog" | "http-logger" | "email-notifier" | "win32-eventlog" => HANDLERS,
        _ => return Ok(()),
    };
    Err(ConfigError::Refused { what: format!("section <{kind}>"), remedy, position: position.clone() })
}

/// Refuses key `key` of a section of type `kind` with the value `value`, if this server does not
/// have it.
pub fn key(kind: &str, key: &str, value: &str, position: &Position) -> Result<(), ConfigError> {
    let remedy = match (kind, key) {
        ("filestorage", "packer") if !value.is_empty() => {
            "it names Python code, which is never run here; remove the key"
        }
        ("zeo", "monitor-address") => "remove the key and use zeo-nagios, which asks the server's own address",
        ("ssl", "password-function") => {
            "it names Python code, which is never run here; use password-file with a file that holds the password"
        }
        ("logfile", "encoding") if !matches!(value.to_lowercase().as_str(), "" | "utf-8" | "utf8" | "ascii") => {
            "log files are UTF-8; remove the key"
        }
        _ => return Ok(()),
    };
    let what = format!("{key} in <{kind}>");
    Err(ConfigError::Refused { what, remedy, position: position.clone() })
}

/// Refuses an `%import` of a package whose sections this server cannot know.
pub fn package(name: &str, position: &Position) -> ConfigError {
    ConfigError::Syntax {
        message: format!(
            "could not load package {name}: this server loads no Python code and knows the packages ZODB, ZEO, \
             ZConfig.components.logger, zdaemon, zc.zlibstorage, zc.zrs, tempstorage and relstorage"
        ),
        position: position.clone(),
    }
}
