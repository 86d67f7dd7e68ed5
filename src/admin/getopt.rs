//! Command lines as Python's `getopt` reads them, which the original's commands do.
//!
//! `clap` reads them differently in ways that show: which spelling a message names, which option is
//! looked at first, and that an option added here must not make an abbreviation ambiguous that the
//! original accepts.

/// An option that a command knows.
#[derive(Debug)]
pub struct Known {
    /// Its letter.
    pub short: Option<char>,
    /// Its name, or nothing.
    pub long: &'static str,
    /// Whether an argument follows.
    pub takes_argument: bool,
    /// Whether the original has it. Others cannot be abbreviated.
    pub is_original: bool,
}

/// An option that was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// Its place in the list of known ones.
    pub index: usize,
    /// As messages name it: `-a`, or `--address` even if it was abbreviated.
    pub spelling: String,
    /// Its argument; empty if it takes none.
    pub argument: String,
}

/// Splits `arguments` into options and, from the first other one on, the rest.
pub fn parse<'a>(arguments: &'a [String], known: &[Known]) -> Result<(Vec<Given>, &'a [String]), String> {
    let mut given = Vec::new();
    let mut rest = arguments;
    while let Some((argument, following)) = rest.split_first() {
        if let Some(long) = argument.strip_prefix("--") {
            rest = following;
            if long.is_empty() {
                break;
            }
            given.push(long_option(long, &mut rest, known)?);
        } else if let Some(shorts) = argument.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            rest = following;
            short_options(shorts, &mut rest, known, &mut given)?;
        } else {
            break;
        }
    }
    Ok((given, rest))
}

fn long_option(text: &str, rest: &mut &[String], known: &[Known]) -> Result<Given, String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let index = find_long(name, known)?;
    let option = known.get(index).ok_or_else(|| format!("option --{name} not recognized"))?;
    let argument = match (option.takes_argument, value) {
        (true, Some(value)) => value.to_owned(),
        (true, None) => take_first(rest).ok_or_else(|| format!("option --{} requires argument", option.long))?,
        (false, None) => String::new(),
        (false, Some(_)) => return Err(format!("option --{} must not have an argument", option.long)),
    };
    Ok(Given { index, spelling: format!("--{}", option.long), argument })
}

fn find_long(name: &str, known: &[Known]) -> Result<usize, String> {
    let all = || known.iter().enumerate().filter(|(_, option)| !option.long.is_empty());
    if let Some((index, _)) = all().find(|(_, option)| option.long == name) {
        return Ok(index);
    }
    let mut matching = all().filter(|(_, option)| option.is_original && option.long.starts_with(name));
    match (matching.next(), matching.next()) {
        (Some((index, _)), None) => Ok(index),
        (Some(_), Some(_)) => Err(format!("option --{name} not a unique prefix")),
        (None, _) => Err(format!("option --{name} not recognized")),
    }
}

fn short_options(letters: &str, rest: &mut &[String], known: &[Known], given: &mut Vec<Given>) -> Result<(), String> {
    let mut letters = letters.chars();
    while let Some(letter) = letters.next() {
        let (index, option) = known
            .iter()
            .enumerate()
            .find(|(_, option)| option.short == Some(letter))
            .ok_or_else(|| format!("option -{letter} not recognized"))?;
        let mut argument = String::new();
        if option.takes_argument {
            argument = std::mem::replace(&mut letters, "".chars()).collect();
            if argument.is_empty() {
                argument = take_first(rest).ok_or_else(|| format!("option -{letter} requires argument"))?;
            }
        }
        given.push(Given { index, spelling: format!("-{letter}"), argument });
    }
    Ok(())
}

fn take_first(rest: &mut &[String]) -> Option<String> {
    let (first, following) = rest.split_first()?;
    *rest = following;
    Some(first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Known; 4] = [
        Known { short: Some('a'), long: "address", takes_argument: true, is_original: true },
        Known { short: None, long: "test", takes_argument: false, is_original: true },
        Known { short: Some('t'), long: "timeout", takes_argument: true, is_original: true },
        Known { short: None, long: "all", takes_argument: false, is_original: false },
    ];

    fn show(line: &str) -> Result<String, String> {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (given, rest) = parse(&arguments, &KNOWN)?;
        let mut words: Vec<String> =
            given.iter().map(|given| format!("{}={}", given.spelling, given.argument)).collect();
        words.extend(rest.iter().cloned());
        Ok(words.join(" "))
    }

    #[test]
    fn options_are_split_as_getopt_does() {
        for (line, result) in [
            ("-a 1 --test x -t", "-a=1 --test= x -t"),
            ("-a1 -t2", "-a=1 -t=2"),
            ("--address=1 --address= --addr 2", "--address=1 --address= --address=2"),
            ("--a 1 --all", "--address=1 --all="),
            ("-a -t -- -a", "-a=-t -a"),
            ("- -a", "- -a"),
        ] {
            assert_eq!(show(line).as_deref(), Ok(result), "{line}");
        }
    }

    #[test]
    fn errors_are_getopts() {
        for (line, message) in [
            ("-q", "option -q not recognized"),
            ("--quiet", "option --quiet not recognized"),
            ("--al", "option --al not recognized"),
            ("--t", "option --t not a unique prefix"),
            ("-a", "option -a requires argument"),
            ("--addr", "option --address requires argument"),
            ("--test=1", "option --test must not have an argument"),
        ] {
            assert_eq!(show(line), Err(message.to_owned()), "{line}");
        }
    }
}
