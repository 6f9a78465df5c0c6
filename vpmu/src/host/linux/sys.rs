//! The system calls, and the only unsafe code of this crate.
#![expect(
    unsafe_code,
    reason = "perf_event_open, its ioctls and fcntl have no safe binding"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use perf_event_open_sys::bindings::{perf_event_attr, perf_event_mmap_page};
use perf_event_open_sys::ioctls;

/// `F_SETOWN_EX` owner kind: a thread. From `<asm-generic/fcntl.h>`.
const F_OWNER_TID: c_int = 0;

/// `struct f_owner_ex` of `<asm-generic/fcntl.h>`.
#[repr(C)]
struct FOwnerEx {
    kind: c_int,
    pid: libc::pid_t,
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Opens an event on the calling thread, on any CPU, without a group.
pub(super) fn open_on_this_thread(attr: &mut perf_event_attr) -> io::Result<OwnedFd> {
    const THIS_THREAD: libc::pid_t = 0;
    const ANY_CPU: c_int = -1;
    open(attr, THIS_THREAD, ANY_CPU)
}

/// Opens an event on a CPU, whatever runs there, without a group.
pub(super) fn open_on_cpu(attr: &mut perf_event_attr, cpu: u32) -> io::Result<OwnedFd> {
    const ANY_TASK: libc::pid_t = -1;
    let cpu = c_int::try_from(cpu).map_err(|_too_large| io::ErrorKind::InvalidInput)?;
    open(attr, ANY_TASK, cpu)
}

fn open(attr: &mut perf_event_attr, task: libc::pid_t, cpu: c_int) -> io::Result<OwnedFd> {
    const NO_GROUP: c_int = -1;
    attr.size = u32::try_from(size_of::<perf_event_attr>()).unwrap_or(u32::MAX);
    let flags = libc::c_ulong::from(perf_event_open_sys::bindings::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: `attr` is an initialised structure whose `size` field is its own
    // size, and the kernel writes into it no further than that. It asks for no
    // memory of this process to be written (no mmap, no user-provided pointers).
    let fd =
        check(unsafe { perf_event_open_sys::perf_event_open(attr, task, cpu, NO_GROUP, flags) })?;
    // SAFETY: the kernel has just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Enables the event.
pub(super) fn enable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes no pointer; `fd` is open while it is borrowed.
    check(unsafe { ioctls::ENABLE(fd.as_raw_fd(), 0) }).map(drop)
}

/// Disables the event.
pub(super) fn disable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes no pointer; `fd` is open while it is borrowed.
    check(unsafe { ioctls::DISABLE(fd.as_raw_fd(), 0) }).map(drop)
}

/// Has the next overflow come after `period` more events.
pub(super) fn set_period(fd: BorrowedFd<'_>, period: u64) -> io::Result<()> {
    let pointer = &raw const period as u64;
    // SAFETY: PERF_EVENT_IOC_PERIOD reads one u64 from the address that it is
    // given (the binding types the argument as a plain u64); `period` lives
    // until the call returns.
    check(unsafe { ioctls::PERIOD(fd.as_raw_fd(), pointer) }).map(drop)
}

/// Reads the event's count; `None` if the event is in the error state, which
/// reads as end of file.
pub(super) fn read_count(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    Ok(read_words(fd)?.map(|[count]| count))
}

/// Reads the words that the event's `read_format` asks for, likewise.
pub(super) fn read_words<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<Option<[u64; N]>> {
    let mut words = [0_u64; N];
    // SAFETY: the buffer is valid for writes of its length, and any bytes make
    // words.
    let n = unsafe {
        libc::read(
            fd.as_raw_fd(),
            words.as_mut_ptr().cast(),
            size_of_val(&words),
        )
    };
    match usize::try_from(n) {
        Ok(0) => Ok(None),
        Ok(n) if n == size_of_val(&words) => Ok(Some(words)),
        Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        Err(_negative) => Err(io::Error::last_os_error()),
    }
}

/// The calling thread, by system call: the standard library refers to `gettid`
/// weakly, which leaves it undefined in a static binary.
pub(super) fn this_thread() -> libc::pid_t {
    // SAFETY: the call takes nothing and cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    libc::pid_t::try_from(tid).unwrap_or(0)
}

/// Has the kernel send `signal` to `thread` whenever the event overflows.
pub(super) fn signal_on_overflow(
    fd: BorrowedFd<'_>,
    thread: libc::pid_t,
    signal: c_int,
) -> io::Result<()> {
    /// `F_SETOWN_EX` of `<asm-generic/fcntl.h>`.
    const F_SETOWN_EX: c_int = 15;
    /// `F_SETSIG` of `<asm-generic/fcntl.h>`.
    const F_SETSIG: c_int = 10;
    let owner = FOwnerEx {
        kind: F_OWNER_TID,
        pid: thread,
    };
    // SAFETY: F_SETOWN_EX reads one f_owner_ex, whose layout FOwnerEx has.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner) })?;
    // SAFETY: F_SETSIG takes an integer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) })?;
    // SAFETY: F_SETFL takes an integer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_ASYNC) }).map(drop)
}

/// The page in which the kernel keeps what it knows of an event.
#[derive(Debug)]
pub(super) struct EventPage(NonNull<perf_event_mmap_page>);

// SAFETY: it is memory of the process, which any thread may read and unmap.
unsafe impl Send for EventPage {}

impl EventPage {
    /// Bytes of the page, also on a host with larger ones.
    const LEN: usize = size_of::<perf_event_mmap_page>();

    /// The page of the event, without a buffer for samples.
    pub(super) fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses harms nobody.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::LEN,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast());
        page.map(Self).ok_or(io::ErrorKind::OutOfMemory.into())
    }

    /// The number that grows whenever the kernel writes to the page.
    pub(super) fn updates(&self) -> u32 {
        let page = self.0.as_ptr();
        // SAFETY: the page is mapped while `self` lives; no reference is made of it.
        let lock = unsafe { &raw const (*page).lock };
        // SAFETY: as above; the kernel writes to it at any time, so the read is volatile.
        unsafe { lock.read_volatile() }
    }
}

impl Drop for EventPage {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has a pointer to it.
        let _ = unsafe { libc::munmap(self.0.as_ptr().cast(), Self::LEN) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    //! Signals, for the tests of overflow delivery.

    use std::ffi::c_int;

    /// Blocks `signal` in the calling thread.
    pub(in super::super) fn block(signal: c_int) -> libc::sigset_t {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised by the line above.
        let mut set = unsafe { set.assume_init() };
        // SAFETY: `set` is an initialised signal set.
        unsafe { libc::sigaddset(&raw mut set, signal) };
        // SAFETY: both pointers are valid or null, as the call allows.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        set
    }

    /// Whether `signal` of `set` arrives within a second.
    pub(in super::super) fn pending(set: &libc::sigset_t, signal: c_int) -> bool {
        let second = libc::timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        // SAFETY: `set` and `second` are valid; a null siginfo is allowed.
        let got = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &raw const second) };
        got == signal
    }
}
