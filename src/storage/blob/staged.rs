//! Content of a blob on its way into a storage. Dropping it removes the file, unless a commit has taken it.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::LOGGER;
use super::tree::{Identity, Tree};

/// What has arrived is synced in steps of this, so that little is left to sync at its end.
const SYNC_AFTER: usize = 32 << 20;

/// To remove a file takes about 0.3 seconds for each GB. From this size on a thread of its own does it: whoever drops
/// the content may be serving many clients.
const LARGE: u64 = 64 << 20;

/// A file that is no blob yet.
#[derive(Debug)]
pub struct StagedBlob {
    tree: Arc<Tree>,
    path: PathBuf,
    /// A client with a shared directory could put another file in its place.
    identity: Identity,
    /// Open until the content is complete: a transaction may have more blobs than a process may have open files.
    file: Option<File>,
    unsynced: usize,
    taken: AtomicBool,
}

impl StagedBlob {
    /// Content that is going to be appended to `file`.
    pub(super) fn empty(tree: Arc<Tree>, path: PathBuf, file: File) -> io::Result<Self> {
        let identity = Identity::of(&file.metadata()?);
        let mut content = Self::whole(tree, path, identity);
        content.file = Some(file);
        Ok(content)
    }

    /// Content that is durable.
    pub(super) fn whole(tree: Arc<Tree>, path: PathBuf, identity: Identity) -> Self {
        Self { tree, path, identity, file: None, unsynced: 0, taken: AtomicBool::new(false) }
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends what has arrived.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the content of this blob was complete"))?;
        file.write_all(bytes)?;
        self.unsynced = self.unsynced.saturating_add(bytes.len());
        if self.unsynced >= SYNC_AFTER {
            file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Makes this a copy of a file.
    pub(super) fn fill(&mut self, source: &mut File) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        io::copy(source, file)?;
        self.complete()
    }

    /// Nothing more will arrive: makes the content durable and closes the file. To be called before a vote, while
    /// which others wait. What could not be written, the system tells for sure only to whoever had the file open.
    pub fn complete(&mut self) -> io::Result<()> {
        self.file.take().map_or(Ok(()), |file| self.tree.durable.sync(&file, &self.path))
    }

    /// Takes from everybody the right to change the content, and makes that durable, with whatever is not yet. Who may
    /// read the directory it goes to may read it there: `readers` are the read bits of that directory.
    pub(super) fn settle(&self, readers: u32) -> io::Result<()> {
        let opened;
        let file = if let Some(file) = &self.file {
            file
        } else {
            opened = self.tree.open(&self.path)?.0;
            &opened
        };
        let metadata = file.metadata()?;
        self.recognize(Identity::of(&metadata))?;
        let mode = metadata.permissions().mode() & 0o7777;
        let settled = mode & !0o222 | readers;
        // One that is right already may be a link to a file of somebody else's.
        if mode != settled {
            file.set_permissions(Permissions::from_mode(settled))?;
        }
        self.tree.durable.sync(file, &self.path)
    }

    /// Gives the file a name that is not taken. It is not removed any more.
    pub(super) fn rename(&self, to: &Path) -> io::Result<()> {
        self.tree.rename_to_new(&self.path, to)?;
        self.taken.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the file. What takes long is to free its blocks, once nobody has it open any more.
    fn discard(&mut self) -> io::Result<()> {
        self.recognize(self.tree.identity(&self.path)?)?;
        let file = self.file.take().or_else(|| self.tree.open(&self.path).ok().map(|(file, _)| file));
        self.tree.remove(&self.path)?;
        if let Some(file) = file
            && file.metadata()?.len() >= LARGE
        {
            // Without a thread it is freed here and now.
            let _ = std::thread::Builder::new().spawn(move || drop(file));
        }
        Ok(())
    }

    /// Fails unless a file is the one that arrived.
    pub(super) fn recognize(&self, found: Identity) -> io::Result<()> {
        let is_other = || io::Error::other("another file has been put in its place");
        (found == self.identity).then_some(()).ok_or_else(is_other)
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        if !self.taken.load(Ordering::Relaxed)
            && let Err(error) = self.discard()
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(target: LOGGER, "{}: the content of a blob that nobody wants cannot be removed: {error}",
                self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wants_is_removed() {
        let home = tempfile::TempDir::new().expect("make a directory");
        let tree = Arc::new(Tree::new(home.path().to_owned()));
        for (name, len) in [("small", LARGE - 1), ("large", LARGE)] {
            let path = home.path().join(name);
            let file = File::create(&path).expect("create");
            file.set_len(len).expect("grow");
            drop(StagedBlob::empty(Arc::clone(&tree), path.clone(), file).expect("content"));
            assert!(!path.exists(), "{name}");
        }
    }
}
