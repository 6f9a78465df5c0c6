//! `selfmon MODE [ROUNDS [MS]]`: reads its own cycles with RDPMC, as perf's mmap page
//! says (`perf_event_open(2)`, `struct perf_event_mmap_page`), each time between
//! two `read(2)` of the same counter.
//!
//! | mode | does |
//! |---|---|
//! | `open` | an event that counts from its opening on |
//! | `enable` | one that is started by ioctl after it was mapped |
//! | `fault` | RDPMC without any event: SIGSEGV where it is not permitted |
//! | `unmapped` | RDPMC after the page was unmapped: SIGSEGV as well |
//!
//! With MS, it waits so many milliseconds between mapping and the first round.
//! Prints what it saw, and exits with status 1 if a value was not between the
//! two around it.
#![expect(unsafe_code, reason = "system calls, a shared page, and RDPMC")]

use std::arch::asm;
use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::offset_of;
use std::process::ExitCode;
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn read(fd: c_int, buffer: *mut c_void, len: usize) -> isize;
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
}

const SYS_PERF_EVENT_OPEN: c_long = 298;
const PERF_EVENT_IOC_ENABLE: c_long = 0x2400;
const PROT_READ: c_int = 1;
const MAP_SHARED: c_int = 1;
const PAGE: usize = 4096;
/// `perf_event_attr.flags`: disabled.
const DISABLED: u64 = 1;
/// `capabilities`: `cap_user_rdpmc`.
const CAP_USER_RDPMC: u64 = 1 << 2;

/// The beginning of `perf_event_attr`; the rest is 0. Type 0 and config 0 are
/// `PERF_TYPE_HARDWARE` and `PERF_COUNT_HW_CPU_CYCLES`.
#[repr(C)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    rest: [u64; 8],
}

/// The beginning of `perf_event_mmap_page`.
#[repr(C)]
struct Page {
    version: u32,
    compat_version: u32,
    lock: u32,
    index: u32,
    offset: i64,
    time_enabled: u64,
    time_running: u64,
    capabilities: u64,
    pmc_width: u16,
}

/// One counter of this thread.
struct Event {
    fd: c_int,
    page: *const Page,
}

impl Event {
    fn open(flags: u64) -> io::Result<Self> {
        let attr = Attr {
            kind: 0,
            size: u32::try_from(size_of::<Attr>()).unwrap_or(0),
            config: 0,
            period: 0,
            sample_type: 0,
            read_format: 0,
            flags,
            rest: [0; 8],
        };
        // SAFETY: `attr` is as long as it says; this thread, any CPU, no group.
        let fd = unsafe { syscall(SYS_PERF_EVENT_OPEN, &raw const attr, 0, -1, -1, 0) };
        let fd = c_int::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh mapping, of the one page that an event has without a
        // ring buffer.
        let page = unsafe { mmap(std::ptr::null_mut(), PAGE, PROT_READ, MAP_SHARED, fd, 0) };
        if page.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        let page = page.cast_const().cast();
        Ok(Self { fd, page })
    }

    fn enable(&self) {
        // SAFETY: the request takes no pointer.
        unsafe { ioctl(self.fd, PERF_EVENT_IOC_ENABLE, 0) };
    }

    /// The count, by `read(2)`.
    fn by_read(&self) -> i64 {
        let mut value = 0_i64;
        // SAFETY: eight bytes are asked for, and `value` has them.
        unsafe { read(self.fd, (&raw mut value).cast(), size_of::<i64>()) };
        value
    }

    /// The count by RDPMC; `None` while the event is on no counter.
    fn by_rdpmc(&self) -> Option<i64> {
        loop {
            let lock: u32 = self.field(offset_of!(Page, lock));
            compiler_fence(Ordering::SeqCst);
            let index: u32 = self.field(offset_of!(Page, index));
            let offset: i64 = self.field(offset_of!(Page, offset));
            let width: u16 = self.field(offset_of!(Page, pmc_width));
            let count = (index != 0).then(|| {
                let unused = 64 - u32::from(width);
                offset.wrapping_add((rdpmc(index - 1) << unused).cast_signed() >> unused)
            });
            compiler_fence(Ordering::SeqCst);
            if self.field::<u32>(offset_of!(Page, lock)) == lock {
                return count;
            }
        }
    }

    /// A field of the page, as the kernel has it now.
    fn field<T: Copy>(&self, offset: usize) -> T {
        let place = self.page.cast::<u8>().wrapping_add(offset).cast::<T>();
        // SAFETY: the offsets of `Page` lie in the page, which is mapped until
        // `unmap`; its fields are plain numbers at aligned offsets.
        unsafe { place.read_volatile() }
    }

    fn is_offered(&self) -> bool {
        let capabilities: u64 = self.field(offset_of!(Page, capabilities));
        capabilities & CAP_USER_RDPMC != 0
    }

    fn unmap(&self) {
        // SAFETY: nobody reads the page any more.
        unsafe { munmap(self.page.cast_mut().cast(), PAGE) };
    }
}

fn rdpmc(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter, or ends the program by SIGSEGV.
    unsafe {
        asm!("rdpmc", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// What the rounds showed.
#[derive(Default)]
struct Seen {
    wrong: u64,
    absent: u64,
    longest: i64,
    first_wrong: Option<(u64, [i64; 3])>,
}

fn monitor(event: &Event, rounds: u64) -> Seen {
    let mut seen = Seen::default();
    for round in 0..rounds {
        let before = event.by_read();
        let value = event.by_rdpmc();
        let after = event.by_read();
        match value {
            None => seen.absent += 1,
            Some(value) if (before..=after).contains(&value) => {
                seen.longest = seen.longest.max(after - before);
            }
            Some(value) => {
                seen.wrong += 1;
                seen.first_wrong
                    .get_or_insert((round, [before, value, after]));
            }
        }
        for n in 0..round % 5_000 {
            std::hint::black_box(n);
        }
    }
    seen
}

/// Sleeping would switch tasks, and so write to the counters.
fn wait_busily(settle: Duration) {
    let start = Instant::now();
    while start.elapsed() < settle {
        std::hint::spin_loop();
    }
}

fn run(mode: &str, rounds: u64, settle: Duration) -> io::Result<bool> {
    if mode == "fault" {
        println!("rdpmc={:#x}", rdpmc(0));
        return Ok(true);
    }
    let event = Event::open(if mode == "enable" { DISABLED } else { 0 })?;
    if mode == "enable" {
        event.enable();
    }
    if !event.is_offered() {
        println!("cap_user_rdpmc=0");
        return Ok(true);
    }
    wait_busily(settle);
    let seen = monitor(&event, rounds);
    println!(
        "mode={mode} rounds={rounds} wrong={} absent={} longest={} first_wrong={:?} count={}",
        seen.wrong,
        seen.absent,
        seen.longest,
        seen.first_wrong,
        event.by_read()
    );
    if mode == "unmapped" {
        event.unmap();
        println!("rdpmc={:#x}", rdpmc(0));
    }
    Ok(seen.wrong == 0 && seen.absent < rounds)
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let mut number = |default| args.next().map_or(Ok(default), |text| text.parse());
    let (rounds, settle) = (number(1_000), number(0));
    let modes = ["open", "enable", "fault", "unmapped"];
    let (true, Ok(rounds), Ok(settle)) = (modes.contains(&mode.as_str()), rounds, settle) else {
        eprintln!("usage: selfmon open|enable|fault|unmapped [ROUNDS [MS]]");
        return ExitCode::from(2);
    };
    match run(&mode, rounds, Duration::from_millis(settle)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("selfmon: {error}");
            ExitCode::from(2)
        }
    }
}
