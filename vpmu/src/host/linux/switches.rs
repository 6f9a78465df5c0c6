//! Whether the calling thread has left its CPU, without a system call.

use std::os::fd::{AsFd, OwnedFd};

use perf_event_open_sys::bindings::{self, perf_event_attr};

use super::event::PerfOpenError;
use super::sys::{self, EventPage};

/// The switches of the thread that made it: a software event of the thread, which counts
/// nothing. The kernel updates the event's page each time that it puts the thread on a CPU.
///
/// Linux: `perf_swevent_add`, `perf_event_update_userpage`.
///
/// # Examples
/// ```
/// use vpmu::host::linux::Switches;
///
/// // Not every host permits it.
/// if let Ok(switches) = Switches::of_this_thread() {
///     let before = switches.number();
///     std::thread::sleep(std::time::Duration::from_millis(1));
///     assert_ne!(switches.number(), before);
/// }
/// ```
#[derive(Debug)]
pub struct Switches {
    page: EventPage,
    /// The event, whose page it is.
    _event: OwnedFd,
}

impl Switches {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// [`PerfOpenError`] if the host permits no such event, or has no memory for its page.
    pub fn of_this_thread() -> Result<Self, PerfOpenError> {
        let mut attr = perf_event_attr {
            type_: bindings::PERF_TYPE_SOFTWARE,
            config: u64::from(bindings::PERF_COUNT_SW_DUMMY),
            ..perf_event_attr::default()
        };
        attr.set_exclude_kernel(1);
        attr.set_exclude_hv(1);
        let event = sys::open_on_this_thread(&mut attr)?;
        Ok(Self {
            page: EventPage::map(event.as_fd())?,
            _event: event,
        })
    }

    /// Another number after each time that the thread was put on a CPU, and now and then
    /// without that.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.page.updates()
    }
}
