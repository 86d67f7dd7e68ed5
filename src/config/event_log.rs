//! `<eventlog>` and `<logfile>` as settings of the log.

use super::datatypes::{boolean, byte_size, dotted_name, string};
use super::error::{ConfigError, Position};
use super::section::Section;
use super::settings::Content;
use crate::literals::parse_int;
use crate::logging::{
    DEFAULT_DATE_FORMAT, DEFAULT_FORMAT, EventLogSettings, Format, HandlerSettings, Level, Rotation, Schedule, Style,
    Target,
};

/// The values of a `<logfile>`, each correct for itself.
#[derive(Debug)]
pub struct HandlerValues {
    path: String,
    old_files: i64,
    max_size: i64,
    when: String,
    interval: i64,
    encoding: Option<String>,
    delay: bool,
    level: Level,
    style: Style,
    format: String,
    date_format: String,
}

/// Reads a `<logfile>`.
pub fn handler_values(section: &Section<Content>) -> Result<HandlerValues, ConfigError> {
    // Any formatter class stands for the default one: what it adds concerns Python's tracebacks.
    section.get("formatter", dotted_name)?;
    let date_format = section.get("dateformat", string)?.unwrap_or_else(|| DEFAULT_DATE_FORMAT.to_owned());
    let level = section.get("level", Level::parse)?.unwrap_or(Level(0));
    let style = section.get("style", Style::parse)?.unwrap_or(Style::Classic);
    section.get("arbitrary-fields", boolean)?;
    Ok(HandlerValues {
        path: section.require("path", string)?,
        old_files: section.get("old-files", parse_int)?.unwrap_or(0),
        max_size: section.get("max-size", byte_size)?.unwrap_or(0),
        when: section.get("when", string)?.unwrap_or_default(),
        interval: section.get("interval", parse_int)?.unwrap_or(0),
        format: section
            .get("format", |text| Ok(control_characters(text)))?
            .unwrap_or_else(|| DEFAULT_FORMAT.to_owned()),
        encoding: section.get("encoding", string)?.filter(|name| !name.is_empty()),
        delay: section.get("delay", boolean)?.unwrap_or(false),
        level,
        style,
        date_format,
    })
}

/// Reads an `<eventlog>` that ends at `position`, and checks the values of its handlers against each
/// other; mistakes there are reported for the log as a whole.
pub fn event_log(section: Section<Content>, position: &Position) -> Result<EventLogSettings, ConfigError> {
    let level = section.get("level", Level::parse)?.unwrap_or(Level::INFO);
    let mut handlers = Vec::new();
    for content in section.into_children() {
        if let Content::Handler(values) = content {
            let handler =
                handler(*values).map_err(|message| ConfigError::Value { message, position: position.clone() })?;
            handlers.push(handler);
        }
    }
    Ok(EventLogSettings { level, handlers })
}

fn handler(values: HandlerValues) -> Result<HandlerSettings, String> {
    let format = Format::compile(values.style, &values.format, &values.date_format)?;
    let level = values.level;
    Ok(HandlerSettings { level, format, target: target(values)? })
}

fn target(values: HandlerValues) -> Result<Target, String> {
    let path = values.path;
    let rotates = values.old_files != 0 || values.max_size != 0 || !values.when.is_empty();
    if matches!(path.as_str(), "STDERR" | "STDOUT") {
        if rotates {
            return Err(format!("cannot rotate {path}"));
        }
        if values.delay {
            return Err(format!("cannot delay opening {path}"));
        }
        if values.encoding.is_some() {
            return Err(format!("cannot specify encoding for {path}"));
        }
        return Ok(if path == "STDERR" { Target::Stderr } else { Target::Stdout });
    }
    let rotation = if rotates || values.interval != 0 {
        rotation(values.old_files, values.max_size, &values.when, values.interval)?
    } else {
        Rotation::None
    };
    Ok(Target::File { path: path.into(), delay: values.delay, rotation })
}

fn rotation(old_files: i64, max_size: i64, when: &str, interval: i64) -> Result<Rotation, String> {
    if old_files == 0 {
        return Err("old-files must be set for log rotation".to_owned());
    }
    let old_files = u32::try_from(old_files).map_err(|_| format!("old-files cannot be {old_files}"))?;
    if !when.is_empty() {
        if max_size != 0 {
            return Err("can't set *both* max_bytes and when".to_owned());
        }
        let interval = if interval == 0 { 1 } else { interval };
        let interval = u32::try_from(interval).map_err(|_| format!("interval cannot be {interval}"))?;
        return Ok(Rotation::Time { schedule: Schedule::parse(when, interval)?, old_files });
    }
    if max_size == 0 {
        return Err("max-bytes or when must be set for log rotation".to_owned());
    }
    let max_bytes = u64::try_from(max_size).map_err(|_| format!("max-size cannot be {max_size} bytes"))?;
    Ok(Rotation::Size { max_bytes, old_files })
}

/// Puts control characters in the place of their escapes.
fn control_characters(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t").replace("\\b", "\x08").replace("\\f", "\x0c").replace("\\r", "\r")
}
