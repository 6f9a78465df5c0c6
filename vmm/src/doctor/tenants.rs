//! Settings of the host that matter when guests of several owners share it.
//!
//! Each setting is read from a file of the host's kernel. A setting that is a risk
//! has a change that ends it; the report never changes anything itself.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::report::{Finding, TenantsReport};

/// A file system of the host's kernel, with `proc` and `sys` in it.
#[derive(Debug)]
pub(super) struct HostFiles {
    root: PathBuf,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

/// A setting, and whether it is a risk.
type Setting = Finding<(String, bool)>;

/// A setting that is looked at.
struct Check {
    name: &'static str,
    read: fn(&HostFiles) -> Setting,
    meaning: &'static str,
    change: &'static str,
}

const CHECKS: [Check; 7] = [
    Check {
        name: "smt",
        read: smt,
        meaning: "the threads of a core share its caches and predictors, so guests on two of them can observe each other",
        change: "switch SMT off (echo off > /sys/devices/system/cpu/smt/control), or give each guest whole cores (--cpus affinity=)",
    },
    Check {
        name: "ksm",
        read: ksm,
        meaning: "KSM merges equal pages, and the time of a write tells a guest what another guest's memory holds; Perfvisor offers it no memory, but another VMM or PR_SET_MEMORY_MERGE can",
        change: "echo 2 > /sys/kernel/mm/ksm/run",
    },
    Check {
        name: "swap",
        read: swap,
        meaning: "guest memory can be written to a disk and stay there after the VM",
        change: "swapoff -a, encrypted swap, or memory.swap.max=0 in the cgroup of the VM",
    },
    Check {
        name: "cpu_vulnerabilities",
        read: vulnerabilities,
        meaning: "a guest may read memory of the host or of another guest by a fault of the CPU that is not mitigated",
        change: "install the newest microcode and kernel, and boot without mitigations=off",
    },
    Check {
        name: "kvm_nested",
        read: nested,
        meaning: "a guest that sees VMX or SVM can reach KVM's code for nested guests, which is large",
        change: "load the module with nested=0, unless guests need it",
    },
    Check {
        name: "core_pattern",
        read: core_pattern,
        meaning: "a core dump of a VMM that crashed holds registers and console output of its guest, not its memory, and is kept where this pattern says",
        change: "ulimit -c 0 for the VMM and, for a pattern that begins with '|', a program that keeps dumps from other users",
    },
    Check {
        name: "nmi_watchdog",
        read: nmi_watchdog,
        meaning: "the watchdog holds one counter of each CPU, which guests then lack",
        change: "sysctl kernel.nmi_watchdog=0",
    },
];

/// Every setting.
pub(super) fn examine(files: &HostFiles) -> Vec<TenantsReport> {
    let one = |check: &Check| match (check.read)(files) {
        Finding::Value((found, is_risk)) => TenantsReport {
            check: check.name,
            found: Finding::Value(found),
            risk: Some(is_risk),
            meaning: check.meaning,
            change: is_risk.then_some(check.change),
        },
        Finding::Unknown { unknown } => TenantsReport {
            check: check.name,
            found: Finding::unknown(unknown),
            risk: None,
            meaning: check.meaning,
            change: None,
        },
    };
    CHECKS.iter().map(one).collect()
}

impl HostFiles {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A file's text without the spaces around it.
    fn read(&self, name: &str) -> Result<String, String> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(format!("the host has no /{name}"))
            }
            Err(error) => Err(format!("cannot read /{name}: {error}")),
        }
    }
}

fn setting(text: Result<String, String>, judge: impl Fn(String) -> Setting) -> Setting {
    match text {
        Ok(text) => judge(text),
        Err(why) => Finding::unknown(why),
    }
}

fn smt(files: &HostFiles) -> Setting {
    setting(files.read("sys/devices/system/cpu/smt/active"), |active| {
        let is_on = active != "0";
        let words = if is_on { "on" } else { "off" };
        Finding::Value((words.to_owned(), is_on))
    })
}

fn ksm(files: &HostFiles) -> Setting {
    let run = files.read("sys/kernel/mm/ksm/run");
    setting(run, |run| {
        let sharing = files.read("sys/kernel/mm/ksm/pages_sharing");
        let sharing = sharing.ok().and_then(|n| n.parse::<u64>().ok());
        let merged = sharing.filter(|&pages| pages > 0);
        let mut words = if run == "1" { "on" } else { "off" }.to_owned();
        if let Some(pages) = merged {
            words.push_str(&format!(", {pages} pages merged"));
        }
        Finding::Value((words, run == "1" || merged.is_some()))
    })
}

fn swap(files: &HostFiles) -> Setting {
    setting(files.read("proc/swaps"), |swaps| {
        let devices = swaps.lines().skip(1);
        let names: Vec<_> = devices
            .filter_map(|line| line.split_ascii_whitespace().next())
            .collect();
        if names.is_empty() {
            return Finding::Value(("off".to_owned(), false));
        }
        // Those keep pages in memory.
        let is_disk = |name: &&str| !name.starts_with("/dev/zram");
        let is_risk = names.iter().any(is_disk);
        Finding::Value((format!("on {}", names.join(", ")), is_risk))
    })
}

/// Each file names a fault of CPUs; its text begins or ends with the state.
fn vulnerabilities(files: &HostFiles) -> Setting {
    const FOLDER: &str = "sys/devices/system/cpu/vulnerabilities";
    let Ok(entries) = fs::read_dir(files.path(FOLDER)) else {
        return Finding::unknown(format!("the host has no /{FOLDER}"));
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut open: Vec<_> = names
        .filter(|name| {
            let text = files.read(&format!("{FOLDER}/{name}")).unwrap_or_default();
            let text = text.to_ascii_lowercase();
            text.contains("vulnerable") || text.starts_with("unknown")
        })
        .collect();
    open.sort_unstable();
    Finding::Value(if open.is_empty() {
        ("none open".to_owned(), false)
    } else {
        (format!("open: {}", open.join(", ")), true)
    })
}

fn nested(files: &HostFiles) -> Setting {
    for module in ["kvm_intel", "kvm_amd"] {
        let name = format!("sys/module/{module}/parameters/nested");
        if let Ok(text) = files.read(&name) {
            let is_on = matches!(text.as_str(), "1" | "Y" | "y");
            let words = if is_on { "on" } else { "off" };
            return Finding::Value((format!("{words} ({module})"), is_on));
        }
    }
    Finding::unknown("neither kvm_intel nor kvm_amd is loaded")
}

fn core_pattern(files: &HostFiles) -> Setting {
    setting(files.read("proc/sys/kernel/core_pattern"), |pattern| {
        // The limit does not hold for a pipe.
        let is_pipe = pattern.starts_with('|');
        let limit = files.read("proc/self/limits").ok();
        let limit = limit.as_deref().and_then(core_limit);
        let is_kept = is_pipe || limit != Some("0");
        let discards = pattern.is_empty() || is_discarded(&pattern);
        let limit = limit.unwrap_or("unknown");
        let words = format!("'{pattern}', core limit of this process: {limit}");
        Finding::Value((words, is_kept && !discards))
    })
}

/// The soft limit of `/proc/self/limits`.
fn core_limit(limits: &str) -> Option<&str> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max core file size"))?;
    line.split_ascii_whitespace().next()
}

/// Whether nobody reads what the kernel pipes.
fn is_discarded(pattern: &str) -> bool {
    let program = pattern.trim_start_matches('|').split_ascii_whitespace();
    let name = program.into_iter().next().map(Path::new);
    let name = name.and_then(Path::file_name);
    pattern.starts_with('|') && name.is_some_and(|name| name == "true" || name == "false")
}

fn nmi_watchdog(files: &HostFiles) -> Setting {
    setting(files.read("proc/sys/kernel/nmi_watchdog"), |on| {
        let is_on = on != "0";
        let words = if is_on { "on" } else { "off" };
        Finding::Value((words.to_owned(), is_on))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with these files, in a folder of the test's own.
    struct FakeHost(HostFiles);

    impl FakeHost {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let folder = format!("perfvisor-tenants-{name}-{}", std::process::id());
            let root = std::env::temp_dir().join(folder);
            for (file, text) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(HostFiles { root })
        }

        fn row(&self, check: &str) -> TenantsReport {
            let rows = examine(&self.0);
            rows.into_iter().find(|row| row.check == check).unwrap()
        }

        fn found(&self, check: &str) -> (String, bool) {
            let row = self.row(check);
            let risk = row.risk.unwrap();
            assert_eq!(row.change.is_some(), risk, "{row:?}");
            (row.found.value().unwrap().clone(), risk)
        }
    }

    impl Drop for FakeHost {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0.root));
        }
    }

    const SWAPS: &str = "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\nMax core file size        ";

    #[test]
    fn a_host_that_is_prepared_has_no_risk() {
        let limits = format!("{LIMITS}0                    unlimited            bytes\n");
        let host = FakeHost::new(
            "prepared",
            &[
                ("sys/devices/system/cpu/smt/active", "0\n"),
                ("sys/kernel/mm/ksm/run", "0\n"),
                ("sys/kernel/mm/ksm/pages_sharing", "0\n"),
                ("proc/swaps", SWAPS),
                (
                    "sys/devices/system/cpu/vulnerabilities/mds",
                    "Not affected\n",
                ),
                (
                    "sys/devices/system/cpu/vulnerabilities/spectre_v2",
                    "Mitigation: Retpolines; STIBP: disabled\n",
                ),
                ("sys/module/kvm_amd/parameters/nested", "0\n"),
                ("proc/sys/kernel/core_pattern", "core\n"),
                ("proc/self/limits", &limits),
                ("proc/sys/kernel/nmi_watchdog", "0\n"),
            ],
        );
        for row in examine(&host.0) {
            assert_eq!((row.risk, row.change), (Some(false), None), "{row:?}");
        }
        assert_eq!(host.found("cpu_vulnerabilities").0, "none open");
        assert_eq!(host.found("kvm_nested").0, "off (kvm_amd)");
    }

    #[test]
    fn each_risk_is_found_and_has_a_change() {
        let swaps =
            format!("{SWAPS}/dev/sda2  partition\t1\t0\t-2\n/dev/zram0 partition\t1\t0\t5\n");
        let host = FakeHost::new(
            "open",
            &[
                ("sys/devices/system/cpu/smt/active", "1\n"),
                ("sys/kernel/mm/ksm/run", "1\n"),
                ("sys/kernel/mm/ksm/pages_sharing", "12\n"),
                ("proc/swaps", &swaps),
                (
                    "sys/devices/system/cpu/vulnerabilities/mds",
                    "Mitigation: Clear CPU buffers; SMT vulnerable\n",
                ),
                (
                    "sys/devices/system/cpu/vulnerabilities/l1tf",
                    "Not affected\n",
                ),
                (
                    "sys/devices/system/cpu/vulnerabilities/retbleed",
                    "Vulnerable\n",
                ),
                ("sys/module/kvm_intel/parameters/nested", "Y\n"),
                (
                    "proc/sys/kernel/core_pattern",
                    "|/usr/lib/systemd/systemd-coredump %P\n",
                ),
                ("proc/sys/kernel/nmi_watchdog", "1\n"),
            ],
        );
        for (check, found) in [
            ("smt", "on"),
            ("ksm", "on, 12 pages merged"),
            ("swap", "on /dev/sda2, /dev/zram0"),
            ("cpu_vulnerabilities", "open: mds, retbleed"),
            ("kvm_nested", "on (kvm_intel)"),
            ("nmi_watchdog", "on"),
        ] {
            assert_eq!(host.found(check), (found.to_owned(), true));
        }
        assert!(host.found("core_pattern").1);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_unknown() {
        for row in examine(&FakeHost::new("empty", &[]).0) {
            assert_eq!((row.risk, row.change), (None, None), "{row:?}");
            let Finding::Unknown { unknown } = row.found else {
                panic!("{}", row.check);
            };
            assert!(!unknown.is_empty());
        }
    }

    #[test]
    fn memory_that_stays_in_memory_and_dumps_that_nobody_keeps_are_no_risk() {
        let swaps = format!("{SWAPS}/dev/zram0 partition\t1\t0\t5\n");
        let unlimited = format!("{LIMITS}unlimited            unlimited            bytes\n");
        for (pattern, is_risk) in [("|/bin/false", false), ("", false), ("/var/core", true)] {
            let host = FakeHost::new(
                "memory",
                &[
                    ("proc/swaps", swaps.as_str()),
                    ("proc/sys/kernel/core_pattern", pattern),
                    ("proc/self/limits", &unlimited),
                ],
            );
            assert!(!host.found("swap").1);
            assert_eq!(host.found("core_pattern").1, is_risk, "{pattern}");
        }
    }
}
