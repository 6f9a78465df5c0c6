//! Overflow, frequency mode and throttling (2.O).

use super::Scheduler;
use super::attr::{AttrFlags, EventAttr};
use super::driver::PmuDriver;
use super::error::EventError;
use super::event::Birth;
use super::ids::{ContextId, EventId, PmuId};
use super::registry::PmuCaps;
use super::state::{EventState, GroupSet};
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// What follows from an overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a stopped event is not counting any more"]
pub enum Overflow {
    /// The event goes on.
    Continue,
    /// The event was throttled: it stays active but does not count.
    Throttled,
    /// Its budget is used up: it is disabled.
    Disabled,
}

/// The part of an event that belongs to sampling. Linux: `struct hw_perf_event`.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// Period in events that the PMU is to use.
    period: u64,
    /// Period of the last interrupt.
    last_period: u64,
    /// Events left of the current period.
    period_left: i64,
    /// Interrupts in the current tick.
    interrupts: u32,
    /// Stopped by the throttle.
    throttled: bool,
    /// The tick that `interrupts` belongs to.
    tick: u64,
    /// Clock at the last overflow, for frequency mode.
    freq_stamp: Nanos,
    /// Count at the last tick, for frequency mode.
    freq_count: Count,
    /// Overflows left before the event is disabled; 0: no budget.
    event_limit: i32,
}

impl Sampling {
    /// The first period: 1 in frequency mode, else the one asked for.
    pub(super) fn new(_: &Birth, attr: &EventAttr) -> Self {
        let period = if attr.is_freq() { 1 } else { attr.sample };
        Self {
            period,
            last_period: period,
            period_left: i64::try_from(period).unwrap_or(i64::MAX),
            interrupts: 0,
            throttled: false,
            tick: 0,
            freq_stamp: Nanos(0),
            freq_count: Count(0),
            event_limit: 0,
        }
    }

    /// Stopped by the throttle.
    pub(crate) const fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// Lets the interrupts of a throttled event through again.
    pub(crate) const fn unthrottle(&mut self) {
        self.throttled = false;
        self.interrupts = 0;
    }

    /// Lets the event overflow `n` more times.
    pub(crate) const fn add_budget(&mut self, n: i32) {
        self.event_limit = self.event_limit.wrapping_add(n);
    }

    /// The current period is over.
    pub(crate) const fn restart_period(&mut self) {
        self.period_left = 0;
    }

    /// Sets the period, in events, that the PMU is to use.
    pub(crate) const fn set_period(&mut self, period: u64) {
        self.period = period;
    }
}

impl<D: PmuDriver> Scheduler<D> {
    /// The PMU's interrupt for an event (R-205… ).
    ///
    /// # Errors
    /// The event is not on a CPU.
    ///
    /// Linux: `perf_event_overflow`.
    pub fn overflow(&mut self, now: Nanos, id: EventId) -> Result<Overflow, EventError> {
        if self.events.get(id).is_none() {
            return Err(EventError::NoEvent);
        }
        self.at(now);
        let event = &mut self.events[id];
        let (EventState::Active, Some(vcpu)) = (event.state(), event.oncpu()) else {
            return Err(EventError::NotActive);
        };
        if !event.attr().is_sampling() {
            return Ok(Overflow::Continue);
        }
        let budget = event.sampling.event_limit;
        let throttled = self.account_interrupt(vcpu, id);
        let event = &mut self.events[id];
        if budget != 0 {
            event.sampling.event_limit = budget.wrapping_sub(1);
        }
        let done = budget == 1;
        if throttled || done {
            self.stop_in_place(id);
        }
        if done {
            // The interrupt that disables it follows at once.
            self.disable_one(id);
            self.check_invariants();
            return Ok(Overflow::Disabled);
        }
        Ok(if throttled {
            Overflow::Throttled
        } else {
            Overflow::Continue
        })
    }

    /// Interrupts of one event that are let through in a tick.
    fn max_per_tick(&self) -> u64 {
        self.config
            .max_sample_rate
            .div_ceil(u64::from(self.config.hz.max(1)))
    }

    fn tick_length(&self) -> Nanos {
        Nanos(1_000_000_000 / u64::from(self.config.hz.max(1)))
    }

    /// Linux: `__perf_event_account_interrupt`.
    fn account_interrupt(&mut self, vcpu: VcpuId, id: EventId) -> bool {
        let (tick, limit, length, now) = (
            self.cpu(vcpu).ticks,
            self.max_per_tick(),
            self.tick_length(),
            self.now,
        );
        let event = &mut self.events[id];
        let freq = event.attr().is_freq();
        let s = &mut event.sampling;
        let mut throttle = false;
        if s.tick == tick {
            s.interrupts = s.interrupts.saturating_add(1);
            throttle = u64::from(s.interrupts) >= limit && !s.throttled;
        } else {
            s.tick = tick;
            s.interrupts = 1;
        }
        s.throttled |= throttle;
        let since = now.since(s.freq_stamp);
        s.freq_stamp = now;
        let last = s.last_period;
        if freq && since.0 > 0 && since.0 < 2 * length.0 {
            self.adjust_period(id, since, last, true);
        }
        if throttle {
            self.cpu_mut(vcpu).throttled += 1;
        }
        throttle
    }

    /// The tick of a CPU: releases throttled events and adjusts periods, of
    /// leaders only.
    ///
    /// Linux: `perf_adjust_freq_unthr_context`.
    pub fn tick(&mut self, now: Nanos, vcpu: VcpuId) {
        if !self.is_up(vcpu) {
            return;
        }
        self.at(now);
        let now = self.now;
        let cpu = self.cpu_mut(vcpu);
        cpu.ticks += 1;
        let length = now.since(cpu.last_tick);
        cpu.last_tick = now;
        let throttled = core::mem::take(&mut cpu.throttled) > 0;
        let contexts = [Some(cpu.ctx), cpu.task_ctx];
        for ctx in contexts.into_iter().flatten() {
            let mut from = PmuId(0);
            while let Some((pmu, nr_freq)) = self.contexts[ctx]
                .slices
                .range(from..)
                .next()
                .map(|(p, s)| (*p, s.nr_freq))
            {
                from = PmuId(pmu.0 + 1);
                let silent = self.pmus[pmu.index()].caps.contains(PmuCaps::NO_INTERRUPT);
                if (nr_freq > 0 || throttled) && !silent {
                    self.tick_slice(ctx, pmu, length);
                }
            }
        }
    }

    fn tick_slice(&mut self, ctx: ContextId, pmu: PmuId, length: Nanos) {
        for set in [GroupSet::Pinned, GroupSet::Flexible] {
            let mut at = self.first_active(ctx, pmu, set);
            while let Some(id) = at {
                self.tick_event(id, length);
                at = self.events[id].active_next();
            }
        }
    }

    /// Linux: `perf_adjust_freq_unthr_events`.
    fn tick_event(&mut self, id: EventId, length: Nanos) {
        let event = &mut self.events[id];
        let freq = event.attr().is_freq();
        if core::mem::take(&mut event.sampling.throttled) {
            event.sampling.interrupts = 0;
            if !freq {
                self.start_in_place(id);
            }
        }
        if !freq {
            return;
        }
        self.stop_in_place(id);
        let event = &mut self.events[id];
        let delta = event.count().since(event.sampling.freq_count);
        event.sampling.freq_count = event.count();
        if delta.0 > 0 {
            self.adjust_period(id, length, delta.0, false);
        }
        self.start_in_place(id);
    }

    /// Linux: `perf_adjust_period`.
    fn adjust_period(&mut self, id: EventId, elapsed: Nanos, count: u64, running: bool) {
        let event = &mut self.events[id];
        let period = next_period(event.sampling.period, event.attr().sample, elapsed, count);
        event.sampling.period = period;
        event.sampling.last_period = period;
        let limit = i64::try_from(period.saturating_mul(8)).unwrap_or(i64::MAX);
        let restart = event.sampling.period_left > limit;
        let pmu = event.pmu();
        if restart {
            event.sampling.period_left = 0;
            if running {
                self.stop_in_place(id);
            }
        }
        self.pmus[pmu.index()].driver.set_period(id, period);
        if restart && running {
            self.start_in_place(id);
        }
    }

    /// The sample period that an event uses now, in events.
    #[must_use]
    pub fn sample_period(&self, id: EventId) -> Option<u64> {
        self.events
            .get(id)
            .filter(|e| e.attr().is_sampling())
            .map(|e| e.sampling.period)
    }

    /// Whether an event is throttled.
    #[must_use]
    pub fn is_throttled(&self, id: EventId) -> bool {
        self.events.get(id).is_some_and(|e| e.sampling.throttled)
    }

    /// Whether the event is in frequency mode.
    #[must_use]
    pub fn is_freq(&self, id: EventId) -> bool {
        self.events
            .get(id)
            .is_some_and(|e| e.attr().has(AttrFlags::FREQ))
    }

    /// The count without a read, for tests of drivers.
    #[must_use]
    pub fn stored_count(&self, id: EventId) -> Option<Count> {
        self.events.get(id).map(|e| e.count())
    }
}

/// The period after an adjustment: an eighth of the way to the one
/// that would have given `freq` samples a second. Linux: `perf_calculate_period`.
#[must_use]
pub fn next_period(period: u64, freq: u64, elapsed: Nanos, count: u64) -> u64 {
    let target = ideal_period(freq, elapsed, count);
    let difference = i128::from(target) - i128::from(period);
    let rounding = if difference >= 0 { 7 } else { -7 };
    let next = i128::from(period) + (difference + rounding) / 8;
    u64::try_from(next).unwrap_or(u64::MAX).max(1)
}

/// count × 10^9 / (elapsed × freq), where the products are thinned out bit by
/// bit until both fit 64 bits.
fn ideal_period(freq: u64, elapsed: Nanos, count: u64) -> u64 {
    let bits = |v: u64| 64 - v.leading_zeros();
    let (mut a, mut sec) = (count, 1_000_000_000_u64);
    let (mut b, mut f) = (elapsed.0, freq);
    let halve = |x: &mut u64, y: &mut u64| {
        let larger = if x > y { x } else { y };
        *larger >>= 1;
    };
    while bits(a) + bits(sec) > 64 && bits(b) + bits(f) > 64 {
        halve(&mut b, &mut f);
        halve(&mut sec, &mut a);
    }
    let mut dividend;
    let divisor;
    if bits(a) + bits(sec) > 64 {
        divisor = b.wrapping_mul(f);
        let mut shifted = divisor;
        while bits(a) + bits(sec) > 64 {
            halve(&mut sec, &mut a);
            shifted >>= 1;
        }
        dividend = a.wrapping_mul(sec);
        return dividend.checked_div(shifted).unwrap_or(dividend);
    }
    dividend = a.wrapping_mul(sec);
    while bits(b) + bits(f) > 64 {
        halve(&mut b, &mut f);
        dividend >>= 1;
    }
    divisor = b.wrapping_mul(f);
    dividend.checked_div(divisor).unwrap_or(dividend)
}
