//! What connections do: load objects of a populated storage, or commit transactions of their own
//! objects. Every reply is checked; a wrong one ends the run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeolite::ids::{Oid, Tid};
use zeolite::pickle::Value;

use crate::client::{Client, Error, bytes, loaded};
use crate::record::{Random, record};

/// Objects in one transaction of [`populate`].
const POPULATE_OBJECTS: usize = 1000;

/// Loads under way in the pass over all objects.
const PASS_DEPTH: usize = 64;

/// Objects that a committing connection has at least, so that it does not always write the same one.
const OWN_OBJECTS: usize = 100;

/// One connection's part in a workload.
pub trait Worker: Send {
    /// Works until `deadline` and for what is under way then. The latency of each operation.
    fn run(&mut self, deadline: Instant) -> Result<Vec<Duration>, Error>;

    /// Looks, after the clock has stopped, whether the server has kept what it acknowledged.
    fn check(&mut self) -> Result<(), Error>;
}

/// Fills an empty storage with records of `size` bytes, oids 1 to `objects`.
pub fn populate(address: &str, objects: u64, size: usize) -> Result<(), Error> {
    let client = Client::register(address)?;
    let mut committer = Committer::new(client, (1..=objects).map(Oid).collect(), POPULATE_OBJECTS, size);
    while committer.next < committer.own.len() {
        committer.commit()?;
    }
    Ok(())
}

/// Loads random objects among those of [`populate`], with `depth` requests under way.
pub struct Loader {
    client: Client,
    random: Random,
    depth: usize,
    size: usize,
    /// The serial of each object, from oid 1.
    serials: Arc<[Tid]>,
}

impl Loader {
    /// The loaders of a run. One of them loads every object first: that tells the serials to expect,
    /// and both sides are warm.
    pub fn prepare(
        address: &str,
        connections: u64,
        objects: u64,
        depth: usize,
        size: usize,
    ) -> Result<Vec<Self>, Error> {
        let mut client = Client::register(address)?;
        let serials: Arc<[Tid]> = first_pass(&mut client, objects, size)?.into();
        let mut loaders = Vec::new();
        for number in 0..connections {
            let client = Client::register(address)?;
            let random = Random::new(number);
            loaders.push(Self { client, random, depth, size, serials: Arc::clone(&serials) });
        }
        Ok(loaders)
    }

    /// Starts as many loads as may be under way.
    fn fill(&mut self, waiting: &mut VecDeque<(Oid, Instant)>) -> Result<(), Error> {
        let now = Instant::now();
        while waiting.len() < self.depth {
            let oid = Oid(self.random.below(self.serials.len() as u64) + 1);
            // Clients do not ask twice for what is under way.
            if waiting.iter().all(|(other, _)| *other != oid) {
                self.client.queue_load(oid);
                waiting.push_back((oid, now));
            }
        }
        self.client.send()
    }
}

impl Worker for Loader {
    fn run(&mut self, deadline: Instant) -> Result<Vec<Duration>, Error> {
        let mut latencies = Vec::new();
        let mut waiting = VecDeque::new();
        self.fill(&mut waiting)?;
        while !waiting.is_empty() {
            let mut next = Some(self.client.reply()?);
            let now = Instant::now();
            while let Some(reply) = next {
                let (oid, data, tid) = loaded(&reply)?;
                let place = waiting.iter().position(|(other, _)| *other == oid);
                let Some((_, sent)) = place.and_then(|place| waiting.remove(place)) else {
                    return Err(Error::Wrong(format!("a reply for {oid}, which was not asked for")));
                };
                let expected = usize::try_from(oid.0 - 1).ok().and_then(|index| self.serials.get(index));
                if expected != Some(&tid) || data != record(oid, 0, self.size) {
                    return Err(Error::Wrong(format!("load {oid}: another revision, {tid}, or other bytes")));
                }
                latencies.push(now - sent);
                next = self.client.arrived_reply()?;
            }
            if now < deadline {
                self.fill(&mut waiting)?;
            }
        }
        Ok(latencies)
    }

    fn check(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Loads oids 1 to `objects`; their serials.
fn first_pass(client: &mut Client, objects: u64, size: usize) -> Result<Vec<Tid>, Error> {
    let oids: Vec<Oid> = (1..=objects).map(Oid).collect();
    let mut serials = vec![Tid::ZERO; oids.len()];
    for chunk in oids.chunks(PASS_DEPTH) {
        for oid in chunk {
            client.queue_load(*oid);
        }
        client.send()?;
        for _ in chunk {
            let reply = client.reply()?;
            let (oid, data, tid) = loaded(&reply)?;
            let index = usize::try_from(oid.0.wrapping_sub(1)).ok();
            match index.and_then(|index| serials.get_mut(index)) {
                Some(serial) if *serial == Tid::ZERO && data == record(oid, 0, size) => *serial = tid,
                _ => return Err(Error::Wrong(format!("load {oid}: not what was stored (size {size})"))),
            }
        }
    }
    Ok(serials)
}

/// An object of a committer, as last acknowledged.
struct Own {
    oid: Oid,
    serial: Tid,
    version: u64,
}

/// Commits transactions, each on the next few of its own objects.
pub struct Committer {
    client: Client,
    own: Vec<Own>,
    /// The object whose turn it is.
    next: usize,
    objects: usize,
    size: usize,
    transaction: i64,
}

impl Committer {
    /// The committers of a run, each with objects that nobody else writes.
    pub fn prepare(address: &str, connections: u64, objects: usize, size: usize) -> Result<Vec<Self>, Error> {
        let mut committers = Vec::new();
        for _ in 0..connections {
            let mut client = Client::register(address)?;
            let mut oids = Vec::new();
            while oids.len() < objects.max(OWN_OBJECTS) {
                oids.extend(new_oids(&mut client)?);
            }
            // Whole transactions only, so that none meets an object twice.
            oids.truncate(oids.len() / objects * objects);
            committers.push(Self::new(client, oids, objects, size));
        }
        Ok(committers)
    }

    fn new(client: Client, oids: Vec<Oid>, objects: usize, size: usize) -> Self {
        let own = oids.into_iter().map(|oid| Own { oid, serial: Tid::ZERO, version: 0 }).collect();
        Self { client, own, next: 0, objects, size, transaction: 0 }
    }

    /// One transaction: begun, stored and voted in one write, then finished.
    fn commit(&mut self) -> Result<(), Error> {
        self.transaction += 1;
        let transaction = Value::Int(self.transaction);
        let empty = || Value::bytes(b"");
        self.client.queue_async(
            "tpc_begin",
            vec![transaction.clone(), empty(), empty(), Value::Dict(Vec::new()), Value::None, Value::text(" ")],
        );
        let end = (self.next + self.objects).min(self.own.len());
        let written = self.own.get_mut(self.next..end).unwrap_or_default();
        for own in &*written {
            // The first revision is version 0, as the loads expect it.
            let data = record(own.oid, own.version, self.size);
            let args =
                vec![bytes(own.oid.to_bytes()), bytes(own.serial.to_bytes()), Value::bytes(&data), transaction.clone()];
            self.client.queue_async("storea", args);
        }
        match self.client.call("vote", vec![transaction.clone()])? {
            Value::None => {}
            Value::List(resolved) | Value::Tuple(resolved) if resolved.is_empty() => {}
            other => return Err(Error::Wrong(format!("vote: {other:?}"))),
        }
        let finished = self.client.call("tpc_finish", vec![transaction])?;
        let tid = match &finished {
            Value::Bytes(tid) => Tid::from_slice(tid),
            _ => None,
        };
        let tid = tid.ok_or_else(|| Error::Wrong(format!("tpc_finish: {finished:?}")))?;
        for own in written {
            if tid <= own.serial {
                return Err(Error::Wrong(format!("tpc_finish: {tid} after {}", own.serial)));
            }
            own.serial = tid;
            own.version += 1;
        }
        self.next = end;
        Ok(())
    }
}

impl Worker for Committer {
    fn run(&mut self, deadline: Instant) -> Result<Vec<Duration>, Error> {
        let mut latencies = Vec::new();
        let mut begun = Instant::now();
        while begun < deadline {
            if self.next == self.own.len() {
                self.next = 0;
            }
            self.commit()?;
            let now = Instant::now();
            latencies.push(now - begun);
            begun = now;
        }
        Ok(latencies)
    }

    fn check(&mut self) -> Result<(), Error> {
        for own in self.own.iter().filter(|own| own.version > 0) {
            self.client.queue_load(own.oid);
            self.client.send()?;
            let reply = self.client.reply()?;
            let (oid, data, tid) = loaded(&reply)?;
            if oid != own.oid || tid != own.serial || data != record(oid, own.version - 1, self.size) {
                return Err(Error::Wrong(format!("{} was committed as {} and is {tid} now", own.oid, own.serial)));
            }
        }
        Ok(())
    }
}

fn new_oids(client: &mut Client) -> Result<Vec<Oid>, Error> {
    let given = client.call("new_oids", vec![Value::Int(100)])?;
    let wrong = || Error::Wrong(format!("new_oids: {given:?}"));
    let (Value::List(oids) | Value::Tuple(oids)) = &given else { return Err(wrong()) };
    let oids: Option<Vec<_>> = oids.iter().map(|oid| oid.as_string().and_then(|oid| Oid::from_slice(oid))).collect();
    oids.filter(|oids| !oids.is_empty()).ok_or_else(wrong)
}
