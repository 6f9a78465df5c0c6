//! Energy as a guest's `perf stat -I` shows it, against what the mock host spends.

use anyhow::{Context, Result, ensure};

use super::Seen;
use super::on_host::host_mhz;

/// In the guest: has its kernel write down when it moves events from one CPU to another
/// (`perf_pmu_migrate_context`). Meanwhile they are on no CPU and count nothing, on any
/// machine: the event is taken off one CPU, a grace period passes, and it is put onto
/// the other.
pub(super) const WATCH_MOVES: &str = "T=/sys/kernel/tracing; \
     echo p:from perf_pmu_migrate_context >$T/kprobe_events; \
     echo r:to perf_pmu_migrate_context >>$T/kprobe_events; \
     echo 1 >$T/events/kprobes/enable";

/// In the guest: prints what was written down.
pub(super) const SHOW_MOVES: &str = "grep perf_pmu_migrate_context $T/trace";

/// The time that the moves took, in seconds.
///
/// # Errors
/// If there were not as many as that.
pub(super) fn time_of_moves(seen: &Seen, moves: u32) -> Result<f64> {
    let times = |name: &str| -> Result<Vec<f64>> {
        let mark = format!(": {name}: (");
        let lines = seen.console.lines();
        let stamps = lines.filter_map(|line| Some(line.split_once(&mark)?.0));
        let time = |before: &str| before.split_whitespace().next_back()?.parse().ok();
        let times: Vec<f64> = stamps.filter_map(time).collect();
        ensure!(
            times.len() == moves as usize,
            "{moves} moves of events were due, {} were seen {name} a CPU",
            times.len()
        );
        Ok(times)
    };
    let (from, to) = (times("from")?, times("to")?);
    Ok(to.iter().sum::<f64>() - from.iter().sum::<f64>())
}

/// What the host's mock spends, in watts: 16 units of 2^-32 J for each tick of its TSC.
pub(super) fn mock_watts(seen: &Seen) -> Result<f64> {
    Ok(16.0 * host_mhz(seen)? * 1e6 / 4_294_967_296.0)
}

/// What `perf stat -I` has shown: seconds, and the joules since the line before.
pub(super) struct Energy(Vec<(f64, f64)>);

impl Energy {
    pub(super) fn read(seen: &Seen) -> Result<Self> {
        let lines = seen.console.lines();
        let ours = lines.filter(|line| line.contains(",Joules,power/energy-pkg/"));
        let update = |line: &str| -> Result<(f64, f64)> {
            let mut words = line.split(',');
            let mut number = || -> Result<f64> {
                let word = words.next().context("a number is due")?;
                word.trim()
                    .parse()
                    .with_context(|| format!("no number: {line}"))
            };
            Ok((number()?, number()?))
        };
        let updates = ours.map(update).collect::<Result<Vec<_>>>()?;
        ensure!(
            updates.len() > 1,
            "perf has shown {} updates",
            updates.len()
        );
        Ok(Self(updates))
    }

    pub(super) fn total(&self) -> f64 {
        self.0.iter().map(|(_, joules)| joules).sum()
    }

    pub(super) fn time(&self) -> f64 {
        self.0.last().map_or(0.0, |(time, _)| *time)
    }

    /// The longest time between two updates.
    fn longest(&self) -> f64 {
        let starts = std::iter::once(0.0).chain(self.0.iter().map(|(time, _)| *time));
        let spans = self
            .0
            .iter()
            .zip(starts)
            .map(|((end, _), start)| end - start);
        spans.fold(0.0, f64::max)
    }

    /// The sum is what was spent at `watts`, but for the time in which nothing was
    /// counted, within one update.
    pub(super) fn is_whole(&self, watts: f64, uncounted: f64) -> Result<()> {
        let spent = watts * self.time();
        let missing = spent - self.total();
        crate::say!(
            "{:.2} J of {spent:.2} in {:.2} s; {missing:.2} are missing, {:.2} were spent in {uncounted:.2} s \
             that are not counted; the longest of {} updates took {:.2} s",
            self.total(),
            self.time(),
            watts * uncounted,
            self.0.len(),
            self.longest()
        );
        ensure!(
            (missing - watts * uncounted).abs() <= watts * self.longest(),
            "{missing:.2} J of {spent:.2} are missing, and {:.2} were not counted",
            watts * uncounted
        );
        Ok(())
    }

    /// At no time is the sum further from what is spent at a steady rate than one
    /// update, and it never goes back.
    pub(super) fn is_steady(&self) -> Result<()> {
        let watts = self.total() / self.time();
        let slack = watts * self.longest();
        let mut sum = 0.0;
        for &(time, joules) in &self.0 {
            ensure!(
                joules >= 0.0,
                "the energy went back by {joules} J at {time} s"
            );
            sum += joules;
            let due = watts * time;
            ensure!(
                (sum - due).abs() <= slack,
                "at {time} s the guest has seen {sum:.2} J, {due:.2} J were due"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(console: &str) -> Seen {
        Seen {
            console: console.to_owned(),
            ..Seen::default()
        }
    }

    #[test]
    fn a_gap_and_a_jump_are_found() {
        let updates = |joules: [f64; 5]| Energy((1..).map(f64::from).zip(joules).collect());
        assert!(updates([2.0, 2.1, 1.9, 2.0, 2.0]).is_steady().is_ok());
        assert!(updates([0.1, 0.1, 0.1, 6.0, 6.0]).is_steady().is_err());
        assert!(updates([2.0, 80.0, 2.0, 2.0, 2.0]).is_steady().is_err());
        assert!(updates([2.0, 2.0, -0.1, 2.0, 2.0]).is_steady().is_err());
        assert!((updates([0.0; 5]).longest() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_uncounted_is_no_loss_and_a_loss_is_one() {
        let energy = Energy((1..6).map(|n| (f64::from(n), 1.9)).collect());
        assert!(energy.is_whole(2.0, 0.25).is_ok());
        assert!(energy.is_whole(2.0, 1.75).is_err());
        assert!(energy.is_whole(3.0, 0.25).is_err());
    }

    #[test]
    fn moves_are_timed() {
        let console = "  cpuhp/2-21  [002] ...1.  33.100: from: (perf_pmu_migrate_context+0x0/0x1f0)\n\
                       \x20 cpuhp/2-21  [002] ...1.  33.125: to: (rapl_cpu_offline+0x8/0x9 <- perf_pmu_migrate_context)\n";
        assert!((time_of_moves(&seen(console), 1).unwrap() - 0.025).abs() < 1e-9);
        assert!(time_of_moves(&seen(console), 2).is_err());
    }

    #[test]
    fn what_perf_and_the_host_print_is_read() {
        let console = "cpu MHz\t\t: 1000.000\n     0.200,0.75,Joules,power/energy-pkg/,2,100.00,,\n\
                       \t0.400,0.74,Joules,power/energy-pkg/,2,100.00,,\n";
        let energy = Energy::read(&seen(console)).unwrap();
        assert!((energy.total() - 1.49).abs() < 1e-9 && (energy.time() - 0.4).abs() < 1e-9);
        assert!((mock_watts(&seen(console)).unwrap() - 3.725).abs() < 0.001);
        let none = "1.0,<not counted>,Joules,power/energy-pkg/,0,100.00,,\n";
        assert!(Energy::read(&seen(none)).is_err());
    }
}
