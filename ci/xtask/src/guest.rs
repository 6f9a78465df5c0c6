//! A shell line in a Linux guest of perfvisor: the command line of `perfvisor run`,
//! and the exit status that the guest prints.

use std::cell::RefCell;

use anyhow::{Result, bail};

use crate::cmd::quoted;
use crate::cpio::Cpio;
use crate::nested::stream::Stream;
use crate::nested::{self, Ended, HostArgs, Job};
use crate::place::{self, Place};
use crate::{kernels, say};

/// What the guest's init prints before the line's exit status.
const MARKER: &str = "perfvisor.exit=";
/// The longest line that goes on the kernel command line.
const LONGEST_INLINE: usize = 1024;
/// What every guest kernel is told. Only what is at least critical comes between the line's
/// output. The kernel neither tests its ciphers nor reads certificates: half of its boot, in
/// an emulated host. It takes a CPU for stalled after 100 seconds, no longer 21, and looks for
/// no other lockup of a CPU, which it would see after 20: it measures by a clock that goes on
/// while a busy machine does not run the host.
pub(crate) const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=3 cryptomgr.notests \
    rcupdate.rcu_cpu_stall_timeout=100 nosoftlockup \
    initcall_blacklist=jent_mod_init,crypto_kdf108_init,load_system_certificate_list";
const MEMORY: &str = "size=512M";

/// The guest that is to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GuestArgs {
    /// Kernel of the guest. Also: vmlinux-6.1 and vmlinux-6.12, the same kernels as
    /// uncompressed ELF files
    #[arg(long, value_name = "6.1|6.12|7", default_value = "6.12")]
    pub(crate) guest_kernel: String,
    /// More flags of perfvisor run, as one argument, such as "--cpus boot=2 --pmu off"
    #[arg(
        long,
        value_name = "PERFVISOR RUN FLAGS",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub(crate) vmm: String,
    /// More words for the kernel command line of the guest
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub(crate) append: String,
}

/// The `perfvisor run` line for a guest that runs `line`, or a login shell if that is
/// empty; adds to `job` the files that it needs. `name` tells apart the guests of one job.
pub(crate) fn run_line(
    place: &Place,
    guest: &GuestArgs,
    (name, line): (&str, &str),
    job: &mut Job,
) -> Result<String> {
    let mut cmdline = format!("{KERNEL_WORDS} panic=-1");
    if !guest.append.is_empty() {
        cmdline.push(' ');
        cmdline.push_str(&guest.append);
    }
    let mut words = vec!["perfvisor".to_owned(), "run".to_owned()];
    let mut flag = |flag: &str, value: String| {
        words.extend([flag.to_owned(), quoted(&value)]);
    };
    flag("--kernel", place.image(&image_name(&guest.guest_kernel))?);
    flag("--initramfs", place.image("guest.cpio")?);
    flag("--initramfs", place.image("share.cpio")?);
    if line.is_empty() {
        // The image's init starts a shell on the console.
    } else if fits_inline(line) {
        cmdline.push_str(&format!(" perfvisor.run=\"{line}\""));
    } else {
        let file = format!("line-{name}.cpio");
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("perfvisor.run", 0o644, line.as_bytes())?;
        job.files.push((format!("images/{file}"), cpio.finish()?));
        flag("--initramfs", place.job_file(&file));
    }
    flag("--cmdline", cmdline);
    for (name, value) in [("--memory", MEMORY), ("--serial", "tty")] {
        if !has_flag(&guest.vmm, name) {
            flag(name, value.to_owned());
        }
    }
    let mut all = words.join(" ");
    if !guest.vmm.is_empty() {
        all.push(' ');
        all.push_str(&guest.vmm);
    }
    Ok(all)
}

/// `6.12` and `vmlinuz-6.12` are the distribution's image; `vmlinux-6.12` is the ELF file
/// inside it.
fn image_name(kernel: &str) -> String {
    if kernel.starts_with("vmlin") {
        kernel.to_owned()
    } else {
        format!("vmlinuz-{kernel}")
    }
}

fn has_flag(flags: &str, name: &str) -> bool {
    let with_value = format!("{name}=");
    flags
        .split_whitespace()
        .any(|w| w == name || w.starts_with(&with_value))
}

/// Whether a line can be a value on the kernel command line.
fn fits_inline(line: &str) -> bool {
    let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"';
    line.len() <= LONGEST_INLINE && line.bytes().all(plain)
}

/// The exit status that the guest's console tells, if it does.
pub(crate) fn exit_status(console: &str) -> Option<u8> {
    let (_, after) = console.rsplit_once(MARKER)?;
    after
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The line's exit status, or why there is none.
///
/// # Errors
/// If the host, the VMM or the guest ended before the line did.
pub(crate) fn verdict(ended: Ended, console: &str) -> Result<u8> {
    match (ended, exit_status(console)) {
        (Ended::Exit(0), Some(status)) => Ok(status),
        (Ended::Exit(vmm), Some(status)) => {
            bail!("the line ended with status {status}, but perfvisor with {vmm}")
        }
        (Ended::Exit(vmm), None) => bail!(
            "the guest ended without `{MARKER}`: perfvisor's exit status was {vmm}{}",
            if console.contains("Kernel panic") {
                ", the guest's kernel panicked"
            } else {
                ""
            }
        ),
        (Ended::GivenUp(why), _) => bail!("the guest was ended: {why}"),
        (Ended::HostDied, _) => bail!("the host died"),
        (Ended::Quit, _) => bail!("the user ended it"),
    }
}

/// `cargo xtask guest`: runs a line in a guest, or a shell for the user.
pub(crate) fn command(host: &HostArgs, guest: &GuestArgs, line: &[String]) -> Result<u8> {
    let series = kernels::series(&guest.guest_kernel);
    let place = place::prepare(&HostArgs {
        kernels: vec![series.to_owned()],
        ..host.clone()
    })?;
    let line = line.join(" ");
    let mut job = Job {
        interactive: line.is_empty(),
        ..Job::default()
    };
    job.line = run_line(&place, guest, ("guest", &line), &mut job)?;
    say!(
        "guest of kernel {} on {}",
        guest.guest_kernel,
        place.describe()
    );
    if job.interactive {
        say!("a shell in the guest comes up: leave it with `exit`, or end the guest with Ctrl-A x");
    }
    let console = RefCell::new(Vec::new());
    let ended = place.run_on_a_host_that_lives(
        &job,
        &mut |stream, bytes| {
            nested::pass_on(stream, bytes);
            if stream == Stream::Output {
                keep_end(&mut console.borrow_mut(), bytes);
            }
        },
        &mut || console.borrow_mut().clear(),
    )?;
    if job.interactive || matches!(ended, Ended::GivenUp(_)) {
        return Ok(ended.status());
    }
    verdict(ended, &String::from_utf8_lossy(&console.borrow()))
}

/// Keeps the last part of what goes by.
fn keep_end(kept: &mut Vec<u8>, bytes: &[u8]) {
    const KEPT: usize = 1 << 16;
    kept.extend_from_slice(bytes);
    if kept.len() > 2 * KEPT {
        kept.drain(..kept.len() - KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_marker_counts() {
        assert_eq!(
            exit_status("x\nperfvisor.exit=3\r\n[ 1.0] reboot: Power down\r\n"),
            Some(3)
        );
        assert_eq!(
            exit_status("perfvisor.exit=1\nfoo perfvisor.exit=255\n"),
            Some(255)
        );
        assert_eq!(exit_status("perfvisor.exit="), None);
        assert_eq!(exit_status(""), None);
    }

    #[test]
    fn a_missing_marker_is_a_failure_with_a_reason() {
        let error = verdict(Ended::Exit(0), "Kernel panic - not syncing").unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(verdict(Ended::Exit(1), "perfvisor.exit=0").is_err());
        assert_eq!(verdict(Ended::Exit(0), "perfvisor.exit=9").unwrap(), 9);
    }

    #[test]
    fn lines_that_the_kernel_cannot_carry_are_told() {
        assert!(fits_inline("perf stat -- dd if=/dev/zero of='a b'"));
        for line in ["echo \"a\"", "a\nb", "é", &"x".repeat(2000)] {
            assert!(!fits_inline(line), "{line}");
        }
    }

    #[test]
    fn flags_are_found_as_words() {
        assert!(has_flag("--cpus boot=4 --memory size=1G", "--memory"));
        assert!(has_flag("--memory=size=1G", "--memory"));
        assert!(!has_flag("--memory-x 3", "--memory"));
    }
}
