//! Where a vCPU thread is, and the orders that lead it elsewhere.

/// Where a vCPU thread is (see the diagram of [`crate::vcpu`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// Set up, never run.
    Ready,
    /// In the guest, or on the way.
    Running,
    /// Out of the guest, to go on later.
    Paused,
    /// Done; the thread ends.
    Finished,
}

/// A message that may change the state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Run,
    Pause,
    Stop,
}

/// The transitions that an order causes.
pub(super) const fn after(state: VcpuState, order: Order) -> VcpuState {
    match (state, order) {
        (_, Order::Stop) | (VcpuState::Finished, _) => VcpuState::Finished,
        (_, Order::Run) => VcpuState::Running,
        (VcpuState::Ready, Order::Pause) => VcpuState::Ready,
        (_, Order::Pause) => VcpuState::Paused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_ends_every_state_and_nothing_leaves_the_end() {
        use VcpuState::{Finished, Paused, Ready, Running};
        for state in [Ready, Running, Paused, Finished] {
            assert_eq!(after(state, Order::Stop), Finished);
        }
        assert_eq!(after(Finished, Order::Run), Finished);
        assert_eq!(after(Running, Order::Pause), Paused);
        assert_eq!(after(Paused, Order::Run), Running);
        assert_eq!(after(Ready, Order::Pause), Ready);
    }
}
