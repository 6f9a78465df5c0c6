//! Between two entries into the guest nothing is allocated, whatever the guest does.
//!
//! A guest does one kind of thing few times and many times: the thread of its vCPU
//! allocates as often, but for what it allocates where it waits for the first time.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use vmm::cli::{Cli, Command};

struct Counting;

/// Those of a thread of this name.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
const THREAD: &[u8] = b"vcpu0\0";

// SAFETY: every call is passed on to `System` as it came.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut name = [0_u8; 16];
        // SAFETY: the buffer has the 16 bytes that the call writes.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        if name.starts_with(THREAD) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: `p` came from `System` with this layout.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `guests/accesses.s` does, in its order.
const KINDS: [&str; 11] = [
    "accesses of ports that nobody has",
    "accesses of memory that nobody has",
    "reads of registers",
    "writes that change nothing",
    "stops and starts",
    "switches between two tasks' events",
    "RDPMC of the kernel",
    "RDPMC of a program",
    "PMIs",
    "samples of the privilege level",
    "accesses that fault",
];

const FEW: u32 = 20;
const MANY: u32 = 1_020;
/// More than those of a thread that waits.
const UNSTEADY: u64 = 3;

/// The guest that does this so many times.
fn guest(kind: usize, rounds: u32) -> Option<common::Guest> {
    let hex = include_str!("guests/accesses.hex");
    let mut code = common::from_hex(hex);
    code[4..8].copy_from_slice(&u32::try_from(kind).unwrap().to_le_bytes());
    code[8..12].copy_from_slice(&rounds.to_le_bytes());
    let name = format!("accesses-{kind}-{rounds}");
    common::Guest::new(&name, &common::Code::default().raw(&code))
}

/// How often the vCPU's thread allocates from its start to its end.
fn allocations(kind: usize, rounds: u32, pmu: &str) -> Option<u64> {
    let guest = guest(kind, rounds)?;
    let kernel = guest.0.to_str().unwrap();
    let words = ["perfvisor", "run", "--serial", "null", "--pmu", pmu];
    let words = words
        .into_iter()
        .chain(["--memory", "size=16M", "--kernel", kernel]);
    let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
        return None;
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let status = vmm::run::run(&args, &[], None).unwrap();
    assert_eq!(status, 0, "{}", KINDS[kind]);
    Some(ALLOCATIONS.load(Ordering::Relaxed) - before)
}

#[test]
fn nothing_that_a_guest_does_allocates() {
    let mut found = Vec::new();
    for pmu in ["type=software,model=intel-v2", "off"] {
        // Without a PMU its registers fault, and RDPMC is what KVM makes of it.
        let with_pmu = pmu != "off";
        for (kind, what) in KINDS.iter().enumerate() {
            if !with_pmu && !["ports", "memory"].iter().any(|of| what.contains(of)) {
                continue;
            }
            let Some(few) = allocations(kind, FEW, pmu) else {
                return;
            };
            let many = allocations(kind, MANY, pmu).unwrap();
            eprintln!("--pmu {pmu}: {what}: {few} allocations, {many}");
            if many.abs_diff(few) > UNSTEADY {
                found.push(format!(
                    "{what} of --pmu {pmu}: {few} allocations, then {many}"
                ));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
