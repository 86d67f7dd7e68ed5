//! `-X path/to/key=value`: values of the command line that win over the file's.

use super::datatypes::basic_key;
use super::error::{ConfigError, Position};

/// The overrides of one section and everything in it.
#[derive(Debug, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Debug)]
struct Override {
    /// Names or types of sections from the outside in, then the key.
    path: Vec<String>,
    value: String,
    /// The option as it was given.
    option: String,
}

impl Overrides {
    /// Reads the arguments of all `-X` options.
    pub fn parse(options: &[String]) -> Result<Self, ConfigError> {
        let mut overrides = Vec::with_capacity(options.len());
        for option in options {
            let syntax = |message: &str| ConfigError::Syntax {
                message: message.to_owned(),
                position: Position::Override(option.clone()),
            };
            let (path, value) = option.split_once('=').ok_or_else(|| syntax("invalid configuration specifier"))?;
            let mut names = Vec::new();
            for name in path.split('/') {
                if name.is_empty() {
                    return Err(syntax("'//' is not allowed in an option path"));
                }
                names.push(name.to_owned());
            }
            if let Some(key) = names.last_mut() {
                *key = basic_key(key).map_err(|message| syntax(&message))?;
            }
            overrides.push(Override { path: names, value: value.to_owned(), option: option.clone() });
        }
        Ok(Self(overrides))
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a value for key `key` of this section itself.
    pub fn has_key(&self, key: &str) -> bool {
        self.0.iter().any(|item| matches!(item.path.as_slice(), [only] if only == key))
    }

    /// Takes out the values for keys of this section itself.
    pub fn take_keys(&mut self) -> Vec<(String, String, Position)> {
        self.0
            .extract_if(.., |item| item.path.len() == 1)
            .filter_map(|item| {
                let key = item.path.into_iter().next()?;
                Some((key, item.value, Position::Override(item.option)))
            })
            .collect()
    }

    /// Takes out what belongs to the inner section of type `kind` with the name `name`.
    pub fn take_section(&mut self, kind: &str, name: Option<&str>) -> Self {
        let belongs = |item: &mut Override| {
            item.path.len() > 1
                && item
                    .path
                    .first()
                    .map(|first| first.to_lowercase())
                    .is_some_and(|first| first == kind || Some(first.as_str()) == name)
        };
        let mut taken: Vec<Override> = self.0.extract_if(.., belongs).collect();
        for item in &mut taken {
            item.path.remove(0);
        }
        Self(taken)
    }
}
