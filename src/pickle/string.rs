//! Strings that protocol 0 spells with escapes.

/// The argument of `STRING`: Python 2's `repr` of a `str`.
pub(super) fn quoted(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.trim_ascii_end();
    let (&quote, rest) = line.split_first()?;
    let (&end, mut body) = rest.split_last()?;
    if quote != end || !matches!(quote, b'"' | b'\'') {
        return None;
    }
    let mut out = Vec::with_capacity(body.len());
    while let Some((&byte, rest)) = body.split_first() {
        body = rest;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, rest) = body.split_first()?;
        body = rest;
        match escape {
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'a' => out.push(0x07),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'v' => out.push(0x0b),
            b'x' => {
                let (digits, rest) = body.split_at_checked(2)?;
                body = rest;
                out.push(u8::try_from(hex(digits)?).ok()?);
            }
            b'0'..=b'7' => {
                let mut code = u32::from(escape & 7);
                for _ in 0..2 {
                    let Some((&digit @ b'0'..=b'7', rest)) = body.split_first() else {
                        break;
                    };
                    body = rest;
                    code = code << 3 | u32::from(digit & 7);
                }
                // Python keeps the low byte of `\400` and above.
                out.push(code.to_le_bytes()[0]);
            }
            other => out.extend([b'\\', other]),
        }
    }
    Some(out)
}

/// The argument of `UNICODE`: Latin-1 with `\u` and `\U` escapes, turned into UTF-8.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let digits = match (byte, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                push_code(&mut out, u32::from(byte))?;
                // An escaped backslash does not begin an escape.
                if let (b'\\', Some((b'\\', behind))) = (byte, rest.split_first()) {
                    out.push(b'\\');
                    rest = behind;
                }
                continue;
            }
        };
        let (_, behind) = rest.split_first()?;
        let (code, behind) = behind.split_at_checked(digits)?;
        rest = behind;
        push_code(&mut out, hex(code)?)?;
    }
    Some(out)
}

/// Appends a code point in UTF-8; a surrogate in the three bytes that UTF-8 would have for it.
fn push_code(out: &mut Vec<u8>, code: u32) -> Option<()> {
    if let Some(char) = char::from_u32(code) {
        out.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        let [_, _, high, low] = code.to_be_bytes();
        if code > 0xffff {
            return None;
        }
        out.extend([0xe0 | high >> 4, 0x80 | (high & 0x0f) << 2 | low >> 6, 0x80 | low & 0x3f]);
    }
    Some(())
}

fn hex(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
