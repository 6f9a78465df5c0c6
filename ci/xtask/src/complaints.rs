//! What a guest's kernel complains of: how a guest is asked, and what may be said.

use anyhow::{Result, ensure};

use crate::perf;

/// Shell words that print what the kernel complained of so far. They have no quotes, so
/// that they fit into a line of any quoting.
pub(crate) const ASK: &str = "echo === complaints; dmesg | grep \
     -e Uhhuh -e unknown.reason -e irq.loop -e unchecked.MSR -e nhandled.[rw][dr]msr \
     -e WARNING -e BUG: -e Oops -e Call.Trace -e irmware.[Bb]ug -e roken -e inactive.counter \
     -e detected.stall -e TSC.warp -e perf:.[^i]; echo === end";

/// What is no fault of the PMU: a CPU that is said to be Intel's and is none, or a newer
/// one of AMD's with old microcode, does not fit the mitigations; a row may have asked
/// that slow handlers do not lower the rate of samples; and the line that asks is on the
/// kernel's command line, with these very words.
const NO_FAULT_OF_OURS: [&str; 5] = [
    "RETBleed: WARNING",
    "Speculative Return Stack Overflow: WARNING",
    "Spectre V2 : WARNING",
    "perf: Dynamic interrupt throttling disabled",
    "ommand line: ",
];

/// A warning of a guest's kernel that is its own fault. Linux 6.12 has a deadline server on
/// each CPU, whose timer is late on a slow host, so that the bandwidth of a CPU that was
/// removed meanwhile is given back twice. A `Call Trace:` follows.
const LATE_DEADLINE_SERVER: &str = " inactive_task_timer+";

/// A line that runs `line` and then asks, with the status of `line`.
pub(crate) fn asked_after(line: &str) -> String {
    format!("({line}\n); status=$?\n{ASK}\nexit $status")
}

/// The guest's kernel was asked, and has complained of nothing but the time that its
/// handlers take.
///
/// # Errors
/// Says what it has complained of, or that it was not asked.
pub(crate) fn none(console: &str) -> Result<()> {
    none_beside(console, &[])
}

/// The same where the kernel may warn of these functions, each time with a `Call Trace:`.
///
/// # Errors
/// As [`none`].
pub(crate) fn none_beside(console: &str, functions: &[&str]) -> Result<()> {
    let mut was_warning = false;
    let is_ours = |line: &&str| {
        let is_its_trace = was_warning && line.ends_with("Call Trace:");
        let mut known_functions = [LATE_DEADLINE_SERVER].iter().chain(functions);
        let is_of_them = known_functions.any(|function| line.contains(function));
        was_warning = line.contains("WARNING") && is_of_them;
        let is_known = NO_FAULT_OF_OURS.iter().any(|known| line.contains(known));
        !(line.trim().is_empty() || is_known || was_warning || is_its_trace)
    };
    let section = perf::section(console, "complaints")?;
    let lines: Vec<_> = section.lines().filter(is_ours).collect();
    ensure!(
        lines.is_empty(),
        "the guest's kernel says: {}",
        lines.join("; ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<()> {
        none(&format!(
            "perf\n=== complaints\n{text}=== end\nperfvisor.exit=0\n"
        ))
    }

    #[test]
    fn complaints_are_told_apart() {
        said("").unwrap();
        said("[ 0.1] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable\n").unwrap();
        said("[ 0.1] Kernel command line: dmesg | grep -e WARNING\n").unwrap();
        let late = "[ 110.2] WARNING: CPU: 0 PID: 159 at kernel/sched/deadline.c:265 inactive_task_timer+0x4a2/0x5d0\n";
        let trace = "[ 110.3] Call Trace:\n";
        said(&[late, trace].concat()).unwrap();
        said(&[late, trace, trace].concat()).unwrap_err();
        let other = "[ 1.3] WARNING: CPU: 0 PID: 141 at kernel/time/hrtimer.c:1781 __hrtimer_run_queues+0x14f/0x250\n";
        let text = format!("=== complaints\n{other}{trace}=== end\n");
        none(&text).unwrap_err();
        none_beside(&text, &[" __hrtimer_run_queues+"]).unwrap();
        for bad in [
            "[ 0.1] unchecked MSR access error: RDMSR from 0x38d\n",
            "[ 0.1] Uhhuh. NMI received for unknown reason 20 on CPU 0.\n",
        ] {
            let error = said(bad).unwrap_err().to_string();
            assert!(error.contains(bad.trim()), "{error}");
        }
        assert!(none("never asked").is_err());
    }

    /// What is looked for, on lines of real kernels.
    #[test]
    fn the_words_are_found_in_a_log() {
        let grep = ASK.split(" | ").nth(1).unwrap();
        let grep = grep.split(';').next().unwrap();
        for (line, found) in [
            ("perfevents: irq loop stuck!", true),
            (
                "unchecked MSR access error: WRMSR to 0x38f (tried to write 0x0)",
                true,
            ),
            ("Uhhuh. NMI received for unknown reason 31 on CPU 1.", true),
            ("perf: intel_pmu_init: broken", true),
            ("rcu: INFO: rcu_preempt self-detected stall on CPU", true),
            (
                "Performance Events: Broken PMU hardware detected, using software events only.",
                true,
            ),
            (
                "perf: interrupt took too long (2503 > 2500), lowering",
                false,
            ),
            ("Performance Events: AMD PMU driver.", false),
        ] {
            let run = std::process::Command::new("sh")
                .args(["-c", &format!("printf '%s\\n' \"$1\" | {grep}"), "sh", line])
                .output()
                .unwrap();
            assert_eq!(!run.stdout.is_empty(), found, "{line}");
        }
    }

    #[test]
    fn the_status_of_the_line_stays() {
        for (line, status) in [("exit 7", 7), ("false || exit", 1), ("true", 0)] {
            let run = std::process::Command::new("sh")
                .args(["-c", &asked_after(line)])
                .output()
                .unwrap();
            let console = String::from_utf8_lossy(&run.stdout);
            assert_eq!(run.status.code(), Some(status), "{line}");
            assert!(console.contains("=== complaints\n"), "{console}");
        }
    }
}
