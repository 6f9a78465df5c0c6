//! What a request to a disk costs: instructions of the host and its guest, and exits, against
//! QEMU's virtio-blk-pci in the same nested host. The same kernel and the same first program
//! make the same requests to the same file.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::super::{Clock, GuestTest, Runs, Seen};
use crate::say;

const FILES: [(&str, &str); 2] = [
    ("cost.c", include_str!("cost.c")),
    ("archive.py", include_str!("../archive.py")),
];

/// Requests of a measurement of depth 1. Each is an interrupt, of which the emulation delivers
/// one in a thousand twice; some of those end the guest (resources/README.md).
const REQUESTS: u32 = 400;

/// QEMU's ways to a file, with and without a thread for the disk. Each is a row of its own: an
/// emulated host now and then stands still under QEMU, and then one row begins again.
const WAYS: [&str; 4] = ["threads", "io_uring", "threads-thread", "io_uring-thread"];

/// The guest's memory is 256 MiB, and the disk's file, of 64 MiB, is in the host's memory:
/// nothing waits for a device of the host. `marks VMM` shows the marks that the guest prints,
/// with the exits of all guests at that moment. The guest's driver of performance counters
/// tries registers that a guest without a PMU has not; the host's kernel need not tell.
const LINE: &str = "\
    echo 0 >/sys/module/kvm/parameters/report_ignored_msrs; \
    cd /tmp; mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; \
    kernel=$(echo /boot/vmlinuz-6.12.*); modules=/lib/modules/${kernel#*vmlinuz-}/kernel; \
    cp /images/cost.c .; gcc -O2 -static -o cost cost.c; \
    python3 /images/archive.py init=cost blk.ko.xz=$modules/drivers/block/virtio_blk.ko.xz >cost.cpio; \
    head -c 67108864 /dev/urandom >disk; \
    words='console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests -- REQUESTS /blk.ko.xz'; \
    marks() { while read -r word rest; do \
      read -r exits </sys/kernel/debug/kvm/exits; \
      case $word in begin|end) echo \"$1 $word $rest $exits\";; \
        *) echo \"$1: $word $rest\";; esac; done; }; \
    perfvisor run --kernel $kernel --initramfs cost.cpio --cpus boot=1 --memory size=256M --pmu off \
      --disk path=disk,format=raw --serial tty --cmdline \"$words\" </dev/null | marks perfvisor; \
    object=; thread=; \
    case WAY in *-thread) object='-object iothread,id=t,poll-max-ns=0'; thread=,iothread=t;; esac; \
    qemu-system-x86_64 -machine q35 -accel kvm -cpu host -smp 1 -m 256 -nodefaults -no-reboot -display none \
      -serial stdio -kernel $kernel -initrd cost.cpio -append \"$words\" $object \
      -drive if=none,id=d,file=disk,format=raw,cache=writeback,aio=AIO \
      -device virtio-blk-pci,drive=d,disable-legacy=on$thread </dev/null | marks qemu";

/// A row for each way of QEMU.
pub(super) fn all() -> Vec<GuestTest> {
    WAYS.into_iter().map(against).collect()
}

fn against(way: &str) -> GuestTest {
    let line = LINE
        .replace("REQUESTS", &REQUESTS.to_string())
        .replace("AIO", way.trim_end_matches("-thread"))
        .replace("WAY", way);
    GuestTest {
        runs: Runs::OnHost,
        debian: true,
        peer: true,
        files: &FILES,
        clock: Clock::Instructions,
        limit: 300,
        on_request: "disk-cost",
        ..GuestTest::new(format!("disk-cost/{way}"), line, no_dearer)
    }
}

/// What one request takes.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Cost {
    instructions: f64,
    exits: f64,
}

/// The costs by way and depth, of one VMM.
type Costs = BTreeMap<(String, u32), Cost>;

/// The costs of each VMM, less those of the marks themselves.
fn costs(console: &str) -> Result<BTreeMap<String, Costs>> {
    let mut begun = BTreeMap::new();
    let mut of_marks = BTreeMap::new();
    let mut all: BTreeMap<String, Costs> = BTreeMap::new();
    for line in console.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            [vmm, "begin", way, depth, exits] => {
                begun.insert((vmm, way, depth), exits.parse::<u32>()?);
            }
            [vmm, "end", way, depth, requests, ticks, exits] => {
                let before = begun.get(&(vmm, way, depth));
                let before = before.context("an end without a beginning")?;
                let all_exits = f64::from(exits.parse::<u32>()? - before);
                if way == "none" {
                    of_marks.insert(vmm, all_exits);
                    continue;
                }
                let requests: f64 = requests.parse()?;
                let marks = of_marks.get(vmm);
                let marks = marks.context("no measurement without requests")?;
                let cost = Cost {
                    instructions: ticks.parse::<f64>()? / requests,
                    exits: (all_exits - marks) / requests,
                };
                let costs = all.entry(vmm.to_owned()).or_default();
                costs.insert((way.to_owned(), depth.parse()?), cost);
            }
            _ => {}
        }
    }
    Ok(all)
}

/// That perfvisor is in nothing above QEMU.
fn no_dearer(seen: &Seen, test: &GuestTest) -> Result<()> {
    let mut of = costs(&seen.console)?;
    let own = of.remove("perfvisor").context("nothing of perfvisor")?;
    let qemu = of.remove("qemu").context("nothing of QEMU")?;
    ensure!(own.len() == 4, "measurements: {own:?}");
    let mut dear = Vec::new();
    for ((way, depth), cost) in &own {
        let theirs = qemu.get(&(way.clone(), *depth));
        let theirs = theirs.with_context(|| format!("QEMU has no {way} of depth {depth}"))?;
        say!(
            "{}: {way}, depth {depth}: {:.0} instructions and {:.2} exits a request, QEMU {:.0} and {:.2}",
            test.name,
            cost.instructions,
            cost.exits,
            theirs.instructions,
            theirs.exits
        );
        if cost.instructions > theirs.instructions || cost.exits > theirs.exits {
            dear.push(format!("{way} at depth {depth}"));
        }
    }
    if dear.is_empty() {
        return Ok(());
    }
    bail!("dearer than QEMU: {}", dear.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of one VMM: what the marks cost, and a measurement of so much more.
    fn lines(vmm: &str, ticks: u32, exits: u32) -> String {
        let mut text = format!("{vmm} begin none 1 100\n{vmm} end none 1 0 50 110\n{vmm}: more\n");
        for (way, depth) in [("read", 1), ("read", 16), ("write", 1), ("write", 16)] {
            let (ticks, exits) = (ticks * REQUESTS, 210 + exits * REQUESTS);
            text += &format!(
                "{vmm} begin {way} {depth} 200\n{vmm} end {way} {depth} {REQUESTS} {ticks} {exits}\n"
            );
        }
        text
    }

    fn console(own: (u32, u32), peers: (u32, u32)) -> Seen {
        Seen {
            console: lines("perfvisor", own.0, own.1) + &lines("qemu", peers.0, peers.1),
            ..Seen::default()
        }
    }

    #[test]
    fn costs_are_those_of_requests_alone() {
        let all = costs(&lines("perfvisor", 30_000, 2)).unwrap();
        let cost = all["perfvisor"][&("read".to_owned(), 16)];
        let expected = Cost {
            instructions: 30_000.0,
            exits: 2.0,
        };
        assert_eq!(cost, expected);
        assert_eq!(all["perfvisor"].len(), 4);
    }

    #[test]
    fn a_request_that_is_dearer_than_qemus_fails() {
        let test = all().remove(0);
        let told = |own, peers| no_dearer(&console(own, peers), &test).map_err(|e| e.to_string());
        assert_eq!(told((30_000, 2), (30_000, 2)), Ok(()));
        let dearer = "dearer than QEMU: read at depth 1, read at depth 16, write at depth 1, write at depth 16";
        assert_eq!(told((30_001, 2), (30_000, 2)), Err(dearer.into()));
        assert_eq!(told((30_000, 3), (30_000, 2)), Err(dearer.into()));
        let gone = Seen::default();
        assert!(no_dearer(&gone, &test).is_err());
    }
}
