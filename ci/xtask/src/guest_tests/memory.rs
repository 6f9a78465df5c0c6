//! How little memory a Linux guest can have, and what its init says of an archive that
//! was not unpacked whole.

use anyhow::{Result, ensure};

use super::table::KERNELS;
use super::{GuestTest, Runs, Seen};

/// Every test of a guest with little memory.
pub(super) fn all() -> Vec<GuestTest> {
    let rows = KERNELS.into_iter().map(|kernel| GuestTest {
        runs: Runs::OnHost,
        limit: 180,
        ..GuestTest::new(format!("memory/guest-{kernel}"), line(kernel), least)
    });
    rows.collect()
}

/// A refusal names the least size; with it a guest runs its line. Then a guest with an
/// archive that its kernel cannot unpack, which does not run its line.
fn line(kernel: &str) -> String {
    let run = format!("perfvisor run --kernel {{vmlinuz-{kernel}}} --initramfs {{guest.cpio}}");
    let cmdline = "--cmdline 'console=ttyS0 quiet loglevel=3 perfvisor.run=\"echo booted\"'";
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
