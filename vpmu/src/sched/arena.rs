//! Objects in a vector, named by typed ids with generations.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};

/// An id that an [`Arena`] can hand out.
pub(crate) trait ArenaId: Copy {
    /// The id of entry `index` in its `generation`.
    fn new(index: u32, generation: u32) -> Self;
    /// The entry.
    fn index(self) -> u32;
    /// How often the entry had been used before.
    fn generation(self) -> u32;
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// A store of `T`s named by `I`s: O(1) insert, remove and lookup.
///
/// `arena[id]` is for ids that the scheduler itself keeps valid; ids that
/// come from a caller go through [`Arena::get`] first.
#[derive(Debug)]
pub(crate) struct Arena<I, T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    id: PhantomData<I>,
}

impl<I: ArenaId, T> Arena<I, T> {
    /// An empty arena.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            id: PhantomData,
        }
    }

    /// Stores `value` and names it.
    pub(crate) fn insert(&mut self, value: T) -> I {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return I::new(index, entry.generation);
        }
        // 2^32 objects do not fit in memory.
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry {
            generation: 0,
            value: Some(value),
        });
        I::new(index, 0)
    }

    /// Takes the object out; its id is never valid again.
    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let entry = self.entries.get_mut(id.index() as usize)?;
        if entry.generation != id.generation() {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index());
        Some(value)
    }

    /// The object, if the id is still valid.
    #[must_use]
    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let entry = self.entries.get(id.index() as usize)?;
        if entry.generation == id.generation() {
            entry.value.as_ref()
        } else {
            None
        }
    }

    /// The object, if the id is still valid.
    #[must_use]
    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index() as usize)?;
        if entry.generation == id.generation() {
            entry.value.as_mut()
        } else {
            None
        }
    }

    /// Two different objects, if both ids are still valid.
    #[must_use]
    pub(crate) fn get_two_mut(&mut self, a: I, b: I) -> Option<(&mut T, &mut T)> {
        let at = [a.index() as usize, b.index() as usize];
        let [x, y] = self.entries.get_disjoint_mut(at).ok()?;
        if x.generation != a.generation() || y.generation != b.generation() {
            return None;
        }
        Some((x.value.as_mut()?, y.value.as_mut()?))
    }

    /// Every object with its id, in order of index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.entries.iter().enumerate().filter_map(|(i, s)| {
            let index = u32::try_from(i).ok()?;
            Some((I::new(index, s.generation), s.value.as_ref()?))
        })
    }
}

impl<I: ArenaId, T> Default for Arena<I, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: ArenaId, T> Index<I> for Arena<I, T> {
    type Output = T;
    fn index(&self, id: I) -> &T {
        match self.get(id) {
            Some(v) => v,
            None => unreachable!("the scheduler kept the id of an object that is gone"),
        }
    }
}

impl<I: ArenaId, T> IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        match self.get_mut(id) {
            Some(v) => v,
            None => unreachable!("the scheduler kept the id of an object that is gone"),
        }
    }
}
