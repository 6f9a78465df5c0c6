//! A running VM with a control socket.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Code, Guest};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// It is killed, and its socket removed, when it is dropped.
pub struct Vm {
    pub child: Child,
    pub socket: PathBuf,
    pub guest: Guest,
    /// Bytes on its console so far, if somebody watches it.
    printed: Arc<AtomicU64>,
}

/// Short: a socket's path is limited.
pub fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pv-{name}-{}", std::process::id()))
}

/// `perfvisor ctl` with the VM at this socket.
pub fn ctl(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["ctl", "--api-socket"])
        .arg(socket)
        .args(args)
        .output()
        .unwrap()
}

/// A command that works.
pub fn tell(socket: &Path, args: &[&str]) {
    let output = ctl(socket, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
}

impl Vm {
    /// Started, its socket open. `None`, loudly, where there is no KVM.
    pub fn start(name: &str, code: &Code, pmu: &str, args: &[&str]) -> Option<Self> {
        Self::start_under(&[], name, code, pmu, args)
    }

    /// The same, started by another command, such as `prlimit` with a limit.
    pub fn start_under(
        command: &[&str],
        name: &str,
        code: &Code,
        pmu: &str,
        args: &[&str],
    ) -> Option<Self> {
        let guest = Guest::new(name, code)?;
        let socket = socket_path(name);
        let flag = format!("path={}", socket.display());
        let mut child = guest.start_under(command, pmu, &[&["--api-socket", &flag], args].concat());
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                let mut text = String::new();
                let mut stderr = child.stderr.take().unwrap();
                stderr.read_to_string(&mut text).unwrap();
                panic!("it ended with {status}: {text}");
            }
            assert!(start.elapsed() < PATIENCE, "no socket");
            thread::sleep(Duration::from_millis(5));
        }
        Some(Self {
            child,
            socket,
            guest,
            printed: Arc::default(),
        })
    }

    /// The same; what it prints is read, and counted.
    pub fn start_watched(name: &str, code: &Code, pmu: &str, args: &[&str]) -> Option<Self> {
        let mut vm = Self::start(name, code, pmu, args)?;
        let mut console = vm.child.stdout.take().unwrap();
        let printed = Arc::clone(&vm.printed);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = console.read(&mut chunk) {
                printed.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
        Some(vm)
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.socket, args)
    }

    /// The text of a command that works.
    pub fn tell(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The line that a command fails with.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    pub fn ask(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.tell(&[&["--json"], args].concat())).unwrap()
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn printed(&self) -> u64 {
        self.printed.load(Ordering::Relaxed)
    }

    /// Waits until the guest has printed more.
    pub fn goes_on(&self) {
        let (before, start) = (self.printed(), Instant::now());
        while self.printed() <= before {
            assert!(start.elapsed() < PATIENCE, "the guest does not run");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it; its status and what it said on standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        self.tell(&["shutdown", "--force"]);
        self.wait()
    }

    /// Waits for its end; its status and what it said on standard error.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        assert!(!self.socket.exists(), "the socket is left behind");
        (status.code(), text)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.socket));
    }
}
