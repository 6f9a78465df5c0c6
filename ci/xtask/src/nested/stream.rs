//! What comes out of the nested host: two byte streams and a line-wise control
//! channel, each read by a thread and handed on as events, for as long as whoever waits
//! for them has patience.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::patience::{self, Effort, Patience, Watch, Why};

/// A channel out of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The job's standard output.
    Output,
    /// The job's standard error.
    Error,
    /// What /init has to say.
    Control,
}

/// What a reader thread saw.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes of the job.
    Data(Stream, Vec<u8>),
    /// A line of /init.
    Control(String),
    /// The stream's end: the mark, or QEMU's end.
    Closed(Stream),
    /// The user has typed the keys that end it.
    Quit,
}

/// The events of a process, until it is given up.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    events: &'a Receiver<Event>,
    process: u32,
    watch: Option<Watch>,
    limit: Option<Duration>,
    began: Instant,
}

impl<'a> Watched<'a> {
    /// Those of a process and its descendants, with how long it may stand still, and how
    /// long it may take by the wall's clock.
    pub(crate) fn new(
        events: &'a Receiver<Event>,
        process: u32,
        patience: Option<Patience>,
        limit: Option<Duration>,
    ) -> Self {
        let began = Instant::now();
        let watch = patience.map(|p| Watch::new(p, began, Effort::of_tree(process)));
        Self {
            events,
            process,
            watch,
            limit,
            began,
        }
    }

    /// The next event; nothing if there will be none.
    ///
    /// # Errors
    /// Why the process is given up.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, Why> {
        loop {
            let now = Instant::now();
            let left = match self.limit {
                None => patience::PERIOD,
                Some(limit) => limit.saturating_sub(now.duration_since(self.began)),
            };
            if let Some(limit) = self.limit.filter(|_| left.is_zero()) {
                return Err(Why::TooLong(limit));
            }
            if let Some(watch) = self.watch.as_mut().filter(|w| w.is_due(now))
                && let Some(why) = watch.look(now, Effort::of_tree(self.process))
            {
                return Err(why);
            }
            match self.events.recv_timeout(left.min(patience::PERIOD)) {
                Ok(event) => {
                    if let (Event::Data(..), Some(watch)) = (&event, &mut self.watch) {
                        watch.progress();
                    }
                    return Ok(Some(event));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}

/// A byte string that no job prints by accident: it ends a stream.
pub(crate) fn new_mark() -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "\0perfvisor-end-{:x}-{}\0",
        now.as_nanos(),
        std::process::id()
    )
    .into_bytes()
}

/// Hands bytes on until the mark or the end of the stream.
pub(crate) fn read_data(stream: Stream, mut from: impl Read, mark: &[u8], to: &Sender<Event>) {
    let mut held = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        held.extend_from_slice(&buffer[..n]);
        let (ready, ended) = split(&held, mark);
        let rest = held.split_off(ready);
        let data = std::mem::replace(&mut held, rest);
        if !data.is_empty() && to.send(Event::Data(stream, data)).is_err() {
            return;
        }
        if ended {
            held.clear();
            break;
        }
    }
    if !held.is_empty() {
        let _receiver_gone = to.send(Event::Data(stream, held));
    }
    let _receiver_gone = to.send(Event::Closed(stream));
}

/// How many bytes are surely the job's, and whether the mark follows them.
fn split(held: &[u8], mark: &[u8]) -> (usize, bool) {
    if mark.is_empty() {
        return (held.len(), false);
    }
    if let Some(at) = held.windows(mark.len()).position(|w| w == mark) {
        return (at, true);
    }
    let longest = (1..mark.len()).rev().find(|&n| held.ends_with(&mark[..n]));
    (held.len() - longest.unwrap_or(0), false)
}

/// Hands control lines on until the end of the stream.
pub(crate) fn read_control(from: impl Read, to: &Sender<Event>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        if to.send(Event::Control(line)).is_err() {
            return;
        }
    }
    let _receiver_gone = to.send(Event::Closed(Stream::Control));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len());
            to[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn the_mark_is_cut_off_wherever_it_is_split() {
        let input = b"one\0two\0MARKlater";
        for step in 1..=input.len() {
            let (to, from) = std::sync::mpsc::channel();
            read_data(Stream::Output, Slow(input, step), b"\0MARK", &to);
            drop(to);
            let data = from.iter().filter_map(|e| match e {
                Event::Data(_, d) => Some(d),
                _ => None,
            });
            assert_eq!(data.flatten().collect::<Vec<_>>(), b"one\0two");
        }
    }

    #[test]
    fn a_process_that_stands_still_is_given_up_and_one_that_prints_is_not() {
        let (to, from) = std::sync::mpsc::channel();
        let patience = Patience {
            work: Duration::from_secs(3600),
            idle: patience::PERIOD,
        };
        // There is no such process: it uses nothing.
        let mut watched = Watched::new(&from, u32::MAX, Some(patience), None);
        to.send(Event::Data(Stream::Output, b"x".to_vec())).unwrap();
        assert!(matches!(watched.next(), Ok(Some(Event::Data(..)))));
        assert!(matches!(watched.next(), Err(Why::Idle(_))));
        let mut watched = Watched::new(&from, u32::MAX, None, Some(Duration::ZERO));
        assert!(matches!(watched.next(), Err(Why::TooLong(_))));
        drop(to);
        let mut watched = Watched::new(&from, u32::MAX, Some(patience), None);
        assert!(matches!(watched.next(), Ok(None)));
    }

    #[test]
    fn what_looks_like_a_mark_comes_out_at_the_end() {
        let (to, from) = std::sync::mpsc::channel();
        read_data(Stream::Output, &b"end\0MAR"[..], b"\0MARK", &to);
        drop(to);
        let all: Vec<Event> = from.iter().collect();
        assert!(matches!(&all[1], Event::Data(_, d) if d == b"\0MAR"));
        assert!(matches!(all[2], Event::Closed(Stream::Output)));
    }
}
