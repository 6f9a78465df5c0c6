//! Who was on which counter when: as text and as a Chrome trace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use vpmu::sched::EventState;

use crate::machine::SimMachine;
use crate::output::quote;

/// A counter of a PMU on a CPU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    cpu: u16,
    pmu: String,
    counter: String,
}

#[derive(Clone, Debug)]
struct Span {
    lane: Lane,
    event: String,
    from: u64,
    to: u64,
}

/// An event that was ever open: the times of the event itself, without the
/// copies that child tasks inherited, as they were when it was last open.
#[derive(Clone, Debug)]
struct Share {
    event: String,
    /// ns
    enabled: u64,
    /// ns
    running: u64,
}

/// Collects spans and times while a scenario runs.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    open: BTreeMap<String, (Lane, u64)>,
    spans: Vec<Span>,
    /// By the event's number, so in the order of their opening.
    shares: BTreeMap<u64, Share>,
    end: u64,
}

/// Widest drawing, in columns.
const COLUMNS: usize = 100;

impl Recorder {
    /// Notes which events are on which counters now, and the times of all events.
    ///
    /// Called whenever something may have changed. An event's last times are right
    /// after its close too, as a close takes no time.
    pub(crate) fn observe(&mut self, machine: &SimMachine) {
        let now = machine.now.0;
        self.end = self.end.max(now);
        let mut on = BTreeMap::new();
        for e in &machine.events {
            let Ok(view) = machine.sched.view(e.id) else {
                continue;
            };
            let (enabled, running) = machine.sched.times(machine.now, e.id).unwrap_or_default();
            let share = Share {
                event: e.name.clone(),
                enabled: enabled.0,
                running: running.0,
            };
            self.shares.insert(view.id, share);
            let (EventState::Active, Some(cpu)) = (view.state, view.oncpu) else {
                continue;
            };
            let counter = machine.counter(e.id, view.pmu, true);
            let counter = match counter.as_str() {
                // Without a number every event has a lane of its own.
                "?" | "-" => format!("{counter} {}", e.name),
                _ => counter,
            };
            let pmu = machine.sched.pmu_name(view.pmu).unwrap_or_default();
            on.insert(
                e.name.clone(),
                Lane {
                    cpu: cpu.0,
                    pmu,
                    counter,
                },
            );
        }
        let ended = self
            .open
            .iter()
            .filter(|(e, (lane, _))| on.get(*e) != Some(lane));
        let ended: Vec<String> = ended.map(|(e, _)| e.clone()).collect();
        for event in ended {
            self.close(event, now);
        }
        for (event, lane) in on {
            self.open.entry(event).or_insert((lane, now));
        }
    }

    fn close(&mut self, event: String, to: u64) {
        if let Some((lane, from)) = self.open.remove(&event)
            && to > from
        {
            self.spans.push(Span {
                lane,
                event,
                from,
                to,
            });
        }
    }

    /// Ends what is still on.
    pub(crate) fn finish(&mut self, machine: &SimMachine) {
        self.end = self.end.max(machine.now.0);
        for event in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(event, self.end);
        }
        self.spans
            .sort_by(|a, b| (&a.lane, a.from).cmp(&(&b.lane, b.from)));
    }

    fn lanes(&self) -> BTreeSet<Lane> {
        self.spans.iter().map(|s| s.lane.clone()).collect()
    }

    /// The drawing, then the table of events.
    pub(crate) fn timeline(&self) -> String {
        let mut out = self.draw();
        out.push_str(&self.table());
        out
    }

    /// A table with one line for each event, those that never ran too: time
    /// enabled, time running, and running as a share of enabled.
    fn table(&self) -> String {
        let rows = self.shares.values().map(|s| {
            let (enabled, running) = (ms(s.enabled), ms(s.running));
            let times = [format!("{enabled} ms"), format!("{running} ms")];
            let [enabled, running] = times;
            [s.event.clone(), enabled, running, percent(s)]
        });
        let rows: Vec<[String; 4]> = rows.collect();
        if rows.is_empty() {
            return String::new();
        }
        let title = ["event", "enabled", "running", "percent"].map(String::from);
        let rows: Vec<_> = std::iter::once(title).chain(rows).collect();
        let width = |i: usize| rows.iter().map(|r| r[i].len()).max().unwrap_or(0);
        let [a, b, c, d] = [width(0), width(1), width(2), width(3)];
        let mut out = String::from("\n");
        for [event, enabled, running, share] in &rows {
            let _ = write!(
                out,
                "\n{event:a$}  {enabled:>b$}  {running:>c$}  {share:>d$}"
            );
        }
        out
    }

    /// A drawing with one line for each counter that an event was ever on.
    fn draw(&self) -> String {
        let lanes = self.lanes();
        if lanes.is_empty() {
            return "nothing was ever on a counter".into();
        }
        let columns = u64::try_from(COLUMNS).unwrap_or(100);
        // Whole steps of 0.1 ms, so that grid lines are round.
        let step = self.end.div_ceil(columns).div_ceil(100_000).max(1) * 100_000;
        let title = |l: &Lane| format!("cpu {} {} {}", l.cpu, l.pmu, l.counter);
        let width = lanes.iter().map(|l| title(l).len()).max().unwrap_or(0);
        let mut out = format!("0 to {} ms, one column is {} ms\n", ms(self.end), ms(step));
        for lane in &lanes {
            let _ = write!(out, "{:width$} |", title(lane));
            out.push_str(&self.row(lane, step));
            out.push_str("|\n");
        }
        out.pop();
        out
    }

    fn row(&self, lane: &Lane, step: u64) -> String {
        let cells = usize::try_from(self.end.div_ceil(step)).unwrap_or(COLUMNS);
        let mut row = vec!['.'; cells];
        for span in self.spans.iter().filter(|s| s.lane == *lane) {
            let at = |t: u64| usize::try_from(t / step).unwrap_or(cells).min(cells);
            let (from, to) = (at(span.from), at(span.to + step - 1));
            let mut name = span.event.chars();
            for (i, cell) in row[from..to].iter_mut().enumerate() {
                *cell = if i + 1 == to - from && i > 0 {
                    '|'
                } else {
                    name.next().unwrap_or('-')
                };
            }
        }
        row.into_iter().collect()
    }

    /// The spans as a Chrome trace: a process a CPU and PMU, a thread a counter.
    pub(crate) fn chrome_trace(&self) -> String {
        let lanes: Vec<Lane> = self.lanes().into_iter().collect();
        let groups: BTreeSet<(u16, &str)> = lanes.iter().map(|l| (l.cpu, l.pmu.as_str())).collect();
        let groups: Vec<(u16, &str)> = groups.into_iter().collect();
        let pid = |l: &Lane| {
            groups
                .iter()
                .position(|g| *g == (l.cpu, l.pmu.as_str()))
                .unwrap_or(0)
                + 1
        };
        let mut parts = Vec::new();
        for (i, (cpu, pmu)) in groups.iter().enumerate() {
            let name = quote(&format!("CPU {cpu} {pmu}"));
            let id = i + 1;
            parts.push(format!("{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{id},\"args\":{{\"name\":{name}}}}}"));
        }
        for (tid, lane) in lanes.iter().enumerate() {
            let (id, name) = (pid(lane), quote(&format!("counter {}", lane.counter)));
            parts.push(format!(
                "{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{id},\"tid\":{tid},\"args\":{{\"name\":{name}}}}}"
            ));
        }
        for s in &self.spans {
            let tid = lanes.iter().position(|l| *l == s.lane).unwrap_or(0);
            parts.push(format!(
                "{{\"ph\":\"X\",\"name\":{},\"cat\":\"perf\",\"pid\":{},\"tid\":{tid},\"ts\":{},\"dur\":{}}}",
                quote(&s.event),
                pid(&s.lane),
                micros(s.from),
                micros(s.to - s.from)
            ));
        }
        format!(
            "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n",
            parts.join(",\n")
        )
    }
}

/// Running as a share of enabled, rounded down to 0.1 %; `-` if the event was
/// never enabled.
fn percent(share: &Share) -> String {
    let (enabled, running) = (u128::from(share.enabled), u128::from(share.running));
    let Some(tenths) = (running * 1000).checked_div(enabled) else {
        return "-".into();
    };
    match (tenths / 10, tenths % 10) {
        (0, 0) if running > 0 => "<0.1 %".into(),
        (whole, 0) => format!("{whole} %"),
        (whole, tenth) => format!("{whole}.{tenth} %"),
    }
}

fn ms(ns: u64) -> String {
    let text = format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

fn micros(ns: u64) -> String {
    format!("{}.{:03}", ns / 1000, ns % 1000)
}
