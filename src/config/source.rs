//! Where configuration text comes from: paths and `file:` URLs, how one refers to the next, and
//! reading them. Nothing is ever fetched over a network.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::ConfigError;
use crate::literals::repr;

/// A file that has been read.
#[derive(Debug)]
pub struct Source {
    /// Its URL, for messages and as the base of relative references.
    pub url: Arc<str>,
    /// Its text.
    pub text: String,
}

/// Reads the file that `-C` names, by path or URL.
pub fn open(location: &str) -> Result<Source, ConfigError> {
    if has_scheme(location) { read(location) } else { read(&path_to_url(location)?) }
}

/// Reads the file that `reference` names inside the file at `base`.
pub fn open_relative(base: &str, reference: &str) -> Result<Source, ConfigError> {
    let lower = reference.to_lowercase();
    if has_scheme(reference) && !lower.starts_with("file:") {
        return read(reference);
    }
    let reference = if lower.starts_with("file:") { reference.get(5..).unwrap_or("") } else { reference };
    let path = if let Some(rest) = reference.strip_prefix("//") {
        rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/").to_owned()
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else {
        let base = base.strip_prefix("file://").unwrap_or(base);
        let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{directory}/{reference}")
    };
    read(&format!("file://{}", without_dots(&path)))
}

/// A scheme has at least two letters: `c:` is a drive.
fn has_scheme(location: &str) -> bool {
    location.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'))
    })
}

fn path_to_url(path: &str) -> Result<String, ConfigError> {
    let absolute = if Path::new(path).is_absolute() {
        path.to_owned()
    } else {
        let here = std::env::current_dir()
            .map_err(|error| ConfigError::Plain(format!("cannot tell the current directory: {error}")))?;
        format!("{}/{path}", here.display())
    };
    Ok(format!("file://{}", quote(&without_dots(&absolute))))
}

fn read(url: &str) -> Result<Source, ConfigError> {
    if url.contains('#') {
        return Err(ConfigError::Plain("fragment identifiers are not supported".to_owned()));
    }
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    if !scheme.eq_ignore_ascii_case("file") {
        return Err(ConfigError::Plain(format!(
            "error opening URL {url}: this server reads configuration from files only, not by {scheme}; \
             copy the file here and name it by its path"
        )));
    }
    let rest = url.get(5..).unwrap_or("");
    let encoded = rest.strip_prefix("//").unwrap_or(rest);
    let encoded = encoded.strip_prefix("localhost/").map_or(encoded.to_owned(), |rest| format!("/{rest}"));
    let path = unquote(&encoded);
    let bytes = std::fs::read(&path)
        .map_err(|error| ConfigError::Plain(format!("error opening file {path}: {}", os_error(&error, &path))))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        ConfigError::Plain(format!("the file is not UTF-8 text\n(line {line} in {url})"))
    })?;
    Ok(Source { url: Arc::from(url), text })
}

/// An error of the system as Python words it.
fn os_error(error: &io::Error, path: &str) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rsplit_once(" (os error ")) {
        (Some(number), Some((text, _))) => format!("[Errno {number}] {text}: {}", repr(path)),
        _ => text,
    }
}

fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn quote(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'.' | b'-' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn unquote(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(escaped) = escaped {
            out.push(escaped);
            rest = after.get(2..).unwrap_or(&[]);
        } else {
            out.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_url_and_back() {
        assert_eq!(path_to_url("/a/../b c/é.conf").unwrap(), "file:///b%20c/%C3%A9.conf");
        assert_eq!(unquote("/b%20c/%C3%A9%zz%"), "/b c/é%zz%");
    }

    #[test]
    fn includes_are_relative_to_the_including_file() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a b.conf");
        std::fs::write(&inner, "x").unwrap();
        let base = path_to_url(directory.path().join("sub/zeo.conf").to_str().unwrap()).unwrap();
        let absolute = inner.to_str().unwrap();
        for reference in ["../a b.conf", "../a%20b.conf", absolute, &format!("file://{absolute}")] {
            assert_eq!(open_relative(&base, reference).unwrap().text, "x", "{reference}");
        }
    }

    #[test]
    fn other_schemes_are_refused_by_name() {
        let error = open_relative("file:///a", "http://h/zeo.conf").unwrap_err().to_string();
        assert!(error.starts_with("error opening URL http://h/zeo.conf: "), "{error}");
        let error = open("/no/such.conf").unwrap_err().to_string();
        assert_eq!(error, "error opening file /no/such.conf: [Errno 2] No such file or directory: '/no/such.conf'");
    }
}
