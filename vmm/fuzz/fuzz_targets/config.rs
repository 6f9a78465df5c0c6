//! The texts that an operator or a host gives: flags of `perfvisor run`, filter
//! files, lists of CPUs and PMU formats in sysfs. Taken or refused with a
//! message that names the flag, never a panic.
//! `cargo +nightly fuzz run config -s none` in `vmm`.
#![no_main]

mod files;

use std::cell::RefCell;

use clap::Parser;
use files::Scratch;
use libfuzzer_sys::fuzz_target;
use vmm::cli::{Cli, Command, RunArgs};
use vmm::config::{FilterArg, PmuArg, VmConfig};
use vmm::pmu::event_filter;
use vpmu::host::linux::sysfs::{CpuSet, PmuDetails};

thread_local! {
    static FILTER: RefCell<Scratch> = RefCell::new(Scratch::new("filter"));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => flags(&text),
        1 => filter(rest),
        2 => cpus(&text),
        _ => formats(&text),
    }
});

/// One flag a line.
fn flags(text: &str) {
    let words = ["perfvisor", "run", "--kernel", "k"]
        .into_iter()
        .chain(text.lines());
    let Ok(cli) = Cli::try_parse_from(words) else {
        return;
    };
    let Command::Run(args) = cli.command else {
        return;
    };
    match args.vm_config() {
        Ok(config) => check(&config, &args),
        Err(error) => assert!(error.to_string().contains("--"), "{error}"),
    }
}

fn check(config: &VmConfig, args: &RunArgs) {
    let cpus = &config.cpus;
    assert!(cpus.boot >= 1 && cpus.boot <= cpus.max, "{args:?}");
    assert_eq!(cpus.topology.cpus(), u64::from(cpus.max), "{args:?}");
    let mut ids: Vec<u32> = cpus.possible().map(|v| cpus.topology.apic_id(v)).collect();
    ids.dedup();
    assert_eq!(ids.len(), usize::from(cpus.max), "an id each: {args:?}");
    if let PmuArg::On(pmu) = &config.pmu
        && let Some(model) = pmu.model
    {
        let shape = pmu.shape(model);
        assert!(model.check(shape).is_ok(), "{args:?}: {shape:?}");
    }
}

fn filter(bytes: &[u8]) {
    FILTER.with_borrow_mut(|scratch| {
        let arg = FilterArg::File(scratch.holding(bytes).to_owned());
        if let Err(error) = event_filter::read(&arg) {
            assert!(error.to_string().starts_with("--pmu filter=@"));
        }
    });
}

fn cpus(text: &str) {
    let Some(set) = CpuSet::parse(text) else {
        return;
    };
    assert_eq!(set.iter().count(), set.len());
    if set.is_empty() {
        return;
    }
    let list = set.to_string();
    assert_eq!(CpuSet::parse(&list), Some(set), "{list}");
}

/// Lines `name=format`, then the event.
fn formats(text: &str) {
    let mut details = PmuDetails::default();
    let mut event = "";
    for line in text.lines() {
        if let Some((name, format)) = line.split_once('=') {
            details.formats.insert(name.to_owned(), format.to_owned());
        }
        event = line;
    }
    let _ = details.encode(event);
}
