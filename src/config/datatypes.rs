//! The types a value of the configuration can have. Every conversion takes the text of the value
//! and fails with the original's words.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::literals::{is_space, parse_int, repr};

/// An address to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// A host name or number, perhaps empty, and a port if one was given.
    Tcp(String, Option<u16>),
    /// The path of a Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for SocketAddress {
    /// As Python shows the address: a path, or a pair of host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, Some(port)) => write!(f, "({}, {port})", repr(host)),
            Self::Tcp(host, None) => write!(f, "({}, None)", repr(host)),
            Self::Unix(path) => f.write_str(&repr(&path.display().to_string())),
        }
    }
}

/// A key: letters, digits, dash, dot and underscore, in lower case.
pub fn basic_key(text: &str) -> Result<String, String> {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        Ok(text.to_lowercase())
    } else {
        Err(format!("value did not match regular expression: {}", repr(text)))
    }
}

/// Yes or no. A digit is neither.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err(format!("not a valid boolean value: {}", repr(text))),
    }
}

/// Any text.
pub fn string(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Words.
pub fn string_list(text: &str) -> Result<Vec<String>, String> {
    Ok(text.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

/// Whole numbers with commas between them.
pub fn integer_list(text: &str) -> Result<Vec<i64>, String> {
    if text.is_empty() { Ok(Vec::new()) } else { text.split(',').map(parse_int).collect() }
}

/// A number in base 8.
pub fn octal(text: &str) -> Result<u32, String> {
    let invalid = || format!("invalid literal for int() with base 8: {}", repr(text));
    let digits = crate::literals::strip(text);
    let digits = digits.strip_prefix("0o").or_else(|| digits.strip_prefix("0O")).unwrap_or(digits);
    u32::from_str_radix(digits, 8).map_err(|_| invalid())
}

/// A number of bytes: an integer, perhaps with `kb`, `mb` or `gb`.
pub fn byte_size(text: &str) -> Result<i64, String> {
    multiplied(text, &[("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30)])
}

fn multiplied(text: &str, suffixes: &[(&str, i64)]) -> Result<i64, String> {
    let lower = text.to_lowercase();
    let (digits, factor) = suffixes
        .iter()
        .find_map(|(suffix, factor)| lower.strip_suffix(suffix).map(|digits| (digits, *factor)))
        .unwrap_or((&lower, 1));
    parse_int(digits)?.checked_mul(factor).ok_or_else(|| format!("number out of range: {text}"))
}

/// Names joined by dots.
pub fn dotted_name(text: &str) -> Result<String, String> {
    let is_identifier = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if text.split('.').all(is_identifier) {
        Ok(text.to_owned())
    } else {
        Err(format!("not a valid dotted name: {}", repr(text)))
    }
}

/// An address to listen on: `PORT`, `HOST:PORT`, `HOST`, or a path with a slash in it.
pub fn socket_binding_address(text: &str) -> Result<SocketAddress, String> {
    if text.contains('/') {
        return Ok(SocketAddress::Unix(PathBuf::from(text)));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        // Only what is a number in range is a port. Anything else is a name, `70000` and `*` too.
        return match port_number(text) {
            Ok(port) => Ok(SocketAddress::Tcp(String::new(), Some(port))),
            Err(_) if string_list(text)?.len() != 1 => Err(format!("not a valid host name: {}", repr(text))),
            Err(_) => Ok(SocketAddress::Tcp(text.to_lowercase(), None)),
        };
    };
    if let Some(host) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return Ok(SocketAddress::Tcp(host.to_lowercase(), optional_port(port)?));
    }
    if host.contains(':') {
        return Ok(SocketAddress::Tcp(text.to_lowercase(), None));
    }
    Ok(SocketAddress::Tcp(host.to_lowercase(), optional_port(port)?))
}

fn optional_port(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() { Ok(None) } else { port_number(text).map(Some) }
}

fn port_number(text: &str) -> Result<u16, String> {
    let number = parse_int(text)?;
    u16::try_from(number).map_err(|_| {
        if number < 0 {
            format!("{number} is below lower bound (0)")
        } else {
            format!("{number} is above upper bound (65535)")
        }
    })
}

/// A path whose directory exists.
pub fn existing_dirpath(text: &str) -> Result<PathBuf, String> {
    let path = expand_home(text);
    let directory = dirname(&path);
    if directory.is_empty() || Path::new(directory).is_dir() {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("The directory named as part of the path {text} does not exist."))
    }
}

/// A directory that exists, or whose parent does.
pub fn existing_parent_directory(text: &str) -> Result<PathBuf, String> {
    let path = expand_home(text);
    if Path::new(&path).is_dir() || Path::new(dirname(&path)).is_dir() {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("{text} is not an existing directory"))
    }
}

/// A path whose directory has a parent that exists.
pub fn existing_parent_dirpath(text: &str) -> Result<PathBuf, String> {
    let path = expand_home(text);
    let parent = dirname(dirname(&path));
    if parent.is_empty() || Path::new(parent).is_dir() {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("The directory named as part of the path {text} does not exist."))
    }
}

/// Puts `$HOME` in the place of a leading `~`. Other people's homes stay as they are written.
fn expand_home(text: &str) -> String {
    match (text.strip_prefix('~'), std::env::var("HOME")) {
        (Some(rest), Ok(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", home.trim_end_matches('/'))
        }
        _ => text.to_owned(),
    }
}

/// What stands before the last slash, as `os.path.dirname` has it.
fn dirname(path: &str) -> &str {
    let Some((head, _)) = path.rsplit_once('/') else { return "" };
    let trimmed = head.trim_end_matches('/');
    if trimmed.is_empty() { path.get(..=head.len()).unwrap_or("/") } else { trimmed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: Option<u16>) -> SocketAddress {
        SocketAddress::Tcp(host.to_owned(), port)
    }

    #[test]
    fn booleans_are_words() {
        for text in ["yes", "TRUE", "On"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["no", "False", "OFF"] {
            assert_eq!(boolean(text), Ok(false));
        }
        for text in ["1", "0", "", "y"] {
            assert_eq!(boolean(text), Err(format!("not a valid boolean value: '{text}'")));
        }
    }

    #[test]
    fn byte_sizes_have_long_suffixes_only() {
        for (text, bytes) in [("5", 5), ("1KB", 1024), ("2 mb", 2 << 20), ("-1gb", -1 << 30)] {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(byte_size("5B"), Err("invalid literal for int() with base 10: '5b'".into()));
        assert_eq!(byte_size("1k"), Err("invalid literal for int() with base 10: '1k'".into()));
        assert_eq!(byte_size("1.5MB"), Err("invalid literal for int() with base 10: '1.5'".into()));
        assert!(byte_size("9999999999999gb").is_err());
    }

    #[test]
    fn addresses_are_taken_as_the_original_takes_them() {
        for (text, address) in [
            ("8100", tcp("", Some(8100))),
            (":8100", tcp("", Some(8100))),
            ("Localhost:8100", tcp("localhost", Some(8100))),
            ("[::1]:80", tcp("::1", Some(80))),
            ("::1", tcp("::1", None)),
            ("HOST:", tcp("host", None)),
            ("host", tcp("host", None)),
            ("70000", tcp("70000", None)),
            ("*:8100", tcp("*", Some(8100))),
            ("/tmp/Z", SocketAddress::Unix("/tmp/Z".into())),
            ("./z:1", SocketAddress::Unix("./z:1".into())),
        ] {
            assert_eq!(socket_binding_address(text), Ok(address), "{text}");
        }
        for (text, message) in [
            ("h:70000", "70000 is above upper bound (65535)"),
            ("h:-1", "-1 is below lower bound (0)"),
            ("h:x", "invalid literal for int() with base 10: 'x'"),
            ("a b", "not a valid host name: 'a b'"),
        ] {
            assert_eq!(socket_binding_address(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_path_needs_its_directory_only() {
        assert_eq!(existing_dirpath("Data.fs"), Ok("Data.fs".into()));
        assert_eq!(existing_dirpath("/Data.fs"), Ok("/Data.fs".into()));
        assert_eq!(
            existing_dirpath("/no/such/Data.fs"),
            Err("The directory named as part of the path /no/such/Data.fs does not exist.".into())
        );
        assert!(existing_parent_directory("/no-such").is_ok());
        assert!(existing_parent_directory("/no/such").is_err());
    }

    #[test]
    fn other_types() {
        assert_eq!(basic_key("Blob-Dir"), Ok("blob-dir".into()));
        assert_eq!(basic_key("1a"), Err("value did not match regular expression: '1a'".into()));
        assert_eq!(integer_list("0, 2"), Ok(vec![0, 2]));
        assert_eq!(octal("022"), Ok(0o22));
        assert_eq!(octal("9"), Err("invalid literal for int() with base 8: '9'".into()));
        assert_eq!(dotted_name("a.b_1"), Ok("a.b_1".into()));
        assert_eq!(dotted_name("a..b"), Err("not a valid dotted name: 'a..b'".into()));
    }
}
