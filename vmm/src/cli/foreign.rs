//! Flags of other VMMs (QEMU, Cloud Hypervisor, Firecracker, crosvm) that
//! `perfvisor run` does not have, each with the flag to use in its place.

/// What stands in for flags that other VMMs have.
struct Foreign {
    /// The flags.
    names: &'static [&'static str],
    /// The thing that Perfvisor does not have yet; empty if only the name differs.
    missing: &'static str,
    /// What works.
    instead: &'static str,
}

const fn missing(
    names: &'static [&'static str],
    missing: &'static str,
    instead: &'static str,
) -> Foreign {
    Foreign {
        names,
        missing,
        instead,
    }
}

const fn renamed(names: &'static [&'static str], instead: &'static str) -> Foreign {
    missing(names, "", instead)
}

#[rustfmt::skip]
const FOREIGN: [Foreign; 38] = [
    renamed(
        &["--block", "--rwdisk", "--root", "--rwroot", "--pmem", "--drive", "-drive", "-hdb", "-hdc", "-hdd", "-cdrom", "-blockdev"],
        "--disk path=P, with readonly=on or format=qcow2",
    ),
    renamed(
        &["--network", "--netdev", "--tap", "--host-ip", "-net", "-netdev", "-nic"],
        "--net user, or tap=NAME",
    ),
    renamed(
        &["--shared-dir", "--virtiofsd", "-virtfs", "-fsdev"],
        "--fs tag=NAME,path=FOLDER",
    ),
    renamed(&["--cid"], "--vsock cid=N"),
    missing(
        &["--debug-console", "-chardev", "-monitor", "-parallel"],
        "such consoles", "--serial or --console, with tty, file=PATH or null",
    ),
    renamed(&["-rng"], "--rng on"),
    missing(&["--balloon"], "balloons", "--memory size=N for a fixed size"),
    missing(&["--tpm", "-tpmdev"], "TPMs", "a guest that needs none"),
    renamed(&["--config-file", "--cfg", "-readconfig"], "--config FILE, a TOML file with flags as keys"),
    renamed(&["--snapshot", "-loadvm"], "--restore DIR, a folder that perfvisor ctl snapshot has made"),
    missing(&["-incoming"], "live migrations", "perfvisor ctl snapshot DIR and --restore DIR"),
    missing(&["-snapshot"], "disks whose writes are thrown away", "a copy of the disk"),
    missing(
        &["--seccomp", "--seccomp-level", "--seccomp-filter", "--no-seccomp", "--seccomp-policy-dir", "--landlock", "--landlock-rules", "--jail", "-sandbox"],
        "sandboxes", "an unprivileged user, or the sandbox of a container",
    ),
    missing(
        &["--device", "--user-device", "--vfio", "--vdpa", "--generic-vhost-user", "-device", "-usb", "-usbdevice", "-soundhw", "-audio", "-audiodev"],
        "other devices than the serial port", "a guest that needs none",
    ),
    missing(&["--gpu", "-vga", "-display", "-vnc", "-spice", "-sdl"], "screens", "--serial tty"),
    missing(&["--firmware", "--bios", "-bios", "-pflash", "-boot"], "firmware", "--kernel PATH"),
    missing(&["--gdb", "-gdb", "-s", "-S"], "debugger ports", "perfvisor ctl pause, and ctl pmu"),
    missing(&["--watchdog", "-watchdog"], "watchdog devices", "perfvisor ctl to look after the guest"),
    missing(&["--numa", "-numa"], "NUMA nodes", "--cpus topology="),
    missing(&["--memory-zone", "-mem-path", "--hugepages", "-mem-prealloc"], "kinds of memory", "--memory size=N"),
    missing(&["-daemonize", "-D", "-pidfile"], "daemons", "systemd-run perfvisor run …"),
    missing(&["--event-monitor", "--metrics-path"], "streams of events", "perfvisor ctl info and ctl pmu"),
    renamed(&["-m", "--mem", "--mem-size", "--mem_size", "--mem-size-mib"], "--memory size=512M"),
    renamed(&["-smp", "--smp", "-c", "--vcpus", "--vcpu", "--vcpu-count", "--cpu", "--ncpus"], "--cpus boot=N"),
    renamed(&["-cpu", "--cpu-model", "--cpu-template"], "--pmu model=NAME for the PMU; the rest is the host's CPU"),
    renamed(&["-append", "--append", "-p", "--params", "--kernel-cmdline", "--boot-args", "--kernel-opts"], "--cmdline TEXT"),
    renamed(&["-initrd", "--initrd", "-i", "--initrd-path"], "--initramfs PATH"),
    renamed(&["-kernel", "-k", "--kernel-image", "--kernel-path"], "--kernel PATH"),
    renamed(&["-serial", "-nographic", "--nographic", "-curses"], "--serial tty, file=PATH or null"),
    renamed(&["-enable-kvm", "--enable-kvm", "-accel", "--accel", "--hypervisor", "-machine", "--machine", "-M", "--platform"], "none: there is one machine, always on KVM"),
    renamed(&["--api-sock", "--socket", "-qmp", "--control-socket"], "--api-socket path=PATH"),
    renamed(&["-v", "-vv", "-vvv", "--verbose", "--log-level", "--level"], "PERFVISOR_LOG=info in the environment"),
    renamed(&["--log-file", "--log-path"], "2>FILE: the log goes to standard error"),
    renamed(&["-no-reboot", "--no-reboot", "-no-shutdown"], "none: the VM ends when the guest resets itself, without --on-reboot restart"),
    renamed(&["-name", "--id", "-uuid"], "--name NAME"),
    renamed(&["-no-acpi", "-no-hpet", "-rtc", "-nodefaults", "-no-user-config"], "none: the machine has ACPI and no RTC"),
    renamed(&["-isa-debug-exit"], "--debug-exit"),
    renamed(&["-perf"], "--pmu type=auto"),
];

/// What to say to a word that is a flag of another VMM.
pub(super) fn answer(word: &str) -> Option<String> {
    let name = word.split('=').next()?;
    let found = FOREIGN.iter().find(|known| known.names.contains(&name))?;
    let Foreign {
        missing, instead, ..
    } = found;
    Some(if missing.is_empty() {
        format!("{name} is no flag of perfvisor run; use {instead}")
    } else {
        format!("{name}: no {missing} yet; use {instead}")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_flag_is_foreign_twice_or_our_own() {
        let cli = crate::cli::Cli::command();
        let run = cli.find_subcommand("run").unwrap();
        let own: Vec<_> = run
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .collect();
        let names: Vec<_> = FOREIGN.iter().flat_map(|known| known.names).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            assert!(
                !own.iter().any(|own| format!("--{own}") == **name),
                "{name}"
            );
        }
    }

    #[test]
    fn the_value_of_a_flag_does_not_matter() {
        let said = answer("--balloon=size=0").unwrap();
        assert_eq!(
            said,
            "--balloon: no balloons yet; use --memory size=N for a fixed size"
        );
        assert_eq!(
            answer("-m").unwrap(),
            "-m is no flag of perfvisor run; use --memory size=512M"
        );
        assert_eq!(answer("--nonsense"), None);
    }
}
