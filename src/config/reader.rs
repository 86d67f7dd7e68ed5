//! Reads a configuration file and those it includes, line by line, into sections.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::{ConfigError, Position};
use super::grammar::{self, Line};
use super::overrides::Overrides;
use super::own::OwnSettings;
use super::refusals;
use super::schema::{ABSTRACT_TYPES, IMPORTED_PACKAGES, SECTION_TYPES, SectionType, TOP};
use super::section::Section;
use super::settings::{self, Content};
use super::source::{self, Source};
use super::substitution::{SubstitutionError, is_name, substitute};
use crate::literals::{repr, strip};

/// How deep files may include each other. A file that includes itself ends here.
const INCLUDE_DEPTH_MAX: usize = 50;

/// Reads the file at `location`, a path or URL, with the arguments of all `-X` options.
pub fn read(location: &str, options: &[String]) -> Result<(Section<Content>, OwnSettings), ConfigError> {
    let overrides = Overrides::parse(options)?;
    read_source(&source::open(location)?, overrides)
}

/// Reads configuration text.
fn read_source(source: &Source, overrides: Overrides) -> Result<(Section<Content>, OwnSettings), ConfigError> {
    let mut reader = Reader { defines: HashMap::new(), own: OwnSettings::default(), packages: Vec::new() };
    let mut top = Section::new(&TOP, None, overrides);
    reader.read(source, &mut top, 0)?;
    top.finish(&Position::Whole)?;
    Ok((top, reader.own))
}

struct Reader {
    /// The names of `%define`, shared by all files.
    defines: HashMap<String, String>,
    /// Those of them that are settings.
    own: OwnSettings,
    /// The packages of `%import`.
    packages: Vec<String>,
}

impl Reader {
    /// Reads `source` as the content of `outer`.
    fn read(&mut self, source: &Source, outer: &mut Section<Content>, depth: usize) -> Result<(), ConfigError> {
        // The sections that this file has opened, innermost last. Each file closes what it opens.
        let mut open: Vec<Section<Content>> = Vec::new();
        let mut position = position(&source.url, 0);
        for (number, line) in source.text.lines().enumerate() {
            position = self::position(&source.url, number.saturating_add(1));
            let line = grammar::parse(strip(line)).map_err(|message| syntax(message, &position))?;
            let current = open.last_mut().unwrap_or(outer);
            match line {
                Line::Blank => {}
                Line::Start { kind, name, empty } => {
                    let section = self.start(current, &kind, name, &position)?;
                    if empty { end(current, section, &position)? } else { open.push(section) }
                }
                Line::End(kind) => {
                    let section = open.pop().ok_or_else(|| syntax("unexpected section end".to_owned(), &position))?;
                    if section.kind().name != kind {
                        return Err(syntax("unbalanced section end".to_owned(), &position));
                    }
                    end(open.last_mut().unwrap_or(outer), section, &position)?;
                }
                Line::Define { name, value } => self.define(name, value, &position)?,
                Line::Import(package) => {
                    let package = self.substitute(package, &position)?;
                    self.import(package, &position)?;
                }
                Line::Include(reference) => {
                    let reference = self.substitute(reference, &position)?;
                    if depth == INCLUDE_DEPTH_MAX {
                        let message = format!("%include goes deeper than {INCLUDE_DEPTH_MAX} files: {reference}");
                        return Err(syntax(message, &position));
                    }
                    let included = source::open_relative(&source.url, &reference)?;
                    self.read(&included, current, depth.saturating_add(1))?;
                }
                Line::Value { key, value } => {
                    let value = self.substitute(value, &position)?;
                    current.add_value(key, value, position.clone())?;
                }
            }
        }
        if open.is_empty() { Ok(()) } else { Err(syntax("unclosed sections not allowed".to_owned(), &position)) }
    }

    fn start(
        &self,
        outer: &mut Section<Content>,
        kind: &str,
        name: Option<String>,
        position: &Position,
    ) -> Result<Section<Content>, ConfigError> {
        if ABSTRACT_TYPES.contains(&kind) {
            let message =
                format!("concrete sections cannot match abstract section types; found abstract type {}", repr(kind));
            return Err(syntax(message, position));
        }
        let found =
            self.section_type(kind).ok_or_else(|| syntax(format!("unknown type name: {}", repr(kind)), position))?;
        let section = outer.child(found, name).map_err(|message| syntax(message, position))?;
        refusals::section(kind, position)?;
        Ok(section)
    }

    fn section_type(&self, kind: &str) -> Option<&'static SectionType> {
        SECTION_TYPES.iter().find(|known| {
            known.name == kind && (known.package.is_empty() || self.packages.iter().any(|name| name == known.package))
        })
    }

    fn define(&mut self, name: String, value: &str, position: &Position) -> Result<(), ConfigError> {
        // The original compares the text as it is written here with the stored, substituted one.
        if self.defines.get(&name).is_some_and(|stored| stored != value) {
            return Err(syntax(format!("cannot redefine {}", repr(&name)), position));
        }
        if !is_name(&name) {
            return Err(syntax(format!("not a substitution legal name: {}", repr(&name)), position));
        }
        let value = self.substitute(value, position)?;
        self.own.define(&name, &value, position)?;
        self.defines.insert(name, value);
        Ok(())
    }

    fn import(&mut self, package: String, position: &Position) -> Result<(), ConfigError> {
        if package.split('.').any(str::is_empty) {
            return Err(syntax(format!("illegal schema component name: {}", repr(&package)), position));
        }
        let known =
            IMPORTED_PACKAGES.contains(&package.as_str()) || SECTION_TYPES.iter().any(|kind| kind.package == package);
        if !known {
            return Err(refusals::package(&package, position));
        }
        self.packages.push(package);
        Ok(())
    }

    fn substitute(&self, text: &str, position: &Position) -> Result<String, ConfigError> {
        substitute(text, &self.defines).map_err(|error| match error {
            SubstitutionError::Malformed(message) | SubstitutionError::Undefined(message) => syntax(message, position),
        })
    }
}

/// Completes `section`, which ends at `position` inside `outer`.
fn end(outer: &mut Section<Content>, mut section: Section<Content>, position: &Position) -> Result<(), ConfigError> {
    section.finish(position)?;
    let kind = section.kind();
    let name = section.name().map(str::to_owned);
    let content = settings::convert(section, position)?;
    outer.add_child(kind, name, content).map_err(|message| syntax(message, position))
}

fn position(url: &Arc<str>, line: usize) -> Position {
    Position::Line { url: Arc::clone(url), line }
}

fn syntax(message: String, position: &Position) -> ConfigError {
    ConfigError::Syntax { message, position: position.clone() }
}
