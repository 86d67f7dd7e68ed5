//! Settings that the original does not have. They are `%define`s whose names begin with `zeolite_`: the original
//! accepts and ignores those, so that either server starts with the same file.

use super::datatypes::{byte_size, string_list};
use super::error::{ConfigError, Position};
use super::settings::StorageSettings;
use crate::ids::Oid;
use crate::literals::repr;

/// With what their names begin.
const PREFIX: &str = "zeolite_";
const PACK_RATE: &str = "zeolite_pack_rate";
const PACK_EXTRA_ROOTS: &str = "zeolite_pack_extra_roots";

/// The settings of ours that a file has.
#[derive(Debug, Default)]
pub struct OwnSettings {
    /// At most how many bytes a pack reads or writes in a second.
    pack_rate: Option<u64>,
    /// Objects that a pack keeps with all that they refer to, those of one storage or of all.
    pack_extra_roots: Vec<(Option<String>, Oid)>,
    /// Where storages are named.
    names: Vec<(String, Position)>,
}

impl OwnSettings {
    /// Takes note of a `%define`; `name` is in lower case. Not every one is a setting.
    pub fn define(&mut self, name: &str, value: &str, position: &Position) -> Result<(), ConfigError> {
        let invalid = |reason: String| ConfigError::Value {
            message: format!("{name} cannot be {}: {reason}", repr(value)),
            position: position.clone(),
        };
        match name {
            PACK_RATE => self.pack_rate = Some(pack_rate(value).map_err(invalid)?),
            PACK_EXTRA_ROOTS => {
                self.pack_extra_roots = extra_roots(value).map_err(invalid)?;
                let names = self.pack_extra_roots.iter().filter_map(|(storage, _)| storage.clone());
                self.names = names.map(|storage| (storage, position.clone())).collect();
            }
            _ if name.starts_with(PREFIX) => {
                let message = format!("unknown setting {}: there are {PACK_RATE} and {PACK_EXTRA_ROOTS}", repr(name));
                return Err(ConfigError::Syntax { message, position: position.clone() });
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts the settings into those of the storages that they are for.
    pub fn apply(&self, storages: &mut [(Option<String>, StorageSettings)]) -> Result<(), ConfigError> {
        let mut files = Vec::new();
        for (name, settings) in storages {
            if let Some(file) = settings.file_mut() {
                let name = name.as_deref().unwrap_or("1");
                let of_file = |storage: &Option<String>| storage.as_deref().is_none_or(|storage| storage == name);
                file.pack_rate = self.pack_rate;
                file.pack_extra_roots =
                    self.pack_extra_roots.iter().filter(|(storage, _)| of_file(storage)).map(|(_, oid)| *oid).collect();
                files.push(name);
            }
        }
        let stray = self.names.iter().find(|(storage, _)| !files.contains(&storage.as_str()));
        stray.map_or(Ok(()), |(storage, position)| {
            let message = format!("{PACK_EXTRA_ROOTS}: no <filestorage> has the name {}", repr(storage));
            Err(ConfigError::Value { message, position: position.clone() })
        })
    }
}

fn pack_rate(text: &str) -> Result<u64, String> {
    let bytes = byte_size(text)?;
    let rate = u64::try_from(bytes).ok().filter(|rate| *rate > 0);
    rate.ok_or_else(|| "it must be above zero; without the line there is no limit".to_owned())
}

/// Oids, some of them behind the name of a storage and a colon.
fn extra_roots(text: &str) -> Result<Vec<(Option<String>, Oid)>, String> {
    let root = |word: String| match word.rsplit_once(':') {
        Some((storage, digits)) => Ok((Some(storage.to_lowercase()), oid(digits)?)),
        None => Ok((None, oid(&word)?)),
    };
    string_list(text)?.into_iter().map(root).collect()
}

fn oid(text: &str) -> Result<Oid, String> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.map(Oid).ok_or_else(|| format!("{} is no oid as ZODB writes them, such as 0x1234", repr(text)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::FileStorageSettings;

    fn defined(name: &str, value: &str) -> Result<OwnSettings, String> {
        let mut settings = OwnSettings::default();
        settings.define(name, value, &Position::Whole).map_err(|error| error.to_string())?;
        Ok(settings)
    }

    fn storages() -> Vec<(Option<String>, StorageSettings)> {
        let file = || StorageSettings::File(FileStorageSettings::new(PathBuf::from("Data.fs")));
        let with_blobs = StorageSettings::Blob { blob_dir: PathBuf::from("blobs"), base: Box::new(file()) };
        let mapping = StorageSettings::Mapping { name: String::new() };
        vec![(None, file()), (Some("main".to_owned()), with_blobs), (Some("memory".to_owned()), mapping)]
    }

    #[test]
    fn roots_go_to_the_storages_they_are_for() {
        let settings = defined(PACK_EXTRA_ROOTS, "0x1 Main:0x2  1:0x03 main:0xFFFFffffFFFFffff").unwrap();
        let mut storages = storages();
        settings.apply(&mut storages).unwrap();
        let files = storages.iter_mut().filter_map(|(_, settings)| settings.file_mut());
        let roots: Vec<_> = files.map(|file| file.pack_extra_roots.clone()).collect();
        assert_eq!(roots, [vec![Oid(1), Oid(3)], vec![Oid(1), Oid(2), Oid(u64::MAX)]]);
    }

    #[test]
    fn roots_of_what_is_no_file_are_refused() {
        for name in ["memory", "other"] {
            let error = defined(PACK_EXTRA_ROOTS, &format!("{name}:0x1")).unwrap().apply(&mut storages()).unwrap_err();
            let message = format!("zeolite_pack_extra_roots: no <filestorage> has the name '{name}'");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn the_rate_is_for_all_files() {
        let mut storages = storages();
        defined(PACK_RATE, "50MB").unwrap().apply(&mut storages).unwrap();
        let rates: Vec<_> = storages.iter_mut().filter_map(|(_, settings)| settings.file_mut()?.pack_rate).collect();
        assert_eq!(rates, [50 << 20; 2]);
    }

    #[test]
    fn values_are_checked() {
        for value in ["0", "-1MB", "", "fast", "1.5MB"] {
            assert!(defined(PACK_RATE, value).unwrap_err().starts_with("zeolite_pack_rate cannot be '"), "{value}");
        }
        for value in ["1", "0x", "0x10000000000000000", "0x+1", "main:", "0x1,0x2", "main:x"] {
            let error = defined(PACK_EXTRA_ROOTS, value).unwrap_err();
            assert!(error.ends_with("is no oid as ZODB writes them, such as 0x1234"), "{error}");
        }
        assert!(defined("zeolite", "x").is_ok());
        assert!(defined("zeolite_pack_rat", "1").is_err());
    }
}
