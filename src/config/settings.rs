//! Sections as typed settings: what a `zeo.conf` says, with the defaults filled in.

use std::path::PathBuf;

use super::datatypes::{
    SocketAddress, boolean, byte_size, existing_dirpath, existing_parent_directory, existing_parent_dirpath,
    integer_list, octal, socket_binding_address, string, string_list,
};
use super::error::{ConfigError, Position};
use super::event_log::{self, HandlerValues};
use super::section::Section;
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
    /// Where to listen.
    pub address: SocketAddress,
    /// Whether every write is refused.
    pub read_only: bool,
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
    /// Whether to offer msgpack; `None` leaves it to the environment.
    pub msgpack: Option<bool>,
}

impl ServerSettings {
    /// The settings of a server at `address` about which nothing else is said.
    pub fn new(address: SocketAddress) -> Self {
        Self {
            address,
            read_only: false,
            invalidation_queue_size: 100,
            invalidation_age_s: None,
            transaction_timeout_s: None,
            client_conflict_resolution: false,
            pid_file: None,
            msgpack: None,
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
}

/// `<filestorage>`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the section has four keys that are yes or no")]
pub struct FileStorageSettings {
    /// The data file.
    pub path: PathBuf,
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
}

impl FileStorageSettings {
    /// The settings of a file about which nothing else is said.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read_only: false, create: false, quota_bytes: None, pack_gc: true, pack_keep_old: true }
    }
}

/// What a section means, as its container needs it.
#[derive(Debug)]
pub enum Content {
    /// `<zeo>`.
    Server(ServerSettings),
    /// A storage and its name.
    Storage(Option<String>, StorageSettings),
    /// A log handler. Its values are checked with the log they belong to.
    Handler(Box<HandlerValues>),
    /// `<eventlog>`.
    EventLog(EventLogSettings),
    /// `<runner>`, with what is odd about it.
    Runner(Vec<String>),
}

/// The file as a whole.
pub fn configuration(top: Section<Content>) -> Result<Configuration, ConfigError> {
    let (mut server, mut storages, mut event_log, mut warnings) = (None, Vec::new(), None, Vec::new());
    for content in top.into_children() {
        match content {
            Content::Server(settings) => server = Some(settings),
            Content::Storage(name, settings) => storages.push((name, settings)),
            Content::EventLog(settings) => event_log = Some(settings),
            Content::Runner(odd) => warnings.extend(odd),
            Content::Handler(_) => {}
        }
    }
    let server = server.ok_or_else(|| ConfigError::Plain("no values for section type 'zeo'; 1 required".to_owned()))?;
    Ok(Configuration { server, storages, event_log, warnings })
}

/// A section that is complete and ends at `position`.
pub fn convert(section: Section<Content>, position: &Position) -> Result<Content, ConfigError> {
    Ok(match section.kind().name {
        "zeo" => Content::Server(server(&section)?),
        "filestorage" => {
            Content::Storage(section.name().map(str::to_owned), StorageSettings::File(file_storage(&section)?))
        }
        "mappingstorage" => {
            let name = section.get("name", string)?.unwrap_or_else(|| "Mapping Storage".to_owned());
            Content::Storage(section.name().map(str::to_owned), StorageSettings::Mapping { name })
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

fn server(section: &Section<Content>) -> Result<ServerSettings, ConfigError> {
    let mut settings = ServerSettings::new(section.require("address", socket_binding_address)?);
    settings.read_only = section.get("read-only", boolean)?.unwrap_or(false);
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
    settings.msgpack = section.get("msgpack", boolean)?;
    // Accepted since it never had an effect on the server.
    section.get("drop-cache-rather-verify", boolean)?;
    Ok(settings)
}

fn file_storage(section: &Section<Content>) -> Result<FileStorageSettings, ConfigError> {
    let mut settings = FileStorageSettings::new(section.require("path", existing_dirpath)?);
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
