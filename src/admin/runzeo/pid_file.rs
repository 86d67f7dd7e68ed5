//! The file that tells others the server's process id.

use std::fs;
use std::path::PathBuf;

use tracing::{error, info};

/// A pid file, removed when dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes the pid of this process to `path`, replacing what is there. A file that cannot be
    /// written is no reason not to serve.
    pub fn create(path: PathBuf) -> Self {
        let pid = std::process::id();
        // Not written in place: the file may be a link to somewhere else.
        let written = match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => fs::write(&path, format!("{pid}\n")),
        };
        if written.is_ok() {
            info!(target: "ZEO.runzeo", "({pid}) created PID file '{}'", path.display());
        } else {
            error!(target: "ZEO.runzeo", "PID file '{}' cannot be opened", path.display());
        }
        Self(path)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let path = self.0.display();
        match fs::remove_file(&self.0) {
            Ok(()) => info!(target: "ZEO.runzeo", "({}) removed PID file '{path}'", std::process::id()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => error!(target: "ZEO.runzeo", "PID file '{path}' could not be removed"),
        }
    }
}
