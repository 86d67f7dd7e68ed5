//! The command line of zeopack: which storages, and up to which time.
//!
//! Options and mistakes are those of Python's `optparse`, which the original uses.

use std::ffi::OsString;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::admin::command_line::{self, Grammar};
use crate::client::Address;
use crate::literals::{parse_int, repr};

/// What a mistake begins with. `PROG` stands for the name of the program.
pub const USAGE: &str = "\
Usage: PROG [options] [servers]

Pack one or more storages hosted by ZEO servers.

The positional arguments specify 0 or more tcp servers to pack, where
each is of the form:

    host:port[:name]
";

/// What `--help` prints, and the command without arguments.
pub const HELP: &str = "\
Usage: PROG [options] [servers]

Pack one or more storages hosted by ZEO servers. A server is given as

    host:port[:name]

where name is that of the storage, by default 1. IPv6: [::1]:port[:name]

Examples:
  PROG -d 3 localhost:8100                   forget what is older than 3 days
  PROG -d 1 -t 3 db1:8100:main db2:8100      up to 3 o'clock yesterday
  PROG -u /run/zeo/sock -u /run/zeo/sock:2   two storages, by a Unix socket

Options:
  -d DAYS, --days=DAYS  keep what was current this number of days ago, and what
                        came after (default: 0)
  -t TIME, --time=TIME  time of that day, HH[:MM[:SS]] on the clock of this
                        machine (default: now)
  -u PATH[:NAME], --unix=PATH[:NAME]
                        server at a Unix socket; may be repeated
  --help                print this text; -h is an option of its own
  --version             print the version

Deprecated:
  -h HOST               host of a server, with -p
  -p PORT               its port; without -h on this machine
  -U PATH               server at a Unix socket
  -S NAME               name of the storage for these (default: 1)

Each server has 60 seconds to be there. Ctrl-C ends this command, not the pack.
Exit codes: 0 if at least one server was there and no pack failed; 1 if none
was there, or at the first pack that fails; 2 for options that do not exist.
";

/// What a command line asks for.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Pack.
    Pack(Options),
}

/// What to pack.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// In this order.
    pub targets: Vec<Target>,
    /// Up to this time, in seconds since 1970.
    pub time: f64,
}

/// A storage of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where the server listens.
    pub address: Address,
    /// The name of the storage.
    pub storage: String,
}

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Mistake {
    /// An option that does not exist, or is malformed.
    Usage(String),
    /// Something that does not make sense.
    Value(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    Help,
    Version,
    Days,
    Time,
    UnixServer,
    Host,
    Port,
    Storage,
    UnixPath,
}

impl command_line::Switch for Switch {
    fn takes_value(self) -> bool {
        !matches!(self, Self::Help | Self::Version)
    }
}

const GRAMMAR: Grammar<Switch> = Grammar {
    spellings: &[
        ("--help", Switch::Help),
        ("--version", Switch::Version),
        ("-d", Switch::Days),
        ("--days", Switch::Days),
        ("-t", Switch::Time),
        ("--time", Switch::Time),
        ("-u", Switch::UnixServer),
        ("--unix", Switch::UnixServer),
        ("-h", Switch::Host),
        ("-p", Switch::Port),
        ("-S", Switch::Storage),
        ("-U", Switch::UnixPath),
    ],
    abbreviations: &[],
    interspersed: true,
};

/// The values of the options. Empty ones count as not given.
#[derive(Default)]
struct Values {
    days: i64,
    time: String,
    unix_servers: Vec<String>,
    host: String,
    port: i64,
    storage: Option<String>,
    unix_path: String,
}

/// Reads `arguments`, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Mistake> {
    let (given, words) = GRAMMAR.read(arguments).map_err(|mistake| Mistake::Usage(mistake.like_optparse()))?;
    if given.is_empty() && words.is_empty() {
        return Ok(Command::Help);
    }
    let mut values = Values::default();
    for given in given {
        let (switch, spelling) = (given.switch, given.spelling);
        let text = given.text().map_err(Mistake::Usage)?;
        let integer = |text: &str| {
            integer(text)
                .ok_or_else(|| Mistake::Usage(format!("option {spelling}: invalid integer value: {}", repr(text))))
        };
        match switch {
            Switch::Help => return Ok(Command::Help),
            Switch::Version => return Ok(Command::Version),
            Switch::Days => values.days = integer(&text)?,
            Switch::Time => values.time = text,
            Switch::UnixServer => values.unix_servers.push(text),
            Switch::Host => values.host = text,
            Switch::Port => values.port = integer(&text)?,
            Switch::Storage => values.storage = Some(text),
            Switch::UnixPath => values.unix_path = text,
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let offset_s = jiff::Zoned::now().offset().seconds();
    let time = time_of_day(&values.time)?;
    let time = pack_time(now, offset_s, time, values.days);
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    Ok(Command::Pack(Options { targets: values.targets(&words)?, time }))
}

impl Values {
    fn targets(self, words: &[impl AsRef<str>]) -> Result<Vec<Target>, Mistake> {
        let storage = self.storage.unwrap_or_else(|| "1".to_owned());
        let mut targets = Vec::new();
        let port = |port: i64| u16::try_from(port).map_err(|_| Mistake::Value(format!("Invalid port: {port}")));
        if !self.host.is_empty() {
            if self.port == 0 {
                let message = "If host (-h) is specified then a port (-p) must be specified as well.";
                return Err(Mistake::Value(message.to_owned()));
            }
            targets.push(Target { address: Address::Tcp(self.host, port(self.port)?), storage: storage.clone() });
        } else if self.port != 0 {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            targets.push(Target { address: Address::Tcp(host, port(self.port)?), storage: storage.clone() });
        }
        if !self.unix_path.is_empty() {
            targets.push(Target { address: Address::Unix(self.unix_path.into()), storage });
        }
        for word in words {
            targets.push(tcp_server(word.as_ref())?);
        }
        for server in &self.unix_servers {
            targets.push(unix_server(server)?);
        }
        if targets.is_empty() {
            return Err(Mistake::Value("No servers specified.".to_owned()));
        }
        Ok(targets)
    }
}

/// `host:port[:name]`
fn tcp_server(text: &str) -> Result<Target, Mistake> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    let split = bracketed.or_else(|| text.split_once(':')).ok_or_else(|| invalid_server(text))?;
    let (host, rest) = split;
    let (port, storage) = rest.split_once(':').unwrap_or((rest, "1"));
    if storage.contains(':') {
        return Err(invalid_server(text));
    }
    let port = parse_int(port).ok().and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| Mistake::Value(format!("Invalid port in server specification: {}", repr(text))))?;
    Ok(Target { address: Address::Tcp(host.to_owned(), port), storage: storage.to_owned() })
}

/// `path[:name]`, so the path cannot have a colon; with `-U` it can.
fn unix_server(text: &str) -> Result<Target, Mistake> {
    let (path, storage) = text.split_once(':').unwrap_or((text, "1"));
    if storage.contains(':') {
        return Err(invalid_server(text));
    }
    Ok(Target { address: Address::Unix(path.into()), storage: storage.to_owned() })
}

fn invalid_server(text: &str) -> Mistake {
    Mistake::Value(format!("Invalid server specification: {}", repr(text)))
}

/// An integer as `optparse` reads it: hexadecimal, binary and octal too, so `010` is eight.
fn integer(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = |prefix: &str| lower.strip_prefix(prefix);
    if let Some(digits) = digits("0x") {
        i64::from_str_radix(digits, 16).ok()
    } else if let Some(digits) = digits("0b") {
        i64::from_str_radix(digits, 2).ok()
    } else if let Some(digits) = digits("0").filter(|digits| !digits.is_empty()) {
        i64::from_str_radix(digits.strip_prefix('o').unwrap_or(digits), 8).ok()
    } else {
        parse_int(text).ok()
    }
}

/// Hours, minutes and seconds of `HH[:MM[:SS]]`; `None` if there is nothing.
fn time_of_day(text: &str) -> Result<Option<[i32; 3]>, Mistake> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = || Mistake::Value(format!("Invalid time value: {}", repr(text)));
    let mut time = [0; 3];
    let mut places = time.iter_mut();
    for part in text.split(':') {
        let place = places.next().ok_or_else(invalid)?;
        *place = parse_int(part).ok().and_then(|part| part.try_into().ok()).ok_or_else(invalid)?;
    }
    Ok(Some(time))
}

/// The time to pack to: `time` of the day that it is at `now` in local time, or `now` itself, and then
/// `days` of 86400 seconds earlier. The offset from UTC is that of now, also for a time before a change
/// of the clock, and hours may leave the day: both as the original has it.
#[expect(clippy::cast_precision_loss, reason = "Python's float(days * 86400) is no more exact")]
fn pack_time(now: f64, offset_s: i32, time: Option<[i32; 3]>, days: i64) -> f64 {
    const DAY: f64 = 86400.0;
    let time = time.map_or(now, |time| {
        let [hours, minutes, seconds] = time.map(f64::from);
        let local = now.floor() + f64::from(offset_s);
        let midnight = local - local.rem_euclid(DAY) - f64::from(offset_s);
        midnight + hours * 3600.0 + minutes * 60.0 + seconds
    });
    time - days as f64 * DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, Mistake> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    fn targets(line: &str) -> Result<String, Mistake> {
        let Command::Pack(options) = read(line)? else { panic!("{line}") };
        let shown = options.targets.iter().map(|Target { address, storage }| format!("{address} {storage}"));
        Ok(shown.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        GRAMMAR.command().debug_assert();
    }

    #[test]
    fn servers_come_in_the_order_of_the_original() {
        for (line, expected) in [
            ("h:1", "('h', 1) 1"),
            ("h:1 -d3 h:2:x", "('h', 1) 1, ('h', 2) x"),
            (":1:", "('', 1) "),
            ("[::1]:1:x [fe80::1]:2", "('::1', 1) x, ('fe80::1', 2) 1"),
            ("-ufoo -u bar:spam h:1", "('h', 1) 1, 'foo' 1, 'bar' spam"),
            ("-U foo/b:ar -S 2 -h host1 -p 8100 h:1", "('host1', 8100) 2, 'foo/b:ar' 2, ('h', 1) 1"),
            ("-h a -h b -p 0x10", "('b', 16) 1"),
            ("-p 0 h:1 -U= --unix=-x", "'=' 1, ('h', 1) 1, '-x' 1"),
        ] {
            assert_eq!(targets(line).as_deref(), Ok(expected), "{line}");
        }
        let Ok(on_this_machine) = targets("-p 8100") else { panic!() };
        assert!(on_this_machine.ends_with("', 8100) 1") && !on_this_machine.starts_with("('',"), "{on_this_machine}");
    }

    #[test]
    fn help_and_version() {
        for line in ["", "--help", "--h", "-d3 --help a"] {
            assert_eq!(read(line), Ok(Command::Help), "{line}");
        }
        assert_eq!(read("--version"), Ok(Command::Version));
    }

    #[test]
    fn mistakes_are_those_of_the_original() {
        let value = |text: &str| Mistake::Value(text.to_owned());
        let usage = |text: &str| Mistake::Usage(text.to_owned());
        for (line, mistake) in [
            ("-d3", value("No servers specified.")),
            ("a", value("Invalid server specification: 'a'")),
            ("a:1:b:c", value("Invalid server specification: 'a:1:b:c'")),
            ("a:b:2", value("Invalid port in server specification: 'a:b:2'")),
            ("a:65536", value("Invalid port in server specification: 'a:65536'")),
            ("-u a:b:2", value("Invalid server specification: 'a:b:2'")),
            ("-- -q", value("Invalid server specification: '-q'")),
            ("-t 1:2:3:4 a:1", value("Invalid time value: '1:2:3:4'")),
            ("-t 1: a:1", value("Invalid time value: '1:'")),
            ("-h x", value("If host (-h) is specified then a port (-p) must be specified as well.")),
            ("-h x -p -1", value("Invalid port: -1")),
            ("-q", usage("no such option: -q")),
            ("a:1 -q", usage("no such option: -q")),
            ("--quiet=1", usage("no such option: --quiet")),
            ("-h", usage("-h option requires 1 argument")),
            ("--tim", usage("--time option requires 1 argument")),
            ("--help=1", usage("--help option does not take a value")),
            ("-d x", usage("option -d: invalid integer value: 'x'")),
            ("-d=3", usage("option -d: invalid integer value: '=3'")),
            ("--days=08", usage("option --days: invalid integer value: '08'")),
        ] {
            assert_eq!(read(line), Err(mistake), "{line}");
        }
    }

    #[test]
    fn integers() {
        for (text, value) in [
            ("10", 10),
            ("-1", -1),
            (" 1_0", 10),
            ("010", 8),
            ("0o10", 8),
            ("0", 0),
            ("0X1f", 31),
            ("0b11", 3),
            ("99999999999", 99_999_999_999),
        ] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for text in ["", "x", "1.5", "08", "0x", "99999999999999999999"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn days_and_times() {
        // 2009-03-24 10:55:17.5 at UTC+2.
        let now = 1_237_884_917.5;
        let at = |time: &str, days| pack_time(now, 7200, time_of_day(time).unwrap(), days);
        let midnight = 1_237_845_600.0;
        for (time, days, expected) in [
            ("", 0, now),
            ("", 3, now - 3.0 * 86400.0),
            ("", -1, now + 86400.0),
            ("0", 0, midnight),
            ("1:30", 3, midnight + 5400.0 - 3.0 * 86400.0),
            ("23:59:59", 0, midnight + 86399.0),
            ("25", 0, midnight + 90000.0),
            ("-1", 0, midnight - 3600.0),
        ] {
            assert!((at(time, days) - expected).abs() < 1e-6, "{time} {days}: {} {expected}", at(time, days));
        }
        // West of Greenwich the day is another one.
        assert!((pack_time(1_237_852_800.0, -3600, Some([0; 3]), 0) - (1_237_852_800.0 - 82800.0)).abs() < 1e-6);
    }
}
