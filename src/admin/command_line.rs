//! How the options of a command are spelled.
//!
//! `clap` reads them, and what Python's `getopt` and `optparse` accept is accepted. What an option
//! means is not known here, each command has its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::literals::repr;

/// The options of a command, and what comes besides.
pub struct Grammar<S: 'static> {
    /// Each spelling is an argument of its own to `clap`, because messages name the one that was used.
    pub spellings: &'static [(&'static str, S)],
    /// Abbreviations that only one option of the original has, but several of ours.
    pub abbreviations: &'static [(&'static str, &'static str)],
    /// Whether an option may also follow a word that belongs to none.
    pub interspersed: bool,
}

/// What an option asks for.
pub trait Switch: Copy {
    /// Whether the next word, or the rest of this one, belongs to it.
    fn takes_value(self) -> bool;
}

/// The `clap` name of words that belong to no option.
const WORDS: &str = "words";

/// An option that was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Given<S> {
    /// What it asks for.
    pub switch: S,
    /// As messages name it: `-a`, or `--address` even if it was abbreviated.
    pub spelling: &'static str,
    /// Its value; empty if it takes none.
    pub value: OsString,
}

impl<S> Given<S> {
    /// The value, where it must be text.
    pub fn text(self) -> Result<String, String> {
        self.value.into_string().map_err(|value| {
            format!("invalid value for {} {}: not valid UTF-8", self.spelling, repr(&value.to_string_lossy()))
        })
    }
}

/// What is wrong with a command line, with the option as it was spelled.
#[derive(Debug, PartialEq, Eq)]
pub enum Mistake {
    /// No such option.
    Unknown(String),
    /// The beginning of several options.
    Ambiguous(String),
    /// A value is missing.
    NeedsValue(String),
    /// There is a value where none belongs.
    TakesNone(String),
    /// Anything else, in `clap`'s words.
    Other(String),
}

impl Mistake {
    /// In the words of Python's `getopt`.
    pub fn like_getopt(self) -> String {
        match self {
            Self::Unknown(option) => format!("option {option} not recognized"),
            Self::Ambiguous(option) => format!("option {option} not a unique prefix"),
            Self::NeedsValue(option) => format!("option {option} requires argument"),
            Self::TakesNone(option) => format!("option {option} must not have an argument"),
            Self::Other(text) => text,
        }
    }

    /// In the words of Python's `optparse`.
    pub fn like_optparse(self) -> String {
        match self {
            Self::Unknown(option) => format!("no such option: {option}"),
            Self::Ambiguous(option) => format!("ambiguous option: {option}"),
            Self::NeedsValue(option) => format!("{option} option requires 1 argument"),
            Self::TakesNone(option) => format!("{option} option does not take a value"),
            Self::Other(text) => text,
        }
    }
}

/// The options in the order in which they were given, and the other words.
pub type CommandLine<S> = (Vec<Given<S>>, Vec<OsString>);

impl<S: Switch> Grammar<S> {
    /// Takes `arguments`, which are without the program's name, apart.
    pub fn read(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine<S>, Mistake> {
        let arguments = arguments.into_iter().flat_map(|argument| self.separated(argument));
        let mut matches = self.command().try_get_matches_from(arguments).map_err(|e| self.mistake(&e))?;
        let words = matches.remove_many(WORDS).into_iter().flatten().collect();
        let mut given = Vec::new();
        for &(spelling, switch) in self.spellings {
            let places = matches.indices_of(spelling).into_iter().flatten();
            let values = matches.get_many::<OsString>(spelling).into_iter().flatten();
            given.extend(places.zip(values.cloned()).map(|(place, value)| (place, Given { switch, spelling, value })));
        }
        given.sort_by_key(|(place, _)| *place);
        Ok((given.into_iter().map(|(_, given)| given).collect(), words))
    }

    /// The grammar in the terms of `clap`.
    pub fn command(&self) -> Command {
        // Else whatever follows the first word is a word too.
        let words =
            Arg::new(WORDS).num_args(0..).trailing_var_arg(!self.interspersed).value_parser(ValueParser::os_string());
        Command::new("command")
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .infer_long_args(true)
            .args(self.spellings.iter().map(|&(spelling, switch)| self.option(spelling, switch)))
            .arg(words)
    }

    fn option(&self, spelling: &'static str, switch: S) -> Arg {
        let option = Arg::new(spelling).action(ArgAction::Append).value_parser(ValueParser::os_string());
        let option = match spelling.strip_prefix("--") {
            Some(long) => option.long(long),
            None => option.short(spelling.chars().nth(1)),
        };
        let abbreviations = self.abbreviations.iter().filter(|(full, _)| *full == spelling).map(|(_, short)| *short);
        let option = option.aliases(abbreviations);
        if switch.takes_value() {
            // The next argument is the value, whatever it looks like.
            option.num_args(1).allow_hyphen_values(true)
        } else {
            // An empty value, so that its place is known too.
            option.num_args(0).default_missing_value("")
        }
    }

    /// `-f=x` as `-f` and `=x`. To Python the sign belongs to the value, but `clap` drops it, and the
    /// server would open another file. Where such a word is itself a value (`-f -a=x`) there is now one
    /// word too many, which is refused.
    fn separated(&self, argument: OsString) -> Vec<OsString> {
        match argument.as_bytes().split_at_checked(2) {
            Some((option, value)) if value.starts_with(b"=") && self.takes_value(option) => {
                [option, value].map(|part| OsStr::from_bytes(part).to_owned()).to_vec()
            }
            _ => vec![argument],
        }
    }

    fn takes_value(&self, option: &[u8]) -> bool {
        self.spellings.iter().any(|(spelling, switch)| spelling.as_bytes() == option && switch.takes_value())
    }

    fn mistake(&self, error: &clap::Error) -> Mistake {
        let option = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) => option.clone(),
            _ => String::new(),
        };
        match error.kind() {
            ErrorKind::UnknownArgument if self.is_ambiguous(&option) => Mistake::Ambiguous(option),
            ErrorKind::UnknownArgument => Mistake::Unknown(option),
            // Here the option is followed by a placeholder for its value.
            ErrorKind::InvalidValue => Mistake::NeedsValue(option.split(' ').take(1).collect()),
            ErrorKind::TooManyValues => Mistake::TakesNone(option),
            other => Mistake::Other(other.to_string()),
        }
    }

    fn is_ambiguous(&self, option: &str) -> bool {
        self.spellings.iter().filter(|(spelling, _)| spelling.starts_with(option)).count() > 1
    }
}
