//! Integers and floats that protocol 0 spells as text.

use bytes::Bytes;

use super::value::Value;

/// The longest number taken as text. Converting decimal digits costs their square, and no client
/// sends integers of more than 64 bits this way.
const MAX_DIGITS: usize = 640;

/// The argument of `INT`: also the two booleans of protocol 0 and 1.
pub(super) fn int(text: &[u8]) -> Option<Value> {
    match text {
        b"00" => Some(Value::Bool(false)),
        b"01" => Some(Value::Bool(true)),
        _ => decimal(text),
    }
}

/// The argument of `LONG`, with or without Python 2's `L` behind it.
pub(super) fn long(text: &[u8]) -> Option<Value> {
    decimal(text.strip_suffix(b"L").unwrap_or(text))
}

/// The argument of `FLOAT`.
pub(super) fn float(text: &[u8]) -> Option<Value> {
    if text.len() > MAX_DIGITS {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().map(Value::Float)
}

fn decimal(text: &[u8]) -> Option<Value> {
    let (negative, digits) = match text.split_first()? {
        (b'-', digits) => (true, digits),
        (b'+', digits) => (false, digits),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if let Ok(small) = std::str::from_utf8(text).ok()?.parse() {
        return Some(Value::Int(small));
    }
    let mut limbs: Vec<u32> = Vec::new();
    for digit in digits {
        let mut carry = u64::from(digit.wrapping_sub(b'0'));
        for limb in &mut limbs {
            // At most (2^32 - 1) * 10 + carry with carry < 10, far below 2^64.
            let wide = u64::from(*limb).wrapping_mul(10).wrapping_add(carry);
            *limb = low_half(wide);
            carry = wide >> 32;
        }
        if carry > 0 {
            limbs.push(low_half(carry));
        }
    }
    let mut bytes: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
    bytes.push(0);
    if negative {
        negate(&mut bytes);
    }
    Some(Value::from_le_bytes(&Bytes::from(bytes)))
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low_half(wide: u64) -> u32 {
    wide as u32
}

fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
}
