use super::super::entry_hook::tests::{ENTRY, IDT, virt};
use super::super::pace::tests::{never, works_a_millisecond};
use super::super::request::ScanRequest;
use super::super::{Sites, TextVerdict, pattern};
use super::*;
use crate::kvm::paging::tests::{Guest, PAGING};
use vm_memory::GuestAddress;
use vpmu::units::Nanos;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const SITE: u64 = TEXT + 0x200;
const READER: [u8; 6] = [0x0f, 0x33, 0x48, 0xc1, 0xe2, 0x20];
/// RDPMC whose upper half is thrown away.
const ODD: [u8; 4] = [0x0f, 0x33, 0x89, 0xc3];

/// A guest without an interrupt table, on a host that answers RDPMC: its text is scanned.
fn guest_with(code: &[u8]) -> (GuestRam, Arc<Rewriter>) {
    guest_on(UserAccess::Answered, code)
}

fn guest_on(access: UserAccess, code: &[u8]) -> (GuestRam, Arc<Rewriter>) {
    let mut guest = Guest::new();
    guest.map(TEXT, 0x20_0000, 1, false);
    guest
        .memory
        .write_slice(&vec![0x90; 2 << 20], GuestAddress(0x20_0000))
        .unwrap();
    guest
        .memory
        .write_slice(code, GuestAddress(0x20_0200))
        .unwrap();
    (
        guest.memory.clone(),
        Arc::new(Rewriter::new(guest.memory, access)),
    )
}

fn cover(sites: &mut Sites, rip: u64, idt: u64) -> ReaderService {
    let mut verdict = sites.cover(place(rip, idt));
    loop {
        match verdict {
            TextVerdict::Known(service) => return service,
            TextVerdict::Later(_) => verdict = sites.go_on().unwrap(),
        }
    }
}

fn cover_by(rewriter: &Arc<Rewriter>, rip: u64, idt: u64) -> ReaderService {
    cover(&mut Sites::new(Arc::clone(rewriter)), rip, idt)
}

const fn place(rip: u64, idt: u64) -> TextPlace {
    TextPlace {
        paging: PAGING,
        rip,
        idt,
    }
}

fn code(memory: &GuestRam) -> [u8; 2] {
    memory.read_obj(GuestAddress(0x20_0200)).unwrap()
}

#[test]
fn one_vcpu_rewrites_and_all_see_the_place() {
    let (memory, rewriter) = guest_with(&READER);
    let (mut one, mut other) = (Sites::new(Arc::clone(&rewriter)), Sites::new(rewriter));
    assert_eq!(one.verdict(TEXT), None);
    assert!(!other.contains(TEXT + 0x200));
    assert_eq!(cover(&mut one, TEXT, 0), ReaderService::Served);
    assert_eq!(code(&memory), [0x0f, 0x32]);
    assert!(other.contains(TEXT + 0x200) && !other.contains(TEXT + 0x201));
    assert_eq!(other.verdict(TEXT + 0x1f_ffff), Some(ReaderService::Served));
    assert_eq!(
        other.verdict(TEXT + 0x20_0000),
        None,
        "other text is scanned when it asks"
    );
}

#[test]
fn a_second_scan_of_the_same_text_changes_nothing() {
    let (memory, rewriter) = guest_with(&READER);
    let mut sites = Sites::new(rewriter);
    assert_eq!(cover(&mut sites, TEXT, 0), ReaderService::Served);
    memory
        .write_obj([0x0f_u8, 0x33], GuestAddress(0x20_0200))
        .unwrap();
    assert_eq!(cover(&mut sites, TEXT, 0), ReaderService::Served);
    assert_eq!(code(&memory), [0x0f, 0x33], "not looked at again");
}

/// A kernel with one site and a #GP entry of Linux's, on a host that answers RDPMC.
fn kernel() -> (Guest, Arc<Rewriter>) {
    kernel_on(UserAccess::Answered)
}

fn kernel_on(access: UserAccess) -> (Guest, Arc<Rewriter>) {
    let guest = entry_hook::tests::guest(&LINUX);
    let text = [&[NOP; 128][..], &READER].concat();
    guest.memory.write_slice(&text, SITE_BEGIN).unwrap();
    let rewriter = Rewriter::new(guest.memory.clone(), access);
    (guest, Arc::new(rewriter))
}

const LINUX: [u8; 8] = [0x0f, 0x01, 0xca, 0xfc, 0xe8, 1, 2, 3];
const NOP: u8 = 0x90;
const SITE_BEGIN: GuestAddress = GuestAddress(0x20_0180);

fn rings(sites: &mut Sites) -> bool {
    sites.refresh();
    sites.known.rung_at(ENTRY).is_some()
}

/// G-505: a kexec puts another kernel at the same addresses.
#[test]
fn overwritten_text_is_scanned_again_and_other_text_is_not() {
    let (guest, rewriter) = kernel();
    let mut sites = Sites::new(Arc::clone(&rewriter));
    assert_eq!(cover(&mut sites, TEXT, IDT), ReaderService::Served);
    rewriter.forget_overwritten(&rewriter.current(), PAGING);
    assert_eq!(sites.verdict(TEXT), Some(ReaderService::Served), "intact");
    let fresh = [&[NOP; 6][..], &READER].concat();
    for (bytes, at) in [(&fresh[..], 0x20_0200), (&LINUX, 0x20_1000)] {
        guest.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }
    rewriter.forget_overwritten(&rewriter.current(), PAGING);
    assert_eq!(sites.verdict(TEXT), None);
    assert!(!sites.contains(SITE) && !rings(&mut sites));
    assert_eq!(cover(&mut sites, TEXT, IDT), ReaderService::Served);
    assert!(sites.contains(SITE + 6) && !sites.contains(SITE) && rings(&mut sites));
}

#[test]
fn a_site_outlives_a_doorbell_and_a_doorbell_a_site() {
    let (guest, rewriter) = kernel();
    let mut sites = Sites::new(Arc::clone(&rewriter));
    assert_eq!(cover(&mut sites, TEXT, IDT), ReaderService::Served);
    let again = |bytes: &[u8], at| {
        guest.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        rewriter.forget_overwritten(&rewriter.current(), PAGING);
        cover_by(&rewriter, TEXT, IDT)
    };
    // The entry is fresh, the site is ours.
    assert_eq!(again(&LINUX, 0x20_1000), ReaderService::Served);
    assert!(sites.contains(SITE) && rings(&mut sites));
    assert_eq!(virt(&guest).code(ENTRY), Some([0xe6_u8, 0xe6, 0x90]));
    // The site is fresh, the entry is ours.
    assert_eq!(again(&READER, 0x20_0200), ReaderService::Served);
    assert!(sites.contains(SITE) && rings(&mut sites));
    assert_eq!(virt(&guest).code(SITE), Some(RDMSR));
    assert!(!rewriter.no_doorbell_said.load(Ordering::Relaxed));
}

/// What was changed speaks for text that has nothing else to be found.
#[test]
fn rewritten_text_with_doubtful_bytes_is_served_when_scanned_again() {
    let (guest, rewriter) = kernel();
    guest
        .memory
        .write_slice(&ODD, GuestAddress(0x20_0210))
        .unwrap();
    assert_eq!(cover_by(&rewriter, TEXT, IDT), ReaderService::Served);
    guest
        .memory
        .write_slice(&LINUX, GuestAddress(0x20_1000))
        .unwrap();
    rewriter.forget_overwritten(&rewriter.current(), PAGING);
    assert_eq!(cover_by(&rewriter, TEXT, IDT), ReaderService::Served);
}

/// Text in which nothing was changed cannot show that it is still the same.
#[test]
fn a_second_kernel_behind_a_loader_or_an_unserved_one_is_scanned() {
    for (first, verdict) in [
        (&ODD, ReaderService::Unserved),
        (&[NOP; 4], ReaderService::Served),
    ] {
        let (memory, rewriter) = guest_with(first);
        let mut sites = Sites::new(Arc::clone(&rewriter));
        assert_eq!(cover(&mut sites, TEXT, 0), verdict);
        memory
            .write_slice(&READER, GuestAddress(0x20_0200))
            .unwrap();
        assert_eq!(cover(&mut sites, TEXT, 0), verdict, "not yet");
        rewriter.forget_overwritten(&rewriter.current(), PAGING);
        assert_eq!(cover(&mut sites, TEXT, 0), ReaderService::Served);
        assert_eq!(code(&memory), RDMSR);
    }
}

const MODULE: u64 = TEXT + 0x40_0000;

/// A module at [`MODULE`] with this text.
fn load_module(guest: &mut Guest, text: &[u8]) {
    guest.map(MODULE, 0x40_2000, 0, false);
    let text = [&[NOP; 128][..], text].concat();
    guest
        .memory
        .write_slice(&text, GuestAddress(0x40_2000))
        .unwrap();
}

/// Constants of a filter that a program of the guest has had the kernel compile: decoded
/// from within, they are a reader.
const SPRAY: [u8; 12] = [
    0x35, 0x90, 0x0f, 0x33, 0xeb, // xor eax, imm32
    0x35, 0x48, 0xc1, 0xe2, 0x20, // xor eax, imm32
    0xc3, NOP,
];
const FILLER: [u8; 5] = [0x35, NOP, NOP, NOP, 0xa8];

fn module_text(guest: &Guest, len: usize) -> Vec<u8> {
    let mut text = vec![0; len];
    let begin = GuestAddress(0x40_2000 + 128);
    guest.memory.read_slice(&mut text, begin).unwrap();
    text
}

/// Text that a program can have made lies where modules lie, and is never changed.
#[test]
fn a_modules_text_is_left_alone() {
    let spray = [&FILLER.repeat(16)[..], &SPRAY].concat();
    for (access, verdict) in [
        (UserAccess::Faults, ReaderService::Served),
        (UserAccess::Answered, ReaderService::Unserved),
    ] {
        for text in [&spray[..], &READER] {
            let (mut guest, rewriter) = kernel_on(access);
            assert_eq!(cover_by(&rewriter, TEXT, IDT), ReaderService::Served);
            load_module(&mut guest, text);
            let mut sites = Sites::new(Arc::clone(&rewriter));
            assert_eq!(sites.verdict(MODULE), None, "it is looked at when it asks");
            assert_eq!(cover(&mut sites, MODULE, IDT), verdict, "{text:x?}");
            assert_eq!(module_text(&guest, text.len()), text);
        }
    }
}

/// It may write a counter that it does not read.
#[test]
fn a_module_without_readers_is_served() {
    let (mut guest, rewriter) = kernel();
    load_module(&mut guest, &[NOP; 8]);
    assert_eq!(cover_by(&rewriter, MODULE, IDT), ReaderService::Served);
}

/// The doorbell serves every reader and rewrites those that the kernel executes.
#[test]
fn where_rdpmc_faults_no_text_is_looked_at() {
    let (guest, rewriter) = kernel_on(UserAccess::Faults);
    let odd = GuestAddress(0x20_0210);
    guest.memory.write_slice(&ODD, odd).unwrap();
    let mut sites = Sites::new(Arc::clone(&rewriter));
    let at_once = sites.cover(place(TEXT, IDT));
    assert_eq!(at_once, TextVerdict::Known(ReaderService::Served));
    assert!(rings(&mut sites) && sites.is_bell(0xe6) && !sites.is_bell(0x1e6));
    assert_eq!(virt(&guest).code(SITE), Some(RDPMC));
    assert!(rewriter.current().sites().is_empty());
    rewriter.rewrite_missed(virt(&guest), SITE);
    assert_eq!(virt(&guest).code(SITE), Some(RDMSR));
    assert!(!rewriter.no_doorbell_said.load(Ordering::Relaxed));
}

/// Where an unserved RDPMC is heard of.
#[test]
fn where_rdpmc_faults_no_guest_is_refused() {
    let busy = pattern::RDPMC.repeat(2_000);
    for text in [&ODD[..], &busy] {
        let (memory, rewriter) = guest_on(UserAccess::Faults, text);
        assert_eq!(cover_by(&rewriter, TEXT, 0), ReaderService::Served);
        let mut now = vec![0; text.len()];
        let begin = GuestAddress(0x20_0200);
        memory.read_slice(&mut now, begin).unwrap();
        assert_eq!(now, text, "and it is not touched");
        assert!(rewriter.no_doorbell_said.load(Ordering::Relaxed));
    }
}

/// A guest that takes no doorbell has its readers rewritten where its driver is.
#[test]
fn where_rdpmc_faults_the_first_text_alone_is_scanned() {
    let mut guest = Guest::new();
    for (address, physical) in [(TEXT, 0x20_0000), (MODULE, 0x40_0000)] {
        guest.map(address, physical, 1, false);
        let text = [&[NOP; 0x200][..], &READER].concat();
        guest
            .memory
            .write_slice(&text, GuestAddress(physical))
            .unwrap();
    }
    let rewriter = Arc::new(Rewriter::new(guest.memory.clone(), UserAccess::Faults));
    for rip in [TEXT, MODULE] {
        assert_eq!(cover_by(&rewriter, rip, 0), ReaderService::Served);
    }
    assert_eq!(virt(&guest).code(SITE), Some(RDMSR));
    assert_eq!(virt(&guest).code(MODULE + 0x200), Some(RDPMC));
}

#[test]
fn a_guest_that_keeps_us_busy_is_not_served_and_not_touched() {
    let pairs = [&READER[..], &pattern::RDPMC.repeat(1_000)].concat();
    let sites = READER.repeat(300);
    for code in [pairs, sites] {
        let (memory, rewriter) = guest_with(&code);
        let mut sites = Sites::new(rewriter);
        assert_eq!(cover(&mut sites, TEXT, 0), ReaderService::Unserved);
        assert_eq!(sites.verdict(TEXT), Some(ReaderService::Unserved), "once");
        let mut now = vec![0; code.len()];
        memory
            .read_slice(&mut now, GuestAddress(0x20_0200))
            .unwrap();
        assert_eq!(now, code);
        assert!(!sites.contains(SITE));
    }
}

/// Each needs an entry in a list otherwise, and is scanned time and again.
#[test]
fn text_that_cannot_be_remembered_is_not_scanned() {
    let (guest, rewriter) = kernel();
    let other = |n: u64| n << 30..=(n << 30) + 1;
    Arc::get_mut(&mut rewriter.lock()).unwrap().fill(other);
    assert_eq!(cover_by(&rewriter, TEXT, IDT), ReaderService::Unserved);
    assert_eq!(virt(&guest).code(SITE), Some(pattern::RDPMC));
    let before = rewriter.changes.load(Ordering::Relaxed);
    assert_eq!(cover_by(&rewriter, 0x1234, IDT), ReaderService::Unserved);
    assert_eq!(rewriter.changes.load(Ordering::Relaxed), before);
}

#[test]
fn what_is_no_text_is_not_served_and_not_remembered() {
    let (_, rewriter) = guest_with(&READER);
    assert_eq!(cover_by(&rewriter, 0x1234, 0), ReaderService::Unserved);
    assert_eq!(*rewriter.current(), Known::default());
    assert_eq!(rewriter.changes.load(Ordering::Relaxed), 0);
}

/// Without a doorbell, too, a fault is better than a silent 0 (G-508).
#[test]
fn pce_is_watched_where_rdpmc_is_answered_whatever_the_entry_is() {
    for (access, watched) in [(UserAccess::Answered, true), (UserAccess::Faults, false)] {
        let guest = entry_hook::tests::guest(&[0x50; 8]);
        let rewriter = Arc::new(Rewriter::new(guest.memory.clone(), access));
        let mut sites = Sites::new(Arc::clone(&rewriter));
        sites.refresh();
        assert!(!sites.watches_pce(), "a guest without a PMU");
        assert_eq!(cover(&mut sites, TEXT, IDT), ReaderService::Served);
        assert!(!rings(&mut sites) && rewriter.no_doorbell_said.load(Ordering::Relaxed));
        assert_eq!(sites.watches_pce(), watched);
    }
}

#[test]
fn a_kernel_that_reads_in_an_unknown_way_is_not_served_and_not_touched() {
    let (memory, rewriter) = guest_with(&ODD);
    let mut sites = Sites::new(rewriter);
    assert_eq!(cover(&mut sites, TEXT, 0), ReaderService::Unserved);
    assert_eq!(code(&memory), [0x0f, 0x33]);
}

#[test]
fn a_guest_without_rdpmc_needs_no_rewriting() {
    let (_, rewriter) = guest_with(&[0x90; 4]);
    assert_eq!(cover_by(&rewriter, TEXT, 0), ReaderService::Served);
}

const NO_KICK: fn() -> bool = || false;
const KICKED: fn() -> bool = || true;

/// A guest that asks for scans all the time neither holds up its other vCPUs nor
/// keeps its own from being paused.
#[test]
fn a_scan_stops_for_a_kick_and_holds_no_lock() {
    let (memory, rewriter) = guest_with(&READER);
    let mut request = ScanRequest::new(place(TEXT, 0));
    let mut pieces = 0;
    loop {
        match request.go_on(&rewriter, KICKED) {
            TextVerdict::Later(wait) => assert_eq!(wait, Nanos(0)),
            TextVerdict::Known(verdict) => break assert_eq!(verdict, ReaderService::Served),
        }
        pieces += 1;
        assert!(rewriter.known.try_lock().is_ok());
    }
    assert!(pieces > 10, "{pieces}");
    assert_eq!(code(&memory), RDMSR);
    let mut request = ScanRequest::new(place(TEXT, 0));
    let locked = || {
        assert!(rewriter.known.try_lock().is_ok(), "between two pieces");
        false
    };
    request.go_on(&rewriter, locked);
}

#[test]
fn other_vcpus_wait_for_the_answer_of_the_one_that_scans() {
    let (_, rewriter) = guest_with(&READER);
    let mut first = ScanRequest::new(place(TEXT, 0));
    let mut second = ScanRequest::new(place(TEXT + 8, 0));
    assert_eq!(first.go_on(&rewriter, KICKED), TextVerdict::Later(Nanos(0)));
    for wait in [1_000_000, 2_000_000] {
        let verdict = second.go_on(&rewriter, NO_KICK);
        assert_eq!(verdict, TextVerdict::Later(Nanos(wait)));
    }
    let served = TextVerdict::Known(ReaderService::Served);
    assert_eq!(first.go_on(&rewriter, NO_KICK), served);
    assert_eq!(second.go_on(&rewriter, NO_KICK), served);
}

#[test]
fn a_vcpu_that_ends_in_a_scan_leaves_it_to_the_next() {
    let (_, rewriter) = guest_with(&READER);
    let mut first = ScanRequest::new(place(TEXT, 0));
    first.go_on(&rewriter, KICKED);
    drop(first);
    assert_eq!(cover_by(&rewriter, TEXT, 0), ReaderService::Served);
}

#[test]
fn a_scan_without_time_left_waits() {
    let (memory, _) = guest_with(&READER);
    let pace = ScanPace::with_clocks(never, works_a_millisecond);
    let rewriter = Rewriter::with_pace(memory, UserAccess::Answered, pace);
    for _ in 0..1_000 {
        rewriter.pace.charged(|| ());
    }
    let mut request = ScanRequest::new(place(TEXT, 0));
    for _ in 0..3 {
        let verdict = request.go_on(&rewriter, NO_KICK);
        assert_eq!(verdict, TextVerdict::Later(Nanos(50_000_000)));
    }
}

/// The guest runs on while it is scanned: what was a reader may be none at the end.
#[test]
fn text_that_changes_during_a_scan_is_scanned_again() {
    let (memory, rewriter) = guest_with(&READER);
    let mut request = ScanRequest::new(place(TEXT, 0));
    // All but the end.
    while request.found().is_none_or(|found| found.readers.is_empty()) {
        request.go_on(&rewriter, KICKED);
    }
    let moved = [&[NOP; 8][..], &READER].concat();
    memory.write_slice(&moved, GuestAddress(0x20_0200)).unwrap();
    let verdict = request.go_on(&rewriter, NO_KICK);
    assert_eq!(verdict, TextVerdict::Known(ReaderService::Served));
    assert_eq!(code(&memory), [NOP; 2], "no byte of it is changed");
    assert!(rewriter.is_site(SITE + 8) && !rewriter.is_site(SITE));
}

/// Another kernel may lie there by then.
#[test]
fn text_that_is_forgotten_during_a_scan_is_scanned_again() {
    let (guest, rewriter) = kernel();
    assert_eq!(cover_by(&rewriter, TEXT, IDT), ReaderService::Served);
    let other = guest.memory.clone();
    other.write_slice(&READER, GuestAddress(0x20_0200)).unwrap();
    rewriter.forget_overwritten(&rewriter.current(), PAGING);
    let mut request = ScanRequest::new(place(TEXT, IDT));
    request.go_on(&rewriter, KICKED);
    let begun = rewriter.times_forgotten();
    guest
        .memory
        .write_slice(&LINUX, GuestAddress(0x20_1000))
        .unwrap();
    rewriter.forget_overwritten(&rewriter.current(), PAGING);
    assert_ne!(rewriter.times_forgotten(), begun);
    let nothing = Scan::default();
    assert_eq!(rewriter.conclude(place(TEXT, IDT), &nothing, begun), None);
    let verdict = request.go_on(&rewriter, NO_KICK);
    assert_eq!(verdict, TextVerdict::Known(ReaderService::Served));
    assert!(rewriter.is_site(SITE));
}
