//! Python's notation for values: how it reads numbers from text and how it quotes a string in a
//! message. `zeo.conf` is defined in these terms, and error messages show them.

use std::fmt::Write as _;

/// What Python strips from both ends of a line and splits words at.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `text` without white space around it.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text` as Python's `repr` shows it.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let code = u32::from(c);
                // Control characters end at U+009F, so two digits hold them.
                let _ = write!(out, "\\x{code:02x}");
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Python's `int(text)`, as far as 64 bits reach.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid literal for int() with base 10: {}", repr(text));
    let digits = without_underscores(strip(text)).ok_or_else(invalid)?;
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    digits.parse().map_err(|_| format!("number out of range: {}", strip(text)))
}

/// Python's `float(text)`.
pub fn parse_float(text: &str) -> Result<f64, String> {
    let invalid = || format!("could not convert string to float: {}", repr(text));
    let digits = without_underscores(strip(text)).ok_or_else(invalid)?;
    digits.parse().map_err(|_| invalid())
}

/// Takes out the underscores between digits; `None` if one stands elsewhere.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'_' && !(is_digit(at.checked_sub(1)) && is_digit(at.checked_add(1))) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_python_does() {
        assert_eq!(repr("a"), "'a'");
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("'\""), "'\\'\"'");
        assert_eq!(repr("a\\b\n\x01é"), "'a\\\\b\\n\\x01é'");
    }

    #[test]
    fn integers_are_read_as_python_does() {
        for (text, value) in [("5", 5), (" -7 ", -7), ("+1_000", 1000), ("007", 7)] {
            assert_eq!(parse_int(text), Ok(value), "{text}");
        }
        for text in ["", "1.5", "_1", "1_", "1__0", "0x10", "--1", "5b"] {
            assert_eq!(parse_int(text), Err(format!("invalid literal for int() with base 10: '{text}'")));
        }
    }

    #[test]
    fn floats_are_read_as_python_does() {
        for (text, value) in [("5", 5.0), (" 1.5e1 ", 15.0), (".5", 0.5), ("5.", 5.0), ("1_0.5", 10.5)] {
            assert_eq!(parse_float(text), Ok(value), "{text}");
        }
        assert_eq!(parse_float("inf"), Ok(f64::INFINITY));
        assert_eq!(parse_float("soon"), Err("could not convert string to float: 'soon'".to_owned()));
        assert!(parse_float("1_.5").is_err());
    }
}
