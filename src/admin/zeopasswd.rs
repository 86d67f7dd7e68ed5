//! `zeopasswd`: keeps the passwords of a server with digest authentication, as the original's command of that name.
//!
//! A password is asked for without showing it, and is in no message.

mod options;

use std::io::{self, BufRead as _};
use std::process::ExitCode;

use super::person::{called, complain, say};
use crate::passwords::Database;
use options::{Change, Command, Mistake, Options};

/// Exit code for command lines that make no sense.
const USAGE: u8 = 2;

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let (program, arguments) = called();
    match options::parse(arguments) {
        Ok(Command::Help) => say(&options::HELP.replace("PROG", &program)),
        Ok(Command::Version) => say(concat!("zeopasswd of zeolite ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Change(options)) => match change(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => fail(&message),
        },
        Err(Mistake::Usage(message)) => {
            complain(&format!("{}\n{message}", options::USAGE.replace("PROG", &program)));
            ExitCode::from(USAGE)
        }
        Err(Mistake::Value(message)) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    complain(&format!("Error: {message}"));
    ExitCode::FAILURE
}

fn change(options: Options) -> Result<(), String> {
    let mut database = Database::read(&options.database).map_err(|error| error.to_string())?;
    if let Some(realm) = &options.realm {
        database.set_realm(realm).map_err(|error| error.to_string())?;
    }
    let changed = match options.change {
        Change::Delete => database.delete(&options.user),
        Change::Add(password) => {
            // What will be refused is not asked a password for.
            database.may_add(&options.user).map_err(|error| error.to_string())?;
            database.add(&options.user, &given_or_asked(password)?)
        }
        Change::Replace(password) => {
            database.may_set(&options.user).map_err(|error| error.to_string())?;
            database.set_password(&options.user, &given_or_asked(password)?)
        }
    };
    changed.and_then(|()| database.write()).map_err(|error| error.to_string())
}

fn given_or_asked(password: Option<String>) -> Result<String, String> {
    password.map_or_else(ask, Ok)
}

/// The password from the terminal, or from a line of the input where there is no terminal.
fn ask() -> Result<String, String> {
    if let Ok(password) = rpassword::prompt_password("Enter password: ") {
        return Ok(password);
    }
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => Err("no password: there is no terminal to ask at, and nothing to read".to_owned()),
        Ok(_) => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Err(format!("cannot read the password: {error}")),
    }
}
