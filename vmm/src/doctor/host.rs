//! The CPU, the PMUs and the permissions of the host.

use std::fs;
use std::io;

use vpmu::host::linux::probe::software_event;
use vpmu::host::linux::sysfs::{Coverage, CpuSet, PmuScope, Sysfs};

use super::report::{
    CpuReport, Finding, HostPmuReport, PendingSignalsReport, PermissionReport, YesOrNo,
};
use crate::error_text::one_line;
use crate::probe::first_processor;

/// Bit numbers of `<linux/capability.h>`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;

/// The first processor of `/proc/cpuinfo`.
pub(super) fn cpu() -> Finding<CpuReport> {
    match first_processor() {
        Ok(text) => Finding::Value(parse_cpu(&text)),
        Err(error) => Finding::unknown(format!("cannot read /proc/cpuinfo: {error}")),
    }
}

fn parse_cpu(cpuinfo: &str) -> CpuReport {
    let field = |name: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map_or("unknown", |(_, value)| value.trim())
    };
    CpuReport {
        vendor: field("vendor_id").to_owned(),
        model: field("model name").to_owned(),
        signature: format!(
            "family {}, model {}, stepping {}",
            field("cpu family"),
            field("model"),
            field("stepping")
        ),
    }
}

pub(super) fn pmus(sysfs: &Sysfs) -> Finding<Vec<HostPmuReport>> {
    Finding::from(sysfs.pmus().map(|pmus| {
        pmus.into_iter()
            .map(|pmu| HostPmuReport {
                r#type: pmu.kind.0,
                core: pmu.is_core(),
                cpus: pmu.cpus().map(numbers),
                cpumask: match &pmu.coverage {
                    Coverage::Designated(cpus) => Some(numbers(cpus)),
                    Coverage::EveryCpu | Coverage::Cpus(_) => None,
                },
                scope: sysfs.scope(&pmu).ok().flatten().map(scope),
                name: pmu.name,
            })
            .collect()
    }))
}

fn numbers(cpus: &CpuSet) -> Vec<u32> {
    cpus.iter().map(|cpu| cpu.0).collect()
}

const fn scope(scope: PmuScope) -> &'static str {
    match scope {
        PmuScope::Core => "core",
        PmuScope::Cluster => "cluster",
        PmuScope::Die => "die",
        PmuScope::Package => "package",
        PmuScope::System => "system",
    }
}

pub(super) fn permission() -> PermissionReport {
    const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
    const STATUS: &str = "/proc/self/status";
    let status = fs::read_to_string(STATUS).map_err(|error| unreadable(STATUS, &error));
    let status = status.as_deref().map_err(String::as_str);
    PermissionReport {
        perf_event_paranoid: match fs::read_to_string(PARANOID) {
            Ok(text) => match text.trim().parse() {
                Ok(level) => Finding::Value(level),
                Err(_) => Finding::unknown(format!("{PARANOID} holds {text:?}")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Finding::unknown("the host's kernel has no perf events")
            }
            Err(error) => Finding::unknown(unreadable(PARANOID, &error)),
        },
        euid: of_status(status, euid),
        cap_perfmon: of_status(status, |status| capability(status, CAP_PERFMON)),
        cap_sys_admin: of_status(status, |status| capability(status, CAP_SYS_ADMIN)),
        software_event: match software_event() {
            Ok(()) => YesOrNo {
                possible: true,
                reason: "perf_event_open opened one".to_owned(),
            },
            Err(error) => YesOrNo {
                possible: false,
                reason: one_line(&error),
            },
        },
        pending_signals: of_status(status, pending_signals),
    }
}

fn unreadable(path: &str, error: &io::Error) -> String {
    format!("cannot read {path}: {error}")
}

fn of_status<T>(status: Result<&str, &str>, parse: impl Fn(&str) -> Option<T>) -> Finding<T> {
    match status {
        Ok(status) => match parse(status) {
            Some(value) => Finding::Value(value),
            None => Finding::unknown("/proc/self/status does not say"),
        },
        Err(why) => Finding::unknown(why),
    }
}

fn status_line<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key))
}

/// `Uid:` real, effective, saved, file system.
fn euid(status: &str) -> Option<u32> {
    let ids = status_line(status, "Uid:")?;
    ids.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// `SigQ:` used/limit.
fn pending_signals(status: &str) -> Option<PendingSignalsReport> {
    let (used, limit) = status_line(status, "SigQ:")?.trim().split_once('/')?;
    Some(PendingSignalsReport {
        used: used.parse().ok()?,
        limit: limit.parse().ok()?,
    })
}

fn capability(status: &str, bit: u32) -> Option<bool> {
    let mask = status_line(status, "CapEff:")?.trim();
    Some(u64::from_str_radix(mask, 16).ok()? & (1 << bit) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_a_status_file() {
        let status =
            "Name:\tx\nUid:\t1000\t1001\t1000\t1000\nCapPrm:\t0\nCapEff:\t0000004000000000\n";
        assert_eq!(euid(status), Some(1001));
        assert_eq!(capability(status, CAP_PERFMON), Some(true));
        assert_eq!(capability(status, CAP_SYS_ADMIN), Some(false));
        assert_eq!(capability("CapEff:\tzz\n", CAP_PERFMON), None);
        assert_eq!(euid(""), None);
        let pending = pending_signals("SigQ:\t2/96365\n").unwrap();
        assert_eq!((pending.used, pending.limit), (2, 96_365));
        assert_eq!(pending_signals("SigQ:\t-\n"), None);
    }

    #[test]
    fn the_first_processor() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 151\nmodel name\t: A: B\nstepping\t: 2\n";
        let cpu = parse_cpu(text);
        assert_eq!(cpu.vendor, "GenuineIntel");
        assert_eq!(cpu.model, "A: B");
        assert_eq!(cpu.signature, "family 6, model 151, stepping 2");
        assert_eq!(parse_cpu("").vendor, "unknown");
    }
}
