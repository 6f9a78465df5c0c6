//! Steps on one event.

use serde_json::Value;
use vpmu::sched::{Errno, EventError, EventId, Extent, ReadOutcome, ReadValues};

use super::Outcome;
use crate::machine::{NamedEvent, SimMachine};
use crate::output::{StepResult, quote};
use crate::scenario::{flag, num, text_of, word};

/// The size of the buffer that the oracle reads into.
const READ_SIZE: i64 = (2 + 4 * 128) * 8;

impl SimMachine {
    pub(super) fn on_event(&mut self, op: &str, v: &Value) -> Outcome {
        let Some(at) = self.event(text_of(v, "ev")) else {
            return Err(format!("{op}: no event"));
        };
        let (now, id) = (self.now, self.events[at].id);
        let extent = if flag(v, "group") {
            Extent::Group
        } else {
            Extent::Event
        };
        let n = i32::try_from(num(v, "n").unwrap_or(1)).unwrap_or(i32::MAX);
        let result = match op {
            "close" => {
                self.events.remove(at);
                self.sched.close(now, id)
            }
            "enable" => self.sched.enable(now, id, extent),
            "disable" => self.sched.disable(now, id, extent),
            "reset" => self.sched.reset(now, id, extent),
            "refresh" => self.sched.refresh_budget(now, id, n),
            "period" => self
                .sched
                .set_period(now, id, word(v, "value").unwrap_or(0)),
            "overflow" => return Ok(self.overflow(id, n)),
            "ioctl" => return Ok(self.ioctl(v, id)),
            _ => return Err(format!("{op}: no operation on an event")),
        };
        Ok(result.map_err(EventError::errno))
    }

    fn overflow(&mut self, id: EventId, n: i32) -> Result<(), Errno> {
        for _ in 0..n {
            let mock = self
                .sched
                .view(id)
                .is_ok_and(|v| self.pmus.iter().any(|p| p.id == v.pmu));
            if !mock {
                return Err(Errno::EAGAIN);
            }
            let _ = self
                .sched
                .overflow(self.now, id)
                .map_err(EventError::errno)?;
        }
        Ok(())
    }

    fn ioctl(&mut self, v: &Value, id: EventId) -> Result<(), Errno> {
        let arg = num(v, "arg").unwrap_or(0);
        let extent = if arg & 1 != 0 {
            Extent::Group
        } else {
            Extent::Event
        };
        let n = i32::try_from(arg).unwrap_or(i32::MAX);
        let now = self.now;
        let result = match num(v, "cmd").unwrap_or(0) {
            0x2400 => self.sched.enable(now, id, extent),
            0x2401 => self.sched.disable(now, id, extent),
            0x2402 => self.sched.refresh_budget(now, id, n),
            0x2403 => self.sched.reset(now, id, extent),
            // SET_OUTPUT: nowhere, or to no event. PAUSE_OUTPUT: there is no buffer.
            0x2405 => return if arg == -1 { Ok(()) } else { Err(Errno::EBADF) },
            0x4004_2409 => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOTTY),
        };
        result.map_err(EventError::errno)
    }

    pub(super) fn read(&mut self, v: &Value, out: &mut StepResult) -> Result<(), String> {
        let Some(at) = self.event(text_of(v, "ev")) else {
            return Err("read: no event".into());
        };
        let event = self.events[at].clone();
        let size = usize::try_from(num(v, "size").unwrap_or(READ_SIZE)).unwrap_or(0);
        match self.sched.read(self.now, event.id, size) {
            Err(e) => out.text("ret", e.errno().name()),
            Ok(ReadOutcome::EndOfFile) => out.text("ret", "EOF"),
            Ok(ReadOutcome::Values(values)) => {
                out.text("ret", "ok");
                self.values(&event, &values, out);
            }
        }
        Ok(())
    }

    fn values(&self, event: &NamedEvent, values: &ReadValues, out: &mut StepResult) {
        if event.format & 8 != 0 {
            out.raw("nr", values.values.len());
        }
        if event.format & 1 != 0 {
            out.raw("enabled", values.enabled.0);
        }
        if event.format & 2 != 0 {
            out.raw("running", values.running.0);
        }
        let list = values.values.iter().map(|v| {
            let name = if event.format & 4 != 0 {
                self.name_of(v.id)
            } else {
                "?"
            };
            let lost = if event.format & 16 != 0 {
                format!(",{}", v.lost)
            } else {
                String::new()
            };
            format!("[{},{}{lost}]", quote(name), v.count.0)
        });
        let list: Vec<String> = list.collect();
        out.raw("values", format!("[{}]", list.join(",")));
    }
}
