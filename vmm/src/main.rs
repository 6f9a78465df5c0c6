//! The perfvisor binary.
fn main() {}
