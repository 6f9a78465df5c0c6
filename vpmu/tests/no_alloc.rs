//! What a scheduler does all the time must not allocate.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

#[path = "../benches/ops/mod.rs"]
#[allow(dead_code, reason = "shared with the benches")]
mod ops;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ops::Bench;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to `System` as it came.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|a| a.set(a.get() + 1));
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

/// Allocations of 1,000 operations, after as many to warm up.
fn allocations(op: &str, n: usize) -> u64 {
    let mut bench = Bench::new(op, n, 2);
    (0..1000).for_each(|_| bench.run(op, n));
    let before = ALLOCATIONS.with(Cell::get);
    (0..1000).for_each(|_| bench.run(op, n));
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn reschedules_and_switches_do_not_allocate() {
    for n in [3, 10, 1000] {
        assert_eq!(allocations("reschedule", n), 0, "reschedule of {n}");
        assert_eq!(allocations("switch", n), 0, "switch of {n}");
    }
}

#[test]
fn rotation_allocates_nodes_of_its_order_only_now_and_then() {
    // A rotated group leaves the first node of two trees and enters the last.
    for n in [10, 1000] {
        let count = allocations("rotation", n);
        assert!(
            count <= 500,
            "{count} allocations in 1,000 rotations of {n}"
        );
    }
}
