//! A naive model of the scheduler: one flat list of events, every pass walks
//! and sorts all of it, and time is added to every event as it goes by. It has
//! no stamps, trees, active lists or transactions, so that it is wrong in
//! other ways than the real one. Groups of interchangeable counters only.

use super::types::St::{Active, Error, Inactive, Off};
use super::types::{Ctx, Ev, Naive, St};

impl Naive {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Where a context is, if anywhere.
    pub(crate) fn place(&self, ctx: Ctx) -> Option<usize> {
        match ctx {
            Ctx::Cpu(c) => Some(c),
            Ctx::Task(t) => self.current.iter().position(|r| *r == Some(t)),
        }
    }

    pub(crate) fn siblings(&self, leader: usize) -> Vec<usize> {
        (0..self.evs.len())
            .filter(|e| *e != leader && self.evs[*e].open && self.evs[*e].leader == leader)
            .collect()
    }

    fn effective(&self, e: usize) -> St {
        let leader = self.evs[self.evs[e].leader].state;
        if leader <= Off {
            leader
        } else {
            self.evs[e].state
        }
    }

    /// Open leaders of a class, in scheduling order.
    fn groups(&self, ctx: Ctx, pmu: usize, pinned: bool) -> Vec<usize> {
        let mine = |e: &usize| {
            let v = &self.evs[*e];
            v.open && v.leader == *e && v.ctx == ctx && v.slice == pmu && v.pinned == pinned
        };
        let mut all: Vec<usize> = (0..self.evs.len()).filter(mine).collect();
        all.sort_by_key(|e| self.evs[*e].index);
        all
    }

    /// Lets time pass without a rotation.
    fn pass_time(&mut self, until: u64) {
        let d = until - self.now;
        for e in 0..self.evs.len() {
            if !self.evs[e].open || self.place(self.evs[e].ctx).is_none() {
                continue;
            }
            let state = self.effective(e);
            self.evs[e].enabled += if state >= Inactive { d } else { 0 };
            self.evs[e].running += if state == Active { d } else { 0 };
        }
        self.now = until;
    }

    /// Sleeps, rotating whenever a timer expires.
    pub(crate) fn sleep(&mut self, d: u64) {
        let end = self.now + d;
        loop {
            let timers = (0..self.cpus).flat_map(|c| (0..self.room.len()).map(move |p| (c, p)));
            let armed = timers.filter(|(c, p)| self.slots[*c][*p].armed);
            let Some((c, p)) = armed.min_by_key(|(c, p)| (self.slots[*c][*p].expiry, *c, *p))
            else {
                break;
            };
            if self.slots[c][p].expiry > end {
                break;
            }
            self.pass_time(self.slots[c][p].expiry);
            let again = self.rotate(c, p);
            self.slots[c][p].armed = again;
            if again {
                self.forward(c, p);
            }
        }
        self.pass_time(end);
    }

    fn forward(&mut self, c: usize, p: usize) {
        while self.slots[c][p].expiry <= self.now {
            self.slots[c][p].expiry += self.interval[p];
        }
    }

    fn off(&mut self, e: usize, to: St) {
        if self.evs[e].state == Active {
            let cpu = self.evs[e].on.take().unwrap();
            let (exclusive, slice) = (self.evs[e].exclusive, self.evs[e].slice);
            self.evs[e].state = Inactive;
            if exclusive || self.used(cpu, slice) == 0 {
                self.slots[cpu][slice].exclusive = false;
            }
        }
        self.evs[e].state = to;
    }

    fn used(&self, cpu: usize, slice: usize) -> usize {
        self.evs
            .iter()
            .filter(|v| v.open && v.on == Some(cpu) && v.slice == slice && !v.software)
            .count()
    }

    fn out(&mut self, ctx: Ctx, pmu: usize, pinned: bool) {
        for g in self.groups(ctx, pmu, pinned) {
            if self.evs[g].state != Active {
                continue;
            }
            for e in [vec![g], self.siblings(g)].concat() {
                if self.evs[e].state == Active {
                    self.off(e, Inactive);
                }
            }
        }
        if !pinned {
            self.needs.retain(|n| *n != (ctx, pmu));
        }
    }

    fn fits(&self, cpu: usize, members: &[usize]) -> bool {
        (0..self.room.len()).all(|p| {
            let Some(room) = self.room[p] else {
                return true;
            };
            let on = self
                .evs
                .iter()
                .filter(|v| v.open && v.on == Some(cpu) && v.pmu == p)
                .count();
            on + members.iter().filter(|e| self.evs[**e].pmu == p).count() <= room
        })
    }

    fn fill(&mut self, cpu: usize, ctx: Ctx, pmu: usize, pinned: bool) {
        let mut can_add = true;
        for g in self.groups(ctx, pmu, pinned) {
            let v = self.evs[g].clone();
            if v.state <= Off || v.bound.is_some_and(|b| b != cpu) {
                continue;
            }
            let first = self
                .groups(ctx, pmu, pinned)
                .iter()
                .all(|o| self.evs[*o].state != Active);
            let slot = self.slots[cpu][pmu];
            let may = v.pure || (!slot.exclusive && (!v.exclusive || first) && can_add);
            let members: Vec<usize> = [vec![g], self.siblings(g)]
                .concat()
                .into_iter()
                .filter(|e| self.evs[*e].state > Off)
                .collect();
            if may && self.fits(cpu, &members) {
                let now = self.tick();
                for e in members {
                    (self.evs[e].state, self.evs[e].on) = (Active, Some(cpu));
                    self.slots[cpu][pmu].exclusive |= self.evs[e].exclusive;
                }
                self.evs[g].got_on = now;
                continue;
            }
            can_add = false;
            if pinned {
                self.evs[g].state = Error;
            } else {
                self.needs.push((ctx, pmu));
                if !self.slots[cpu][pmu].armed {
                    self.slots[cpu][pmu].armed = true;
                    self.forward(cpu, pmu);
                }
            }
        }
    }

    ///
    fn resched(&mut self, cpu: usize, ctx: Ctx, pmu: usize, pinned: bool) {
        let (own, task) = (Ctx::Cpu(cpu), self.current[cpu].map(Ctx::Task));
        let hit = |c: Ctx, p: bool| (pinned || !p) && (ctx == own || c != own || (pinned && !p));
        let classes = |p: bool| [Some(own), task].into_iter().flatten().map(move |c| (c, p));
        let order = classes(true)
            .chain(classes(false))
            .filter(|(c, p)| hit(*c, *p));
        let order: Vec<_> = order.collect();
        order.iter().for_each(|(c, p)| self.out(*c, pmu, *p));
        order.iter().for_each(|(c, p)| self.fill(cpu, *c, pmu, *p));
    }

    fn rotate(&mut self, cpu: usize, pmu: usize) -> bool {
        let (own, task) = (Ctx::Cpu(cpu), self.current[cpu].map(Ctx::Task));
        let task_needs = task.is_some_and(|t| self.needs.contains(&(t, pmu)));
        let own_needs = self.needs.contains(&(own, pmu));
        if !task_needs && !own_needs {
            return false;
        }
        self.needs
            .retain(|n| *n != (own, pmu) && Some(n.0) != task || n.1 != pmu);
        let task_pick = task
            .filter(|_| task_needs)
            .and_then(|t| self.pick(cpu, t, pmu));
        let own_pick = Some(own)
            .filter(|_| own_needs)
            .and_then(|c| self.pick(cpu, c, pmu));
        let redo = task.filter(|_| task_pick.is_some() || own_pick.is_some());
        redo.inspect(|t| self.out(*t, pmu, false));
        if let Some(g) = own_pick {
            self.out(own, pmu, false);
            self.evs[g].index = self.tick();
            self.fill(cpu, own, pmu, false);
        }
        if let Some(g) = task_pick {
            self.evs[g].index = self.tick();
        }
        redo.inspect(|t| self.fill(cpu, *t, pmu, false));
        true
    }

    ///
    fn pick(&self, cpu: usize, ctx: Ctx, pmu: usize) -> Option<usize> {
        let groups = self.groups(ctx, pmu, false);
        let active = groups.iter().filter(|g| self.evs[**g].state == Active);
        let on = |b: Option<usize>| groups.iter().find(|g| self.evs[**g].bound == b);
        active
            .min_by_key(|g| self.evs[**g].got_on)
            .or_else(|| on(None))
            .or_else(|| on(Some(cpu)))
            .copied()
    }

    pub(crate) fn open(&mut self, mut e: Ev) {
        let id = self.evs.len();
        (e.index, e.open) = (self.tick(), true);
        let (ctx, leader, slice) = (e.ctx, e.leader, e.slice);
        // the first event of a context always goes through the CPU.
        let first = !self.evs.iter().any(|v| v.open && v.ctx == ctx);
        self.evs.push(e);
        let pure = self.evs[leader].pure && self.evs[id].software;
        self.evs[leader].pure = pure;
        if (first || self.effective(id) != Off)
            && let Some(cpu) = self.place(ctx)
        {
            self.resched(cpu, ctx, slice, self.evs[leader].pinned);
        }
    }

    pub(crate) fn enable(&mut self, e: usize) {
        if self.evs[e].state >= Inactive {
            return;
        }
        self.evs[e].state = Inactive;
        let v = self.evs[e].clone();
        let Some(cpu) = self.place(v.ctx) else { return };
        let here = v.bound.is_none_or(|b| b == cpu);
        if here && (v.leader == e || self.evs[v.leader].state == Active) {
            self.resched(cpu, v.ctx, v.slice, self.evs[v.leader].pinned);
        }
    }

    pub(crate) fn disable(&mut self, e: usize) {
        if self.evs[e].state <= Off {
            return;
        }
        if self.evs[e].state == Active && self.evs[e].leader == e {
            for s in self.siblings(e) {
                if self.evs[s].state == Active {
                    self.off(s, Inactive);
                }
            }
        }
        self.off(e, Off);
    }

    pub(crate) fn close(&mut self, e: usize) {
        self.off(e, Off);
        self.evs[e].open = false;
        let pure = self.evs[e].pure;
        for s in self.siblings(e) {
            let now = self.tick();
            let v = &mut self.evs[s];
            (v.leader, v.index, v.got_on, v.pinned, v.pure) = (s, now, now, false, pure);
        }
        let (ctx, slice) = (self.evs[e].ctx, self.evs[e].slice);
        if !self
            .evs
            .iter()
            .any(|v| v.open && v.ctx == ctx && v.slice == slice)
        {
            self.needs.retain(|n| *n != (ctx, slice));
        }
    }

    /// A CPU switches to a task or to idle.
    pub(crate) fn switch(&mut self, cpu: usize, next: Option<usize>) {
        if let Some(t) = self.current[cpu].map(Ctx::Task) {
            for p in 0..self.room.len() {
                self.out(t, p, true);
                self.out(t, p, false);
            }
        }
        self.current[cpu] = next;
        let (Some(t), own) = (next.map(Ctx::Task), Ctx::Cpu(cpu)) else {
            return;
        };
        let pins = self.evs.iter().any(|v| v.open && v.ctx == t && v.pinned);
        let all = 0..self.room.len();
        if pins {
            all.clone().for_each(|p| self.out(own, p, false));
        }
        all.clone().for_each(|p| self.fill(cpu, t, p, true));
        if pins {
            all.clone().for_each(|p| self.fill(cpu, own, p, false));
        }
        all.for_each(|p| self.fill(cpu, t, p, false));
    }
}
