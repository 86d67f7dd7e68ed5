//! Log lines as Python's logging would write them, so that tools that read them go on working.
//!
//! Code logs with `tracing`; the event's `target` is the logger's name, such as `ZEO.StorageServer`:
//!
//! ```
//! tracing::info!(target: "ZEO.StorageServer", "closing storage '{}'", 1);
//! zeolite::blather!(target: "ZEO.StorageServer", "Preparing to commit transaction: {} objects", 3);
//! ```
//!
//! `error!`, `warn!`, `info!`, `debug!` and `trace!` are Python's ERROR, WARNING, INFO, DEBUG and
//! ZODB's TRACE. The two levels that `tracing` lacks are carried by a field `levelno`, which
//! [`critical!`](crate::critical) and [`blather!`](crate::blather) set: CRITICAL is an ERROR with
//! `levelno = 50`, BLATHER a DEBUG with `levelno = 15`. Other fields of an event follow the message as
//! `name=value`.
//!
//! What a line looks like and where it goes is said by [`EventLogSettings`]. A handler that cannot
//! write says so on stderr, once in a row, and the server goes on.

mod format;
mod handler;
mod level;
mod record;
mod schedule;
mod settings;

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

pub use format::{DEFAULT_DATE_FORMAT, DEFAULT_FORMAT, Format, Style};
pub use level::Level;
pub use schedule::Schedule;
pub use settings::{EventLogSettings, HandlerSettings, Rotation, Target};

pub use crate::{blather, critical};

use crate::sync::Mutex;
use handler::Handler;
use record::Record;

/// Logs at level CRITICAL: the server cannot go on.
#[macro_export]
macro_rules! critical {
    (target: $target:expr, $($message:tt)+) => {
        ::tracing::event!(target: $target, ::tracing::Level::ERROR, levelno = 50u64, $($message)+)
    };
}

/// Logs at level BLATHER, between INFO and DEBUG: what clients do.
#[macro_export]
macro_rules! blather {
    (target: $target:expr, $($message:tt)+) => {
        ::tracing::event!(target: $target, ::tracing::Level::DEBUG, levelno = 15u64, $($message)+)
    };
}

/// The time and date of the place as C's `ctime` writes them.
pub fn ctime_now() -> String {
    record::local_time(SystemTime::now(), "%a %b %e %H:%M:%S %Y")
}

/// A log that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A log file cannot be opened.
    #[error("cannot open log file {}: {source}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The process logs already.
    #[error("cannot install the log: {0}")]
    Install(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// The log of the process.
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    level: Level,
    handlers: Mutex<Vec<Handler>>,
    /// Whether the last line could not be written, which is told only once.
    failing: AtomicBool,
}

impl Log {
    /// Opens the handlers.
    pub fn open(settings: &EventLogSettings) -> Result<Self, LogError> {
        record::start_clock();
        let handlers = settings
            .handlers
            .iter()
            .map(|handler| {
                Handler::open(handler).map_err(|source| {
                    let path = match &handler.target {
                        Target::File { path, .. } => path.clone(),
                        Target::Stdout => "STDOUT".into(),
                        Target::Stderr => "STDERR".into(),
                    };
                    LogError::Open { path, source }
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Shared {
            level: settings.level,
            handlers: Mutex::new(handlers),
            failing: AtomicBool::new(false),
        })))
    }

    /// Makes this the log of the process.
    pub fn install(&self) -> Result<(), LogError> {
        let subscriber = tracing_subscriber::registry().with(self.clone());
        Ok(tracing::subscriber::set_global_default(subscriber)?)
    }

    /// Opens all log files again; those that rotate do so now.
    pub fn reopen(&self) -> io::Result<()> {
        for handler in self.0.handlers.lock().iter_mut() {
            handler.reopen()?;
        }
        Ok(())
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.level.filter())
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.0.level.filter()
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = EventText { level: Level::of(*metadata.level()), message: String::new(), fields: String::new() };
        event.record(&mut text);
        if text.level < self.0.level {
            return;
        }
        text.message.push_str(&text.fields);
        let record = Record {
            name: metadata.target(),
            level: text.level,
            message: &text.message,
            file: metadata.file().unwrap_or(""),
            line: metadata.line().unwrap_or(0),
            created: SystemTime::now(),
        };
        let mut failure = None;
        for handler in self.0.handlers.lock().iter_mut() {
            if let Err(error) = handler.handle(&record) {
                failure = Some(error);
            }
        }
        let was_failing = self.0.failing.swap(failure.is_some(), Ordering::Relaxed);
        if let Some(error) = failure.filter(|_| !was_failing) {
            // There is nowhere else to say it; when stderr fails, too, nobody can be told.
            let _ = writeln!(io::stderr(), "cannot write the log: {error}; the line was: {}", record.message);
        }
    }
}

/// An event's level, message and other fields.
struct EventText {
    level: Level,
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match u8::try_from(value) {
            Ok(level) if field.name() == "levelno" => self.level = Level(level),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let format = Format::compile(Style::Classic, "%(levelname)s %(name)s %(message)s", "").unwrap();
        let target = Target::File { path: path.clone(), delay: false, rotation: Rotation::None };
        let settings = EventLogSettings {
            level: Level::BLATHER,
            handlers: vec![HandlerSettings { level: Level(0), format, target }],
        };
        let log = Log::open(&settings).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::info!(target: "ZEO.runzeo", "({}) opening", 7);
            crate::blather!(target: "ZEO", "three");
            tracing::debug!(target: "ZEO", "not this");
            crate::critical!(target: "ZEO", "the end of {}", "it");
            tracing::warn!(target: "ZEO", oid = 5, "with fields");
        });
        let expected = "INFO ZEO.runzeo (7) opening\nBLATHER ZEO three\nCRITICAL ZEO the end of it\n\
                        WARNING ZEO with fields oid=5\n";
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let mut settings = EventLogSettings::default();
        settings.handlers[0].target =
            Target::File { path: "/no/such/log".into(), delay: false, rotation: Rotation::None };
        let error = Log::open(&settings).unwrap_err().to_string();
        assert!(error.starts_with("cannot open log file /no/such/log: No such file"), "{error}");
    }
}
