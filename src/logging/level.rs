//! Log levels: Python's numbers, with the names ZODB adds to them.

use std::fmt;

/// How important a line is, from 0 to 50. As a threshold, 0 lets everything pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u8);

impl Level {
    /// A server that cannot go on.
    pub const CRITICAL: Self = Self(50);
    /// Wakes a person.
    pub const ERROR: Self = Self(40);
    /// Odd, and perhaps worth a look.
    pub const WARNING: Self = Self(30);
    /// What a server does.
    pub const INFO: Self = Self(20);
    /// What clients do.
    pub const BLATHER: Self = Self(15);
    /// For whoever debugs the server.
    pub const DEBUG: Self = Self(10);
    /// Everything.
    pub const TRACE: Self = Self(5);

    /// The level that `text` names, by word or number.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.to_lowercase().as_str() {
            "critical" | "fatal" => Self::CRITICAL,
            "error" => Self::ERROR,
            "warn" | "warning" => Self::WARNING,
            "info" => Self::INFO,
            "blather" => Self::BLATHER,
            "debug" => Self::DEBUG,
            "trace" => Self::TRACE,
            "all" => Self(1),
            "notset" => Self(0),
            other => {
                let number = crate::literals::parse_int(other)?;
                match u8::try_from(number) {
                    Ok(level @ 0..=50) => Self(level),
                    _ => return Err(format!("log level not in range: {number}")),
                }
            }
        })
    }

    /// The level of a `tracing` event that does not say otherwise.
    pub fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::ERROR,
            tracing::Level::WARN => Self::WARNING,
            tracing::Level::INFO => Self::INFO,
            tracing::Level::DEBUG => Self::DEBUG,
            tracing::Level::TRACE => Self::TRACE,
        }
    }

    /// The coarsest `tracing` filter that lets every line of this level and above pass.
    pub fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self.0 {
            0..=5 => LevelFilter::TRACE,
            // BLATHER travels as DEBUG.
            6..=15 => LevelFilter::DEBUG,
            16..=20 => LevelFilter::INFO,
            21..=30 => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        }
    }
}

impl fmt::Display for Level {
    /// The name in a log line, padded as the caller asks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CRITICAL => f.pad("CRITICAL"),
            Self::ERROR => f.pad("ERROR"),
            Self::WARNING => f.pad("WARNING"),
            Self::INFO => f.pad("INFO"),
            Self::BLATHER => f.pad("BLATHER"),
            Self::DEBUG => f.pad("DEBUG"),
            Self::TRACE => f.pad("TRACE"),
            Self(0) => f.pad("NOTSET"),
            Self(other) => f.pad(&format!("Level {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_numbers() {
        for (text, level) in [("Fatal", 50), ("warn", 30), ("blather", 15), ("all", 1), ("notset", 0), ("17", 17)] {
            assert_eq!(Level::parse(text), Ok(Level(level)), "{text}");
        }
        assert_eq!(Level::parse("loud"), Err("invalid literal for int() with base 10: 'loud'".into()));
        assert_eq!(Level::parse("51"), Err("log level not in range: 51".into()));
    }

    #[test]
    fn levels_have_names() {
        assert_eq!(Level::BLATHER.to_string(), "BLATHER");
        assert_eq!(Level(17).to_string(), "Level 17");
    }
}
