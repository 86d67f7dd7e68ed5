//! What the log does: which handlers there are, from which level on, in which format.

use std::path::PathBuf;

use super::format::Format;
use super::level::Level;
use super::schedule::Schedule;

/// `<eventlog>`, or what holds without one.
#[derive(Clone, Debug, PartialEq)]
pub struct EventLogSettings {
    /// Lines below are dropped before any handler sees them.
    pub level: Level,
    /// Where lines go. Without handlers nothing is logged.
    pub handlers: Vec<HandlerSettings>,
}

impl Default for EventLogSettings {
    /// INFO to stderr, each line below a ruler: the original's log without an `<eventlog>`.
    fn default() -> Self {
        Self {
            level: Level::INFO,
            handlers: vec![HandlerSettings { level: Level(0), format: Format::default(), target: Target::Stderr }],
        }
    }
}

/// `<logfile>`.
#[derive(Clone, Debug, PartialEq)]
pub struct HandlerSettings {
    /// Lines below are not for this handler.
    pub level: Level,
    /// How a line looks.
    pub format: Format,
    /// Where it goes.
    pub target: Target,
}

/// Where a handler writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The process's standard output.
    Stdout,
    /// The process's standard error.
    Stderr,
    /// A file, always appended to.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether it is created with the first line only.
        delay: bool,
        /// When it makes room for a new one.
        rotation: Rotation,
    },
}

/// When a log file is renamed and begun anew.
#[derive(Clone, Debug, PartialEq)]
pub enum Rotation {
    /// Never.
    None,
    /// Before it would reach a size. The old ones are numbered, `.1` is the newest.
    Size {
        /// The size.
        max_bytes: u64,
        /// How many old files are kept.
        old_files: u32,
    },
    /// At certain times. The old ones carry theirs in their names.
    Time {
        /// The times.
        schedule: Schedule,
        /// How many old files are kept.
        old_files: u32,
    },
}
