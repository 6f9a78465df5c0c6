//! The thread that serves the API.
//!
//! The API has its own thread, outside the event loop: an answer may have to wait
//! for a vCPU, and the console must not wait.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::connection::{Connection, Wants};
use super::routes;
use super::vm::VmControl;
use crate::rate_limit::RateLimit;
use crate::sys::socket_file::SocketFile;

/// The most connections at once; others wait in the socket's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long no client is accepted after the host refused one.
const REST: Duration = Duration::from_millis(100);

/// Tokens of the two descriptors that are no connections.
const LISTENER: u64 = 0;
const END: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// The API while it is served. Dropping it ends it and removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    end: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Serves `vm` on `socket`.
    ///
    /// # Errors
    /// If the host gives no thread, epoll or eventfd.
    pub fn start(socket: SocketFile, vm: VmControl) -> io::Result<Self> {
        let end = EventFd::new(EFD_NONBLOCK)?;
        let mut server = Server {
            epoll: Epoll::new()?,
            socket,
            vm,
            end: end.try_clone()?,
            connections: BTreeMap::new(),
            next: FIRST_CONNECTION,
            accepting: false,
            resting_until: None,
        };
        server.watch(ControlOperation::Add, &server.end, EventSet::IN, END)?;
        server.accept_again()?;
        let thread = thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || server.run())?;
        let thread = Some(thread);
        Ok(Self { end, thread })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if let Err(error) = self.end.write(1) {
            log::error!("api: cannot end the thread of the API: {error}");
            return;
        }
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("api: the thread of the API panicked");
        }
    }
}

#[derive(Debug)]
struct Server {
    epoll: Epoll,
    socket: SocketFile,
    vm: VmControl,
    end: EventFd,
    connections: BTreeMap<u64, Connection>,
    /// The next connection's token.
    next: u64,
    /// Whether the listener is watched.
    accepting: bool,
    /// The host refused a client: until when to leave it alone.
    resting_until: Option<Instant>,
}

impl Server {
    fn run(mut self) {
        if let Err(error) = self.serve() {
            log::error!("api: the thread of the API ended: {error}");
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); MAX_CONNECTIONS + 2];
        loop {
            let came = match self.epoll.wait(self.timeout(), &mut events) {
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            for event in events.iter().take(came) {
                match event.data() {
                    END => return Ok(()),
                    LISTENER => self.accept(),
                    token => self.go_on(token),
                }
            }
            self.expire();
            self.resting_until = self.resting_until.filter(|&end| end > Instant::now());
            let rested = self.resting_until.is_none();
            if !self.accepting && rested && self.connections.len() < MAX_CONNECTIONS {
                self.accept_again()?;
            }
        }
    }

    /// Milliseconds to the next deadline, rounded up; -1 if there is none.
    fn timeout(&self) -> i32 {
        let deadlines = self.connections.values().map(Connection::deadline);
        let Some(next) = deadlines.chain(self.resting_until).min() else {
            return -1;
        };
        let left = next.saturating_duration_since(Instant::now());
        i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
    }

    fn accept(&mut self) {
        while self.connections.len() < MAX_CONNECTIONS {
            let stream = match self.socket.listener().accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.rest(&error),
            };
            let outcome = Connection::new(stream, Instant::now()).and_then(|connection| {
                let token = self.next;
                self.watch(ControlOperation::Add, &connection, EventSet::IN, token)?;
                self.next += 1;
                self.connections.insert(token, connection);
                Ok(())
            });
            if let Err(error) = outcome {
                return self.rest(&error);
            }
        }
        self.stop_accepting();
    }

    /// The host is out of descriptors, say: the same would come at once again.
    fn rest(&mut self, error: &io::Error) {
        static LIMIT: RateLimit = RateLimit::new();
        if LIMIT.allow().is_some() {
            log::warn!("api: cannot accept a client: {error}");
        }
        self.resting_until = Some(Instant::now() + REST);
        self.stop_accepting();
    }

    fn stop_accepting(&mut self) {
        let listener = self.socket.listener();
        let gone = self.watch(ControlOperation::Delete, listener, EventSet::IN, LISTENER);
        self.accepting = gone.is_err();
    }

    fn accept_again(&mut self) -> io::Result<()> {
        let listener = self.socket.listener();
        self.watch(ControlOperation::Add, listener, EventSet::IN, LISTENER)?;
        self.accepting = true;
        Ok(())
    }

    fn go_on(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let vm = &mut self.vm;
        let wants = connection.ready(&mut |request| routes::dispatch(vm, request));
        let events = match wants {
            Wants::Read => EventSet::IN,
            Wants::Write => EventSet::OUT,
            Wants::Close => return drop(self.connections.remove(&token)),
        };
        let event = EpollEvent::new(events, token);
        let fd = connection.as_raw_fd();
        if let Err(error) = self.epoll.ctl(ControlOperation::Modify, fd, event) {
            log::debug!("api: a connection ends early: {error}");
            self.connections.remove(&token);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        self.connections.retain(|_, connection| {
            let over = connection.deadline() <= now;
            if over {
                connection.expire();
            }
            !over
        });
    }

    fn watch<T: AsRawFd>(
        &self,
        operation: ControlOperation,
        source: &T,
        events: EventSet,
        token: u64,
    ) -> io::Result<()> {
        let event = EpollEvent::new(events, token);
        self.epoll.ctl(operation, source.as_raw_fd(), event)
    }
}
