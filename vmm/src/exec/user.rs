//! As whom the command runs, and with which variables.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use guest_words::Credentials;
use rustix::process::{getgid, getgroups, getuid};
use thiserror::Error;

/// Variables that a command gets from the caller.
const PASSED: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "COLORTERM",
    "LANG",
    "TZ",
];
/// How the names of other variables begin that it gets.
const PASSED_PREFIX: &str = "LC_";
/// The path of a caller that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The reason why the command cannot run as this user.
#[derive(Debug, Error)]
pub enum UserError {
    /// There is no such user.
    #[error("--user: {passwd} has no user '{name}'; expected: one of its users, or root")]
    Unknown {
        /// The name.
        name: String,
        /// Where users are listed.
        passwd: PathBuf,
    },
    /// A variable has no name.
    #[error("--env: '{0}' has no name; expected: NAME or NAME=VALUE")]
    Variable(String),
}

/// A user of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestUser {
    /// Its numbers.
    pub credentials: Credentials,
    /// Variables that differ from the caller's.
    variables: Vec<(&'static str, OsString)>,
}

impl GuestUser {
    /// The caller, or the user with this name in the guest's root.
    ///
    /// # Errors
    /// If there is no such user.
    pub(super) fn find(name: Option<&str>, root: &Path) -> Result<Self, UserError> {
        let Some(name) = name else {
            return Ok(Self::caller());
        };
        let passwd = root.join("etc/passwd");
        let users = fs::read_to_string(&passwd).unwrap_or_default();
        let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        let unknown = || UserError::Unknown {
            name: name.to_owned(),
            passwd,
        };
        of_files(name, &users, &groups)
            .or_else(|| {
                (name == "root")
                    .then(|| of_files(name, "root::0:0::/root:", ""))
                    .flatten()
            })
            .ok_or_else(unknown)
    }

    fn caller() -> Self {
        let groups = getgroups().unwrap_or_default();
        Self {
            credentials: Credentials {
                uid: getuid().as_raw(),
                gid: getgid().as_raw(),
                groups: groups.into_iter().map(|group| group.as_raw()).collect(),
            },
            variables: Vec::new(),
        }
    }

    /// The command's variables: some of the caller's, the user's own, and those that
    /// `--env` names.
    ///
    /// # Errors
    /// If one has no name.
    pub(super) fn environment(&self, asked: &[OsString]) -> Result<Vec<OsString>, UserError> {
        let mut variables = Variables::default();
        for (name, value) in env::vars_os() {
            let text = name.to_string_lossy();
            if PASSED.contains(&&*text) || text.starts_with(PASSED_PREFIX) {
                variables.set(&name, &value);
            }
        }
        if variables.0.iter().all(|(name, _)| name != "PATH") {
            variables.set(OsStr::new("PATH"), OsStr::new(DEFAULT_PATH));
        }
        for (name, value) in &self.variables {
            variables.set(OsStr::new(name), value);
        }
        for text in asked {
            let bytes = text.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=');
            let (name, value) = bytes.split_at(equals.unwrap_or(bytes.len()));
            if name.is_empty() {
                return Err(UserError::Variable(text.to_string_lossy().into_owned()));
            }
            let name = OsStr::from_bytes(name);
            match value.strip_prefix(b"=") {
                Some(value) => variables.set(name, OsStr::from_bytes(value)),
                None => {
                    if let Some(value) = env::var_os(name) {
                        variables.set(name, &value);
                    }
                }
            }
        }
        Ok(variables.into_texts())
    }
}

/// Variables, each once.
#[derive(Debug, Default)]
struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    fn set(&mut self, name: &OsStr, value: &OsStr) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    fn into_texts(self) -> Vec<OsString> {
        let text = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        self.0.into_iter().map(text).collect()
    }
}

/// The user of passwd(5), with the groups of group(5) of which it is a member.
fn of_files(name: &str, users: &str, groups: &str) -> Option<GuestUser> {
    let fields = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?;
    let number = |at: usize| fields.get(at)?.parse().ok();
    let (uid, gid) = (number(2)?, number(3)?);
    let member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let number: u32 = fields.next()?.parse().ok()?;
        let mut members = fields.next()?.split(',');
        members.any(|member| member == name).then_some(number)
    };
    let home = fields.get(5).filter(|home| !home.is_empty()).copied();
    Some(GuestUser {
        credentials: Credentials {
            uid,
            gid,
            groups: groups.lines().filter_map(member).collect(),
        },
        variables: vec![
            ("HOME", home.unwrap_or("/").into()),
            ("USER", name.into()),
            ("LOGNAME", name.into()),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_numbers_and_groups() {
        let users = "root:x:0:0:root:/root:/bin/sh\nann:x:1001:1002:Ann:/home/ann:/bin/sh\n";
        let groups = "root:x:0:\nkvm:x:104:bob,ann\nann:x:1002:\nperf:x:105:joann\n";
        let user = of_files("ann", users, groups).unwrap();
        let Credentials { uid, gid, groups } = &user.credentials;
        assert_eq!((*uid, *gid, groups.as_slice()), (1001, 1002, &[104][..]));
        assert_eq!(of_files("an", users, ""), None);
        let environment = user
            .environment(&["A=b=c".into(), "USER=x".into()])
            .unwrap();
        for variable in ["HOME=/home/ann", "LOGNAME=ann", "A=b=c", "USER=x"] {
            assert!(environment.contains(&variable.into()), "{environment:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let unknown = GuestUser::find(Some("no-such-user"), Path::new("/")).unwrap_err();
        assert!(unknown.to_string().contains("/etc/passwd has no user"));
        let root = GuestUser::find(Some("root"), Path::new("/does/not/exist")).unwrap();
        assert_eq!(root.credentials, Credentials::default());
        let error = GuestUser::caller().environment(&["=x".into()]).unwrap_err();
        assert!(error.to_string().contains("'=x' has no name"));
    }
}
