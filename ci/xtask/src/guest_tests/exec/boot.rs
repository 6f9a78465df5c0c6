//! What the way to a command costs: from the start of `perfvisor exec` to the command's first
//! byte, against the boot of the same kernel to an `/init` that ends the VM. Instructions, of
//! the host and all its processes.

use anyhow::{Result, ensure};

use super::super::{Clock, GuestTest, Seen};
use super::{KERNELS, row};
use crate::say;

/// The most that `exec` may take, of a boot.
const MOST: f64 = 1.5;

/// `ticks LINE` runs a line twice, for what it reads to be in the host's memory, and shows
/// what the second run took until it printed something, or ended.
const TICKS: &str = "\
    cp /images/end.c /tmp; gcc -Os -static -o /tmp/end /tmp/end.c; \
    python3 /images/archive.py init=/tmp/end >/tmp/end.cpio; chmod 644 /tmp/end.cpio; \
    now() { date +%s%N; }; \
    ticks() { as_user \"$1\" >/dev/null; from=$(now); \
      as_user \"$1\" | { read -r _; echo $(($(now) - from)); cat >/dev/null; }; }; ";

/// A test for each kernel.
pub(super) fn all() -> Vec<GuestTest> {
    KERNELS.map(boot).into()
}

fn boot(kernel: &'static str) -> GuestTest {
    let words = "console=ttyS0 panic=-1 random.trust_cpu=on cryptomgr.notests nokaslr quiet";
    let line = format!(
        "{TICKS} echo bare=$(ticks \"perfvisor run KERNEL --initramfs /tmp/end.cpio --cpus boot=1 --memory size=1G \
           --serial null --cmdline '{words}'\"); \
         echo exec=$(ticks 'perfvisor exec KERNEL --cpus 1 --memory 1G -- echo began')"
    );
    GuestTest {
        clock: Clock::Instructions,
        on_request: "exec/boot",
        ..row(
            &format!("boot/guest-{kernel}"),
            kernel,
            &line,
            within_its_bar,
        )
    }
}

fn within_its_bar(seen: &Seen, test: &GuestTest) -> Result<()> {
    let (bare, exec) = (seen.number("bare=")? as f64, seen.number("exec=")? as f64);
    let times = exec / bare;
    let told =
        format!("{exec:.3e} instructions to the command, {times:.2} times the boot's {bare:.3e}");
    say!("{}: {told}", test.name);
    ensure!(times <= MOST, "{told}");
    Ok(())
}
