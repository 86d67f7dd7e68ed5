//! One line of a configuration file: what it is, without knowing what it means.
//!
//! The language is line oriented. White space around a line does not count, there are no
//! continuation lines, no quotes, and no comments behind a value: `key v # x` has the value `v # x`.

use crate::literals::{is_space, repr};

/// A line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Nothing, or a comment.
    Blank,
    /// `<kind name>`, or `<kind name/>` with `empty`. Both are in lower case.
    Start {
        /// The section type.
        kind: String,
        /// The section name.
        name: Option<String>,
        /// Whether the section ends here, too.
        empty: bool,
    },
    /// `</kind>`, in lower case.
    End(String),
    /// `%define name value`; the name in lower case, the value not yet substituted.
    Define {
        /// The name.
        name: String,
        /// The rest of the line.
        value: &'a str,
    },
    /// `%include url`, not yet substituted.
    Include(&'a str),
    /// `%import package`, not yet substituted.
    Import(&'a str),
    /// `key value`; the value may be empty and is not yet substituted.
    Value {
        /// The key as it was written.
        key: &'a str,
        /// The rest of the line.
        value: &'a str,
    },
}

/// Takes `line` apart, which has no white space around it. The error is the original's words.
pub fn parse(line: &str) -> Result<Line<'_>, String> {
    if line.is_empty() || line.starts_with('#') {
        Ok(Line::Blank)
    } else if let Some(rest) = line.strip_prefix("</") {
        let kind = rest.strip_suffix('>').ok_or("malformed section end")?;
        Ok(Line::End(kind.trim_end_matches(is_space).to_lowercase()))
    } else if let Some(rest) = line.strip_prefix('<') {
        section_start(rest.strip_suffix('>').ok_or("malformed section start")?)
    } else if let Some(rest) = line.strip_prefix('%') {
        directive(rest)
    } else {
        let (key, value) = key_value(line).ok_or("malformed configuration data")?;
        Ok(Line::Value { key, value })
    }
}

fn section_start(header: &str) -> Result<Line<'_>, String> {
    let (header, empty) = match header.strip_suffix('/') {
        Some(header) => (header, true),
        None => (header, false),
    };
    let malformed = || "malformed section header".to_owned();
    if header.starts_with(is_space) || header.contains(['(', ')']) {
        return Err(malformed());
    }
    let mut words = header.split(is_space).filter(|word| !word.is_empty());
    let kind = words.next().ok_or_else(malformed)?.to_lowercase();
    let name = words.next().map(str::to_lowercase);
    if words.next().is_some() {
        return Err(malformed());
    }
    Ok(Line::Start { kind, name, empty })
}

fn directive(rest: &str) -> Result<Line<'_>, String> {
    let (name, argument) = key_value(rest).ok_or("missing or unrecognized directive")?;
    if !matches!(name, "define" | "include" | "import") {
        return Err(format!("unknown directive: {}", repr(name)));
    }
    if argument.is_empty() {
        return Err(format!("missing argument to %{name} directive"));
    }
    Ok(match name {
        "include" => Line::Include(argument),
        "import" => Line::Import(argument),
        _ => {
            let (name, value) = argument.split_once(is_space).unwrap_or((argument, ""));
            Line::Define { name: name.to_lowercase(), value: value.trim_start_matches(is_space) }
        }
    })
}

/// A word without white space or parentheses, and what follows it.
fn key_value(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c| is_space(c) || matches!(c, '(' | ')')).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    (!key.is_empty()).then(|| (key, rest.trim_start_matches(is_space)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(kind: &str, name: Option<&str>, empty: bool) -> Line<'static> {
        Line::Start { kind: kind.into(), name: name.map(Into::into), empty }
    }

    #[test]
    fn lines_are_taken_apart() {
        for (text, line) in [
            ("", Line::Blank),
            ("# x", Line::Blank),
            ("<zeo>", start("zeo", None, false)),
            ("<FileStorage Main>", start("filestorage", Some("main"), false)),
            ("<mappingstorage/>", start("mappingstorage", None, true)),
            ("<mappingstorage 1 />", start("mappingstorage", Some("1"), true)),
            ("</ZEO >", Line::End("zeo".into())),
            ("%define X  a b", Line::Define { name: "x".into(), value: "a b" }),
            ("%define X", Line::Define { name: "x".into(), value: "" }),
            ("%include a b.conf", Line::Include("a b.conf")),
            ("%import zc.zrs", Line::Import("zc.zrs")),
            ("path  /a # x", Line::Value { key: "path", value: "/a # x" }),
            ("create", Line::Value { key: "create", value: "" }),
            ("key(x)", Line::Value { key: "key", value: "(x)" }),
        ] {
            assert_eq!(parse(text), Ok(line), "{text}");
        }
    }

    #[test]
    fn errors_are_the_originals() {
        for (text, message) in [
            ("</zeo", "malformed section end"),
            ("<zeo", "malformed section start"),
            ("<", "malformed section start"),
            ("<>", "malformed section header"),
            ("< zeo>", "malformed section header"),
            ("<filestorage a b>", "malformed section header"),
            ("<filestorage (a)>", "malformed section header"),
            ("%", "missing or unrecognized directive"),
            ("%foo x", "unknown directive: 'foo'"),
            ("%define", "missing argument to %define directive"),
            ("(x)", "malformed configuration data"),
        ] {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }
}
