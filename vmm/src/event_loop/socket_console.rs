//! The serial console at a Unix socket: one client at a time, whose bytes are typed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{drain, watch};
use crate::devices::serial::{self, SerialPort};
use crate::sys::socket_file::SocketFile;

/// Whoever is connected, for the thread that writes what the guest prints. Without a
/// client it goes nowhere.
#[derive(Clone, Debug, Default)]
pub struct SocketClient(Arc<Mutex<Option<Arc<UnixStream>>>>);

impl SocketClient {
    fn get(&self) -> Option<Arc<UnixStream>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, client: Option<Arc<UnixStream>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

impl Write for SocketClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not under the lock: it waits for a client that does not read.
        let Some(client) = self.get() else {
            return Ok(bytes.len());
        };
        match (&*client).write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            // It has gone, which its other end finds out too.
            Err(_) | Ok(0) => Ok(bytes.len()),
            Ok(written) => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that waits for clients, and its client.
#[derive(Debug)]
pub struct ListeningConsole {
    /// The socket.
    pub file: SocketFile,
    /// Whoever is connected.
    pub client: SocketClient,
}

/// A client of the socket as the guest's keyboard.
#[derive(Debug)]
pub struct SocketConsole {
    socket: ListeningConsole,
    port: Arc<Mutex<SerialPort>>,
    drained: EventFd,
    watching: bool,
}

impl SocketConsole {
    /// Feeds `port` from whoever connects.
    #[must_use]
    pub const fn new(
        socket: ListeningConsole,
        port: Arc<Mutex<SerialPort>>,
        drained: EventFd,
    ) -> Self {
        Self {
            socket,
            port,
            drained,
            watching: false,
        }
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        let client = match self.socket.file.listener().accept() {
            Ok((client, _)) => client,
            Err(error) => return log::debug!("the serial socket: {error}"),
        };
        if self.socket.client.get().is_some() {
            // There is one keyboard. The connection ends here.
            return log::debug!("the serial socket has a client already");
        }
        self.watching = watch(ops, &client, "the client of the serial socket");
        self.socket.client.set(Some(Arc::new(client)));
    }

    /// Passes on what the port has room for; stops listening when it has none.
    fn feed(&mut self, client: &Arc<UnixStream>, ops: &mut EventOps<'_>) {
        let room = serial::lock(&self.port).room();
        if room == 0 {
            return self.wait_for_room(client, ops);
        }
        let mut buffer = [0u8; 64];
        let len = room.min(buffer.len());
        match (&**client).read(buffer.get_mut(..len).unwrap_or_default()) {
            Ok(read @ 1..) => {
                serial::lock(&self.port).input(buffer.get(..read).unwrap_or_default());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                drop(ops.remove(Events::new(&**client, EventSet::IN)));
                self.watching = false;
                // Wakes the thread that may be writing.
                drop(client.shutdown(Shutdown::Both));
                self.socket.client.set(None);
            }
        }
    }

    fn wait_for_room(&mut self, client: &Arc<UnixStream>, ops: &mut EventOps<'_>) {
        if self.watching {
            drop(ops.remove(Events::new(&**client, EventSet::IN)));
            self.watching = false;
        }
        // The guest may have read it empty in between.
        if serial::lock(&self.port).room() > 0 {
            self.watching = watch(ops, &**client, "the client of the serial socket");
        }
    }
}

impl MutEventSubscriber for SocketConsole {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.socket.file.listener().as_raw_fd() {
            return self.accept(ops);
        }
        let client = self.socket.client.get();
        if events.fd() == self.drained.as_raw_fd() {
            drain(&self.drained);
            if let Some(client) = client.filter(|_| !self.watching) {
                self.watching = watch(ops, &*client, "the client of the serial socket");
            }
        } else if let Some(client) = client.filter(|client| client.as_raw_fd() == events.fd()) {
            self.feed(&client, ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, self.socket.file.listener(), "the serial socket");
        watch(ops, &self.drained, "the serial port");
    }
}

#[cfg(test)]
mod tests {
    use event_manager::{EventManager, SubscriberOps};

    use super::super::Subscriber;
    use super::*;
    use crate::devices::BusDevice;
    use crate::devices::serial::ConsoleOutput;
    use crate::sys::scratch::Scratch;

    /// Bits and registers of a 16550A.
    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;

    #[test]
    fn one_client_at_a_time_types_and_reads() {
        let scratch = Scratch::new("serial-socket");
        let path = scratch.0.join("serial");
        let client = SocketClient::default();
        let output = ConsoleOutput::to(Box::new(client.clone())).unwrap();
        let parts = serial::SerialPort::create(output).unwrap();
        let port = Arc::clone(&parts.port);
        let file = SocketFile::bind("--serial: socket", &path).unwrap();
        let socket = ListeningConsole { file, client };
        let console = SocketConsole::new(socket, parts.port, parts.drained);
        let mut events = EventManager::<Subscriber>::new().unwrap();
        events.add_subscriber(Arc::new(Mutex::new(console)));
        let mut serve = || while events.run_with_timeout(0).unwrap() > 0 {};

        // Nobody is there: what is printed waits for nobody.
        serial::lock(&port).write(DATA, b"a");
        assert!(
            parts
                .output
                .wait_until_empty(std::time::Duration::from_secs(60))
        );
        serial::lock(&port).write(INTERRUPT_ENABLE, &[1]);
        for _ in 0..2 {
            let mut first = UnixStream::connect(&path).unwrap();
            let mut second = UnixStream::connect(&path).unwrap();
            // More than the port has room for.
            let typed = vec![b'x'; 200];
            first.write_all(&typed).unwrap();
            serve();
            assert_eq!(second.read(&mut [0]).unwrap(), 0, "there is one already");
            for _ in &typed {
                let mut byte = [0];
                serial::lock(&port).read(DATA, &mut byte);
                assert_eq!(&byte, b"x");
                serve();
            }
            serial::lock(&port).write(DATA, b"b");
            let mut printed = [0];
            first.read_exact(&mut printed).unwrap();
            assert_eq!(&printed, b"b");
            drop(first);
            serve();
        }
        drop(events);
        assert!(!path.exists());
    }
}
