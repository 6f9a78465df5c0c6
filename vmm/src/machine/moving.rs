//! A VM is moved: its memory while the guest runs, then the rest while it stands.
//!
//! ```text
//! connect ─▶ hello ─▶ begin the notes of written pages ─▶ all pages ─▶ pages since, again …
//!   until few are left ─▶ pause ─▶ state and last pages ─▶ "it runs" comes back ─▶ end
//! ```
//! Until that word has come the guest is here, and any failure has it go on here. When it
//! has come the guest is there: the destination sends it before its guest runs, and a
//! connection that was cut here takes no word any more.

use std::io::{self, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::builder::MachineControl;
use super::mover::{MoveOrder, MoveRefusal, MoveStage, millis};
use super::saved_memory::{each_piece, is_zero, pages_of};
use super::saving::{LogUse, SaveError, VmSaver};
use crate::error_text::one_line;
use crate::kvm::KvmError;
use crate::snapshot::stream::{self, MOST_PAGES, StreamError};
use crate::stop::StopReason;
use crate::sys::guest_ram::PAGE;
use crate::sys::page_set::PageSet;
use crate::sys::socket_file;

/// How long the destination may take to accept.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long it may take nothing.
const SEND_TIME: Duration = Duration::from_secs(30);
/// How long it may take to build the machine while the guest stands.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long the vCPUs may take to stand.
const PAUSE_TIME: Duration = Duration::from_secs(2);
/// The most rounds.
const MOST_ROUNDS: u32 = 40;
/// How much of the down-time is left for what is no memory.
const REST: Duration = Duration::from_millis(20);

/// The reason why a VM is not moved. Its guest runs on.
#[derive(Debug, Error)]
pub enum MoveError {
    /// It cannot begin.
    #[error(transparent)]
    Refused(#[from] MoveRefusal),
    /// It cannot be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Nobody waits there.
    #[error("cannot reach a destination at {socket}: start perfvisor run --incoming socket= there", socket = .socket.display())]
    Connect {
        /// The socket.
        socket: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection or the destination failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Its memory cannot be read, or there is no thread.
    #[error("cannot move the VM")]
    Host(#[from] io::Error),
    /// It writes too much.
    #[error(
        "the guest writes faster than its memory can be copied: after {rounds} rounds {pages} pages are left; allow a longer downtime=, or pause it"
    )]
    TooFast {
        /// The rounds.
        rounds: u32,
        /// The pages that are left.
        pages: u64,
    },
}

impl From<KvmError> for MoveError {
    fn from(error: KvmError) -> Self {
        Self::Save(error.into())
    }
}

impl MachineControl {
    /// Moves the VM to another process, on a thread of its own; [`Mover`] tells how far it
    /// is. The VM ends when its guest runs there.
    ///
    /// [`Mover`]: super::mover::Mover
    ///
    /// # Errors
    /// If it cannot begin.
    pub fn migrate(&self, order: MoveOrder) -> Result<(), MoveError> {
        let saver = Arc::clone(self.saver.as_ref().ok_or(SaveError::NoKvm)?);
        saver.flags()?;
        self.mover.begin()?;
        let control = self.clone();
        let thread = thread::Builder::new().name("migrate".to_owned());
        let started = thread.spawn(move || run(&control, &saver, &order));
        started.map(drop).map_err(|error| {
            self.mover.end(Err(error.to_string()));
            error.into()
        })
    }
}

fn run(control: &MachineControl, saver: &VmSaver, order: &MoveOrder) {
    let outcome = connect(control, order).and_then(|stream| {
        let mut source = MoveSource {
            control,
            saver,
            downtime: order.downtime,
            stream,
            notes: false,
            sent: 0,
            sending: Duration::ZERO,
        };
        source.all().map_err(|error| source.give_up(error))
    });
    match outcome {
        Ok(downtime) => {
            control.mover.end(Ok(downtime));
            control.stop.stop(StopReason::Moved {
                socket: order.socket.clone(),
                downtime_ms: millis(downtime),
            });
        }
        Err(error) => {
            let why = one_line(&error);
            log::warn!("migrate: the VM stays: {why}");
            control.mover.end(Err(why));
        }
    }
}

fn connect(control: &MachineControl, order: &MoveOrder) -> Result<UnixStream, MoveError> {
    let failed = |source| MoveError::Connect {
        socket: order.socket.clone(),
        source,
    };
    let stream = socket_file::connect(&order.socket, CONNECT_TIME).map_err(failed)?;
    stream.set_write_timeout(Some(SEND_TIME))?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    if control.mover.connected(stream.try_clone()?) {
        Ok(stream)
    } else {
        Err(io::Error::from(io::ErrorKind::ConnectionAborted).into())
    }
}

/// The side of a migration where the guest is.
struct MoveSource<'a> {
    control: &'a MachineControl,
    saver: &'a VmSaver,
    downtime: Duration,
    stream: UnixStream,
    /// Whether written pages are noted.
    notes: bool,
    /// Bytes so far, and how long they took.
    sent: u64,
    sending: Duration,
}

impl MoveSource<'_> {
    /// All of it; returns how long the guest stood.
    fn all(&mut self) -> Result<Duration, MoveError> {
        // Whoever cannot be saved says so before anything is copied.
        let can_be = self.control.devices.can_be_saved();
        can_be.map_err(SaveError::from)?;
        let pages = pages_of(&self.saver.memory);
        let flags = self.saver.flags()?;
        stream::write_hello(&mut self.stream, pages * PAGE as u64, flags)?;
        self.begin_notes()?;
        let all = 0..pages;
        self.round(1, std::slice::from_ref(&all))?;
        let mut left = PageSet::default();
        for round in 2..=MOST_ROUNDS {
            left.merge(&self.saver.dirty.take()?);
            if self.takes(&left) <= self.downtime
                && let Some(downtime) = self.finish(round, &mut left)?
            {
                return Ok(downtime);
            }
            self.round(round, &left.ranges())?;
            left = PageSet::default();
        }
        Err(MoveError::TooFast {
            rounds: MOST_ROUNDS,
            pages: self.saver.dirty.take()?.len(),
        })
    }

    /// Has written pages noted from here on. The guest stands for a moment: what a device
    /// is writing would be in no notes.
    fn begin_notes(&mut self) -> Result<(), MoveError> {
        let _turn = self.control.mover.turn();
        let mut log_use = self.saver.log_use();
        if matches!(*log_use, LogUse::Base(_)) {
            self.saver.dirty.stop();
        }
        *log_use = LogUse::Migration;
        self.notes = true;
        drop(log_use);
        self.paused(|source| Ok(source.saver.dirty.start()?))
    }

    /// Does something while the guest stands, which goes on then, if it was not paused.
    fn paused<T>(
        &mut self,
        what: impl FnOnce(&mut Self) -> Result<T, MoveError>,
    ) -> Result<T, MoveError> {
        let was_paused = self.control.vcpus.is_paused();
        self.control.pause(PAUSE_TIME).map_err(SaveError::from)?;
        let done = what(self);
        if !was_paused {
            self.control.resume();
        }
        done
    }

    /// How long some pages and the rest will take.
    fn takes(&self, pages: &PageSet) -> Duration {
        /// Bytes from which on a rate can be told, and the rate until then, bytes a second.
        const ENOUGH: u64 = 4 << 20;
        const UNKNOWN: f64 = 5e8;
        let rate = if self.sent < ENOUGH {
            UNKNOWN
        } else {
            self.sent as f64 / self.sending.as_secs_f64().max(1e-6)
        };
        REST.min(self.downtime / 2) + Duration::from_secs_f64(pages.bytes() as f64 / rate.max(1.0))
    }

    /// Sends pages while the guest runs.
    fn round(&mut self, round: u32, pages: &[Range<u64>]) -> Result<(), MoveError> {
        let count = pages.iter().map(|range| range.end - range.start).sum();
        self.control.mover.note(|report| {
            report.stage = MoveStage::Copying;
            report.round = round;
            report.round_pages = count;
        });
        self.send(pages)
    }

    /// Sends pages: those of zeros as numbers alone.
    fn send(&mut self, pages: &[Range<u64>]) -> Result<(), MoveError> {
        let began = Instant::now();
        let (control, to) = (self.control, &mut self.stream);
        let mut sent = 0;
        each_piece(&self.saver.memory, pages, |first, bytes| {
            if control.stop.reason().is_some() {
                return Err(SaveError::Ends.into());
            }
            let bytes_sent = send_piece(to, first, bytes).map_err(MoveError::from)?;
            sent += bytes_sent;
            control.mover.note(|report| {
                report.pages += (bytes.len() / PAGE) as u64;
                report.bytes += bytes_sent;
            });
            Ok::<_, MoveError>(())
        })?;
        self.sent += sent;
        self.sending += began.elapsed();
        Ok(())
    }

    /// Has the guest stand, and sends the rest; returns how long it stood. `None` if it has
    /// written too much meanwhile: it goes on, and `left` has what is to be sent.
    fn finish(&mut self, round: u32, left: &mut PageSet) -> Result<Option<Duration>, MoveError> {
        let control = self.control;
        let _turn = control.mover.turn();
        let was_paused = control.vcpus.is_paused();
        let began = Instant::now();
        control.pause(PAUSE_TIME).map_err(SaveError::from)?;
        let done = self.rest(round, left, was_paused);
        match done {
            Ok(true) => Ok(Some(began.elapsed())),
            done => {
                if !was_paused {
                    control.resume();
                }
                done.map(|_| None)
            }
        }
    }

    /// What is left of a guest that stands; whether it runs at the destination now.
    fn rest(&mut self, round: u32, left: &mut PageSet, paused: bool) -> Result<bool, MoveError> {
        let control = self.control;
        left.merge(&self.saver.dirty.take()?);
        if self.takes(left) > self.downtime && round < MOST_ROUNDS {
            return Ok(false);
        }
        let flags = self.saver.flags()?;
        let sections = self.saver.sections(control, flags, PAUSE_TIME)?;
        // What KVM wrote when it completed the vCPUs' last exits.
        left.merge(&self.saver.dirty.take()?);
        control.mover.note(|report| {
            report.stage = MoveStage::Finishing;
            report.round = round;
            report.round_pages = left.len();
        });
        self.stream.set_write_timeout(Some(ANSWER_TIME))?;
        self.send(&left.ranges())?;
        if control.stop.reason().is_some() {
            return Err(SaveError::Ends.into());
        }
        let told = stream::write_state(&mut self.stream, &sections, paused);
        let told = told.and_then(|()| stream::read_answer(&mut self.stream));
        match told {
            Ok(()) => Ok(true),
            Err(error @ StreamError::Refused(_)) => Err(error.into()),
            // From here on the destination can say nothing; what it has said is still there.
            Err(error) => {
                drop(self.stream.shutdown(Shutdown::Both));
                match stream::read_answer(&mut self.stream) {
                    Ok(()) => Ok(true),
                    Err(refusal @ StreamError::Refused(_)) => Err(refusal.into()),
                    Err(_) => Err(error.into()),
                }
            }
        }
    }

    /// The guest stays: nothing is noted any more. The destination may have said why.
    fn give_up(&mut self, error: MoveError) -> MoveError {
        drop(self.stream.shutdown(Shutdown::Both));
        let is_cut = matches!(error, MoveError::Stream(StreamError::Io(_)));
        let error = match is_cut.then(|| stream::read_answer(&mut self.stream)) {
            Some(Err(refusal @ StreamError::Refused(_))) => refusal.into(),
            _ => error,
        };
        if self.notes {
            self.saver.dirty.stop();
            *self.saver.log_use() = LogUse::Nobody;
        }
        error
    }
}

/// Sends neighbours; returns how many bytes of memory were sent.
fn send_piece(to: &mut impl Write, first: u64, bytes: &[u8]) -> Result<u64, StreamError> {
    let mut sent = 0;
    let most = usize::try_from(MOST_PAGES).unwrap_or(1);
    let pages: Vec<_> = bytes.chunks(PAGE).collect();
    let mut at = 0;
    for run in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let start = first + at as u64;
        if run.first().is_some_and(|page| is_zero(page)) {
            stream::write_zeros(to, start..start + run.len() as u64)?;
        } else {
            let run = bytes.get(at * PAGE..(at + run.len()) * PAGE);
            for (number, part) in run.unwrap_or_default().chunks(most * PAGE).enumerate() {
                stream::write_pages(to, start + (number * most) as u64, part)?;
                sent += part.len() as u64;
            }
        }
        at += run.len();
    }
    Ok(sent)
}
