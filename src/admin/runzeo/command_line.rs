//! The options of runzeo, and its mistakes in the words of Python's `getopt`, which the original uses.

use std::ffi::OsString;

use crate::admin::command_line::{self, Grammar};

/// An option that was given.
pub type Given = command_line::Given<Switch>;

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
    /// How clients authenticate.
    AuthProtocol,
    /// Who may.
    AuthDatabase,
    /// Under which name.
    AuthRealm,
    /// Of the original before version 5, with what to do instead.
    Gone(&'static str),
}

impl command_line::Switch for Switch {
    fn takes_value(self) -> bool {
        !matches!(self, Self::Help | Self::Version | Self::Test | Self::Check)
    }
}

const MONITOR: &str = "use zeo-nagios, which asks the server's own address";

const SPELLINGS: &[(&str, Switch)] = &[
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
    ("--auth-protocol", Switch::AuthProtocol),
    ("--auth-database", Switch::AuthDatabase),
    ("--auth-realm", Switch::AuthRealm),
];

const GRAMMAR: Grammar<Switch> =
    Grammar { spellings: SPELLINGS, abbreviations: &[("--configure", "c"), ("--address", "a")], interspersed: false };

/// The options among `arguments`, which are without the program's name, in the order in which they
/// were given.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<Given>, String> {
    // Help is printed only if there is no mistake.
    match GRAMMAR.read(arguments) {
        Ok((given, words)) if words.is_empty() => Ok(given),
        Ok(_) => Err("positional arguments are not supported".to_owned()),
        Err(mistake) => Err(mistake.like_getopt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::command_line::Switch as _;

    fn show(line: &str) -> Result<String, String> {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from);
        let given = read(words)?;
        let shown = given.iter().map(|given| format!("{}={}", given.spelling, given.value.display()));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        GRAMMAR.command().debug_assert();
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
                let switch = SPELLINGS.iter().find(|(spelling, _)| *spelling == full).unwrap().1;
                let value = if switch.takes_value() { " 1" } else { "" };
                assert_eq!(show(&format!("{short}{value}")), Ok(format!("{full}={}", value.trim())));
            }
        }
    }

    #[test]
    fn mistakes_are_named_like_getopt_does() {
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
