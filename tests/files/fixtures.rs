//! Finding fixtures and working on copies of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use zeolite::ids::{Oid, Tid};
use zeolite::storage::file::{FileStorage, Options};
use zeolite::storage::{Result, Storage};

/// A directory under `fixtures/data`.
pub fn directory(group: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/data").join(group)
}

/// The names of all data files of a group.
pub fn names(group: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory(group))
        .expect("list fixtures")
        .map(|entry| entry.expect("list fixtures").file_name().into_string().expect("names are ASCII"))
        .filter_map(|name| name.strip_suffix(".fs").map(str::to_owned))
        .collect();
    names.sort_unstable();
    assert!(!names.is_empty(), "no fixtures in {group}");
    names
}

/// The bytes of a fixture.
pub fn bytes(group: &str, file: &str) -> Vec<u8> {
    let path = directory(group).join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON of a fixture.
pub fn json(group: &str, file: &str) -> Value {
    serde_json::from_slice(&bytes(group, file)).unwrap_or_else(|error| panic!("{group}/{file}: {error}"))
}

/// A data file in a directory of its own.
pub struct Copy {
    directory: TempDir,
}

impl Copy {
    /// A copy of a fixture, without its index.
    pub fn of(group: &str, name: &str) -> Self {
        let copy = Self::empty();
        copy.write("Data.fs", &bytes(group, &format!("{name}.fs")));
        copy
    }

    /// No data file yet.
    pub fn empty() -> Self {
        Self { directory: TempDir::new().expect("make a directory") }
    }

    /// Where a file of that name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds a file, or replaces it.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("write");
    }

    /// The bytes of a file, if it is there.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.path(name)).ok()
    }

    /// The names of all files.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("list");
        entries.map(|entry| entry.expect("list").file_name().into_string().expect("names are ASCII")).collect()
    }

    /// Opens the data file for reading and writing.
    pub fn try_open(&self) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(FileStorage::open(&Options::new(self.path("Data.fs")))?))
    }

    /// Opens the data file for reading only.
    pub fn try_open_read_only(&self) -> Result<Arc<dyn Storage>> {
        let options = Options { read_only: true, ..Options::new(self.path("Data.fs")) };
        Ok(Arc::new(FileStorage::open(&options)?))
    }

    /// Opens the data file for reading and writing; `context` says which it is.
    #[track_caller]
    pub fn open(&self, context: &str) -> Arc<dyn Storage> {
        self.try_open().unwrap_or_else(|error| panic!("{context}: {error}"))
    }

    /// Opens the data file for reading only.
    #[track_caller]
    pub fn open_read_only(&self, context: &str) -> Arc<dyn Storage> {
        self.try_open_read_only().unwrap_or_else(|error| panic!("{context}: {error}"))
    }
}

/// Bytes as the JSON files have them: hex, or `xx*n` for one byte repeated; `None` for null.
pub fn data(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    let (unit, count) = text.split_once('*').unwrap_or((text, "1"));
    let unit: Vec<u8> = (0..unit.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&unit[at..at + 2], 16).unwrap_or_else(|_| panic!("no hex: {unit}")))
        .collect();
    Some(unit.repeat(count.parse().expect("a count")))
}

/// Bytes that are there.
#[track_caller]
pub fn some_data(value: &Value) -> Vec<u8> {
    data(value).unwrap_or_else(|| panic!("no bytes: {value}"))
}

fn number(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("no id: {value}"));
    u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("no id: {text}"))
}

/// A tid.
pub fn tid(value: &Value) -> Tid {
    Tid(number(value))
}

/// A tid or nothing.
pub fn some_tid(value: &Value) -> Option<Tid> {
    value.is_string().then(|| tid(value))
}

/// An oid.
pub fn oid(value: &Value) -> Oid {
    Oid(number(value))
}

/// The items of a list.
#[track_caller]
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}
