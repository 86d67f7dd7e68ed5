//! One log line before it is formatted, with the fields Python's logging gives it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::fmt::strtime;
use jiff::{Timestamp, tz::TimeZone};

use super::level::Level;

/// When the process began to log, for `relativeCreated`.
static START: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// A log line.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The logger.
    pub name: &'a str,
    /// How important it is.
    pub level: Level,
    /// What it says.
    pub message: &'a str,
    /// The source file that says it.
    pub file: &'a str,
    /// The line in that file.
    pub line: u32,
    /// When.
    pub created: SystemTime,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
}

impl Value<'_> {
    /// Whether it is right-aligned.
    pub fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

impl fmt::Display for Value<'_> {
    /// As Python's `str` shows it: a float keeps a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => write!(f, "{number:?}"),
        }
    }
}

/// A field of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The time, in the handler's date format.
    Asctime,
    /// The time, in seconds since 1970.
    Created,
    /// The last part of the source path.
    Filename,
    /// The function; not known here.
    FuncName,
    /// The level's name.
    LevelName,
    /// The level's number.
    LevelNo,
    /// The source line.
    LineNo,
    /// The message.
    Message,
    /// The source file without its ending.
    Module,
    /// The milliseconds of the time.
    Msecs,
    /// The logger.
    Name,
    /// The source path.
    PathName,
    /// The process id.
    Process,
    /// The process's name; always `MainProcess`.
    ProcessName,
    /// Milliseconds since the process began to log.
    RelativeCreated,
    /// The thread id.
    Thread,
    /// The thread's name.
    ThreadName,
}

const FIELDS: [(&str, Field); 17] = [
    ("asctime", Field::Asctime),
    ("created", Field::Created),
    ("filename", Field::Filename),
    ("funcName", Field::FuncName),
    ("levelname", Field::LevelName),
    ("levelno", Field::LevelNo),
    ("lineno", Field::LineNo),
    ("message", Field::Message),
    ("module", Field::Module),
    ("msecs", Field::Msecs),
    ("name", Field::Name),
    ("pathname", Field::PathName),
    ("process", Field::Process),
    ("processName", Field::ProcessName),
    ("relativeCreated", Field::RelativeCreated),
    ("thread", Field::Thread),
    ("threadName", Field::ThreadName),
];

impl Field {
    /// The field that `name` names.
    pub fn parse(name: &str) -> Option<Self> {
        FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }

    /// All names, for messages.
    pub fn names() -> String {
        FIELDS.map(|(name, _)| name).join(" ")
    }

    /// Whether its value is text.
    pub fn is_text(self) -> bool {
        !matches!(
            self,
            Self::Created
                | Self::LevelNo
                | Self::LineNo
                | Self::Msecs
                | Self::Process
                | Self::RelativeCreated
                | Self::Thread
        )
    }
}

impl Record<'_> {
    /// The value of `field`; `date_format` is for `asctime`.
    pub fn value(&self, field: Field, date_format: &str) -> Value<'_> {
        let file = Path::new(self.file);
        let part = |part: Option<&std::ffi::OsStr>| {
            Value::Text(part.unwrap_or_default().to_string_lossy().into_owned().into())
        };
        match field {
            Field::Asctime => Value::Text(local_time(self.created, date_format).into()),
            Field::Created => Value::Float(seconds(self.created, UNIX_EPOCH)),
            Field::Filename => part(file.file_name()),
            Field::FuncName => Value::Text("".into()),
            Field::LevelName => Value::Text(self.level.to_string().into()),
            Field::LevelNo => Value::Integer(self.level.0.into()),
            Field::LineNo => Value::Integer(self.line.into()),
            Field::Message => Value::Text(self.message.into()),
            Field::Module => part(file.file_stem()),
            Field::Msecs => {
                let since = self.created.duration_since(UNIX_EPOCH).unwrap_or_default();
                Value::Float(since.subsec_millis().into())
            }
            Field::Name => Value::Text(self.name.into()),
            Field::PathName => Value::Text(self.file.into()),
            Field::Process => Value::Integer(std::process::id().into()),
            Field::ProcessName => Value::Text("MainProcess".into()),
            Field::RelativeCreated => Value::Float(seconds(self.created, *START) * 1000.0),
            Field::Thread => Value::Integer(rustix::thread::gettid().as_raw_nonzero().get().into()),
            Field::ThreadName => Value::Text(std::thread::current().name().unwrap_or("Thread").to_owned().into()),
        }
    }
}

/// Notes when the process began to log.
pub fn start_clock() {
    LazyLock::force(&START);
}

fn seconds(time: SystemTime, since: SystemTime) -> f64 {
    match time.duration_since(since) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// Fails if `format` cannot be used for dates.
pub fn check_date_format(format: &str) -> Result<(), String> {
    format_date(UNIX_EPOCH, format).map(drop).map_err(|error| format!("invalid dateformat: {error}"))
}

/// `time` on the clock of the place, in a format of `strftime`.
pub fn local_time(time: SystemTime, format: &str) -> String {
    format_date(time, format).unwrap_or_default()
}

fn format_date(time: SystemTime, format: &str) -> Result<String, jiff::Error> {
    let zoned = Timestamp::try_from(time)?.to_zoned(TimeZone::system());
    // Lenient: what is no directive stays as it is, as in the C library.
    strtime::BrokenDownTime::from(&zoned).to_string_with_config(&strtime::Config::new().lenient(true), format)
}
