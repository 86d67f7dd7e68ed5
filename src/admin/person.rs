//! What a command says to the person who has called it.
//!
//! Only for commands that end soon: what a server has to say goes into its log.

use std::env::ArgsOs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// The name by which the program was called, without its directory, and the arguments behind it.
pub fn called() -> (String, ArgsOs) {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    (Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned(), arguments)
}

/// What was asked for. A reader that has gone away needs no answer.
pub fn say(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Lines that are no result.
pub fn complain(lines: &str) {
    let _ = writeln!(io::stderr(), "{lines}");
}
