//! The system calls. None is checked: the storm goes on.
#![expect(unsafe_code, reason = "system calls and shared pages")]

use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use super::attr::Attr;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn read(fd: c_int, buffer: *mut c_void, len: usize) -> isize;
    fn close(fd: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_long, ...) -> c_int;
    fn mmap(
        at: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: c_long,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
    #[link_name = "poll"]
    fn poll_fds(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    #[link_name = "fork"]
    fn fork_process() -> c_int;
    fn _exit(status: c_int) -> !;
    #[link_name = "kill"]
    fn send(pid: c_int, signal: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn sched_setaffinity(pid: c_int, len: usize, mask: *const u64) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
}

const SYS_PERF_EVENT_OPEN: c_long = 298;
const PAGE: usize = 4096;
/// Offsets of `data_head` and `data_tail` in the first page.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// A file descriptor of an event.
pub(crate) struct Fd(c_int);

impl Fd {
    pub(crate) fn open(attr: &Attr, pid: i32, cpu: i32, group: i32, flags: u64) -> Option<Self> {
        let attr: *const Attr = attr;
        // SAFETY: `attr` is as long as it says; the other arguments are numbers.
        let fd = unsafe { syscall(SYS_PERF_EVENT_OPEN, attr, pid, cpu, group, flags) };
        c_int::try_from(fd).ok().filter(|fd| *fd >= 0).map(Self)
    }

    pub(crate) const fn number(&self) -> i32 {
        self.0
    }

    fn ioctl(&self, request: c_long, argument: u64) {
        // SAFETY: the requests that are used take a number.
        unsafe { ioctl(self.0, request, argument) };
    }

    pub(crate) fn enable(&self, group: u64) {
        self.ioctl(0x2400, group);
    }

    pub(crate) fn disable(&self, group: u64) {
        self.ioctl(0x2401, group);
    }

    pub(crate) fn refresh(&self, count: u64) {
        self.ioctl(0x2402, count);
    }

    pub(crate) fn reset(&self, group: u64) {
        self.ioctl(0x2403, group);
    }

    pub(crate) fn set_period(&self, period: u64) {
        const PERIOD: c_long = 0x4008_2404;
        // SAFETY: the request reads a number of eight bytes, which is there.
        unsafe { ioctl(self.0, PERIOD, &raw const period) };
    }

    pub(crate) fn set_output(&self, other: i32) {
        self.ioctl(0x2405, u64::from(other.cast_unsigned()));
    }

    pub(crate) fn pause_output(&self, pause: u64) {
        self.ioctl(0x4004_2409, pause);
    }

    pub(crate) fn read(&self, most: u64) -> bool {
        let mut buffer = [0_u8; 600];
        let len = usize::try_from(most).unwrap_or(0).min(buffer.len());
        // SAFETY: so many bytes are there.
        unsafe { read(self.0, buffer.as_mut_ptr().cast(), len) > 0 }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: nobody else has the number.
        unsafe { close(self.0) };
    }
}

/// The pages that an event shares.
pub(crate) struct Mapping {
    at: *mut c_void,
    len: usize,
}

impl Mapping {
    pub(crate) fn new(fd: &Fd, pages: usize) -> Option<Self> {
        const READ_WRITE: c_int = 3;
        const SHARED: c_int = 1;
        let len = pages * PAGE;
        // SAFETY: a fresh mapping, wherever the kernel puts it.
        let at = unsafe { mmap(std::ptr::null_mut(), len, READ_WRITE, SHARED, fd.0, 0) };
        (at.addr() != usize::MAX).then_some(Self { at, len })
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        let place = self.at.cast::<u8>().wrapping_add(offset).cast();
        // SAFETY: aligned, in the first page, which is mapped as long as `self` is.
        unsafe { AtomicU64::from_ptr(place) }
    }

    /// Makes room for more samples.
    pub(crate) fn drain(&self) {
        let head = self.word(DATA_HEAD).load(Ordering::Acquire);
        self.word(DATA_TAIL).store(head, Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it any more.
        unsafe { munmap(self.at, self.len) };
    }
}

/// Polls events for a millisecond at most.
pub(crate) fn poll(fds: &[i32]) {
    let one = |fd: &i32| PollFd {
        fd: *fd,
        events: 1,
        revents: 0,
    };
    let mut fds: Vec<_> = fds.iter().map(one).collect();
    let count = c_ulong::try_from(fds.len()).unwrap_or(0);
    // SAFETY: so many entries are there.
    unsafe { poll_fds(fds.as_mut_ptr(), count, 1) };
}

pub(crate) fn fork() -> i32 {
    // SAFETY: this program has one thread.
    unsafe { fork_process() }
}

pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: ends the process, which has nothing to flush.
    unsafe { _exit(status) }
}

pub(crate) fn kill(child: i32) {
    const SIGKILL: c_int = 9;
    // SAFETY: a child that has not been waited for: its number is nobody else's.
    unsafe { send(child, SIGKILL) };
}

pub(crate) fn wait(child: i32) {
    let mut status = 0;
    // SAFETY: `status` is there.
    unsafe { waitpid(child, &raw mut status, 0) };
}

/// Switches all events of this task on, or off.
pub(crate) fn enable_all(on: bool) {
    let option = if on { 32 } else { 31 };
    // SAFETY: the options take no argument.
    unsafe { prctl(option) };
}

/// Lets this task run on the CPUs of a mask, where there are any.
pub(crate) fn move_to(mask: u64) {
    // SAFETY: a mask of eight bytes is there.
    unsafe { sched_setaffinity(0, size_of::<u64>(), &raw const mask) };
}

/// Signals that an event may send do nothing.
pub(crate) fn ignore_signals() {
    const IGNORE: usize = 1;
    for number in [1, 2, 13, 15, 29] {
        // SAFETY: there is no handler.
        unsafe { signal(number, IGNORE) };
    }
}
