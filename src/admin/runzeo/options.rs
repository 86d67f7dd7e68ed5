//! The command line of runzeo, and what it makes of the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::command_line::{self, Given, Switch};
use crate::config::datatypes::socket_binding_address;
use crate::config::{
    self, AuthenticationSettings, FileStorageSettings, ServerSettings, SocketAddress, StorageSettings,
};
use crate::literals::{parse_float, repr};
use crate::logging::EventLogSettings;
use crate::server::auth::Authenticator;

/// What `--help` prints. `PROG` stands for the name of the program.
pub const HELP: &str = "\
Serve ZODB storages to ZEO clients.

Usage: PROG -C FILE
       PROG -a ADDRESS -f FILENAME [-f FILENAME ...]

Examples:
  PROG -C /srv/zeo/etc/zeo.conf              serve what the file says
  PROG -C zeo.conf --check-config            only say what would be served
  PROG -C zeo.conf -a 8200 -X zeo/read-only=true
                                             as the file says, but for these
  PROG -a 127.0.0.1:8100 -f Data.fs          serve one file, as storage '1'
  PROG -a /run/zeo/sock -f a.fs -f b.fs      storages '1' and '2', on a Unix socket

Options:
  -C, --configure FILE    configuration file: a path, or a file: URL
  -X SECTION/KEY=VALUE    value that wins over the file's; may be repeated
  -a, --address ADDRESS   where to listen: PORT, HOST:PORT, or a PATH with a \"/\"
  -f, --filename FILENAME data file of a FileStorage; may be repeated
  -t, --timeout SECONDS   how long a transaction may hold up others
                          (default: no limit)
      --pid-file PATH     where to write the process id (default:
                          $INSTANCE_HOME/var/ZEO.pid, if INSTANCE_HOME is set)
      --auth-protocol NAME    digest: clients need a password (ZEO 4 and older only)
      --auth-database FILE    who may connect, as zeopasswd writes it
      --auth-realm REALM      the realm that this file names
      --test              start everything, then stop at once
      --check-config      read the configuration, open nothing, say what would
                          be served
  -h, --help              print this text
      --version           print the version

Command line options win over the configuration file; -f replaces all of its
storages. Exit codes: 0 after SIGTERM and SIGINT; 1 after SIGHUP and failures,
so that a daemon manager starts the server again; 2 for mistakes in the command
line or the configuration.
";

/// What a command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Do something with a configuration.
    Configured(Action, Box<Options>),
}

/// What to do with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Serve until a signal comes.
    Serve,
    /// Start and stop.
    Test,
    /// Say what would be served.
    Check,
}

/// Everything that is known before the server starts.
#[derive(Debug)]
pub struct Options {
    /// How to serve.
    pub server: ServerSettings,
    /// What to serve, under which names.
    pub storages: Vec<(String, StorageSettings)>,
    /// Where to log; `None` is stderr.
    pub event_log: Option<EventLogSettings>,
    /// Who may connect; everybody if there is none.
    pub authenticator: Option<Arc<Authenticator>>,
    /// What is odd, but no mistake.
    pub warnings: Vec<String>,
}

/// Values of the command line, before the configuration file is read.
#[derive(Default)]
struct Values {
    configuration: Option<String>,
    overrides: Vec<String>,
    address: Option<SocketAddress>,
    filenames: Vec<PathBuf>,
    timeout_s: Option<f64>,
    pid_file: Option<PathBuf>,
    authentication: AuthenticationSettings,
    action: Option<Action>,
}

/// Reads `arguments`, without the program's name, and the configuration file that they name. The
/// error is for the person who wrote them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut values = Values::default();
    for given in command_line::read(arguments)? {
        match given.switch {
            Switch::Help => return Ok(Command::Help),
            Switch::Version => return Ok(Command::Version),
            _ => values.take(given)?,
        }
    }
    let action = values.action.unwrap_or(Action::Serve);
    Ok(Command::Configured(action, Box::new(values.options()?)))
}

impl Values {
    fn take(&mut self, given: Given) -> Result<(), String> {
        let spelling = given.spelling;
        let invalid = |text: &str, reason: String| format!("invalid value for {spelling} {}: {reason}", repr(text));
        match given.switch {
            Switch::Help | Switch::Version => {}
            Switch::Configure => once(&mut self.configuration, given.text()?, spelling)?,
            Switch::Override => self.overrides.push(given.text()?),
            Switch::Test => self.action = self.action.or(Some(Action::Test)),
            Switch::Check => self.action = Some(Action::Check),
            Switch::Address => {
                let text = given.text()?;
                self.address = Some(socket_binding_address(&text).map_err(|reason| invalid(&text, reason))?);
            }
            Switch::Filename => self.filenames.push(given.value.into()),
            Switch::Timeout => {
                let text = given.text()?;
                let seconds = parse_float(&text).map_err(|reason| invalid(&text, reason))?;
                once(&mut self.timeout_s, seconds, spelling)?;
            }
            Switch::PidFile => once(&mut self.pid_file, given.value.into(), spelling)?,
            Switch::AuthProtocol => {
                let text = given.text()?;
                let name = AuthenticationSettings::protocol(&text).map_err(|reason| invalid(&text, reason))?;
                once(&mut self.authentication.protocol, name, spelling)?;
            }
            Switch::AuthDatabase => once(&mut self.authentication.database, given.value.into(), spelling)?,
            Switch::AuthRealm => once(&mut self.authentication.realm, given.text()?, spelling)?,
            Switch::Gone(remedy) => {
                return Err(format!("option {spelling} is not supported by this server: {remedy}"));
            }
        }
        Ok(())
    }

    /// Puts the command line on top of the configuration file.
    fn options(self) -> Result<Options, String> {
        let (server, storages, event_log, warnings) = match &self.configuration {
            Some(location) => {
                let file = config::load(location, &self.overrides).map_err(|error| error.to_string())?;
                (Some(file.server), file.storages, file.event_log, file.warnings)
            }
            None if !self.overrides.is_empty() => {
                return Err("configuration overrides (-X) cannot be used without a configuration file".to_owned());
            }
            None => (None, Vec::new(), None, Vec::new()),
        };
        let mut server = match (server, self.address) {
            (Some(server), None) => server,
            (Some(mut server), Some(address)) => {
                server.listener.addresses = vec![address];
                server
            }
            (None, Some(address)) => ServerSettings::new(address),
            (None, None) => return Err("no server address specified; use -a or -C".to_owned()),
        };
        server.transaction_timeout_s = self.timeout_s.or(server.transaction_timeout_s);
        server.pid_file = self.pid_file.or(server.pid_file);
        let storages = if self.filenames.is_empty() { named(storages)? } else { numbered(&self.filenames) };
        if storages.is_empty() {
            return Err("no storages specified; use -f or -C".to_owned());
        }
        check_addresses(&server)?;
        check_storage_names(&server, &storages)?;
        server.authentication = AuthenticationSettings {
            protocol: self.authentication.protocol.or(server.authentication.protocol),
            database: self.authentication.database.or(server.authentication.database),
            realm: self.authentication.realm.or(server.authentication.realm),
        };
        let authenticator = authenticator(&server.authentication)?;
        Ok(Options { server, storages, event_log, authenticator, warnings })
    }
}

/// Reads the password database, if clients have to authenticate.
fn authenticator(settings: &AuthenticationSettings) -> Result<Option<Arc<Authenticator>>, String> {
    let Some((path, realm)) = settings.digest()? else {
        return Ok(None);
    };
    let authenticator = Authenticator::open(path, realm).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(authenticator)))
}

/// An option may be repeated with the same value only.
fn once<T: PartialEq>(slot: &mut Option<T>, value: T, spelling: &str) -> Result<(), String> {
    match slot {
        Some(earlier) if *earlier != value => Err(format!("conflicting command line option {}", repr(spelling))),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// The files of `-f`, as storages `1`, `2` and so on.
fn numbered(filenames: &[PathBuf]) -> Vec<(String, StorageSettings)> {
    (1_usize..)
        .zip(filenames)
        .map(|(number, name)| (number.to_string(), StorageSettings::File(FileStorageSettings::new(name.clone()))))
        .collect()
}

/// The storages of the file. One without a name becomes `1`.
fn named(storages: Vec<(Option<String>, StorageSettings)>) -> Result<Vec<(String, StorageSettings)>, String> {
    let unnamed = storages.iter().filter(|(name, _)| name.is_none()).count();
    if unnamed > 1 {
        return Err("No more than one storage may be unnamed.".to_owned());
    }
    if unnamed == 1 && storages.iter().any(|(name, _)| name.as_deref() == Some("1")) {
        return Err("Can't have an unnamed storage and a storage named 1.".to_owned());
    }
    Ok(storages.into_iter().map(|(name, settings)| (name.unwrap_or_else(|| "1".to_owned()), settings)).collect())
}

/// An address stands in one place: who may do what there must not depend on which listener is the last.
fn check_addresses(server: &ServerSettings) -> Result<(), String> {
    let listeners = server.listeners();
    let mut seen: Vec<&SocketAddress> = Vec::new();
    for listener in &listeners {
        for address in &listener.addresses {
            if seen.contains(&address) {
                return Err(format!("the address {address} is named twice"));
            }
            seen.push(address);
        }
        let is_unix = |address: &SocketAddress| matches!(address, SocketAddress::Unix(_));
        if let (Some(network), Some(path), true) =
            (listener.allow.first(), listener.addresses.first(), listener.addresses.iter().all(is_unix))
        {
            return Err(format!(
                "allow {network} means nothing for {path}: who may use a Unix socket is up to the permissions of its \
                 directory"
            ));
        }
    }
    Ok(())
}

/// A storage that the holder of a certificate may open has to be there.
fn check_storage_names(server: &ServerSettings, storages: &[(String, StorageSettings)]) -> Result<(), String> {
    for client in server.listeners().iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.clients) {
        if let Some(stray) = client.storages.iter().find(|name| !storages.iter().any(|(known, _)| known == *name)) {
            let client = repr(&client.name);
            return Err(format!("<client> {client} of <ssl> may open {}, and no storage has this name", repr(stray)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(OsString::from))
    }

    fn options(arguments: &[&str]) -> Options {
        match run(arguments).unwrap() {
            Command::Configured(_, options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_are_numbered() {
        let options = options(&["-a", "8100", "-f", "a.fs", "--file=b.fs", "-t1.5"]);
        let names: Vec<_> = options.storages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["1", "2"]);
        assert_eq!(options.server.transaction_timeout_s, Some(1.5));
    }

    #[test]
    fn the_command_line_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zeo.conf");
        std::fs::write(&path, "<zeo>\naddress 1\ntransaction-timeout 5\n</zeo>\n<mappingstorage main/>\n").unwrap();
        let path = path.to_str().unwrap();
        let from_file = options(&["-C", path]);
        assert_eq!(from_file.server.listener.addresses, [SocketAddress::Tcp(String::new(), Some(1))]);
        assert_eq!(from_file.storages[0].0, "main");
        let both = options(&["-C", path, "-a", "2", "-f", "a.fs", "-X", "zeo/read-only=yes"]);
        assert_eq!(both.server.listener.addresses, [SocketAddress::Tcp(String::new(), Some(2))]);
        assert_eq!(both.server.transaction_timeout_s, Some(5.0));
        assert!(both.server.is_read_only());
        assert_eq!(both.storages, numbered(&["a.fs".into()]));
    }

    #[test]
    fn mistakes_are_named() {
        for (arguments, message) in [
            (&["-f", "a"][..], "no server address specified; use -a or -C"),
            (&["-a", "1"], "no storages specified; use -f or -C"),
            (&["x"], "positional arguments are not supported"),
            (&["-a", "h:99999"], "invalid value for -a 'h:99999': 99999 is above upper bound (65535)"),
            (&["--timeout", "x"], "invalid value for --timeout 'x': could not convert string to float: 'x'"),
            (&["-t1", "-t1", "-t2"], "conflicting command line option '-t'"),
            (&["-X", "a=b"], "configuration overrides (-X) cannot be used without a configuration file"),
        ] {
            assert_eq!(run(arguments).unwrap_err(), message, "{arguments:?}");
        }
    }
}
