//! Packs a data file that no server has open, and says how long each phase took: for measuring, and for holding the
//! result against Python's.
//!
//! ```text
//! cargo run --release --example packbench -- Data.fs [--tid HEX] [--gc no] [--keep-old no] [--rate BYTES]
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use zeolite::ids::Tid;
use zeolite::storage::file::{FileStorage, Options};
use zeolite::storage::{PackHost, PackPhase, PackProgress, PackRequest, Result, Storage};

/// A host with nobody else to care for.
struct Clock {
    begun: Instant,
    phase: Option<PackPhase>,
}

impl PackHost for Clock {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        println!("{:9.3} s  last step", self.begun.elapsed().as_secs_f64());
        last_step()
    }

    fn progress(&mut self, progress: PackProgress) -> Result<()> {
        if self.phase.replace(progress.phase) != Some(progress.phase) {
            println!("{:9.3} s  {:?}", self.begun.elapsed().as_secs_f64(), progress.phase);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: packbench Data.fs [--tid HEX] [--gc no] [--keep-old no] [--rate BYTES]");
        return ExitCode::from(2);
    };
    let mut options = Options::new(path);
    let mut request = PackRequest { stop: Tid::MAX, gc: None };
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.as_str() {
            "--tid" => request.stop = Tid(u64::from_str_radix(&value, 16).expect("a tid in hexadecimal")),
            "--gc" => request.gc = Some(value != "no"),
            "--keep-old" => options.pack_keep_old = value != "no",
            "--rate" => options.pack_rate = Some(value.parse().expect("a number")),
            _ => panic!("unknown switch {name}"),
        }
    }
    let storage = Arc::new(FileStorage::open(&options).expect("open the data file"));
    let mut clock = Clock { begun: Instant::now(), phase: None };
    let packed = Arc::clone(&storage).pack(&request, &mut clock);
    println!("{:9.3} s  end", clock.begun.elapsed().as_secs_f64());
    storage.close().expect("close the data file");
    match packed {
        Ok(report) => {
            println!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
