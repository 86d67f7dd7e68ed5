//! `$name`, `${name}`, `$(NAME)` and `$$` in values. What is put in is not looked at again.

use std::collections::HashMap;

use crate::literals::repr;

/// Why a value cannot be substituted.
#[derive(Debug, PartialEq, Eq)]
pub enum SubstitutionError {
    /// A `$` that starts nothing.
    Malformed(String),
    /// A name that nobody defined.
    Undefined(String),
}

/// The names a file may refer to.
pub trait Names {
    /// The value of a `%define`; `name` is in lower case.
    fn define(&self, name: &str) -> Option<String>;
    /// The value of an environment variable.
    fn environment(&self, name: &str) -> Option<String>;
}

/// The `%define`s read so far, and the environment of the process.
impl Names for HashMap<String, String> {
    fn define(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Puts the values of `names` into `text`.
pub fn substitute(text: &str, names: &impl Names) -> Result<String, SubstitutionError> {
    let malformed = |message: String| Err(SubstitutionError::Malformed(message));
    let undefined = |name: &str| SubstitutionError::Undefined(format!("no replacement for {}", repr(name)));
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (name, after) = split_name(after);
            if name.is_empty() {
                return malformed("'${' not followed by name".to_owned());
            }
            let Some(after) = after.strip_prefix('}') else {
                return malformed(format!("'${{{name}' not followed by '}}'"));
            };
            out.push_str(&names.define(&name.to_lowercase()).ok_or_else(|| undefined(name))?);
            rest = after;
        } else if let Some(after) = after.strip_prefix('(') {
            let (name, after) = split_name(after);
            if name.is_empty() {
                return malformed("'$(' not followed by name".to_owned());
            }
            let Some(after) = after.strip_prefix(')') else {
                return malformed(format!("'$({name}' not followed by ')'"));
            };
            out.push_str(&names.environment(name).ok_or_else(|| undefined(name))?);
            rest = after;
        } else if after.is_empty() {
            return malformed("illegal lone '$' at end of source".to_owned());
        } else {
            let (name, after) = split_name(after);
            if name.is_empty() {
                return malformed("'$' not followed by '$' or name".to_owned());
            }
            out.push_str(&names.define(&name.to_lowercase()).ok_or_else(|| undefined(name))?);
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether `text` may be defined.
pub fn is_name(text: &str) -> bool {
    let (name, rest) = split_name(text);
    !name.is_empty() && rest.is_empty()
}

/// The name at the start of `text`, perhaps empty, and what follows it.
fn split_name(text: &str) -> (&str, &str) {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.split_at(if starts { end } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Names for Fixed {
        fn define(&self, name: &str) -> Option<String> {
            (name == "x").then(|| "$y".to_owned())
        }

        fn environment(&self, name: &str) -> Option<String> {
            (name == "HOME").then(|| "/h".to_owned())
        }
    }

    #[test]
    fn names_are_replaced_once() {
        for (text, result) in
            [("plain", "plain"), ("$x/a", "$y/a"), ("${X}a", "$ya"), ("$(HOME)/a", "/h/a"), ("$$x $$$$", "$x $$")]
        {
            assert_eq!(substitute(text, &Fixed), Ok(result.to_owned()), "{text}");
        }
    }

    #[test]
    fn errors_are_the_originals() {
        for (text, message) in [
            ("a$", "illegal lone '$' at end of source"),
            ("$1", "'$' not followed by '$' or name"),
            ("${1}", "'${' not followed by name"),
            ("${x", "'${x' not followed by '}'"),
            ("$(1)", "'$(' not followed by name"),
            ("$(HOME", "'$(HOME' not followed by ')'"),
        ] {
            assert_eq!(substitute(text, &Fixed), Err(SubstitutionError::Malformed(message.to_owned())), "{text}");
        }
        for (text, name) in [("$nope", "nope"), ("${Nope}", "Nope"), ("$(home)", "home")] {
            let message = format!("no replacement for '{name}'");
            assert_eq!(substitute(text, &Fixed), Err(SubstitutionError::Undefined(message)), "{text}");
        }
    }
}
