//! `perf_storm SEED OPERATIONS [SECONDS]`: random uses of `perf_event_open(2)`, as a fuzzer of
//! perf makes them: any attributes, groups, inheritance, ioctls, reads, mappings,
//! polls, forks, moves between CPUs. The same seed gives the same operations, until the
//! seconds are over, if they are said. Only in a guest: it may stop the machine it runs on.
//!
//! A call may fail. The program fails if it is ended by a signal. What is at stake is
//! the kernel's log, and the VMM behind the PMU.

#[path = "perf_storm/attr.rs"]
mod attr;
#[path = "perf_storm/system.rs"]
mod system;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use attr::{Attr, Random};
use system::{Fd, Mapping};

/// The most events that are open at a time, in one process.
const MOST_EVENTS: usize = 40;
/// The most children at a time.
const MOST_CHILDREN: usize = 3;
/// What a child does before it ends, in operations.
const OF_CHILD: u64 = 20;
/// How often a line tells that the storm goes on, in operations.
const REPORT: u64 = 25;

/// One event, mapped or not.
struct Event {
    fd: Fd,
    mapping: Option<Mapping>,
}

/// A process in the storm.
struct Storm {
    random: Random,
    events: Vec<Event>,
    children: Vec<i32>,
    is_child: bool,
    opened: u64,
    refused: u64,
    read: u64,
}

impl Storm {
    fn new(seed: u64, is_child: bool) -> Self {
        Self {
            random: Random::new(seed),
            events: Vec::new(),
            children: Vec::new(),
            is_child,
            opened: 0,
            refused: 0,
            read: 0,
        }
    }

    fn operation(&mut self) {
        match self.random.below(32) {
            0..=8 => self.open(),
            9..=14 => self.ioctl(),
            15..=18 => self.read(),
            19 | 20 => self.map(),
            21 | 22 => self.drain(),
            23 => self.poll(),
            24 => self.fork(),
            25 => self.end_child(),
            26 => system::enable_all(self.random.below(2) == 0),
            27 => system::move_to(self.random.below(8)),
            28 => self.close(),
            _ => work(self.random.below(300_000)),
        }
    }

    /// One of the events that are open; `None` now and then, though there are some.
    fn any(&mut self) -> Option<usize> {
        let count = u64::try_from(self.events.len()).unwrap_or(0);
        let at = self.random.below(count + 1);
        (at < count).then(|| usize::try_from(at).unwrap_or(0))
    }

    fn any_fd(&mut self) -> i32 {
        let at = self.any();
        let event = at.and_then(|at| self.events.get(at));
        event.map_or(-1, |event| event.fd.number())
    }

    fn open(&mut self) {
        if self.events.len() >= MOST_EVENTS {
            self.close();
        }
        let attr = Attr::any(&mut self.random);
        let child = self.random.below(3);
        let child = self.children.get(usize::try_from(child).unwrap_or(0));
        let (pid, cpu) = match self.random.below(8) {
            0..=4 => (0, -1),
            5 => (0, i32::try_from(self.random.below(4)).unwrap_or(0)),
            6 => (-1, i32::try_from(self.random.below(4)).unwrap_or(0)),
            _ => (child.copied().unwrap_or(0), -1),
        };
        let group = if self.random.below(3) == 0 {
            self.any_fd()
        } else {
            -1
        };
        // FD_NO_GROUP, FD_OUTPUT and FD_CLOEXEC, mostly none.
        let flags = match self.random.below(6) {
            0 => self.random.below(16),
            _ => 8,
        };
        match Fd::open(&attr, pid, cpu, group, flags) {
            Some(fd) => {
                self.opened += 1;
                self.events.push(Event { fd, mapping: None });
            }
            None => self.refused += 1,
        }
    }

    fn ioctl(&mut self) {
        let Some(at) = self.any() else { return };
        let other = self.any_fd();
        let random = &mut self.random;
        let Some(event) = self.events.get(at) else {
            return;
        };
        let group = random.below(2);
        match random.below(8) {
            0 | 1 => event.fd.enable(group),
            2 => event.fd.disable(group),
            3 => event.fd.reset(group),
            4 => event.fd.refresh(1 + random.below(4)),
            5 => event.fd.set_period(random.period()),
            6 => event.fd.set_output(other),
            _ => event.fd.pause_output(group),
        }
    }

    fn read(&mut self) {
        let Some(at) = self.any() else { return };
        let most = self.random.below(600);
        if let Some(event) = self.events.get(at)
            && event.fd.read(most)
        {
            self.read += 1;
        }
    }

    fn map(&mut self) {
        let Some(at) = self.any() else { return };
        let pages = 1 + [0, 1, 2, 8, 3][usize::try_from(self.random.below(5)).unwrap_or(0)];
        if let Some(event) = self.events.get_mut(at) {
            // The old one goes first: an event has one size of its buffer.
            event.mapping = None;
            event.mapping = Mapping::new(&event.fd, pages);
        }
    }

    fn drain(&mut self) {
        for event in &self.events {
            if let Some(mapping) = &event.mapping {
                mapping.drain();
            }
        }
    }

    fn poll(&mut self) {
        let fds: Vec<_> = self.events.iter().map(|event| event.fd.number()).collect();
        system::poll(&fds);
    }

    fn close(&mut self) {
        if let Some(at) = self.any() {
            self.events.swap_remove(at);
        }
    }

    /// A child does some operations of its own, with the events that it inherits.
    fn fork(&mut self) {
        if self.is_child || self.children.len() >= MOST_CHILDREN {
            return;
        }
        let seed = self.random.next();
        match system::fork() {
            0 => {
                let mut storm = Self::new(seed, true);
                storm.events = std::mem::take(&mut self.events);
                // The pages of an event are not a child's.
                for event in &mut storm.events {
                    event.mapping = None;
                }
                for _ in 0..OF_CHILD {
                    storm.operation();
                }
                system::exit(0);
            }
            child if child > 0 => self.children.push(child),
            _ => {}
        }
    }

    fn end_child(&mut self) {
        if let Some(child) = self.children.pop() {
            if self.random.below(2) == 0 {
                system::kill(child);
            }
            system::wait(child);
        }
    }

    fn finish(mut self) {
        while !self.children.is_empty() {
            self.end_child();
        }
    }
}

/// Something to count.
fn work(rounds: u64) {
    for n in 0..rounds {
        std::hint::black_box(n);
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut number = || args.next().and_then(|text| text.parse().ok());
    let (Some(seed), Some(operations)) = (number(), number()) else {
        eprintln!("usage: perf_storm SEED OPERATIONS [SECONDS]");
        return ExitCode::from(2);
    };
    let until = number().map(|seconds| Instant::now() + Duration::from_secs(seconds));
    system::ignore_signals();
    let mut storm = Storm::new(seed, false);
    let mut done = 0;
    while done < operations && until.is_none_or(|until| Instant::now() < until) {
        storm.operation();
        done += 1;
        if done % REPORT == 0 {
            println!("operation {done}");
        }
    }
    let (opened, refused, read) = (storm.opened, storm.refused, storm.read);
    storm.finish();
    println!("operations={done} opened={opened} refused={refused} read={read}");
    ExitCode::SUCCESS
}
