//! `runzeo`: starts the storage server in the foreground, as the original's command of that name.
//!
//! In order: the command line and the configuration, the log, a look whether an address is in use,
//! the certificates, the pid file, the storages, signal handlers, the server. A signal that comes before its handler is
//! there ends the process as it would any other.

mod command_line;
mod listeners;
mod options;
mod pid_file;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::person::{complain, say};
use crate::config::{ServerSettings, SocketAddress, StorageSettings};
use crate::critical;
use crate::literals::repr;
use crate::logging::{EventLogSettings, Log, LogError};
use crate::server::tls::TlsError;
use crate::server::{ListenerOptions, Server, ServerOptions, StartError};
use crate::storage::blob::{BlobStorage, Options as BlobStorageOptions};
use crate::storage::file::{FileStorage, Options as FileStorageOptions};
use crate::storage::mapping::MappingStorage;
use crate::storage::{Storage, StorageError};
use options::{Action, Command, Options};
use pid_file::PidFile;

/// The logger of this command.
const LOGGER: &str = "ZEO.runzeo";

/// Open storages by name.
type NamedStorages = Vec<(String, Arc<dyn Storage>)>;

/// Exit codes, which tell a daemon manager whether to start the server again: 0 and 2 say no.
const RESTART: u8 = 1;
const MISTAKE: u8 = 2;

/// How long threads may still run when the server has stopped.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);

/// Why the server cannot start. Starting it again may help.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot open storage {}: {source}", repr(.name))]
    Storage { name: String, source: StorageError },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot start the threads of the server or handle its signals: {0}")]
    Runtime(#[from] io::Error),
    /// Where another server is: a mistake in the original's eyes, exit code 2.
    #[error("address {0} already in use")]
    AddressInUse(SocketAddress),
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().map_or_else(|| "runzeo".to_owned(), |name| name.to_string_lossy().into_owned());
    match options::parse(arguments) {
        Ok(Command::Help) => say(&options::HELP.replace("PROG", &program)),
        Ok(Command::Version) => say(concat!("zeolite ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Configured(Action::Check, options)) => check(&options),
        Ok(Command::Configured(action, options)) => run(&options, action, &program),
        Err(message) => mistake(&message, &program),
    }
}

/// Says what would be served, if the files of `<ssl>` are fit for it.
fn check(options: &Options) -> ExitCode {
    match listeners::options(&options.server) {
        Ok(_) => say(&summary(options)),
        Err(error) => {
            complain(&format!("Error: {error}"));
            ExitCode::from(RESTART)
        }
    }
}

fn mistake(message: &str, program: &str) -> ExitCode {
    complain(&format!("Error: {message}\nFor help, use {program} -h"));
    ExitCode::from(MISTAKE)
}

fn run(options: &Options, action: Action, program: &str) -> ExitCode {
    let logs_elsewhere = options.event_log.is_some();
    match serve(options, action) {
        Ok(code) => ExitCode::from(code),
        Err(error @ RunError::AddressInUse(_)) => mistake(&error.to_string(), program),
        Err(error) => {
            if logs_elsewhere {
                critical!(target: LOGGER, "({}) {error}", std::process::id());
            }
            complain(&format!("Error: {error}"));
            ExitCode::from(RESTART)
        }
    }
}

/// Serves until a signal comes, and returns the exit code that it asks for.
fn serve(options: &Options, action: Action) -> Result<u8, RunError> {
    let pid = std::process::id();
    let log = Log::open(options.event_log.as_ref().unwrap_or(&EventLogSettings::default()))?;
    log.install()?;
    for warning in &options.warnings {
        warn!(target: LOGGER, "({pid}) {warning}");
    }
    warn_of_environment();
    let configured = options.server.listeners();
    if let Some(address) =
        configured.iter().flat_map(|listener| &listener.addresses).find(|address| listeners::is_in_use(address))
    {
        return Err(RunError::AddressInUse(address.clone()));
    }
    let listeners = listeners::options(&options.server)?;
    let _pid_file = pid_file_path(&options.server).map(PidFile::create);
    let reopen = options.event_log.is_some().then_some(log);
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (signals, server) = {
        let storages = open_storages(&options.storages)?;
        let _context = runtime.enter();
        let options = server_options(options, listeners, storages.clone());
        listen(&options).inspect_err(|_| close_storages(&storages))?
    };
    let code = if action == Action::Test {
        say("testing exit immediately\n");
        runtime.block_on(server.run(async { 0 }))
    } else {
        runtime.block_on(server.run(signals.wait_for_stop(reopen)))
    };
    // The server has waited for what matters. A call that hangs in a dead disk must not keep the process.
    runtime.shutdown_timeout(SHUTDOWN_TIME);
    Ok(code)
}

/// In this order, so that whoever sees the server listen may send signals.
fn listen(options: &ServerOptions) -> Result<(Signals, Server), RunError> {
    Ok((Signals::install()?, Server::bind(options)?))
}

/// A descriptor for each connection: as many as the system lets the process have.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(target: LOGGER, "cannot raise the limit of open files above {:?}: {error}", limit.current);
    }
}

fn warn_of_environment() {
    if std::env::var_os("ZEO_MTACCEPTOR").is_some_and(|value| !value.is_empty()) {
        warn!(target: LOGGER, "ZEO_MTACCEPTOR has no effect: this server always uses several threads");
    }
    if let Some(protocol) = std::env::var_os("ZEO_SERVER_PROTOCOL").filter(|value| !value.is_empty() && value != "5") {
        let protocol = protocol.to_string_lossy();
        warn!(target: LOGGER, "ZEO_SERVER_PROTOCOL={protocol} has no effect on this server");
    }
}

/// Where the pid goes. A server that writes nothing writes no pid file either.
fn pid_file_path(server: &ServerSettings) -> Option<PathBuf> {
    if server.is_read_only() {
        return None;
    }
    let in_instance = || {
        let home = std::env::var_os("INSTANCE_HOME").filter(|home| !home.is_empty())?;
        Some(PathBuf::from(home).join("var").join("ZEO.pid"))
    };
    server.pid_file.clone().filter(|path| !path.as_os_str().is_empty()).or_else(in_instance)
}

fn open_storages(settings: &[(String, StorageSettings)]) -> Result<NamedStorages, RunError> {
    let mut opened: NamedStorages = Vec::with_capacity(settings.len());
    for (name, settings) in settings {
        match open_storage(name, settings) {
            Ok(storage) => opened.push((name.clone(), storage)),
            Err(source) => {
                close_storages(&opened);
                return Err(RunError::Storage { name: name.clone(), source });
            }
        }
    }
    Ok(opened)
}

/// Closes what no server will.
fn close_storages(storages: &[(String, Arc<dyn Storage>)]) {
    for (name, storage) in storages {
        info!(target: LOGGER, "({}) closing storage {}", std::process::id(), repr(name));
        if let Err(error) = storage.close() {
            error!(target: LOGGER, "closing storage {}: {error}", repr(name));
        }
    }
}

fn open_storage(name: &str, settings: &StorageSettings) -> Result<Arc<dyn Storage>, StorageError> {
    let kind = match settings {
        StorageSettings::File(_) => "FileStorage",
        StorageSettings::Mapping { .. } => "MappingStorage",
        StorageSettings::Blob { .. } => "BlobStorage",
    };
    info!(target: LOGGER, "({}) opening storage {} using {kind}", std::process::id(), repr(name));
    open_unnamed(settings)
}

fn open_unnamed(settings: &StorageSettings) -> Result<Arc<dyn Storage>, StorageError> {
    match settings {
        StorageSettings::File(file) => {
            let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(&FileStorageOptions {
                path: file.path.clone(),
                read_only: file.read_only,
                create: file.create,
                quota: file.quota_bytes,
                pack_gc: file.pack_gc,
                pack_keep_old: file.pack_keep_old,
                pack_extra_roots: file.pack_extra_roots.clone(),
                pack_rate: file.pack_rate,
            })?);
            match &file.blob_dir {
                None => Ok(storage),
                Some(path) => {
                    let options = BlobStorageOptions {
                        path: path.clone(),
                        create: file.create,
                        pack_keep_old: file.pack_keep_old,
                    };
                    Ok(Arc::new(with_blobs(&storage, &options)?))
                }
            }
        }
        StorageSettings::Mapping { name } => Ok(MappingStorage::new(name.clone())),
        StorageSettings::Blob { blob_dir, base } => {
            let options = BlobStorageOptions { path: blob_dir.clone(), create: false, pack_keep_old: false };
            // Whatever the base keeps of its own: the original removes these for good.
            Ok(Arc::new(with_blobs(&open_unnamed(base)?, &options)?.leaving_old()))
        }
    }
}

fn with_blobs(storage: &Arc<dyn Storage>, options: &BlobStorageOptions) -> Result<BlobStorage, StorageError> {
    BlobStorage::open(Arc::clone(storage), options).inspect_err(|_| {
        // The first error is the one that matters.
        let _ = storage.close();
    })
}

fn server_options(options: &Options, listeners: Vec<ListenerOptions>, storages: NamedStorages) -> ServerOptions {
    let server = &options.server;
    ServerOptions {
        listeners,
        storages,
        read_only: server.is_read_only(),
        invalidation_queue_size: server.invalidation_queue_size,
        invalidation_age: server.invalidation_age_s.and_then(duration),
        transaction_timeout: server.transaction_timeout_s.and_then(duration),
        client_conflict_resolution: server.client_conflict_resolution,
        authenticator: options.authenticator.clone(),
    }
}

/// `seconds`, at least none; `None` if they never pass.
fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

/// The signals that a server answers.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    rotate: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        // A file that hits the size limit of the process is an error of the write, not the end. The
        // handler stays when the stream is gone.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            rotate: signal(SignalKind::user_defined2())?,
        })
    }

    /// Returns the exit code when the server is to stop; until then reopens `log` on demand.
    async fn wait_for_stop(mut self, log: Option<Log>) -> u8 {
        let pid = std::process::id();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {
                    info!(target: LOGGER, "({pid}) terminated by SIGTERM");
                    return 0;
                }
                _ = self.interrupt.recv() => {
                    info!(target: LOGGER, "({pid}) terminated by SIGINT");
                    return 0;
                }
                _ = self.hangup.recv() => {
                    info!(target: LOGGER, "({pid}) restarted by SIGHUP");
                    return RESTART;
                }
                _ = self.rotate.recv() => reopen(log.as_ref()),
            }
        }
    }
}

fn reopen(log: Option<&Log>) {
    let pid = std::process::id();
    match log.map(Log::reopen) {
        None => warn!(target: LOGGER, "({pid}) received SIGUSR2, but it was not handled!"),
        Some(Ok(())) => info!(target: LOGGER, "({pid}) Log files reopened successfully"),
        Some(Err(error)) => error!(target: LOGGER, "({pid}) cannot reopen the log files: {error}"),
    }
}

/// What would be served, for a person.
fn summary(options: &Options) -> String {
    let server = &options.server;
    let mut lines: Vec<String> = server.listeners().iter().flat_map(listeners::summary).collect();
    if server.is_read_only() {
        lines.push("read-only: yes".to_owned());
    }
    if let Some(authenticator) = &options.authenticator {
        lines.push(format!(
            "authentication: digest, realm {}, {} users",
            repr(authenticator.realm()),
            authenticator.user_count()
        ));
    }
    for (name, settings) in &options.storages {
        lines.push(format!("storage {}: {}", repr(name), storage_summary(settings)));
    }
    if let Some(path) = pid_file_path(server) {
        lines.push(format!("pid file: {}", path.display()));
    }
    lines.extend(options.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n") + "\n"
}

fn storage_summary(settings: &StorageSettings) -> String {
    match settings {
        StorageSettings::File(file) => {
            let mut words = vec![format!("FileStorage {}", file.path.display())];
            words.extend(file.blob_dir.as_ref().map(|path| format!("blobs in {}", path.display())));
            words.extend(file.read_only.then(|| "read-only".to_owned()));
            words.extend(file.create.then(|| "emptied at every start".to_owned()));
            words.extend(file.pack_rate.map(|rate| format!("packed with at most {rate} bytes/s")));
            words.extend(file.pack_extra_roots.iter().map(|oid| format!("packed from root {oid}, too")));
            words.join(", ")
        }
        StorageSettings::Mapping { .. } => "MappingStorage, in memory".to_owned(),
        StorageSettings::Blob { blob_dir, base } => {
            format!("{}, blobs in {}", storage_summary(base), blob_dir.display())
        }
    }
}
