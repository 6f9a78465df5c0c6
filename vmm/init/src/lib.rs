//! What `perfvisor exec` and the guest's first program say to each other: the job, a file
//! in the guest's initramfs ([`Job`]), and the messages of the control port ([`Message`]);
//! and two things that need tests: [`dhcp`] and [`symbols`].
#![forbid(unsafe_code)]

pub mod dhcp;
mod job;
mod message;
pub mod symbols;

pub use job::{Credentials, Job, JobError, Share, Terminal};
pub use message::{Message, MessageReader};

/// The folder of the initramfs that holds the job and the modules.
pub const FOLDER: &str = "/perfvisor";
/// The job's file in [`FOLDER`].
pub const JOB: &str = "job";
/// The folder of the kernel's modules in [`FOLDER`]; they are loaded in the order of
/// their names.
pub const MODULES: &str = "modules";

/// The names of the virtio ports.
pub mod ports {
    /// Messages, both ways.
    pub const CONTROL: &str = "perfvisor.control";
    /// To the command's standard input.
    pub const STDIN: &str = "perfvisor.stdin";
    /// From its standard output.
    pub const STDOUT: &str = "perfvisor.stdout";
    /// From its standard error.
    pub const STDERR: &str = "perfvisor.stderr";
}

/// How a line of the guest's console begins that says why the command could not run.
pub const COMPLAINT: &str = "perfvisor-init: ";
