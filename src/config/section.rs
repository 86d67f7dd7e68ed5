//! Sections while they are read: every key and every inner section is checked against the schema
//! on arrival, so that the first mistake of a file is the one that is reported.

use super::datatypes::basic_key;
use super::error::{ConfigError, Position};
use super::overrides::Overrides;
use super::refusals;
use super::schema::{SectionType, Slot};
use crate::literals::repr;

/// A section of type `T`'s parts: its own values, and inner sections already turned into `T`s.
#[derive(Debug)]
pub struct Section<T> {
    kind: &'static SectionType,
    name: Option<String>,
    values: Vec<(&'static str, String, Position)>,
    children: Vec<Child<T>>,
    overrides: Overrides,
}

#[derive(Debug)]
struct Child<T> {
    slot: &'static Slot,
    name: Option<String>,
    content: T,
}

impl<T> Section<T> {
    /// A section without content yet.
    pub fn new(kind: &'static SectionType, name: Option<String>, overrides: Overrides) -> Self {
        Self { kind, name, values: Vec::new(), children: Vec::new(), overrides }
    }

    /// Its type.
    pub fn kind(&self) -> &'static SectionType {
        self.kind
    }

    /// Its name, in lower case.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The empty inner section that `<kind name>` starts. The error is the original's words.
    pub fn child(&mut self, kind: &'static SectionType, name: Option<String>) -> Result<Self, String> {
        if let Some(key) = self.kind.keys.iter().find(|key| Some(key.name) == name.as_deref()) {
            return Err(format!("section name {} already in use for key", key.name));
        }
        let slot = self.slot_of(kind, name.as_deref())?;
        if let Some(name) = name.as_deref().filter(|name| matches!(*name, "*" | "+")) {
            return Err(format!("{} is not an allowed name for {} sections", repr(name), repr(slot.accepts)));
        }
        let overrides = self.overrides.take_section(kind.name, name.as_deref());
        Ok(Self::new(kind, name, overrides))
    }

    fn slot_of(&self, kind: &SectionType, name: Option<&str>) -> Result<&'static Slot, String> {
        self.kind.slots.iter().find(|slot| slot.takes(kind)).ok_or_else(|| {
            format!("no matching section defined for type='{}', name='{}'", kind.name, name.unwrap_or("None"))
        })
    }

    /// Adds an inner section that is complete. The error is the original's words.
    pub fn add_child(&mut self, kind: &SectionType, name: Option<String>, content: T) -> Result<(), String> {
        let slot = self.slot_of(kind, name.as_deref())?;
        if let Some(name) = &name
            && self.children.iter().any(|child| child.name.as_ref() == Some(name))
        {
            return Err(format!("section names must not be re-used within the same container:{}", repr(name)));
        }
        if !slot.many && self.children.iter().any(|child| std::ptr::eq(child.slot, slot)) {
            return Err(format!("too many instances of {} section", repr(slot.accepts)));
        }
        self.children.push(Child { slot, name, content });
        Ok(())
    }

    /// Adds a value of the file. One that the command line overrides is not looked at.
    pub fn add_value(&mut self, key: &str, value: String, position: Position) -> Result<(), ConfigError> {
        let real_key = basic_key(key).map_err(|message| ConfigError::Value { message, position: position.clone() })?;
        if self.overrides.has_key(&real_key) {
            return Ok(());
        }
        self.set(key, &real_key, value, position)
    }

    fn set(&mut self, written: &str, key: &str, value: String, position: Position) -> Result<(), ConfigError> {
        let Some(known) = self.kind.keys.iter().find(|known| known.name == key) else {
            return Err(ConfigError::Syntax {
                message: format!("{} is not a known key name", repr(written)),
                position,
            });
        };
        if !known.many && self.values.iter().any(|(key, _, _)| *key == known.name) {
            let message = format!("{} does not support multiple values", repr(written));
            return Err(ConfigError::Syntax { message, position });
        }
        refusals::key(self.kind.name, known.name, &value, &position)?;
        self.values.push((known.name, value, position));
        Ok(())
    }

    /// Adds the values of the command line, and checks that nothing required is missing. `position`
    /// is where the section ends.
    pub fn finish(&mut self, position: &Position) -> Result<(), ConfigError> {
        for (key, value, position) in self.overrides.take_keys() {
            self.set(&key, &key, value, position)?;
        }
        if !self.overrides.is_empty() {
            return Err(ConfigError::Plain("not all command line options were consumed".to_owned()));
        }
        let syntax = |message: String| ConfigError::Syntax { message, position: position.clone() };
        for slot in self.kind.slots.iter().filter(|slot| slot.required) {
            if !self.children.iter().any(|child| std::ptr::eq(child.slot, slot)) {
                let accepts = repr(slot.accepts);
                return Err(syntax(if slot.many {
                    format!("not enough values for section type {accepts}; 0 found, 1 required")
                } else {
                    format!("no values for section type {accepts}; 1 required")
                }));
            }
        }
        for key in self.kind.keys.iter().filter(|key| key.required) {
            if !self.values.iter().any(|(name, _, _)| *name == key.name) {
                return Err(syntax(format!("no values for {}; 1 required", repr(key.name))));
            }
        }
        Ok(())
    }

    /// The value of `key` after `convert`, if the section has one.
    pub fn get<V>(&self, key: &str, convert: impl FnOnce(&str) -> Result<V, String>) -> Result<Option<V>, ConfigError> {
        let Some((_, value, position)) = self.values.iter().find(|(name, _, _)| *name == key) else {
            return Ok(None);
        };
        convert(value).map(Some).map_err(|message| ConfigError::Value { message, position: position.clone() })
    }

    /// The values of a key that may be repeated, each after `convert`.
    pub fn get_all<V>(&self, key: &str, convert: impl Fn(&str) -> Result<V, String>) -> Result<Vec<V>, ConfigError> {
        let of_key = self.values.iter().filter(|(name, _, _)| *name == key);
        of_key
            .map(|(_, value, position)| {
                convert(value).map_err(|message| ConfigError::Value { message, position: position.clone() })
            })
            .collect()
    }

    /// As [`get`](Self::get), for a key that [`finish`](Self::finish) has found to be there.
    pub fn require<V>(&self, key: &str, convert: impl FnOnce(&str) -> Result<V, String>) -> Result<V, ConfigError> {
        self.get(key, convert)?.ok_or_else(|| ConfigError::Plain(format!("no values for {}; 1 required", repr(key))))
    }

    /// The inner sections, in file order.
    pub fn into_children(self) -> impl Iterator<Item = T> {
        self.children.into_iter().map(|child| child.content)
    }
}
