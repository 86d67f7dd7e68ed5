//! Format strings of Python's logging in all its styles: `%(name)s`, `{name}` and `$name`.
//!
//! A format is compiled once, when the configuration is read, and every mistake in it shows up then.

use std::fmt::{Alignment, Write as _};
use std::iter::Peekable;
use std::str::CharIndices;

use super::record::{Field, Record, Value};

/// The format without an `<eventlog>`, and of a `<logfile>` that says nothing else.
pub const DEFAULT_FORMAT: &str = "------\n%(asctime)s %(levelname)s %(name)s %(message)s";

/// The date format where nothing else is said.
pub const DEFAULT_DATE_FORMAT: &str = "%Y-%m-%dT%H:%M:%S";

/// How a format string refers to the fields of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `%(name)s`
    Classic,
    /// `{name}`
    Format,
    /// `$name`
    Template,
    /// `$name`; what names no field stays as it is.
    SafeTemplate,
}

impl Style {
    /// The style that `text` names. The error is the original's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_lowercase().as_str() {
            "classic" => Ok(Self::Classic),
            "format" => Ok(Self::Format),
            "template" => Ok(Self::Template),
            "safe-template" => Ok(Self::SafeTemplate),
            _ => Err(format!(
                "log_format_style must be one of 'classic', 'format', 'safe-template', 'template'; found {}",
                crate::literals::repr(text)
            )),
        }
    }
}

/// A compiled format string.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    pieces: Vec<Piece>,
    date_format: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    Field(Field, Spec),
}

/// How a value is shown: the union of what `%` and `{}` can say.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    fill: char,
    /// `None` puts text to the left and numbers to the right.
    align: Option<Alignment>,
    /// Fill with zeros between sign and digits.
    zero: bool,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

/// No line is wider; a width comes from the configuration and is filled with blanks.
const WIDTH_MAX: usize = 4096;

impl Default for Format {
    fn default() -> Self {
        Self::compile(Style::Classic, DEFAULT_FORMAT, DEFAULT_DATE_FORMAT)
            .expect("the default format is correct, a test compiles it")
    }
}

impl Format {
    /// Compiles `text`; `date_format` is for the field `asctime`.
    pub fn compile(style: Style, text: &str, date_format: &str) -> Result<Self, String> {
        let pieces = match style {
            Style::Classic => classic(text)?,
            Style::Format => braces(text)?,
            Style::Template => template(text, false)?,
            Style::SafeTemplate => template(text, true)?,
        };
        super::record::check_date_format(date_format)?;
        Ok(Self { pieces, date_format: date_format.to_owned() })
    }

    /// Appends `record` in this format to `out`, without a line end.
    pub fn write(&self, record: &Record<'_>, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Field(field, spec) => spec.write(&record.value(*field, &self.date_format), out),
            }
        }
    }
}

fn field(name: &str) -> Result<Field, String> {
    Field::parse(name).ok_or_else(|| {
        format!("unknown field {} in log format; known are {}", crate::literals::repr(name), Field::names())
    })
}

type Chars<'a> = Peekable<CharIndices<'a>>;

fn take_number(chars: &mut Chars<'_>) -> Option<usize> {
    let mut number: Option<usize> = None;
    while let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(10)) {
        chars.next();
        let digit = usize::try_from(digit).unwrap_or(0);
        number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit).min(WIDTH_MAX));
    }
    number
}

fn classic(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((_, c)) = chars.next() {
        if c != '%' {
            literal.push(c);
            continue;
        }
        match chars.next() {
            None => return Err("incomplete format".to_owned()),
            Some((_, '%')) => literal.push('%'),
            Some((_, '(')) => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        None => return Err("incomplete format key".to_owned()),
                        Some((_, ')')) => break,
                        Some((_, c)) => name.push(c),
                    }
                }
                let field = field(&name)?;
                let spec = classic_spec(&mut chars)?;
                spec.check(field)?;
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                pieces.push(Piece::Field(field, spec));
            }
            Some((index, c)) => {
                return Err(format!(
                    "'%{c}' at index {index} names no field; write %(name)s, or %% for a percent sign"
                ));
            }
        }
    }
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

fn classic_spec(chars: &mut Chars<'_>) -> Result<Spec, String> {
    let mut spec = Spec::new('s');
    spec.align = Some(Alignment::Right);
    while let Some((_, flag)) = chars.next_if(|(_, c)| matches!(c, '-' | '+' | ' ' | '#' | '0')) {
        match flag {
            '-' => spec.align = Some(Alignment::Left),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => spec.zero = true,
        }
    }
    spec.width = take_number(chars).unwrap_or(0);
    if chars.next_if(|(_, c)| *c == '.').is_some() {
        spec.precision = Some(take_number(chars).unwrap_or(0));
    }
    while chars.next_if(|(_, c)| matches!(c, 'h' | 'l' | 'L')).is_some() {}
    let Some((index, conversion)) = chars.next() else { return Err("incomplete format".to_owned()) };
    spec.conversion = match conversion {
        'i' | 'u' => 'd',
        'r' | 'a' | 's' | 'd' | 'o' | 'x' | 'X' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => conversion,
        other => {
            return Err(format!("unsupported format character '{other}' ({:#x}) at index {index}", u32::from(other)));
        }
    };
    if spec.align == Some(Alignment::Left) {
        spec.zero = false;
    }
    Ok(spec)
}

fn braces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, after) = rest.split_at(at);
        literal.push_str(before);
        if let Some(after) = after.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = after.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else if after.starts_with('}') {
            return Err("Single '}' encountered in format string".to_owned());
        } else {
            let inner = after.strip_prefix('{').unwrap_or(after);
            let Some((replacement, after)) = inner.split_once('}') else {
                return Err("expected '}' before end of string".to_owned());
            };
            rest = after;
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            pieces.push(brace_field(replacement)?);
        }
    }
    literal.push_str(rest);
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

fn brace_field(replacement: &str) -> Result<Piece, String> {
    let (name, spec_text) = replacement.split_once(':').unwrap_or((replacement, ""));
    let (name, conversion) = name.split_once('!').map_or((name, None), |(name, c)| (name, Some(c)));
    if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        // The original's words, percent sign and all.
        return Err("%s formats cannot use positional placeholders".to_owned());
    }
    let field = field(name)?;
    let mut spec = brace_spec(spec_text)?;
    match conversion {
        None => {}
        Some("s") => spec.conversion = 's',
        Some("r" | "a") => spec.conversion = 'r',
        Some(other) => return Err(format!("Unknown conversion specifier {other}")),
    }
    spec.check(field)?;
    Ok(Piece::Field(field, spec))
}

fn brace_spec(text: &str) -> Result<Spec, String> {
    let mut spec = Spec::new('s');
    let alignment = |c| match c {
        '<' => Some(Alignment::Left),
        '>' => Some(Alignment::Right),
        '^' => Some(Alignment::Center),
        _ => None,
    };
    let mut chars = text.char_indices().peekable();
    let (first, second) = (text.chars().next(), text.chars().nth(1));
    if let (Some(fill), Some(align)) = (first, second.and_then(alignment)) {
        (spec.fill, spec.align) = (fill, Some(align));
        chars.next();
        chars.next();
    } else if let Some(align) = first.and_then(alignment) {
        spec.align = Some(align);
        chars.next();
    }
    if let Some((_, sign)) = chars.next_if(|(_, c)| matches!(c, '+' | '-' | ' ')) {
        spec.sign = Some(sign).filter(|sign| *sign != '-');
    }
    spec.alternate = chars.next_if(|(_, c)| *c == '#').is_some();
    spec.zero = chars.next_if(|(_, c)| *c == '0').is_some() && spec.align.is_none();
    spec.width = take_number(&mut chars).unwrap_or(0);
    if chars.next_if(|(_, c)| *c == '.').is_some() {
        spec.precision = Some(take_number(&mut chars).ok_or("Format specifier missing precision")?);
    }
    if let Some((_, conversion)) = chars.next() {
        if !matches!(conversion, 's' | 'd' | 'o' | 'x' | 'X' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G') {
            return Err("Invalid format specifier".to_owned());
        }
        spec.conversion = conversion;
    }
    if chars.next().is_some() { Err("Invalid format specifier".to_owned()) } else { Ok(spec) }
}

fn template(text: &str, safe: bool) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            literal.push('$');
            rest = after;
            continue;
        }
        let (name, following) = if let Some(braced) = after.strip_prefix('{') {
            braced.split_once('}').unwrap_or(("", after))
        } else {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()))
        };
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        match if starts { field(name) } else { Err("Invalid placeholder in string".to_owned()) } {
            Ok(field) => {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                pieces.push(Piece::Field(field, Spec::new('s')));
                rest = following;
            }
            Err(_) if safe => {
                literal.push('$');
                rest = after;
            }
            Err(message) => return Err(message),
        }
    }
    literal.push_str(rest);
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

impl Spec {
    fn new(conversion: char) -> Self {
        Self {
            fill: ' ',
            align: None,
            zero: false,
            sign: None,
            alternate: false,
            width: 0,
            precision: None,
            conversion,
        }
    }

    /// A number's conversion needs a number.
    fn check(&self, field: Field) -> Result<(), String> {
        if field.is_text() && !matches!(self.conversion, 's' | 'r' | 'a') {
            return Err(format!("'{}' in log format wants a number, and the field is text", self.conversion));
        }
        Ok(())
    }

    fn write(&self, value: &Value<'_>, out: &mut String) {
        let (prefix, body) = self.render(value);
        let length = prefix.chars().count().saturating_add(body.chars().count());
        let padding = self.width.saturating_sub(length);
        if self.zero && value.is_number() && self.conversion != 's' {
            out.push_str(&prefix);
            out.extend(std::iter::repeat_n('0', padding));
            out.push_str(&body);
            return;
        }
        let default = if value.is_number() { Alignment::Right } else { Alignment::Left };
        let before = match self.align.unwrap_or(default) {
            Alignment::Left => 0,
            Alignment::Right => padding,
            Alignment::Center => padding / 2,
        };
        out.extend(std::iter::repeat_n(self.fill, before));
        out.push_str(&prefix);
        out.push_str(&body);
        out.extend(std::iter::repeat_n(self.fill, padding.saturating_sub(before)));
    }

    /// The value without padding: sign and base, then digits or text.
    fn render(&self, value: &Value<'_>) -> (String, String) {
        let text = match (self.conversion, value) {
            ('s', Value::Text(text)) => text.to_string(),
            ('r' | 'a', Value::Text(text)) => crate::literals::repr(text),
            ('s' | 'r' | 'a', number) => number.to_string(),
            (_, Value::Text(text)) => text.to_string(),
            (_, Value::Integer(number)) => return self.number(*number),
            (_, Value::Float(number)) => return self.float_or_integer(*number),
        };
        let text = if let Some(precision) = self.precision { text.chars().take(precision).collect() } else { text };
        (String::new(), text)
    }

    fn float_or_integer(&self, number: f64) -> (String, String) {
        if matches!(self.conversion, 'd' | 'o' | 'x' | 'X') {
            #[expect(clippy::cast_possible_truncation, reason = "%d of a float drops the fraction, in Python too")]
            return self.number(number as i64);
        }
        self.float(number)
    }

    fn number(&self, number: i64) -> (String, String) {
        let magnitude = number.unsigned_abs();
        let (base, digits) = match self.conversion {
            'o' => ("0o", format!("{magnitude:o}")),
            'x' => ("0x", format!("{magnitude:x}")),
            'X' => ("0X", format!("{magnitude:X}")),
            'd' => ("", magnitude.to_string()),
            #[expect(clippy::cast_precision_loss, reason = "%f of an int is a float, in Python too")]
            _ => return self.float(number as f64),
        };
        let mut prefix = self.sign_of(number < 0).to_owned();
        if self.alternate {
            prefix.push_str(base);
        }
        let width = self.precision.unwrap_or(0);
        (prefix, format!("{digits:0>width$}"))
    }

    fn float(&self, number: f64) -> (String, String) {
        let magnitude = number.abs();
        let precision = self.precision.unwrap_or(6);
        let digits = match self.conversion {
            'e' | 'E' => scientific(magnitude, precision),
            'g' | 'G' => general(magnitude, precision),
            _ => format!("{magnitude:.precision$}"),
        };
        let digits = if self.conversion.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
        (self.sign_of(number.is_sign_negative()).to_owned(), digits)
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(_)) => " ",
            (false, None) => "",
        }
    }
}

/// `1.5e+01`: an exponent with sign and at least two digits.
fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    let mut out = digits.to_owned();
    let _ = write!(out, "e{sign}{exponent:0>2}");
    out
}

/// The shorter of both notations with `precision` significant digits, without trailing zeros.
fn general(number: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let text = scientific(number, precision.saturating_sub(1));
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let trim = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    match exponent.parse::<i64>() {
        Ok(power) if power >= -4 && power < i64::try_from(precision).unwrap_or(i64::MAX) => {
            let places = i64::try_from(precision).unwrap_or(i64::MAX).saturating_sub(1).saturating_sub(power);
            let places = usize::try_from(places).unwrap_or(0);
            trim(&format!("{number:.places$}"))
        }
        _ => format!("{}e{exponent}", trim(digits)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::logging::Level;

    fn show(style: Style, text: &str) -> Result<String, String> {
        let record = Record {
            name: "ZEO.runzeo",
            level: Level::INFO,
            message: "it's",
            file: "src/admin/runzeo.rs",
            line: 42,
            created: UNIX_EPOCH + Duration::new(86_400, 250_000_000),
        };
        let mut out = String::new();
        Format::compile(style, text, "%Y-%m")?.write(&record, &mut out);
        Ok(out)
    }

    #[test]
    fn classic_formats_are_pythons() {
        for (text, result) in [
            ("plain %%", "plain %"),
            ("%(asctime)s", "1970-01"),
            ("%(levelname)s %(name)s %(message)s", "INFO ZEO.runzeo it's"),
            ("[%(levelname)-7s|%(levelname)7s]", "[INFO   |   INFO]"),
            ("%(name).3s", "ZEO"),
            ("%(message)r", "\"it's\""),
            ("%(levelno)d %(levelno)5d %(levelno)05d %(levelno)+d %(levelno)#x", "20    20 00020 +20 0x14"),
            ("%(created)f %(created).1f %(created)d", "86400.250000 86400.2 86400"),
            ("%(msecs)d %(msecs)03d %(msecs)s", "250 250 250.0"),
            ("%(created)e %(created)g %(created)E", "8.640025e+04 86400.2 8.640025E+04"),
            ("%(lineno)s %(filename)s %(module)s", "42 runzeo.rs runzeo"),
        ] {
            assert_eq!(show(Style::Classic, text).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn mistakes_are_found_at_once() {
        for (text, message) in [
            ("%", "incomplete format"),
            ("%(name)", "incomplete format"),
            ("%(name", "incomplete format key"),
            ("%(name)y", "unsupported format character 'y' (0x79) at index 7"),
            ("%(nope)s", "unknown field 'nope' in log format; known are "),
            ("%(name)d", "'d' in log format wants a number, and the field is text"),
            ("%s", "'%s' at index 1 names no field; write %(name)s, or %% for a percent sign"),
        ] {
            let error = show(Style::Classic, text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn other_styles() {
        for (style, text, result) in [
            (
                Style::Format,
                "{{}} {name} {levelname:>6}|{levelname:*^8}|{levelno:04d}",
                "{} ZEO.runzeo   INFO|**INFO**|0020",
            ),
            (Style::Format, "{message!r:8}{levelno:5}|", "\"it's\"     20|"),
            (Style::Template, "$$ $name ${levelno}x", "$ ZEO.runzeo 20x"),
            (Style::SafeTemplate, "$nope ${nope} $1 $name", "$nope ${nope} $1 ZEO.runzeo"),
        ] {
            assert_eq!(show(style, text).as_deref(), Ok(result), "{text}");
        }
        for (style, text) in
            [(Style::Format, "{"), (Style::Format, "}"), (Style::Format, "{0}"), (Style::Template, "$nope")]
        {
            assert!(show(style, text).is_err(), "{text}");
        }
    }
}
