//! The bytes of a fuzzer, taken from the front as numbers and pieces. At the end of
//! the bytes everything is 0 and empty.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FuzzInput<'a>(&'a [u8]);

impl<'a> FuzzInput<'a> {
    /// The whole of an input.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, fewer if fewer are left.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(len.min(self.0.len()));
        self.0 = left;
        taken
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next eight bytes, the lowest first.
    pub(crate) fn word(&mut self) -> u64 {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(self.take(8)) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    }
}

/// Passes each seed of a target to the function that the target calls.
#[cfg(test)]
pub(crate) fn each_seed(target: &str, run: impl Fn(&[u8])) {
    let folder = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert!(!seeds.is_empty(), "{folder}");
    for seed in seeds {
        run(&std::fs::read(seed.unwrap().path()).unwrap());
    }
}
