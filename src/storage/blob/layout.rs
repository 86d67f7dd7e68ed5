//! Names inside a blob directory. Every path is computed from ids; nothing that a client says becomes part of one.

use std::path::{Path, PathBuf};

use tracing::warn;

use super::LOGGER;
use crate::ids::{Oid, Tid};
use crate::storage::disk::io_error;
use crate::storage::{Result, StorageError};

/// The file that says which layout a directory has.
pub(super) const MARKER: &str = ".layout";

/// What a client's cache of blobs has in its marker.
const CACHE: &str = "zeocache";

const SUFFIX: &str = ".blob";

/// Where the directory of an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One directory for each byte of the oid, the most significant first.
    Bushy,
    /// All in one directory. Only for directories that have it already.
    Lawn,
}

impl Layout {
    /// What stands in the marker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bushy => "bushy",
            Self::Lawn => "lawn",
        }
    }

    /// The layout that a directory has, or is to get: what the marker says; without one, lawn if anything is there
    /// that is not hidden.
    pub fn detect(base: &Path) -> Result<Self> {
        let marker = base.join(MARKER);
        let unusable = |problem: String| StorageError::Format { path: marker.clone(), problem };
        let layout = match std::fs::read_to_string(&marker) {
            Ok(text) => match text.trim_end() {
                "bushy" => Ok(Self::Bushy),
                "lawn" => Ok(Self::Lawn),
                CACHE => Err(unusable(
                    "this is the cache of a ZEO client, not a blob directory; give the storage a directory of its own"
                        .to_owned(),
                )),
                other => Err(unusable(format!("unknown layout {other:?}, not bushy or lawn"))),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::of_unmarked(base),
            Err(source) => Err(io_error("read", &marker, source)),
        };
        if matches!(layout, Ok(Self::Lawn)) {
            warn!(
                target: LOGGER,
                "{}: has the old layout lawn, or is in use without a {MARKER}, which means the same. Convert it to bushy \
                 with migrateblobs: some file systems are slow with large directories",
                base.display()
            );
        }
        layout
    }

    fn of_unmarked(base: &Path) -> Result<Self> {
        let entries = match std::fs::read_dir(base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Bushy),
            Err(source) => return Err(io_error("read", base, source)),
        };
        for entry in entries {
            let entry = entry.map_err(|source| io_error("read", base, source))?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                return Ok(Self::Lawn);
            }
        }
        Ok(Self::Bushy)
    }

    /// The directory of an object, inside the blob directory.
    pub fn object(self, oid: Oid) -> PathBuf {
        match self {
            Self::Bushy => oid.to_bytes().iter().map(|byte| format!("0x{byte:02x}")).collect(),
            Self::Lawn => PathBuf::from(oid.to_string()),
        }
    }
}

/// The file of a revision, inside the object's directory.
pub(super) fn file_name(tid: Tid) -> String {
    // ZODB shows both ids in the same form here.
    format!("{}{SUFFIX}", Oid(tid.0))
}

/// The revision that a file in an object's directory is of, if it is that of a committed blob.
pub(super) fn tid_of(name: &str) -> Option<Tid> {
    let digits = name.strip_suffix(SUFFIX)?.strip_prefix("0x")?;
    let tid = Tid(u64::from_str_radix(digits, 16).ok()?);
    (file_name(tid) == name).then_some(tid)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// `LAYOUTS[name].getBlobFilePath(p64(oid), p64(tid))` of ZODB 6.4.
    #[test]
    fn paths_are_the_originals() {
        for (oid, tid, bushy, lawn) in [
            (0, 0, "0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x00.blob", "0x00/0x00.blob"),
            (1, 1, "0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x01/0x01.blob", "0x01/0x01.blob"),
            (
                0x0123_4567_89ab_cdef,
                0x040d_255d_dd7f_7c55,
                "0x01/0x23/0x45/0x67/0x89/0xab/0xcd/0xef/0x040d255ddd7f7c55.blob",
                "0x0123456789abcdef/0x040d255ddd7f7c55.blob",
            ),
            (
                u64::MAX,
                0xfedc_ba98_7654_3210,
                "0xff/0xff/0xff/0xff/0xff/0xff/0xff/0xff/0xfedcba9876543210.blob",
                "0xffffffffffffffff/0xfedcba9876543210.blob",
            ),
            (0x100, 0xf00, "0x00/0x00/0x00/0x00/0x00/0x00/0x01/0x00/0x0f00.blob", "0x0100/0x0f00.blob"),
            (0x12345, 0x3f, "0x00/0x00/0x00/0x00/0x00/0x01/0x23/0x45/0x3f.blob", "0x012345/0x3f.blob"),
            (
                1 << 56,
                1 << 60,
                "0x01/0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x1000000000000000.blob",
                "0x0100000000000000/0x1000000000000000.blob",
            ),
        ] {
            for (layout, expected) in [(Layout::Bushy, bushy), (Layout::Lawn, lawn)] {
                assert_eq!(layout.object(Oid(oid)).join(file_name(Tid(tid))), Path::new(expected));
            }
            assert_eq!(tid_of(&file_name(Tid(tid))), Some(Tid(tid)));
        }
    }

    #[test]
    fn only_committed_files_have_a_revision() {
        for name in ["0x01", "01.blob", "0x1.blob", "0x+1.blob", "0x01.blob.tmp", "0x.blob", "0x0AB.blob", ".blob"] {
            assert_eq!(tid_of(name), None, "{name}");
        }
    }

    #[test]
    fn layouts_are_found_as_the_original_finds_them() {
        let directory = TempDir::new().expect("make a directory");
        let base = directory.path().join("blobs");
        assert_eq!(Layout::detect(&base).expect("missing"), Layout::Bushy);
        std::fs::create_dir(&base).expect("make");
        assert_eq!(Layout::detect(&base).expect("empty"), Layout::Bushy);
        std::fs::write(base.join(".hidden"), b"").expect("write");
        assert_eq!(Layout::detect(&base).expect("hidden entries only"), Layout::Bushy);
        std::fs::create_dir(base.join("tmp")).expect("make");
        assert_eq!(Layout::detect(&base).expect("in use"), Layout::Lawn);
        for (marker, expected) in [("bushy", Layout::Bushy), ("lawn\n", Layout::Lawn)] {
            std::fs::write(base.join(MARKER), marker).expect("write");
            assert_eq!(Layout::detect(&base).expect("marked"), expected);
        }
        for (marker, problem) in [("zeocache", "the cache of a ZEO client"), ("shrub", "unknown layout \"shrub\"")] {
            std::fs::write(base.join(MARKER), marker).expect("write");
            let error = Layout::detect(&base).expect_err("refused").to_string();
            assert!(error.contains(problem) && error.contains(".layout"), "{error}");
        }
    }
}
