//! What must be undone however the process ends: the terminal is given back, and the
//! files of sockets go. Orderly ends do it by `Drop`; here it is done from a signal
//! handler, or when an end takes too long.
#![expect(unsafe_code, reason = "signal handlers, and what they may call")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::terminal;

/// A file that goes with the process, unless another file has its name by then.
struct DoomedFile {
    path: CString,
    device: u64,
    inode: u64,
}

/// Places of files. Whoever takes a file out owns it.
type Doomed = [AtomicPtr<DoomedFile>; 2];

const fn no_files() -> Doomed {
    [const { AtomicPtr::new(ptr::null_mut()) }; 2]
}

/// A process has two sockets at most: of its API and of the serial console.
static DOOMED: Doomed = no_files();

/// The place of a file that goes with the process.
#[derive(Debug)]
pub struct DoomedSlot(&'static AtomicPtr<DoomedFile>);

/// Faults of the VMM itself. The others that kill are events (see
/// [`super::signals`]).
const FATAL: [i32; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Has the file removed if the process ends in another way than in order. The
/// identity is that of `stat`: device and inode. `None` if there is no place for it.
pub fn doom_file(path: &Path, identity: (u64, u64)) -> Option<DoomedSlot> {
    doom_in(&DOOMED, path, identity)
}

fn doom_in(slots: &'static Doomed, path: &Path, (device, inode): (u64, u64)) -> Option<DoomedSlot> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let file = Box::new(DoomedFile {
        path,
        device,
        inode,
    });
    let file = Box::into_raw(file);
    let takes = |slot: &&AtomicPtr<DoomedFile>| {
        let empty = ptr::null_mut();
        slot.compare_exchange(empty, file, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    };
    let slot = slots.iter().find(takes);
    if slot.is_none() {
        // SAFETY: it came from `Box::into_raw` above, and no place has it.
        drop(unsafe { Box::from_raw(file) });
    }
    slot.map(DoomedSlot)
}

/// The file is its owner's again, who removes it.
pub fn spare_file(DoomedSlot(slot): DoomedSlot) {
    let old = slot.swap(ptr::null_mut(), Ordering::AcqRel);
    if !old.is_null() {
        // SAFETY: it came from `Box::into_raw`, and the swap gave it to us alone.
        drop(unsafe { Box::from_raw(old) });
    }
}

/// Gives the terminal back and removes the files. Does nothing the second time.
/// Async-signal-safe: it allocates, frees and locks nothing.
pub fn undo() {
    terminal::restore();
    DOOMED.iter().for_each(remove);
}

fn remove(slot: &AtomicPtr<DoomedFile>) {
    let file = slot.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: it is null or came from `Box::into_raw`; the swap gave it to us
    // alone, and it is never freed.
    let Some(file) = (unsafe { file.as_ref() }) else {
        return;
    };
    // SAFETY: all-zero is a valid `stat`.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte, and `found` is ours.
    let result = unsafe { libc::lstat(file.path.as_ptr(), &raw mut found) };
    if result == 0 && (found.st_dev, found.st_ino) == (file.device, file.inode) {
        // SAFETY: the path ends with a zero byte.
        unsafe { libc::unlink(file.path.as_ptr()) };
    }
}

/// Ends the process at once: nothing is flushed, no thread is waited for.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: the call does not return and takes a number.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Makes a fault of the VMM itself, or an abort, undo what must be undone. The
/// process then dies of the signal, as without a handler.
///
/// # Errors
/// What `sigaction` says.
pub fn undo_on_fatal_signals() -> io::Result<()> {
    for signal in FATAL {
        // SAFETY: all-zero is a valid `sigaction`: no flags, empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fatal as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `action` is initialised; the handler calls async-signal-safe
        // functions only.
        let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `SA_RESETHAND` has restored the default action when this runs.
extern "C" fn on_fatal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    undo();
    // SAFETY: the kernel passes a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    let repeats = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE].contains(&signal);
    // A fault happens again when the handler returns. A signal that somebody
    // sent, and a trap, do not.
    if code <= 0 || !repeats {
        // SAFETY: the call takes a number; the signal waits until the handler
        // returns.
        unsafe { libc::raise(signal) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_the_file_that_was_named_goes() {
        // Other tests have sockets.
        static SLOTS: Doomed = no_files();
        let path = std::env::temp_dir().join(format!("perfvisor-doomed-{}", std::process::id()));
        fs::write(&path, "old").unwrap();
        let identity = |path: &Path| {
            let file = fs::metadata(path).unwrap();
            (file.dev(), file.ino())
        };
        let (device, inode) = identity(&path);
        doom_in(&SLOTS, &path, (device, inode + 1)).unwrap();
        SLOTS.iter().for_each(remove);
        assert!(path.exists(), "another file has the name");
        let slots = [(); 2].map(|()| doom_in(&SLOTS, &path, (device, inode)).unwrap());
        assert!(
            doom_in(&SLOTS, &path, (device, inode)).is_none(),
            "no place"
        );
        slots.into_iter().for_each(spare_file);
        SLOTS.iter().for_each(remove);
        assert!(path.exists(), "it was spared");
        doom_in(&SLOTS, &path, (device, inode)).unwrap();
        SLOTS.iter().for_each(remove);
        assert!(!path.exists());
        SLOTS.iter().for_each(remove);
    }
}
