//! How little memory a Linux guest can have, and what its init says of an archive that
//! was not unpacked whole.

use anyhow::{Result, ensure};

use super::table::KERNELS;
use super::{GuestTest, Runs, Seen};
use crate::guest::KERNEL_WORDS;

/// Every test of a guest with little memory.
pub(super) fn all() -> Vec<GuestTest> {
    let rows = KERNELS.into_iter().map(|kernel| GuestTest {
        runs: Runs::OnHost,
        limit: 180,
        ..GuestTest::new(format!("memory/guest-{kernel}"), line(kernel), least)
    });
    rows.chain([huge_pages()]).collect()
}

/// `hugepages=on` with a pool: too small, it is refused; large enough, the guest's memory is
/// of it, and all of it with `prefault=on`; at the end nothing is missing.
fn huge_pages() -> GuestTest {
    const LINE: &str = "\
        run='perfvisor run --kernel {vmlinuz-6.12} --initramfs {guest.cpio}'; \
        pool() { sed -n \"s/^HugePages_\\(Total\\|Free\\|Rsvd\\): */$1=\\1 /p\" /proc/meminfo; }; \
        echo 64 >/proc/sys/vm/nr_hugepages; \
        $run --memory size=256M,hugepages=on </dev/null 2>&1; echo refused=$?; \
        echo 128 >/proc/sys/vm/nr_hugepages; \
        for how in off on; do \
          rm -f /tmp/console; \
          $run --memory size=256M,hugepages=on,prefault=$how --serial file=/tmp/console \
            --cmdline 'KERNEL_WORDS perfvisor.run=\"echo booted; sleep 3\"' & \
          until grep -qs booted /tmp/console; do sleep 0.1; done; pool $how; wait $!; echo $how=$?; \
        done; pool after";
    GuestTest {
        runs: Runs::OnHost,
        limit: 180,
        on_request: "huge-pages",
        ..GuestTest::new(
            "memory/huge-pages",
            LINE.replace("KERNEL_WORDS", KERNEL_WORDS),
            |seen, _| {
                seen.shows("--memory: hugepages=on: the host has too few free huge pages for 256 MiB; write 128 or more")?;
                seen.says_each(&[
                    "refused=2",
                    "off=0",
                    "on=0",
                    "on=Free 0",
                    "on=Rsvd 0",
                    "after=Free 128",
                ])?;
                let of = |name| seen.number(name);
                let (free, promised) = (of("off=Free ")?, of("off=Rsvd ")?);
                ensure!(
                    free == promised && (1..128).contains(&free),
                    "of 128 pages, {free} are free and {promised} promised"
                );
                Ok(())
            },
        )
    }
}

/// A refusal names the least size; with it a guest runs its line. Then a guest with an
/// archive that its kernel cannot unpack, which does not run its line.
fn line(kernel: &str) -> String {
    let run = format!("perfvisor run --kernel {{vmlinuz-{kernel}}} --initramfs {{guest.cpio}}");
    let cmdline = format!("--cmdline '{KERNEL_WORDS} perfvisor.run=\"echo booted\"'");
    // The runner takes init's own words for the end of a guest that it started.
    let shown = "sed s/^perfvisor.exit=/line.exit=/";
    format!(
        "least=$({run} --memory size=96M 2>&1 </dev/null | sed -n 's/.* at least \\([0-9]*\\) MiB.*/\\1/p'); \
         echo least=$least; {run} --memory size=${{least}}M {cmdline} </dev/null >/tmp/first; echo first=$?; \
         echo BZh is no archive >/tmp/broken; \
         {run} --initramfs /tmp/broken {cmdline} </dev/null >/tmp/second; echo second=$?; \
         {shown} /tmp/first; echo === broken; {shown} /tmp/second"
    )
}

fn least(seen: &Seen, _: &GuestTest) -> Result<()> {
    seen.shows("first=0")?;
    seen.shows("second=0")?;
    let (first, second) = seen.console.split_once("=== broken").unwrap_or_default();
    for text in ["booted", "line.exit=0"] {
        ensure!(first.contains(text), "the least memory: no `{text}`");
    }
    for text in [
        "init: the initramfs was not unpacked whole",
        "line.exit=125",
    ] {
        ensure!(second.contains(text), "a broken archive: no `{text}`");
    }
    ensure!(
        !second.contains("booted"),
        "the line ran with a broken archive"
    );
    Ok(())
}
