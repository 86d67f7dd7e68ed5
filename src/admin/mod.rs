//! The commands: one file for each, with a `main` that its binary calls.
//!
//! Only here does the process talk to a person, read its environment and choose an exit code.

mod command_line;
mod person;
pub mod runzeo;
pub mod zeopack;
pub mod zeopasswd;
