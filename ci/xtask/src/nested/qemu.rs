//! QEMU: its command line.

use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::machine::{Files, Launched};
use super::{Host, tsc};
use crate::cmd;

const MEMORY: &str = "4G";
/// With SVM. Without XSAVE: TCG executes a guest's XSETBV without telling KVM, whose
/// CPUID leaf 0DH is then wrong, and each guest kernel warns of it. Then also without what
/// needs XSAVE: a kernel 7 uses AVX for a check of its own, at boot, if the CPU shows it.
/// Without fast copies by bytes (ERMS, FSRM): TCG takes as long for a byte as for a word,
/// and kernels then copy words.
const CPU: &str = "max,+svm,-xsave,-avx,-avx2,-fma,-f16c,-erms,-fsrm";
const CMDLINE: &str = "console=ttyS0 quiet loglevel=5 oops=panic panic=-1 cryptomgr.notests \
    initcall_blacklist=jent_mod_init,crypto_kdf108_init";
/// By the wall's clock, a TSC that is taken as it is and of a known rate: on a busy machine
/// the clocksource watchdog's reads take too long, and the kernel gives the TSC up.
const TSC: &str = "tsc=nowatchdog tsc_early_khz=";
/// Starts QEMU with the three pipes that we gave it as 0, 1, 2 at 3, 4, 5, so that
/// its own messages have a place of their own. It dies with us, however we end.
const LAUNCH: &str =
    r#"exec setpriv --pdeathsig KILL "$@" 3>&0 4>&1 5>&2 <"/dev/null" >"$QEMU_LOG" 2>&1"#;

/// Starts QEMU.
///
/// # Errors
/// If it does not start, or a file cannot be made.
pub(super) fn launch(host: &Host, files: &Files) -> Result<Launched> {
    if let Some(keys) = &files.keys {
        make_fifos(keys)?;
    }
    let (control, control_in) = io::pipe()?;
    let (output, output_in) = io::pipe()?;
    let (error, error_in) = io::pipe()?;
    let child = Command::new("sh")
        .args(["-c", LAUNCH, "sh"])
        .args(arguments(host, files))
        .env("QEMU_LOG", &files.messages)
        .stdin(control_in)
        .stdout(output_in)
        .stderr(error_in)
        .spawn()
        .context("cannot start QEMU")?;
    Ok(Launched {
        child,
        control: Box::new(control),
        output: Box::new(output),
        error: Box::new(error),
    })
}

fn arguments(host: &Host, files: &Files) -> Vec<String> {
    let accel = if host.one_thread {
        "tcg,thread=single"
    } else {
        "tcg,thread=multi"
    };
    let cpus = host.cpus.to_string();
    let kernel = host.kernel.dir.join("vmlinuz").display().to_string();
    let initrd = files.initrd.display().to_string();
    let serial = format!("file:{}", files.console.display());
    let mut words: Vec<&str> = vec!["qemu-system-x86_64", "-nodefaults", "-no-reboot"];
    words.extend(["-machine", "q35", "-accel", accel, "-cpu", CPU]);
    words.extend([
        "-smp", &cpus, "-m", MEMORY, "-display", "none", "-serial", &serial,
    ]);
    let cmdline = if host.icount {
        words.extend(["-icount", "shift=0,sleep=off"]);
        CMDLINE.to_owned()
    } else {
        format!("{CMDLINE} {TSC}{}", tsc::khz())
    };
    words.extend(["-kernel", &kernel, "-initrd", &initrd, "-append", &cmdline]);
    // ioeventfd=off: a kick is handled at once, not when the main loop comes by.
    words.extend([
        "-device",
        "virtio-serial-pci,id=out,ioeventfd=off,max_ports=5",
    ]);
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    for (n, disk) in host.disks.iter().enumerate() {
        words.extend(drive(n, disk));
    }
    let out = |fd: u32| format!("file,path=/dev/fd/{fd}");
    let mut ports = vec![(1, out(3)), (2, out(4)), (3, out(5))];
    ports.extend(
        files
            .keys
            .iter()
            .map(|keys| (4, format!("pipe,path={}", keys.display()))),
    );
    for (port, backend) in ports {
        words.push("-chardev".into());
        words.push(format!("{backend},id=port{port}"));
        words.push("-device".into());
        words.push(format!(
            "virtserialport,bus=out.0,nr={port},chardev=port{port}"
        ));
    }
    words
}

/// A disk. What is written to it goes to a file that is gone with QEMU.
fn drive(n: usize, disk: &Path) -> [String; 4] {
    let file = disk.display();
    [
        "-drive".into(),
        format!("if=none,id=disk{n},format=raw,snapshot=on,cache=unsafe,file={file}"),
        "-device".into(),
        format!("virtio-blk-pci,drive=disk{n}"),
    ]
}

/// The two FIFOs of QEMU's `pipe`: what we write to the one is typed; nothing is written to
/// the other.
fn make_fifos(keys: &Path) -> Result<()> {
    for end in ["in", "out"] {
        cmd::output(Command::new("mkfifo").arg(keys.with_extension(end)))?;
    }
    Ok(())
}
