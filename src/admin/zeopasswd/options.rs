//! The command line of zeopasswd: the original's, with its traps mended.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::admin::command_line::{self, Grammar};
use crate::config;
use crate::literals::repr;

/// What `--help` prints. `PROG` stands for the name of the program.
pub const HELP: &str = "\
Keep the passwords of a ZEO server with digest authentication.

Usage: PROG [options] username [password]

Without a password you are asked for it; one on the command line can be seen by
everybody on this machine. A server reads the file when it starts.

Examples:
  PROG -C zeo.conf alice                     add a user, in the file that zeo.conf
                                             names
  PROG -C zeo.conf --replace alice           give a user another password
  PROG -C zeo.conf -d alice                  delete a user
  PROG -p digest -f passwd -r \"My Realm\" bob
                                             make a file, or add a user to one

Specify either a configuration file:
  -C, --configure FILE    a zeo.conf, for protocol, database and realm; also
      --configuration     called so

or the individual options:
  -p, --protocol NAME     digest
  -f, --filename FILE     the password database
  -r, --realm REALM       its realm; may be left out if the file has one

Additional options:
  -d, --delete            delete the user
      --replace           set the password of a user who exists, too
  -h, --help              print this text
      --version           print the version

Exit codes: 0 if it is done; 1 if it cannot be done; 2 for mistakes in the
command line.
";

/// What a mistake is told with.
pub const USAGE: &str = "Usage: PROG [options] username [password]\nFor help, use PROG -h\n";

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Change a database.
    Change(Options),
}

/// What to change, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The file.
    pub database: PathBuf,
    /// Its realm, if one is named.
    pub realm: Option<String>,
    /// Whose password.
    pub user: String,
    /// What to do.
    pub change: Change,
}

/// What to do with a user.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Add, with this password or one that is asked for.
    Add(Option<String>),
    /// The same, also if the user is there.
    Replace(Option<String>),
    /// Remove.
    Delete,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It makes no sense.
    Usage(String),
    /// What it says cannot be used.
    Value(String),
}

/// What an option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    Configure,
    Protocol,
    Filename,
    Realm,
    Delete,
    Replace,
    Help,
    Version,
}

impl command_line::Switch for Switch {
    fn takes_value(self) -> bool {
        matches!(self, Self::Configure | Self::Protocol | Self::Filename | Self::Realm)
    }
}

const GRAMMAR: Grammar<Switch> = Grammar {
    spellings: &[
        ("-C", Switch::Configure),
        ("--configure", Switch::Configure),
        ("--configuration", Switch::Configure),
        ("-p", Switch::Protocol),
        ("--protocol", Switch::Protocol),
        ("-f", Switch::Filename),
        ("--filename", Switch::Filename),
        ("-r", Switch::Realm),
        ("--realm", Switch::Realm),
        ("-d", Switch::Delete),
        ("--delete", Switch::Delete),
        ("--replace", Switch::Replace),
        ("-h", Switch::Help),
        ("--help", Switch::Help),
        ("--version", Switch::Version),
    ],
    abbreviations: &[
        ("--configure", "c"),
        ("--configure", "co"),
        ("--configure", "con"),
        ("--configure", "conf"),
        ("--configure", "confi"),
        ("--configure", "config"),
        ("--configure", "configu"),
        ("--configure", "configur"),
        ("--realm", "r"),
        ("--realm", "re"),
    ],
    interspersed: false,
};

/// Reads `arguments`, without the program's name, and the configuration file that they name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Mistake> {
    let (given, words) = GRAMMAR.read(arguments).map_err(|mistake| Mistake::Usage(mistake.like_getopt()))?;
    let (mut configuration, mut protocol, mut database, mut realm) = (None, None, None, None);
    let (mut delete, mut replace) = (false, false);
    for option in given {
        match option.switch {
            Switch::Help => return Ok(Command::Help),
            Switch::Version => return Ok(Command::Version),
            Switch::Delete => delete = true,
            Switch::Replace => replace = true,
            Switch::Filename => database = Some(PathBuf::from(option.value)),
            Switch::Configure => configuration = Some(option.text().map_err(Mistake::Usage)?),
            Switch::Protocol => protocol = Some(option.text().map_err(Mistake::Usage)?),
            Switch::Realm => realm = Some(option.text().map_err(Mistake::Usage)?),
        }
    }
    let usage = |message: &str| Mistake::Usage(format!("Error: {message}"));
    if let Some(location) = configuration {
        if protocol.is_some() || database.is_some() || realm.is_some() {
            return Err(usage("Conflicting options; use either -C *or* -p and -f"));
        }
        let file = config::load(&location, &[]).map_err(|error| Mistake::Value(error.to_string()))?;
        let settings = file.server.authentication;
        protocol = settings.protocol.filter(|name| !matches!(name.as_str(), "" | "none"));
        if protocol.is_none() {
            return Err(usage("configuration does not specify auth protocol"));
        }
        database = settings.database.filter(|path| !path.as_os_str().is_empty());
        if database.is_none() {
            return Err(usage("configuration does not specify auth database"));
        }
        realm = settings.realm;
    }
    // The original's spelling.
    let (Some(protocol), Some(database)) = (protocol, database) else {
        return Err(usage("Must specifiy configuration file or protocol and database"));
    };
    if delete && replace {
        return Err(usage("Conflicting options; use either --delete or --replace"));
    }
    let mut words = words.into_iter().map(|word| {
        word.into_string().map_err(|_| Mistake::Usage("Error: user and password must be UTF-8".to_owned()))
    });
    let user = words.next().transpose()?;
    let user = user
        .ok_or_else(|| usage(if delete { "Must specify a username to delete" } else { "Must specify a username" }))?;
    let password = if delete { None } else { words.next().transpose()? };
    if words.next().is_some() {
        return Err(usage("Too many arguments"));
    }
    if protocol != "digest" {
        return Err(Mistake::Value(format!("Unknown database type {}; the only one is digest", repr(&protocol))));
    }
    let change = match (delete, replace) {
        (true, _) => Change::Delete,
        (false, true) => Change::Replace(password),
        (false, false) => Change::Add(password),
    };
    Ok(Command::Change(Options { database, realm: realm.filter(|realm| !realm.is_empty()), user, change }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Command, Mistake> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn change(realm: Option<&str>, user: &str, change: Change) -> Command {
        let realm = realm.map(str::to_owned);
        Command::Change(Options { database: "db".into(), realm, user: user.to_owned(), change })
    }

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        GRAMMAR.command().debug_assert();
    }

    #[test]
    fn users_are_added_replaced_and_deleted() {
        let password = || Some("pw".to_owned());
        for (line, result) in [
            ("-p digest -f db u pw", change(None, "u", Change::Add(password()))),
            ("-pdigest -fdb --realm R u", change(Some("R"), "u", Change::Add(None))),
            ("-p digest -f db --replace -r R u pw", change(Some("R"), "u", Change::Replace(password()))),
            ("-p digest --file db -d u", change(None, "u", Change::Delete)),
            ("-p digest -f db --delete u", change(None, "u", Change::Delete)),
            ("-p digest -f db u -d", change(None, "u", Change::Add(Some("-d".to_owned())))),
        ] {
            assert_eq!(run(line), Ok(result), "{line}");
        }
    }
}
