//! What a guest counted from one line of its console to the next, beside the CPU time that
//! its VMM had meanwhile. A host that is busy elsewhere gives a guest less of a second, and
//! then less is counted in it; of the CPU time that the guest did get nothing may be missing.

use anyhow::{Result, ensure};

/// Shell: `follow EVENT` prints, for as long as `$vmm` lives, `said N LEAST MOST` each time
/// that the console has more lines with a count of the event. They are N by now, and the
/// CPU time of the VMM was between the two numbers, in nanoseconds, when the first of them
/// came. N is 0 first. It starts no program but `sleep`: it must not be slow.
pub(super) const FOLLOW: &str = "\
    used() { cpu=0; for t in /proc/$vmm/task/*/schedstat; do read ns rest <$t && cpu=$((cpu + ns)); done 2>/dev/null; }; \
    follow() { exec 9</tmp/console; n=0; told=-1; part=; used; before=$cpu; least=$cpu; \
      while kill -0 $vmm 2>/dev/null; do \
        while read -r text <&9 || { part=$part$text; false; }; do \
          case $part$text in *,,$1,*) n=$((n + 1)); esac; part=; done; \
        used; [ $n = $told ] || echo said $n $least $cpu; told=$n; \
        least=$before; sleep 0.1; used; before=$cpu; done; }; ";

/// From one count of the console to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    /// What was counted; 0 if nothing was.
    count: f64,
    /// Whether the guest says that its task did not run, with a count of nothing.
    not_counted: bool,
    /// The least CPU time that the VMM had, in nanoseconds.
    least: f64,
    /// The most.
    most: f64,
}

/// The intervals that [`FOLLOW`] saw end, the first one from its start on. `counts` are
/// those of the console, in its order.
///
/// # Errors
/// If most of them are too short beside the time from one look to the next.
pub(super) fn intervals(said: &str, counts: &[Option<f64>]) -> Result<Vec<Interval>> {
    let records: Vec<(usize, f64, f64)> = said.lines().filter_map(record).collect();
    // The first look after so many counts were there.
    let at = |n: usize| records.iter().find(|record| record.0 >= n);
    let mut all = Vec::new();
    for (n, &count) in counts.iter().enumerate() {
        let (Some(begin), Some(end)) = (at(n), at(n + 1)) else {
            break;
        };
        all.push(Interval {
            count: count.unwrap_or(0.0),
            not_counted: count.is_none(),
            least: (end.1 - begin.2).max(0.0),
            most: end.2 - begin.1,
        });
    }
    let known = all.iter().filter(|i| i.least > 0.0).count();
    ensure!(
        known * 4 >= counts.len() * 3,
        "the CPU time of {known} of {} intervals is known: {said}",
        counts.len()
    );
    Ok(all)
}

fn record(line: &str) -> Option<(usize, f64, f64)> {
    let mut words = line.strip_prefix("said ")?.split(' ');
    let n = words.next()?.parse().ok()?;
    let mut number = || words.next()?.trim_end().parse().ok();
    Some((n, number()?, number()?))
}

impl Interval {
    /// Counts in a nanosecond of CPU time.
    pub(super) fn rate(&self) -> f64 {
        let middle = f64::midpoint(self.least, self.most);
        if middle > 0.0 {
            self.count / middle
        } else {
            0.0
        }
    }

    /// Whether no less was counted than `rate` divided by `factor` gives, and no more than
    /// `rate` multiplied by it.
    pub(super) fn is_within(&self, factor: f64, rate: f64) -> bool {
        self.is_whole(factor, rate) && self.count <= rate * factor * self.most
    }

    /// Whether no less was counted than `rate` divided by `factor` gives.
    pub(super) fn is_whole(&self, factor: f64, rate: f64) -> bool {
        self.count >= rate / factor * self.least
    }
}

/// Intervals that are looked at together.
pub(super) const IN_A_ROW: usize = 4;

/// Intervals that follow each other as one.
fn together(row: &[Interval]) -> Interval {
    Interval {
        count: row.iter().map(|interval| interval.count).sum(),
        not_counted: false,
        least: row.iter().map(|interval| interval.least).sum(),
        most: row.iter().map(|interval| interval.most).sum(),
    }
}

/// The first three of `intervals`, by their number, beside the rate that is usual.
fn named<'a>(intervals: impl Iterator<Item = (usize, &'a Interval)>, usual: f64) -> String {
    const MOST: usize = 3;
    let all: Vec<_> = intervals.collect();
    let mut text = format!(
        "{} beside the usual {usual:.3} in a ns of CPU time",
        all.len()
    );
    for (number, interval) in all.iter().take(MOST) {
        let Interval {
            count, least, most, ..
        } = interval;
        let one = format!("; interval {number} counted {count} in {least} to {most} ns");
        text.push_str(&one);
    }
    if all.len() > MOST {
        text.push_str("; ...");
    }
    text
}

/// The mock PMU counts the host's ticks, as many in each second of CPU time. What is not
/// counted is estimated and not lost, nor is it made up: [`IN_A_ROW`] intervals together
/// have a quarter of what is usual at least, and four times that at most.
///
/// A host that stands still because the machine is busy elsewhere charges the time to
/// whoever runs, the guest or its VMM. So one interval in fifty may be anything, and the
/// others are within a factor of eight. Where the host's speed varies, so do the rates that
/// estimates are made of, and an estimate that was too high is made up for by the next ones:
/// a third of the intervals that are beyond a factor of two may be anything as well.
///
/// # Errors
/// Shows the intervals that are not so.
pub(super) fn steady(all: &[Interval]) -> Result<()> {
    // A perf that was late once makes the next interval so short that the task which it
    // counts does not run in it.
    let counted = || all.iter().enumerate().filter(|(_, i)| !i.not_counted);
    let many = counted().count();
    ensure!(
        many > 8 && many * 10 >= all.len() * 9,
        "{many} of {} intervals have a count",
        all.len()
    );
    let mut rates: Vec<f64> = counted().map(|(_, interval)| interval.rate()).collect();
    rates.sort_by(f64::total_cmp);
    let usual = rates[many / 2];
    // The first one begins with the guest's perf.
    let beyond = |factor| {
        let counted = all.iter().enumerate().filter(|(_, i)| !i.not_counted);
        let is_beyond = move |(_, i): &(usize, &Interval)| !i.is_within(factor, usual);
        counted.skip(1).filter(is_beyond)
    };
    ensure!(
        usual > 0.0 && beyond(8.0).count() <= many / 50 + beyond(2.0).count() / 3,
        "some are lost: {}",
        named(beyond(8.0), usual)
    );
    let counted: Vec<_> = counted().skip(1).map(|(_, interval)| *interval).collect();
    let rows: Vec<_> = counted.windows(IN_A_ROW).map(together).collect();
    let lost = || {
        let rows = rows.iter().enumerate();
        rows.filter(|(_, row)| !row.is_within(4.0, usual))
    };
    ensure!(
        lost().next().is_none(),
        "some in a row are lost: {}",
        named(lost(), usual)
    );
    let same = many - 1 - beyond(2.0).count();
    ensure!(
        same * 4 >= many * 3,
        "not the same: {}",
        named(beyond(2.0), usual)
    );
    Ok(())
}

/// Of eight counts of the same loop one at least is hardly any, and three at least, with
/// the last, are whole.
///
/// # Errors
/// Shows the intervals that are not so.
pub(super) fn lost_for_a_while(intervals: &[Interval]) -> Result<()> {
    ensure!(intervals.len() == 8, "{} counts", intervals.len());
    let all = || intervals.iter().enumerate();
    let usual = intervals.iter().map(Interval::rate).fold(0.0, f64::max);
    let least = all().min_by(|(_, a), (_, b)| a.rate().total_cmp(&b.rate()));
    let is_lost = |(_, i): &(usize, &Interval)| i.rate() < usual / 8.0;
    let part = || all().filter(|(_, i)| !i.is_whole(2.0, usual));
    ensure!(
        least.as_ref().is_some_and(is_lost),
        "nothing was lost: the least is {}",
        named(least.into_iter(), usual)
    );
    ensure!(
        part().count() <= 5,
        "too much was lost: {}",
        named(part(), usual)
    );
    let last = || part().filter(|(number, _)| *number == 7);
    ensure!(
        last().next().is_none(),
        "the last one is not whole: {}",
        named(last(), usual)
    );
    Ok(())
}

/// What `perf stat -x,` has counted of an event each time; `None` where it has not.
pub(super) fn counts_or_none(console: &str, event: &str) -> Vec<Option<f64>> {
    let of_event = format!(",,{event},");
    let lines = console.lines().filter(|line| line.contains(&of_event));
    // With `-I` the time stands before it.
    let count = |line: &str| {
        let (before, _) = line.split_once(&of_event)?;
        before.split(',').next_back()?.trim().parse().ok()
    };
    lines.map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Intervals with this much CPU time each, give or take a fifth.
    fn having(count: &[f64], seconds: &[f64]) -> Vec<Interval> {
        let interval = |(&count, &seconds): (&f64, &f64)| Interval {
            count,
            not_counted: false,
            least: seconds * 0.8,
            most: seconds * 1.2,
        };
        count.iter().zip(seconds).map(interval).collect()
    }

    #[test]
    fn a_busy_host_is_no_loss() {
        let mut counts = [0.3, 1.0, 1.1, 0.9, 0.3, 1.7, 1.0, 1.0, 1.0, 1.0];
        let mut had = [1.0; 10];
        steady(&having(&counts, &had)).unwrap();
        // The guest had a tenth of a second, no more, and counted as much.
        (counts[4], had[4]) = (0.09, 0.09);
        steady(&having(&counts, &had)).unwrap();
        had[4] = 1.0;
        assert!(steady(&having(&counts, &had)).is_err());
        // And more than it had: made up.
        (counts[4], had[4]) = (1.2, 0.09);
        assert!(steady(&having(&counts, &had)).is_err());
        // The guest itself says that its task did not run.
        (counts[4], had[4]) = (0.0, 1.0);
        let mut idle = having(&counts, &had);
        assert!(steady(&idle).is_err());
        idle[4].not_counted = true;
        steady(&idle).unwrap();
        idle[5].not_counted = true;
        assert!(steady(&idle).is_err());
        assert!(steady(&having(&[1.0; 5], &[1.0; 5])).is_err());
        assert!(steady(&having(&[0.0; 12], &[1.0; 12])).is_err());
        let uneven = [1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0];
        assert!(steady(&having(&uneven, &[1.0; 9])).is_err());
    }

    #[test]
    fn an_error_names_the_intervals_that_it_is_about() {
        let mut counts = [1.0; 300];
        for lost in [8, 40, 41, 200, 210, 220, 230, 240, 250, 260] {
            counts[lost] = 0.0;
        }
        let error = steady(&having(&counts, &[1.0; 300])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "some are lost: 10 beside the usual 1.000 in a ns of CPU time; \
             interval 8 counted 0 in 0.8 to 1.2 ns; interval 40 counted 0 in 0.8 to 1.2 ns; \
             interval 41 counted 0 in 0.8 to 1.2 ns; ..."
        );
    }

    /// Of many intervals one may be anything, where those beside it are whole; four in a
    /// row may not, and neither may two.
    #[test]
    fn a_stretch_that_is_lost_is_found_among_many() {
        let many = |lost: std::ops::Range<usize>, count| {
            let mut counts = [1.0; 60];
            counts[lost].fill(count);
            steady(&having(&counts, &[1.0; 60]))
        };
        many(30..31, 0.0).unwrap();
        many(30..31, 12.0).unwrap();
        many(30..34, 0.1).unwrap_err();
        many(30..34, 6.0).unwrap_err();
        many(30..32, 0.0).unwrap_err();
        many(30..33, 0.0).unwrap_err();
    }

    /// A machine that was slowed to a half: nine intervals of 89 beyond a factor of two,
    /// three of them next to nothing, each behind one that was estimated too high.
    #[test]
    fn estimates_of_a_host_whose_speed_varies_are_no_loss() {
        let mut counts = [1.0; 89];
        for (number, count) in [9, 26, 28, 36, 73, 80]
            .into_iter()
            .zip([0.3].into_iter().cycle())
        {
            counts[number] = count;
        }
        for number in [11, 34, 53] {
            (counts[number - 1], counts[number]) = (1.9, 0.02);
        }
        steady(&having(&counts, &[1.0; 89])).unwrap();
        for number in [60, 66] {
            counts[number] = 0.0;
        }
        steady(&having(&counts, &[1.0; 89])).unwrap_err();
    }

    #[test]
    fn what_was_lost_is_told_from_what_was_not() {
        let had = [1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0];
        let good = [1.0, 0.4, 0.0, 0.3, 2.1, 1.0, 1.0, 1.0];
        lost_for_a_while(&having(&good, &had)).unwrap();
        for bad in [
            [1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0],
            [1.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            [1.0, 0.0, 1.0, 1.0, 2.0, 1.0, 1.0, 0.1],
        ] {
            assert!(lost_for_a_while(&having(&bad, &had)).is_err(), "{bad:?}");
        }
        assert!(lost_for_a_while(&having(&good[1..], &had[1..])).is_err());
    }

    #[test]
    fn counts_are_read_with_and_without_a_time() {
        let console = "<not counted>,,instructions,0,0.00,,\n12,,instructions,9,100.00,,\n\
                       1.01,34,,instructions,9,100.00,,\n1.01,5,,cycles,9,100.00,,\n";
        let counts = counts_or_none(console, "instructions");
        assert_eq!(counts, [None, Some(12.0), Some(34.0)]);
    }

    #[test]
    fn an_interval_has_the_bounds_of_its_ends() {
        // Two lines came between two looks.
        let said = "said 0 100 110\nsaid 1 200 220\nsaid 3 400 420\nsaid 4 500 510\n";
        let all = intervals(said, &[Some(1.0); 4]).unwrap();
        let bounds: Vec<_> = all.iter().map(|i| (i.least, i.most)).collect();
        assert_eq!(
            bounds,
            [(90.0, 120.0), (180.0, 220.0), (0.0, 20.0), (80.0, 110.0)]
        );
        assert!(intervals("said 0 1 2\nsaid 4 3 4\n", &[Some(1.0); 4]).is_err());
    }

    /// What the shell of a line sees of a console that grows, in pieces.
    #[test]
    fn the_shell_follows_the_console() {
        let dir = std::env::temp_dir().join(format!("xtask-said-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let console = dir.join("console");
        std::fs::write(&console, "counting\n").unwrap();
        let follow = FOLLOW.replace("/tmp/console", &console.display().to_string());
        let line = format!(
            "(sleep 0.5; printf '1,9,,instr' >>C; sleep 0.5; printf 'uctions,x\\n1,9,,cycles,x\\n' >>C; \
             sleep 0.5; printf '2,9,,instructions,x\\n3,9,,instructions,x\\n' >>C; sleep 1) & vmm=$!; \
             {follow} follow instructions & wait $vmm; wait"
        );
        let line = line.replace(">>C", &format!(">>{}", console.display()));
        let out = std::process::Command::new("sh")
            .args(["-c", &line])
            .output();
        let out = String::from_utf8_lossy(&out.unwrap().stdout).into_owned();
        std::fs::remove_dir_all(&dir).unwrap();
        let seen: Vec<_> = out.lines().filter_map(record).collect();
        let lines: Vec<_> = seen.iter().map(|record| record.0).collect();
        assert_eq!(lines.first(), Some(&0), "{out}");
        assert!(lines.contains(&1) && lines.ends_with(&[3]), "{out}");
        assert!(seen.iter().all(|(_, least, most)| least <= most), "{out}");
    }
}
