//! How the options of runzeo are spelled.
//!
//! `clap` reads them. Mistakes are put in the words of Python's `getopt`, which the original uses, and
//! what `getopt` accepts is accepted. What an option means is not known here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::literals::repr;

/// What an option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Read this configuration.
    Configure,
    /// Override a value of the configuration.
    Override,
    /// Start and stop.
    Test,
    /// Say what would be served.
    Check,
    /// Listen there.
    Address,
    /// Serve this file.
    Filename,
    /// Bound the time of a transaction.
    Timeout,
    /// Write the process id there.
    PidFile,
    /// Of the original before version 5, with what to do instead.
    Gone(&'static str),
}

impl Switch {
    fn takes_value(self) -> bool {
        !matches!(self, Self::Help | Self::Version | Self::Test | Self::Check)
    }
}

const MONITOR: &str = "use zeo-nagios, which asks the server's own address";
const AUTHENTICATION: &str = "let a firewall or a Unix domain socket guard the server";

/// Each spelling is an argument of its own to `clap`, because messages name the one that was used.
const SPELLINGS: [(&str, Switch); 20] = [
    ("-h", Switch::Help),
    ("--help", Switch::Help),
    ("--version", Switch::Version),
    ("-C", Switch::Configure),
    ("--configure", Switch::Configure),
    ("-X", Switch::Override),
    ("--test", Switch::Test),
    ("--check-config", Switch::Check),
    ("-a", Switch::Address),
    ("--address", Switch::Address),
    ("-f", Switch::Filename),
    ("--filename", Switch::Filename),
    ("-t", Switch::Timeout),
    ("--timeout", Switch::Timeout),
    ("--pid-file", Switch::PidFile),
    ("-m", Switch::Gone(MONITOR)),
    ("--monitor", Switch::Gone(MONITOR)),
    ("--auth-protocol", Switch::Gone(AUTHENTICATION)),
    ("--auth-database", Switch::Gone(AUTHENTICATION)),
    ("--auth-realm", Switch::Gone(AUTHENTICATION)),
];

/// Abbreviations that only one option of the original has, but several of ours.
const ABBREVIATIONS: [(&str, &str); 2] = [("--configure", "c"), ("--address", "a")];

/// The `clap` name of words that belong to no option.
const WORDS: &str = "words";

/// An option that was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// What it asks for.
    pub switch: Switch,
    /// As messages name it: `-a`, or `--address` even if it was abbreviated.
    pub spelling: &'static str,
    /// Its value; empty if it takes none.
    pub value: OsString,
}

impl Given {
    /// The value, where it must be text.
    pub fn text(self) -> Result<String, String> {
        self.value.into_string().map_err(|value| {
            format!("invalid value for {} {}: not valid UTF-8", self.spelling, repr(&value.to_string_lossy()))
        })
    }
}

/// The options among `arguments`, which are without the program's name, in the order in which they
/// were given.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<Given>, String> {
    let matches = command().try_get_matches_from(arguments.into_iter().flat_map(separated)).map_err(|e| message(&e))?;
    if matches.contains_id(WORDS) {
        return Err("positional arguments are not supported".to_owned());
    }
    let mut given = Vec::new();
    for (spelling, switch) in SPELLINGS {
        let places = matches.indices_of(spelling).into_iter().flatten();
        let values = matches.get_many::<OsString>(spelling).into_iter().flatten();
        given.extend(places.zip(values.cloned()).map(|(place, value)| (place, Given { switch, spelling, value })));
    }
    given.sort_by_key(|(place, _)| *place);
    Ok(given.into_iter().map(|(_, given)| given).collect())
}

fn command() -> Command {
    // Whatever follows the first word is a word too. Help is printed only if there is no mistake.
    let words = Arg::new(WORDS).num_args(0..).trailing_var_arg(true).value_parser(ValueParser::os_string());
    Command::new("runzeo")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(true)
        .args(SPELLINGS.map(|(spelling, switch)| option(spelling, switch)))
        .arg(words)
}

fn option(spelling: &'static str, switch: Switch) -> Arg {
    let option = Arg::new(spelling).action(ArgAction::Append).value_parser(ValueParser::os_string());
    let option = match spelling.strip_prefix("--") {
        Some(long) => option.long(long),
        None => option.short(spelling.chars().nth(1)),
    };
    let abbreviations = ABBREVIATIONS.iter().filter(|(full, _)| *full == spelling).map(|(_, short)| *short);
    let option = option.aliases(abbreviations);
    if switch.takes_value() {
        // The next argument is the value, whatever it looks like.
        option.num_args(1).allow_hyphen_values(true)
    } else {
        // An empty value, so that its place is known too.
        option.num_args(0).default_missing_value("")
    }
}

/// `-f=x` as `-f` and `=x`. To `getopt` the sign belongs to the value, but `clap` drops it, and the
/// server would open another file. Where such a word is itself a value (`-f -a=x`) there is now one
/// word too many, which is refused.
fn separated(argument: OsString) -> Vec<OsString> {
    match argument.as_bytes().split_at_checked(2) {
        Some((option, value)) if value.starts_with(b"=") && takes_value(option) => {
            [option, value].map(|part| OsStr::from_bytes(part).to_owned()).to_vec()
        }
        _ => vec![argument],
    }
}

fn takes_value(option: &[u8]) -> bool {
    SPELLINGS.iter().any(|(spelling, switch)| spelling.as_bytes() == option && switch.takes_value())
}

/// The mistake in the words of `getopt`.
fn message(error: &clap::Error) -> String {
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => option.as_str(),
        _ => "",
    };
    // Here the option is followed by a placeholder for its value.
    let without_value = option.split_once(' ').map_or(option, |(option, _)| option);
    match error.kind() {
        ErrorKind::UnknownArgument if is_ambiguous(option) => format!("option {option} not a unique prefix"),
        ErrorKind::UnknownArgument => format!("option {option} not recognized"),
        ErrorKind::InvalidValue => format!("option {without_value} requires argument"),
        ErrorKind::TooManyValues => format!("option {option} must not have an argument"),
        other => other.to_string(),
    }
}

fn is_ambiguous(option: &str) -> bool {
    SPELLINGS.iter().filter(|(spelling, _)| spelling.starts_with(option)).count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(line: &str) -> Result<String, String> {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from);
        let given = read(words)?;
        let shown = given.iter().map(|given| format!("{}={}", given.spelling, given.value.display()));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        command().debug_assert();
    }

    #[test]
    fn options_come_in_their_order() {
        for (line, result) in [
            ("", ""),
            ("-a 1 --test --timeout 2 -a 3 --test -t4", "-a=1 --test= --timeout=2 -a=3 --test= -t=4"),
            ("-a1 -t2 -hf3", "-a=1 -t=2 -h= -f=3"),
            ("--address=1 --address= --addr 2", "--address=1 --address= --address=2"),
            ("-a -t -f -- -t --test --filename -f --", "-a=-t -f=-- -t=--test --filename=-f"),
            ("-a-1 -t -1 --address=--test", "-a=-1 -t=-1 --address=--test"),
            ("-f=x -t= --filename==x", "-f==x -t== --filename==x"),
        ] {
            assert_eq!(show(line).as_deref(), Ok(result), "{line}");
        }
    }

    #[test]
    fn every_abbreviation_of_the_original_works() {
        const ORIGINAL: [&str; 8] =
            ["--help", "--version", "--configure", "--test", "--address", "--filename", "--timeout", "--pid-file"];
        for full in ORIGINAL {
            for end in "--x".len()..=full.len() {
                let short = &full[..end];
                if ORIGINAL.iter().filter(|other| other.starts_with(short)).count() > 1 {
                    assert_eq!(show(short), Err(format!("option {short} not a unique prefix")));
                    continue;
                }
                let switch = SPELLINGS.into_iter().find(|(spelling, _)| *spelling == full).unwrap().1;
                let value = if switch.takes_value() { " 1" } else { "" };
                assert_eq!(show(&format!("{short}{value}")), Ok(format!("{full}={}", value.trim())));
            }
        }
    }

    #[test]
    fn mistakes_are_named_as_getopt_does() {
        for (line, message) in [
            ("-q", "option -q not recognized"),
            ("-hq", "option -q not recognized"),
            ("-h=x", "option -= not recognized"),
            ("--quiet=1", "option --quiet not recognized"),
            ("---test", "option ---test not recognized"),
            ("--t", "option --t not a unique prefix"),
            ("--=x", "option -- not a unique prefix"),
            ("-a", "option -a requires argument"),
            ("-ha", "option -a requires argument"),
            ("--addr", "option --address requires argument"),
            ("--test=1", "option --test must not have an argument"),
            ("x -q", "positional arguments are not supported"),
            ("-- -q", "positional arguments are not supported"),
            ("-", "positional arguments are not supported"),
            ("-f -a=x", "positional arguments are not supported"),
        ] {
            assert_eq!(show(line), Err(message.to_owned()), "{line}");
        }
    }
}
