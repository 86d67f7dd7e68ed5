//! zeoload: load for a ZEO server, and how long its answers take.
//!
//! One thread and one blocking socket for each connection. Every reply is checked: right request, right
//! bytes, right serial. Prints one line of JSON; `scripts/rates` compares servers with it.

mod client;
mod record;
mod work;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use client::Error;
use work::{Committer, Loader, Worker};

fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(report) => match writeln!(io::stdout(), "{report}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            // Nothing is left to tell it to if stderr is closed too.
            let _ = writeln!(io::stderr(), "zeoload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).value_parser(value_parser!(u32).range(1..)).help(help)
    };
    let size = Arg::new("size")
        .long("size")
        .default_value("300")
        .value_parser(value_parser!(u32).range(i64::try_from(record::MIN_BYTES).expect("a few bytes")..=1 << 24))
        .help("Bytes in one object record");
    let measured = |command: Command| {
        command
            .arg(number("connections", "1", "Connections, each with a thread of its own"))
            .arg(number("seconds", "3", "How long to measure"))
            .arg(
                Arg::new("server-pid")
                    .long("server-pid")
                    .value_parser(value_parser!(u32))
                    .help("Also report the CPU time of this process, in clock ticks"),
            )
    };
    Command::new("zeoload")
        .about("Load for a ZEO server; prints one line of JSON")
        .subcommand_required(true)
        .arg(Arg::new("address").long("address").required(true).help("HOST:PORT of the server, which announces Z5"))
        .subcommand(
            Command::new("populate")
                .about("Store the objects that `loads` asks for; the storage must be empty")
                .arg(number("objects", "10000", "How many, with oids from 1"))
                .arg(size.clone()),
        )
        .subcommand(
            measured(Command::new("loads").about("Load current revisions of random objects"))
                .arg(number("objects", "10000", "As populated"))
                .arg(number("depth", "1", "Requests under way on each connection"))
                .arg(size.clone()),
        )
        .subcommand(
            measured(Command::new("commits").about("Commit transactions; no two connections share objects"))
                .arg(number("objects", "1", "Objects in one transaction"))
                .arg(size),
        )
}

fn run(matches: &ArgMatches) -> Result<Value, Error> {
    let address: &String = matches.get_one("address").expect("clap requires it");
    let (name, matches) = matches.subcommand().expect("clap requires one");
    let number = |name| *matches.get_one::<u32>(name).expect("it has a default");
    let count = |name| usize::try_from(number(name)).expect("32 bits fit an address");
    let objects = u64::from(number("objects"));
    let workers = match name {
        "populate" => {
            work::populate(address, objects, count("size"))?;
            return Ok(json!({"objects": objects}));
        }
        "loads" => {
            if count("depth") > count("objects") {
                return Err(Error::Wrong("--depth must not be more than --objects".to_owned()));
            }
            boxed(Loader::prepare(address, number("connections").into(), objects, count("depth"), count("size"))?)
        }
        _ => boxed(Committer::prepare(address, number("connections").into(), count("objects"), count("size"))?),
    };
    measure(workers, Duration::from_secs(number("seconds").into()), matches.get_one("server-pid").copied())
}

fn boxed<W: Worker + 'static>(workers: Vec<W>) -> Vec<Box<dyn Worker>> {
    workers.into_iter().map(|worker| Box::new(worker) as Box<dyn Worker>).collect()
}

/// Lets the workers run at the same time; what they did.
fn measure(mut workers: Vec<Box<dyn Worker>>, time: Duration, server_pid: Option<u32>) -> Result<Value, Error> {
    let ticks_before = server_pid.map(cpu_ticks).transpose()?;
    let start = Instant::now();
    let done: Result<Vec<Vec<Duration>>, Error> = thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(move || worker.run(start + time))).collect();
        threads.into_iter().map(|thread| thread.join().expect("workers return their errors")).collect()
    });
    let elapsed = start.elapsed();
    let ticks_after = server_pid.map(cpu_ticks).transpose()?;
    let mut latencies = done?.concat();
    latencies.sort_unstable();
    for worker in &mut workers {
        worker.check()?;
    }
    Ok(json!({
        "operations": latencies.len(),
        "seconds": elapsed.as_secs_f64(),
        "p50_us": percentile_us(&latencies, 50),
        "p99_us": percentile_us(&latencies, 99),
        "server_cpu_ticks": ticks_before.zip(ticks_after).map(|(before, after)| after - before),
    }))
}

/// The latency that `percent` of the operations did not exceed.
fn percentile_us(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).map(|latency| latency.as_secs_f64() * 1e6)
}

/// utime and stime of all threads of a process.
fn cpu_ticks(pid: u32) -> Result<u64, Error> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the command's name, which may hold anything, come the fields from the third.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Option<u64> = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum();
    ticks.ok_or_else(|| Error::Wrong(format!("/proc/{pid}/stat: {stat}")))
}
