//! System calls for which std has no safe function: signals, kicks of a thread, programs that we start, sockets with and without a file, clocks, threads' times and timers, affinity, files and their locks, disks, random bytes, streams, the file mode mask, who we are, tap devices, the terminal, core dumps, what the start leaves in our own memory, memory files, the guest's memory and sets of its pages, an end out of order.

pub mod affinity;
pub mod child;
pub mod clock;
pub mod core_dump;
pub mod disk_io;
pub mod end;
pub mod file_lock;
pub mod files;
pub mod guest_ram;
pub mod kick;
pub mod limits;
pub mod memory_file;
pub mod output_file;
pub mod page_set;
mod path_lock;
pub mod random;
#[cfg(test)]
pub(crate) mod scratch;
pub mod signals;
pub mod socket_file;
pub mod stream;
pub mod tap;
pub mod terminal;
pub mod thread_time;
pub mod timer;
pub mod trim;
pub mod umask;
pub mod unix_socket;
pub mod user;
