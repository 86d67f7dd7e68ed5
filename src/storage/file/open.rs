//! Opening a data file: lock, magic, index, tail, clock, oids.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{error, info, warn};

use super::format::{FIRST_TRANSACTION, MAGIC_FS21, MAGIC_FS30, POSITION_LIMIT};
use super::index::Index;
use super::index_check::{SMALLEST_END, check};
use super::index_file::{self, Saved};
use super::io::{DataFile, RawFile, io_error, sync_directory_of};
use super::lock::LockFile;
use super::oids::Oids;
use super::read::View;
use super::scan::scan;
use super::{FileStorage, Options, Saving, State, Writing, pack};
use crate::ids::{Oid, Tid};
use crate::storage::{Result, StorageError};
use crate::sync::{Mutex, RwLock};

/// A last transaction so far ahead of the clock means that one of the two is wrong.
const FUTURE_LIMIT_SECONDS: f64 = 30.0 * 60.0;

impl FileStorage {
    /// Opens a data file, or makes one.
    pub fn open(options: &Options) -> Result<Self> {
        Self::open_with(options, SystemTime::now, |file| Box::new(file))
    }

    /// As [`open`](Self::open), with a clock for the tids, and with something between storage and file.
    pub(super) fn open_with(
        options: &Options,
        clock: fn() -> SystemTime,
        wrap: impl FnOnce(File) -> Box<dyn RawFile>,
    ) -> Result<Self> {
        let &Options { read_only, create, quota, .. } = options;
        // A daemon may change its directory while the file is open.
        let absolute = std::path::absolute(&options.path);
        let path = &absolute.map_err(|source| io_error("find", &options.path, source))?;
        if read_only && create {
            return Err(StorageError::Refused("can't create a read-only file".to_owned()));
        }
        let lock = if read_only { None } else { Some(Arc::new(LockFile::acquire(path)?)) };
        if !read_only {
            pack::recover(path)?;
        }
        let raw = wrap(open_file(path, read_only, create)?);
        let file = Arc::new(DataFile::new(raw, path.clone()));
        check_magic(&file, read_only)?;
        let Opened { state, saved_end, how } = read_state(file, read_only)?;
        warn_of_future(path, state.last_tid, clock);

        let largest = state.index.last_oid().unwrap_or(Oid::ZERO);
        Ok(Self {
            name: options.path.to_string_lossy().into_owned(),
            read_only,
            quota,
            packing: pack::Settings::of(options),
            clock,
            writing: Mutex::new(Writing {
                lock,
                active: false,
                last_given: state.last_tid,
                packing: None,
                poisoned: None,
            }),
            oids: Mutex::new(Oids::open(path, largest)),
            saving: Mutex::new(Saving { end: saved_end, suspended: false }),
            state: RwLock::new(Some(state)),
            opened: how,
        })
    }
}

fn open_file(path: &Path, read_only: bool, create: bool) -> Result<File> {
    if create {
        // Removed, not truncated: whoever still has it open keeps what it reads.
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(io_error("remove", path, source));
            }
            _ => {}
        }
    }
    let opened = OpenOptions::new().read(true).write(!read_only).open(path);
    match opened {
        Err(source) if source.kind() == ErrorKind::NotFound && !read_only => {
            let created = OpenOptions::new().read(true).write(true).create_new(true).open(path);
            let file = created.map_err(|source| io_error("create", path, source))?;
            sync_directory_of(path)?;
            Ok(file)
        }
        opened => opened.map_err(|source| io_error("open", path, source)),
    }
}

/// Makes an empty file a data file, and refuses anything that is not one.
fn check_magic(file: &DataFile, read_only: bool) -> Result<()> {
    let size = file.len()?;
    if size == 0 {
        if !read_only {
            file.write_all_at(&MAGIC_FS30, 0)?;
            file.sync()?;
        }
        return Ok(());
    }
    let mut magic = [0; 4];
    let read = file.read_at(&mut magic, 0)?;
    let problem = if read == magic.len() && [MAGIC_FS30, MAGIC_FS21].contains(&magic) {
        if size < POSITION_LIMIT {
            return Ok(());
        }
        "larger than the index has positions for".to_owned()
    } else {
        let begin = magic.get(..read).unwrap_or_default().escape_ascii();
        format!("not a FileStorage data file: it begins with '{begin}', not with FS30 or FS21")
    };
    Err(StorageError::Format { path: file.path().to_path_buf(), problem })
}

/// What a storage begins with.
struct Opened {
    state: State,
    /// Up to where the index is saved.
    saved_end: u64,
    /// Where the index came from.
    how: String,
}

/// The index, from its file or from the data file.
fn read_state(file: Arc<DataFile>, read_only: bool) -> Result<Opened> {
    let begun = Instant::now();
    let size = file.len()?;
    // An empty file that may not be written has no magic either.
    if size < FIRST_TRANSACTION {
        let state = State { file, index: Index::default(), end: FIRST_TRANSACTION, last_tid: Tid::ZERO };
        return Ok(Opened { state, saved_end: FIRST_TRANSACTION, how: "nothing to index".to_owned() });
    }
    let usable = usable_index(&file)?;
    let rebuilding = usable.is_none();
    if rebuilding && size > FIRST_TRANSACTION {
        let path = file.path().display();
        info!(target: "ZODB.FileStorage", "{path}: no usable index, scanning all {size} bytes");
    }
    let empty = || (Saved { index: Index::default(), end: FIRST_TRANSACTION }, Tid::ZERO);
    let (Saved { mut index, end: saved_end }, last_tid) = usable.unwrap_or_else(empty);
    let scanned = scan(&file, &mut index, saved_end, last_tid, read_only)?;
    if scanned.transactions > 0 && !read_only {
        // A process that was killed may have left data that is not on disk yet; no index must be ahead of it.
        file.sync()?;
    }
    let state = State { file, index, end: scanned.end, last_tid: scanned.last_tid };
    if !rebuilding {
        let how = format!(
            "index loaded in {:.3} seconds, {} newer transactions added",
            begun.elapsed().as_secs_f64(),
            scanned.transactions
        );
        return Ok(Opened { state, saved_end, how });
    }
    let how = format!(
        "index rebuilt from {} transactions in {:.3} seconds",
        scanned.transactions,
        begun.elapsed().as_secs_f64()
    );
    if !read_only && let Err(problem) = index_file::save(&state.index, &state.view()) {
        warn!(target: "ZODB.FileStorage", "the index could not be saved: {problem}");
    }
    let saved_end = state.end;
    Ok(Opened { state, saved_end, how })
}

fn usable_index(file: &Arc<DataFile>) -> Result<Option<(Saved, Tid)>> {
    let Some(saved) = index_file::load(file.path()) else {
        return Ok(None);
    };
    let view = View { file: Arc::clone(file), end: saved.end };
    let sane = match check(&saved, &view) {
        // Nonsense in the data file where the index ends: the scan tells what it is.
        Err(StorageError::Corrupted { .. }) => None,
        checked => checked?,
    };
    if sane.is_none() {
        let path = file.path().display();
        if saved.end < SMALLEST_END {
            info!(target: "ZODB.FileStorage", "Ignoring index for {path}: it covers {} bytes only", saved.end);
        } else {
            warn!(target: "ZODB.FileStorage", "Ignoring index for {path}");
        }
    }
    Ok(sane.map(|sane| (saved, sane.last_tid)))
}

fn warn_of_future(path: &Path, last_tid: Tid, clock: fn() -> SystemTime) {
    let seconds = last_tid.to_unix_seconds() - Tid::from_time(clock()).to_unix_seconds();
    let path = path.display();
    if seconds > FUTURE_LIMIT_SECONDS {
        error!(target: "ZODB.FileStorage", "{path} Database records {seconds:.0} seconds in the future");
    } else if seconds > 0.0 {
        warn!(target: "ZODB.FileStorage", "{path} Database records {seconds:.0} seconds in the future");
    }
}
