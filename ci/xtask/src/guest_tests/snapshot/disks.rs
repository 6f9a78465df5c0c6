//! A guest with vCPUs that come and go is saved while it writes a disk: afterwards all that it
//! has written is there, in place and on copies, and a disk that it does not know is refused.

use anyhow::{Result, ensure};

use super::super::on_host::Hosted;
use super::super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};

/// Times that the guest is saved and ended.
const LIVES: u32 = 2;
/// Pieces of half a MiB that it writes: it is saved amid them.
const PIECES: u32 = 24;

/// What the guest does: it writes pieces of the disk, tells of each, and compares all of them
/// with their sums when nothing of the disk is in its memory any more.
const IN_THE_GUEST: &str = "\
    modprobe virtio_blk; echo up; \
    until echo 1 >/sys/devices/system/cpu/cpu2/online; do sleep 0.1; done 2>/dev/null; echo cpus; \
    perf stat -x, -e cycles -I 200 -o /tmp/counts sleep 1000 & counter=$!; \
    piece() { dd if=/dev/vda bs=64k count=8 skip=$((8*$1)) 2>/dev/null | md5sum; }; \
    n=0; while [ $n -lt PIECES ]; do dd if=/dev/urandom of=/tmp/piece bs=64k count=8 2>/dev/null; \
      dd if=/tmp/piece of=/dev/vda bs=64k seek=$((8*n)) conv=notrunc,fsync 2>/dev/null; \
      md5sum </tmp/piece >/tmp/sum$n; n=$((n+1)); echo tick; done; echo written; \
    kill $counter; echo 3 >/proc/sys/vm/drop_caches; equal=0; \
    while [ $n -gt 0 ]; do n=$((n-1)); piece $n | cmp -s - /tmp/sum$n && equal=$((equal+1)); done; \
    echo equal=$equal; echo cpus=$(nproc); echo reseeded=$(dmesg | grep -c reseeded); ";

/// The line of the host. `saved N` saves the guest amid its work and ends it.
const ON_THE_HOST: &str = "\
    word up; $ctl vcpu add 1; $ctl vcpu add 2; word cpus; \
    until $ctl vcpu list | grep -q 'vCPU 1: not plugged in'; do $ctl vcpu remove 1; sleep 0.2; done; echo unplugged; \
    ticks() { grep -c ^tick $1; }; \
    more() { m=$(ticks $1); until [ $(ticks $1) -gt $m ]; do sleep 0.05; done; }; \
    restored() { perfvisor run --restore /tmp/life$1 --disk path=$2 --serial file=$3,append=on --api-socket /tmp/$4 & }; \
    up() { until perfvisor ctl --api-socket /tmp/$1 info >/tmp/info; do sleep 0.05; done 2>/dev/null; }; \
    saved() { more /tmp/console; $ctl snapshot /tmp/life$1 --stop; wait $vmm; echo ended=$?; }; \
    for n in $(seq LIVES); do saved $n; rm -rf /tmp/life$((n-1)); \
      restored $n /tmp/disk /tmp/console api; vmm=$!; up api; done; \
    saved 9; cp /tmp/disk /tmp/copy; cp /tmp/console /tmp/other; \
    restored 9 /tmp/disk /tmp/console api; vmm=$!; restored 9 /tmp/copy /tmp/other api2; twin=$!; \
    wait $vmm; echo status=$?; wait $twin; echo twin=$?; \
    restored 9 /tmp/disk /tmp/console api 2>/tmp/refusal; wait $!; echo again=$?; cat /tmp/refusal; \
    grep -E '^(equal|cpus|reseeded)=|^end' /tmp/other | sed s/^/twin:/; cat /tmp/console";

/// The test.
pub(super) fn test() -> GuestTest {
    let run = Hosted {
        flags: "--cpus boot=1,max=4 --disk path=/tmp/disk --rng on",
        line: &format!(
            "{}{ASK}; echo end",
            IN_THE_GUEST.replace("PIECES", &PIECES.to_string())
        ),
        ..Hosted::default()
    };
    let line = format!(
        "truncate -s 64M /tmp/disk; {}{}",
        run.started(),
        ON_THE_HOST.replace("LIVES", &LIVES.to_string())
    );
    GuestTest {
        runs: Runs::OnHost,
        limit: 200,
        ..GuestTest::new("snapshot/disks", line, whole)
    }
}

fn whole(seen: &Seen, _: &GuestTest) -> Result<()> {
    let count = |line: &str| seen.console.lines().filter(|seen| *seen == line).count();
    ensure!(
        count("ended=0") == LIVES as usize + 1,
        "not every life ended well"
    );
    seen.says_each(&["status=0", "twin=0", "again=2", "end", "twin:end"])?;
    for twin in ["", "twin:"] {
        let number = |name: &str| seen.number(&format!("{twin}{name}="));
        let (equal, cpus) = (number("equal")?, number("cpus")?);
        ensure!(
            equal == u64::from(PIECES) && cpus == 2,
            "{twin} {equal} of {PIECES} pieces are as they were written, with {cpus} vCPUs"
        );
        ensure!(
            number("reseeded")? > LIVES.into(),
            "{twin} the guest's random numbers are those of its other lives"
        );
    }
    seen.shows("was written after the snapshot was taken")?;
    complaints::none(&seen.console)
}
