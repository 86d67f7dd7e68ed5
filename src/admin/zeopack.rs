//! `zeopack`: asks ZEO servers to pack their storages, as the original's command of that name.
//!
//! The servers are asked one after the other, on a thread of its own, while the main thread waits for
//! it or for Ctrl-C. The pack is the server's work: it goes on when this command ends.

mod options;
mod progress;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::person::{called, complain, say};
use crate::client::{Client, ClientError};
use crate::literals::repr;
use crate::pickle::Value;
use options::{Command, Mistake, Options, Target};

/// How long a server may take until it is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before the next try to reach it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Exit code for options that do not exist.
const USAGE: u8 = 2;

/// The target that is being packed.
type Current = Arc<Mutex<Option<Target>>>;

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let (program, arguments) = called();
    match options::parse(arguments) {
        Ok(Command::Help) => say(&options::HELP.replace("PROG", &program)),
        Ok(Command::Version) => say(concat!("zeopack of zeolite ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Pack(options)) => interruptible(options),
        Err(Mistake::Usage(message)) => {
            complain(&format!("{}\n{program}: error: {message}", options::USAGE.replace("PROG", &program)));
            ExitCode::from(USAGE)
        }
        Err(Mistake::Value(message)) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    complain(&format!("Error:\n{message}"));
    ExitCode::FAILURE
}

/// Packs, unless Ctrl-C comes first.
fn interruptible(options: Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
    let current = Current::default();
    let (done, finished) = oneshot::channel();
    let packing = Arc::clone(&current);
    thread::spawn(move || done.send(pack_all(&options, &packing)));
    runtime.block_on(async {
        tokio::select! {
            code = finished => code.unwrap_or(ExitCode::FAILURE),
            Ok(()) = tokio::signal::ctrl_c() => {
                let current = current.lock().unwrap_or_else(PoisonError::into_inner);
                let clear = progress::cleared();
                match &*current {
                    Some(Target { address, storage }) => complain(&format!(
                        "{clear}Interrupted. The pack of storage {storage} in {address} goes on at the server."
                    )),
                    None => complain("Interrupted."),
                }
                ExitCode::FAILURE
            }
        }
    })
}

/// Packs one storage after the other. As in the original a server that is not there is passed over,
/// and a pack that fails is the end.
fn pack_all(options: &Options, current: &Current) -> ExitCode {
    let set_current = |target| *current.lock().unwrap_or_else(PoisonError::into_inner) = target;
    let mut server_found = false;
    for target in &options.targets {
        let Target { address, storage } = target;
        let mut client = match connect(target) {
            Ok(client) => client,
            Err(error) => {
                complain(&format!("Couldn't connect to: ({address}, {})\n{}", repr(storage), error.reason));
                continue;
            }
        };
        server_found = true;
        set_current(Some(target.clone()));
        let started = Instant::now();
        let wait = Value::Bool(true);
        let packed = progress::shown_while(target, || client.call("pack", &[Value::Float(options.time), wait]));
        set_current(None);
        match packed {
            Ok(_) => progress::tell_end(target, started.elapsed()),
            Err(error) => {
                complain(&error.reason.to_string());
                return fail(&format!("Error packing storage {storage} in {address}"));
            }
        }
    }
    if server_found { ExitCode::SUCCESS } else { fail("Cannot connect to any of the configured ZEO servers.") }
}

/// A read-only connection, which is allowed to pack. Tries again as long as the server may be about to
/// start.
fn connect(target: &Target) -> Result<Client, ClientError> {
    let begun = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(begun.elapsed()).max(RETRY_INTERVAL);
        let connected = Client::connect(&target.address, left, Box::new(|_| {}))
            .and_then(|mut client| client.register(&target.storage, true).map(|()| client));
        match connected {
            Err(error) if error.reason.is_passing() && begun.elapsed() < PATIENCE => thread::sleep(RETRY_INTERVAL),
            connected => return connected,
        }
    }
}
