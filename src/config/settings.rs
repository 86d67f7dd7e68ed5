//! Sections as typed settings: what a `zeo.conf` says, with the defaults filled in.

use std::path::{Path, PathBuf};

use super::datatypes::{
    SocketAddress, boolean, byte_size, existing_dirpath, existing_parent_directory, existing_parent_dirpath,
    integer_list, octal, string, string_list,
};
use super::error::{ConfigError, Position};
use super::event_log::{self, HandlerValues};
use super::listeners::{self, ClientSettings, ListenerSettings, TlsSettings};
use super::own::OwnSettings;
use super::section::Section;
use crate::ids::Oid;
use crate::literals::{parse_float, parse_int};
use crate::logging::EventLogSettings;

/// A `zeo.conf`.
#[derive(Debug)]
pub struct Configuration {
    /// `<zeo>`.
    pub server: ServerSettings,
    /// The storages under the names of their sections, in file order. At most one has no name.
    pub storages: Vec<(Option<String>, StorageSettings)>,
    /// `<eventlog>`.
    pub event_log: Option<EventLogSettings>,
    /// What is odd but no reason to refuse the file.
    pub warnings: Vec<String>,
}

/// `<zeo>`: how to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// The addresses of `<zeo>` itself, with its keys that say what holds there. A server that is read-only there is so
    /// as a whole.
    pub listener: ListenerSettings,
    /// `<listener>`: more of them.
    pub more_listeners: Vec<ListenerSettings>,
    /// How many transactions are kept for clients that come back.
    pub invalidation_queue_size: usize,
    /// How long a client may have been away and still be brought up to date from the storage.
    pub invalidation_age_s: Option<f64>,
    /// How long a voted transaction may keep others waiting.
    pub transaction_timeout_s: Option<f64>,
    /// Whether clients get their conflicts back, to resolve them.
    pub client_conflict_resolution: bool,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// Who may connect.
    pub authentication: AuthenticationSettings,
}

/// The keys `authentication-...` of `<zeo>`, which the command line may override one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthenticationSettings {
    /// The name of the protocol. The only one is `digest`; nothing, or `none`, is no authentication.
    pub protocol: Option<String>,
    /// The file with the passwords.
    pub database: Option<PathBuf>,
    /// What the file and the clients call themselves.
    pub realm: Option<String>,
}

impl AuthenticationSettings {
    /// Reads the name of a protocol.
    pub fn protocol(text: &str) -> Result<String, String> {
        match text {
            "" | "none" | "digest" => Ok(text.to_owned()),
            _ => Err(format!(
                "no such authentication protocol: '{text}'; use digest, or remove it to let everybody connect"
            )),
        }
    }

    /// The file and the realm, if clients have to authenticate.
    pub fn digest(&self) -> Result<Option<(&Path, &str)>, String> {
        if matches!(self.protocol.as_deref(), None | Some("" | "none")) {
            return Ok(None);
        }
        let database = self.database.as_deref().filter(|path| !path.as_os_str().is_empty());
        let realm = self.realm.as_deref().filter(|realm| !realm.is_empty());
        match (database, realm) {
            (Some(database), Some(realm)) => Ok(Some((database, realm))),
            (None, _) => {
                Err("authentication protocol digest needs a password database: set authentication-database in \
                              <zeo>, or --auth-database; zeopasswd makes one"
                    .to_owned())
            }
            (_, None) => Err("authentication protocol digest needs a realm: set authentication-realm in <zeo>, or \
                              --auth-realm, to the one in the password database"
                .to_owned()),
        }
    }
}

impl ServerSettings {
    /// The settings of a server at `address` about which nothing else is said.
    pub fn new(address: SocketAddress) -> Self {
        Self {
            listener: ListenerSettings { addresses: vec![address], ..ListenerSettings::default() },
            ..Self::default()
        }
    }

    /// Whether every write is refused, whoever comes and where.
    pub fn is_read_only(&self) -> bool {
        self.listener.read_only
    }

    /// All listeners, as they are to be: what `<zeo>` says for all of them is in each, but that nobody may write.
    pub fn listeners(&self) -> Vec<ListenerSettings> {
        let whole = &self.listener;
        let mut listeners = vec![ListenerSettings { read_only: false, ..whole.clone() }];
        listeners.extend(
            self.more_listeners
                .iter()
                .map(|listener| ListenerSettings { msgpack: listener.msgpack.or(whole.msgpack), ..listener.clone() }),
        );
        listeners
    }
}

impl Default for ServerSettings {
    /// The settings that a `<zeo>` without keys would have.
    fn default() -> Self {
        Self {
            listener: ListenerSettings::default(),
            more_listeners: Vec::new(),
            invalidation_queue_size: 100,
            invalidation_age_s: None,
            transaction_timeout_s: None,
            client_conflict_resolution: false,
            pid_file: None,
            authentication: AuthenticationSettings::default(),
        }
    }
}

/// A storage section: what to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageSettings {
    /// `<filestorage>`.
    File(FileStorageSettings),
    /// `<mappingstorage>`: in memory, and gone when the server ends.
    Mapping {
        /// What the storage calls itself.
        name: String,
    },
    /// `<blobstorage>`: another storage, with blobs.
    Blob {
        /// Where the blobs are.
        blob_dir: PathBuf,
        /// The storage that keeps the records.
        base: Box<StorageSettings>,
    },
}

impl StorageSettings {
    /// The data file, if the records are in one.
    pub fn file_mut(&mut self) -> Option<&mut FileStorageSettings> {
        match self {
            Self::File(file) => Some(file),
            Self::Mapping { .. } => None,
            Self::Blob { base, .. } => base.file_mut(),
        }
    }
}

/// `<filestorage>`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the section has four keys that are yes or no")]
pub struct FileStorageSettings {
    /// The data file.
    pub path: PathBuf,
    /// Where the blobs are, if there are to be any.
    pub blob_dir: Option<PathBuf>,
    /// Whether the file is opened for reading only.
    pub read_only: bool,
    /// Whether an existing file is emptied, at every start.
    pub create: bool,
    /// Beyond how many bytes writes are refused.
    pub quota_bytes: Option<u64>,
    /// Whether a pack removes unreachable objects.
    pub pack_gc: bool,
    /// Whether a pack keeps the file it replaces.
    pub pack_keep_old: bool,
    /// At most how many bytes a pack reads or writes in a second.
    pub pack_rate: Option<u64>,
    /// Objects that a pack keeps, beside the root, with all that they refer to.
    pub pack_extra_roots: Vec<Oid>,
}

impl FileStorageSettings {
    /// The settings of a file about which nothing else is said.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            blob_dir: None,
            read_only: false,
            create: false,
            quota_bytes: None,
            pack_gc: true,
            pack_keep_old: true,
            pack_rate: None,
            pack_extra_roots: Vec::new(),
        }
    }
}

/// What a section means, as its container needs it.
#[derive(Debug)]
pub enum Content {
    /// `<zeo>`.
    Server(ServerSettings),
    /// A storage and its name.
    Storage(Option<String>, StorageSettings),
    /// `<listener>`.
    Listener(ListenerSettings),
    /// `<ssl>`.
    Tls(TlsSettings),
    /// `<client>` in it.
    TlsClient(ClientSettings),
    /// A log handler. Its values are checked with the log they belong to.
    Handler(Box<HandlerValues>),
    /// `<eventlog>`.
    EventLog(EventLogSettings),
    /// `<runner>`, with what is odd about it.
    Runner(Vec<String>),
}

/// The file as a whole.
pub fn configuration(top: Section<Content>, own: &OwnSettings) -> Result<Configuration, ConfigError> {
    let (mut server, mut storages, mut event_log, mut warnings) = (None, Vec::new(), None, Vec::new());
    for content in top.into_children() {
        match content {
            Content::Server(settings) => server = Some(settings),
            Content::Storage(name, settings) => storages.push((name, settings)),
            Content::EventLog(settings) => event_log = Some(settings),
            Content::Runner(odd) => warnings.extend(odd),
            Content::Listener(_) | Content::Tls(_) | Content::TlsClient(_) | Content::Handler(_) => {}
        }
    }
    let server = server.ok_or_else(|| ConfigError::Plain("no values for section type 'zeo'; 1 required".to_owned()))?;
    own.apply(&mut storages)?;
    Ok(Configuration { server, storages, event_log, warnings })
}

/// A section that is complete and ends at `position`.
pub fn convert(section: Section<Content>, position: &Position) -> Result<Content, ConfigError> {
    Ok(match section.kind().name {
        "zeo" => Content::Server(server(section, position)?),
        "listener" => Content::Listener(more_listener(section, position)?),
        "ssl" => Content::Tls(listeners::tls(section, position)?),
        "client" => Content::TlsClient(listeners::client(&section, position)?),
        "filestorage" => {
            Content::Storage(section.name().map(str::to_owned), StorageSettings::File(file_storage(&section)?))
        }
        "mappingstorage" => {
            let name = section.get("name", string)?.unwrap_or_else(|| "Mapping Storage".to_owned());
            Content::Storage(section.name().map(str::to_owned), StorageSettings::Mapping { name })
        }
        "blobstorage" => {
            let (name, blob_dir) = (section.name().map(str::to_owned), section.require("blob-dir", string)?);
            if blob_dir.is_empty() {
                return Err(ConfigError::Syntax {
                    message: "<blobstorage> needs a blob-dir that is not empty".to_owned(),
                    position: position.clone(),
                });
            }
            let blob_dir = blob_dir.into();
            let base = section.into_children().find_map(|content| match content {
                Content::Storage(_, base) => Some(Box::new(base)),
                _ => None,
            });
            let base = base.ok_or_else(|| ConfigError::Syntax {
                message: "<blobstorage> needs a storage in it, to keep the records".to_owned(),
                position: position.clone(),
            })?;
            Content::Storage(name, StorageSettings::Blob { blob_dir, base })
        }
        "logfile" => Content::Handler(Box::new(event_log::handler_values(&section)?)),
        "eventlog" | "logger" => Content::EventLog(event_log::event_log(section, position)?),
        "runner" => Content::Runner(runner(&section)?),
        kind => {
            return Err(ConfigError::Syntax {
                message: format!("section <{kind}> has no meaning here"),
                position: position.clone(),
            });
        }
    })
}

fn server(section: Section<Content>, position: &Position) -> Result<ServerSettings, ConfigError> {
    let mut settings = ServerSettings { listener: listeners::listener(&section)?, ..ServerSettings::default() };
    if let Some(size) = section.get("invalidation-queue-size", |text| {
        let size = parse_int(text)?;
        usize::try_from(size).map_err(|_| format!("invalidation-queue-size cannot be {size}"))
    })? {
        settings.invalidation_queue_size = size;
    }
    settings.invalidation_age_s = section.get("invalidation-age", parse_float)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds that a float cannot tell apart are beyond all ages")]
    let timeout = section.get("transaction-timeout", parse_int)?.map(|seconds| seconds as f64);
    settings.transaction_timeout_s = timeout;
    settings.pid_file = section.get("pid-filename", existing_dirpath)?;
    settings.client_conflict_resolution = section.get("client-conflict-resolution", boolean)?.unwrap_or(false);
    settings.authentication = AuthenticationSettings {
        protocol: section.get("authentication-protocol", AuthenticationSettings::protocol)?,
        database: section.get("authentication-database", string)?.map(PathBuf::from),
        realm: section.get("authentication-realm", string)?,
    };
    // Accepted since it never had an effect on the server.
    section.get("drop-cache-rather-verify", boolean)?;
    for content in section.into_children() {
        match content {
            Content::Tls(tls) => settings.listener.tls = Some(tls),
            Content::Listener(listener) => settings.more_listeners.push(listener),
            _ => {}
        }
    }
    if settings.listener.addresses.is_empty() {
        if settings.more_listeners.is_empty() {
            return Err(no_address(position));
        }
        if settings.listener.tls.is_some() {
            let message = "<ssl> in <zeo> is for the addresses of <zeo> itself, and there are none: put it into the \
                           <listener>"
                .to_owned();
            return Err(ConfigError::Syntax { message, position: position.clone() });
        }
    }
    Ok(settings)
}

fn more_listener(section: Section<Content>, position: &Position) -> Result<ListenerSettings, ConfigError> {
    let mut listener = listeners::listener(&section)?;
    if listener.addresses.is_empty() {
        return Err(no_address(position));
    }
    listener.tls = section.into_children().find_map(|content| match content {
        Content::Tls(tls) => Some(tls),
        _ => None,
    });
    Ok(listener)
}

fn no_address(position: &Position) -> ConfigError {
    ConfigError::Syntax { message: "no values for 'address'; 1 required".to_owned(), position: position.clone() }
}

fn file_storage(section: &Section<Content>) -> Result<FileStorageSettings, ConfigError> {
    let mut settings = FileStorageSettings::new(section.require("path", existing_dirpath)?);
    // An empty one is none.
    settings.blob_dir = section.get("blob-dir", existing_dirpath)?.filter(|path| !path.as_os_str().is_empty());
    settings.create = section.get("create", boolean)?.unwrap_or(false);
    settings.read_only = section.get("read-only", boolean)?.unwrap_or(false);
    settings.quota_bytes = section.get("quota", |text| {
        let bytes = byte_size(text)?;
        u64::try_from(bytes).map_err(|_| format!("quota cannot be {bytes} bytes"))
    })?;
    settings.pack_gc = section.get("pack-gc", boolean)?.unwrap_or(true);
    settings.pack_keep_old = section.get("pack-keep-old", boolean)?.unwrap_or(true);
    Ok(settings)
}

/// Checks a `<runner>`, which belongs to the daemon manager. The original insists on paths that this
/// server never uses; here a missing one is only worth a warning.
fn runner(section: &Section<Content>) -> Result<Vec<String>, ConfigError> {
    let mut odd = Vec::new();
    section.get("program", string_list)?;
    for key in ["python", "zdrun"] {
        if let Some(path) = section.get(key, string)?.filter(|path| !PathBuf::from(path).exists()) {
            odd.push(format!("{path}, the {key} of <runner>, is not an existing path"));
        }
    }
    section.get("socket-name", existing_parent_dirpath)?;
    section.get("directory", existing_parent_directory)?;
    for key in ["backoff-limit", "start-timeout", "stop-timeout"] {
        section.get(key, parse_int)?;
    }
    section.get("exit-codes", integer_list)?;
    section.get("start-test-program", string_list)?;
    section.get("umask", octal)?;
    for key in ["daemon", "forever", "hang-around", "default-to-interactive"] {
        section.get(key, boolean)?;
    }
    for key in ["logfile", "transcript"] {
        section.get(key, existing_dirpath)?;
    }
    Ok(odd)
}
