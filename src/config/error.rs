//! What can be wrong with a configuration, in the original's words, with the place where it is.

use std::fmt;
use std::sync::Arc;

/// Where a value, a line or a section end stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// A line of a file.
    Line {
        /// The file, as a URL.
        url: Arc<str>,
        /// Counted from 1.
        line: usize,
    },
    /// A `-X` option of the command line.
    Override(String),
    /// The configuration as a whole.
    Whole,
}

/// A configuration that cannot be used. Shown to a person as `Error: ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text breaks the grammar, or says something the schema does not know.
    #[error("{message}{}", AfterMessage(position))]
    Syntax {
        /// The original's words.
        message: String,
        /// Where.
        position: Position,
    },
    /// A value is not of the type its key wants.
    #[error("{message}{}", AfterValue(position))]
    Value {
        /// The original's words.
        message: String,
        /// Where.
        position: Position,
    },
    /// A file that cannot be read, or text without a place.
    #[error("{0}")]
    Plain(String),
    /// Correct, but this server does not have it.
    #[error("{what} is not supported by this server: {remedy}{}", AfterMessage(position))]
    Refused {
        /// The section or key.
        what: String,
        /// What to do.
        remedy: &'static str,
        /// Where.
        position: Position,
    },
}

/// The place of a syntax error, on a line of its own.
struct AfterMessage<'a>(&'a Position);

impl fmt::Display for AfterMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Position::Line { url, line } => write!(f, "\n(line {line} in {url})"),
            Position::Override(option) => write!(f, "\n(in -X {option})"),
            Position::Whole => Ok(()),
        }
    }
}

/// The place of a bad value, on the same line.
struct AfterValue<'a>(&'a Position);

impl fmt::Display for AfterValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Position::Line { url, line } => write!(f, " (line {line}, in {url})"),
            Position::Override(option) => write!(f, " (in -X {option})"),
            Position::Whole => Ok(()),
        }
    }
}
