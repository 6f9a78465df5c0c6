//! What a process prints.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// What a process prints, read as it comes.
pub struct Printed {
    all: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Printed {
    pub fn of(child: &mut Child) -> Self {
        let all = Arc::new(Mutex::new(Vec::new()));
        let mut stdout = child.stdout.take().unwrap();
        let to = Arc::clone(&all);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut chunk) {
                to.lock().unwrap().extend(&chunk[..read]);
            }
        });
        Self { all, reader }
    }

    pub fn get(&self) -> Vec<u8> {
        self.all.lock().unwrap().clone()
    }

    /// Waits until so many more bytes have come.
    pub fn more(&self, count: usize) {
        let (start, before) = (Instant::now(), self.get().len());
        while self.get().len() < before + count {
            assert!(start.elapsed() < PATIENCE, "the guest prints nothing");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// All of it, of a process that has ended.
    pub fn complete(self) -> Vec<u8> {
        self.reader.join().unwrap();
        self.all.lock().unwrap().clone()
    }
}

/// A connection to a process that starts to listen.
pub fn connected(socket: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the socket of a process that starts.
pub fn wait_for_socket(socket: &Path) {
    let start = Instant::now();
    while !socket.exists() {
        assert!(start.elapsed() < PATIENCE, "no socket");
        thread::sleep(Duration::from_millis(5));
    }
}
