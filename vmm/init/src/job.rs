//! The job: which command runs in the guest, as whom, where, and with which folders.
//!
//! The file is a list of records, each `KEY VALUE` and a zero byte; the first is
//! [`MAGIC`]. A value may hold any byte but zero, as arguments, variables and paths do.
//! Keys that may be repeated keep their order.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The first record: the format and its version.
const MAGIC: &[u8] = b"perfvisor-job 1";

/// A folder of the host, as a virtiofs device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The device's tag.
    pub tag: String,
    /// Its path in the guest; `/` is the root, over which writes are thrown away.
    pub path: PathBuf,
    /// Whether the guest may write to it.
    pub writable: bool,
}

/// A terminal for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Its lines.
    pub rows: u16,
    /// Its columns.
    pub columns: u16,
    /// Whether standard output goes to it.
    pub stdout: bool,
    /// Whether standard error goes to it.
    pub stderr: bool,
}

/// As whom the command runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All other groups.
    pub groups: Vec<u32>,
}

/// All that the guest's first program needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Its environment: `NAME=VALUE` each.
    pub environment: Vec<OsString>,
    /// Its working directory.
    pub directory: PathBuf,
    /// As whom it runs.
    pub credentials: Credentials,
    /// Its file mode creation mask.
    pub umask: u32,
    /// The root, and the folders on top of it, outer ones first.
    pub shares: Vec<Share>,
    /// Its terminal; without one it gets pipes.
    pub terminal: Option<Terminal>,
    /// The guest's name.
    pub host_name: OsString,
    /// Whether it has a network card, for which somebody on the host answers DHCP.
    pub network: bool,
}

/// Why bytes are no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobError {
    /// They do not begin as a job of this version.
    Version,
    /// The last record has no end.
    CutShort,
    /// A record cannot be understood.
    Record(String),
    /// A record is missing.
    Missing(&'static str),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("it is no job of this version"),
            Self::CutShort => f.write_str("it is cut short"),
            Self::Record(record) => write!(f, "it has a record '{record}'"),
            Self::Missing(key) => write!(f, "it has no record '{key}'"),
        }
    }
}

impl std::error::Error for JobError {}

impl Job {
    /// The bytes of the file. A zero byte within a value, which no argument, variable or
    /// path of a process can have, ends the value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Records(Vec::new());
        out.0.extend_from_slice(MAGIC);
        out.0.push(0);
        for word in &self.command {
            out.add("arg", word.as_bytes());
        }
        for variable in &self.environment {
            out.add("env", variable.as_bytes());
        }
        out.add("cwd", self.directory.as_os_str().as_bytes());
        let Credentials { uid, gid, groups } = &self.credentials;
        out.add("uid", uid.to_string().as_bytes());
        out.add("gid", gid.to_string().as_bytes());
        for group in groups {
            out.add("group", group.to_string().as_bytes());
        }
        out.add("umask", self.umask.to_string().as_bytes());
        for Share {
            tag,
            path,
            writable,
        } in &self.shares
        {
            let mode = if *writable { "rw" } else { "ro" };
            let mut value = format!("{mode} {tag} ").into_bytes();
            value.extend_from_slice(path.as_os_str().as_bytes());
            out.add("share", &value);
        }
        if let Some(terminal) = self.terminal {
            let Terminal {
                rows,
                columns,
                stdout,
                stderr,
            } = terminal;
            let (stdout, stderr) = (u8::from(stdout), u8::from(stderr));
            out.add(
                "terminal",
                format!("{rows} {columns} {stdout} {stderr}").as_bytes(),
            );
        }
        if self.network {
            out.add("network", b"dhcp");
        }
        // The last one is there in every job, so that a part of a job is none.
        out.add("hostname", self.host_name.as_bytes());
        out.0
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// If they are no whole job of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, JobError> {
        let body = bytes.strip_suffix(&[0]).ok_or(JobError::CutShort)?;
        let mut records = body.split(|&byte| byte == 0);
        if records.next() != Some(MAGIC) {
            return Err(JobError::Version);
        }
        let mut job = Self::default();
        let mut seen = Vec::new();
        for record in records {
            let text = || JobError::Record(String::from_utf8_lossy(record).into_owned());
            let space = record.iter().position(|&byte| byte == b' ');
            let (key, value) = record.split_at(space.ok_or_else(text)?);
            let key = std::str::from_utf8(key).map_err(|_| text())?;
            let value = value.strip_prefix(b" ").unwrap_or(value);
            job.take(key, value).ok_or_else(text)?;
            seen.push(key);
        }
        let needed = ["arg", "cwd", "uid", "gid", "umask", "share", "hostname"];
        match needed.into_iter().find(|key| !seen.contains(key)) {
            Some(key) => Err(JobError::Missing(key)),
            None => Ok(job),
        }
    }

    fn take(&mut self, key: &str, value: &[u8]) -> Option<()> {
        let text = || OsString::from_vec(value.to_vec());
        let number = || std::str::from_utf8(value).ok()?.parse().ok();
        match key {
            "arg" => self.command.push(text()),
            "env" => self.environment.push(text()),
            "cwd" => self.directory = text().into(),
            "uid" => self.credentials.uid = number()?,
            "gid" => self.credentials.gid = number()?,
            "group" => self.credentials.groups.push(number()?),
            "umask" => self.umask = number()?,
            "share" => self.shares.push(share(value)?),
            "terminal" => self.terminal = Some(terminal(value)?),
            "hostname" => self.host_name = text(),
            "network" => self.network = (value == b"dhcp").then_some(true)?,
            _ => return None,
        }
        Some(())
    }
}

/// The bytes of a file.
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &str, value: &[u8]) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b' ');
        let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
        self.0.extend_from_slice(value);
        self.0.push(0);
    }
}

fn share(value: &[u8]) -> Option<Share> {
    let mut words = value.splitn(3, |&byte| byte == b' ');
    let writable = match words.next()? {
        b"rw" => true,
        b"ro" => false,
        _ => return None,
    };
    let tag = std::str::from_utf8(words.next()?).ok()?.to_owned();
    let path = words.next().filter(|path| path.starts_with(b"/"))?;
    Some(Share {
        tag,
        path: OsString::from_vec(path.to_vec()).into(),
        writable,
    })
}

fn terminal(value: &[u8]) -> Option<Terminal> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let mut number = || words.next()?.parse::<u16>().ok();
    let (rows, columns, stdout, stderr) = (number()?, number()?, number()?, number()?);
    words.next().is_none().then_some(Terminal {
        rows,
        columns,
        stdout: stdout != 0,
        stderr: stderr != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            command: vec!["sh".into(), "-c".into(), "echo 'a b'\n".into(), "".into()],
            environment: vec![
                "PATH=/bin".into(),
                OsString::from_vec(b"X=\xff\n=".to_vec()),
            ],
            directory: "/home/a user".into(),
            credentials: Credentials {
                uid: 1000,
                gid: 100,
                groups: vec![100, 27],
            },
            umask: 0o22,
            shares: vec![
                Share {
                    tag: "root".into(),
                    path: "/".into(),
                    writable: false,
                },
                Share {
                    tag: "share0".into(),
                    path: "/home/a user".into(),
                    writable: true,
                },
            ],
            terminal: Some(Terminal {
                rows: 24,
                columns: 80,
                stdout: true,
                stderr: false,
            }),
            host_name: "host".into(),
            network: true,
        }
    }

    #[test]
    fn a_job_arrives_as_it_was_sent() {
        let mut job = job();
        assert_eq!(Job::parse(&job.to_bytes()), Ok(job.clone()));
        job.terminal = None;
        job.network = false;
        job.environment.clear();
        assert_eq!(Job::parse(&job.to_bytes()), Ok(job));
    }

    #[test]
    fn a_job_that_is_cut_short_is_none() {
        let whole = job().to_bytes();
        for len in 0..whole.len() {
            assert!(Job::parse(&whole[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_understood_is_named() {
        for record in [
            "uid x",
            "share rx root /",
            "share rw root etc",
            "network x",
            "nonsense",
        ] {
            let mut bytes = job().to_bytes();
            bytes.extend_from_slice(record.as_bytes());
            bytes.push(0);
            assert_eq!(
                Job::parse(&bytes),
                Err(JobError::Record(record.into())),
                "{record}"
            );
        }
        assert_eq!(Job::parse(b"another 1\0"), Err(JobError::Version));
        assert_eq!(
            Job::parse(b"perfvisor-job 1\0"),
            Err(JobError::Missing("arg"))
        );
    }
}
