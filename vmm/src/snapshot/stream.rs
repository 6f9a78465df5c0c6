//! A VM on its way to another process, as a stream of bytes.
//!
//! ```text
//! source ─▶ destination:  hello, then records, the state last
//!   hello    magic "pvmoving", version u32, bytes of memory u64, length of the flags u32, flags
//!   record   kind u8, two numbers u64, and what follows:
//!     1 pages   the first, how many (1..=256)          their bytes
//!     2 zeros   the first, how many                    nothing
//!     3 state   its length, 1 if the guest is paused   the file of `state_file`
//! destination ─▶ source:  1 it runs, or 2 it does not: length of the reason u16, reason
//! ```
//! Numbers are little-endian. All lengths have bounds, which are checked first.

use std::io::{self, Read, Write};
use std::ops::Range;

use thiserror::Error;

use super::state_file::{self, MOST_BYTES, StateFileError};
use super::{SectionError, Sections};
use crate::sys::guest_ram::PAGE;

/// The version that is written, and the only one that is read.
const STREAM_VERSION: u32 = 1;
const STREAM_MAGIC: [u8; 8] = *b"pvmoving";
/// The longest text of flags, bytes.
const MOST_FLAGS: u32 = 1 << 20;
/// The most pages of one record.
pub const MOST_PAGES: u64 = 256;
/// The longest reason, bytes.
const MOST_REASON: usize = 1024;

const PAGES: u8 = 1;
const ZEROS: u8 = 2;
const STATE: u8 = 3;
const RUNS: u8 = 1;
const REFUSES: u8 = 2;

/// The reason why a stream cannot be used.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The connection failed, or the other side ended it.
    #[error("the connection ended")]
    Io(#[from] io::Error),
    /// It begins otherwise.
    #[error("what comes is no VM: perfvisor ctl migrate sends one")]
    Foreign,
    /// Another release sends it.
    #[error("the stream has version {0}, and this perfvisor reads {STREAM_VERSION}")]
    Version(u32),
    /// A number is beyond its bounds.
    #[error("the stream is damaged: {0}")]
    Damaged(&'static str),
    /// The state cannot be used.
    #[error("the state of the VM")]
    State(#[from] StateFileError),
    /// The other side does not take the VM.
    #[error("the destination says: {0}")]
    Refused(String),
}

impl From<SectionError> for StreamError {
    fn from(error: SectionError) -> Self {
        Self::State(error.into())
    }
}

/// What comes first.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamHello {
    /// Bytes of guest memory.
    pub memory: u64,
    /// The flags of the VM.
    pub flags: String,
}

/// What comes then.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamRecord {
    /// Pages from this number on; their bytes are in the buffer.
    Pages(Range<u64>),
    /// Pages of zeros.
    Zeros(Range<u64>),
    /// The state, and whether the guest is paused.
    State(Sections, bool),
}

/// Sends what comes first.
///
/// # Errors
/// What the connection says.
pub fn write_hello(to: &mut impl Write, memory: u64, flags: &str) -> Result<(), StreamError> {
    let len = u32::try_from(flags.len()).unwrap_or(u32::MAX);
    if len > MOST_FLAGS {
        return Err(StreamError::Damaged("too many flags"));
    }
    let mut bytes = STREAM_MAGIC.to_vec();
    bytes.extend(STREAM_VERSION.to_le_bytes());
    bytes.extend(memory.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.as_bytes());
    Ok(to.write_all(&bytes)?)
}

/// Reads what comes first.
///
/// # Errors
/// If it is nothing that [`write_hello`] has written.
pub fn read_hello(from: &mut impl Read) -> Result<StreamHello, StreamError> {
    if array::<8>(from)? != STREAM_MAGIC {
        return Err(StreamError::Foreign);
    }
    let version = u32::from_le_bytes(array(from)?);
    if version != STREAM_VERSION {
        return Err(StreamError::Version(version));
    }
    let memory = u64::from_le_bytes(array(from)?);
    let len = u32::from_le_bytes(array(from)?);
    if len > MOST_FLAGS {
        return Err(StreamError::Damaged("too many flags"));
    }
    let flags = String::from_utf8(bytes(from, u64::from(len))?);
    let flags = flags.map_err(|_| StreamError::Damaged("the flags are no text"))?;
    Ok(StreamHello { memory, flags })
}

fn write_head(to: &mut impl Write, kind: u8, numbers: [u64; 2]) -> Result<(), StreamError> {
    let mut head = vec![kind];
    head.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    Ok(to.write_all(&head)?)
}

/// Sends pages, [`MOST_PAGES`] at most: `bytes` are whole ones.
///
/// # Errors
/// What the connection says.
pub fn write_pages(to: &mut impl Write, first: u64, bytes: &[u8]) -> Result<(), StreamError> {
    write_head(to, PAGES, [first, (bytes.len() / PAGE) as u64])?;
    Ok(to.write_all(bytes)?)
}

/// Says that pages are zeros.
///
/// # Errors
/// What the connection says.
pub fn write_zeros(to: &mut impl Write, pages: Range<u64>) -> Result<(), StreamError> {
    write_head(to, ZEROS, [pages.start, pages.end - pages.start])
}

/// Sends the state, and whether the guest is paused.
///
/// # Errors
/// What the connection says.
pub fn write_state(
    to: &mut impl Write,
    sections: &Sections,
    paused: bool,
) -> Result<(), StreamError> {
    let state = state_file::encode(sections);
    if state.len() as u64 > MOST_BYTES {
        return Err(StateFileError::Large.into());
    }
    write_head(to, STATE, [state.len() as u64, u64::from(paused)])?;
    Ok(to.write_all(&state)?)
}

/// Reads a record of a VM with so many pages.
///
/// # Errors
/// If a number is beyond its bounds, the state is damaged, or the connection ends.
pub fn read_record(
    from: &mut impl Read,
    pages: u64,
    buffer: &mut Vec<u8>,
) -> Result<StreamRecord, StreamError> {
    let [kind] = array(from)?;
    let (first, second) = (
        u64::from_le_bytes(array(from)?),
        u64::from_le_bytes(array(from)?),
    );
    let range = || {
        let end = first.checked_add(second).filter(|end| *end <= pages);
        let end = end.filter(|_| second > 0);
        end.map(|end| first..end)
            .ok_or(StreamError::Damaged("a page beyond the memory"))
    };
    match kind {
        PAGES if second > MOST_PAGES => Err(StreamError::Damaged("too many pages at once")),
        PAGES => {
            let range = range()?;
            *buffer = bytes(from, second * PAGE as u64)?;
            Ok(StreamRecord::Pages(range))
        }
        ZEROS => Ok(StreamRecord::Zeros(range()?)),
        STATE if first > MOST_BYTES => Err(StateFileError::Large.into()),
        STATE if second > 1 => Err(StreamError::Damaged("neither paused nor running")),
        STATE => {
            let state = state_file::decode(&bytes(from, first)?)?;
            Ok(StreamRecord::State(state, second == 1))
        }
        _ => Err(StreamError::Damaged("an unknown record")),
    }
}

/// Says that the guest runs at the destination. Whoever has read this has a guest that is
/// there, and nowhere else.
///
/// # Errors
/// If the source has ended the connection: the guest is there.
pub fn write_runs(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[RUNS])
}

/// Says why the destination does not take the guest.
///
/// # Errors
/// What the connection says.
pub fn write_refusal(to: &mut impl Write, reason: &str) -> io::Result<()> {
    let reason = reason.as_bytes();
    let reason = reason.get(..MOST_REASON).unwrap_or(reason);
    let len = u16::try_from(reason.len()).unwrap_or_default();
    to.write_all(&[&[REFUSES][..], &len.to_le_bytes(), reason].concat())
}

/// Waits for the word of the destination.
///
/// # Errors
/// Its reason, or that the connection ended without a word.
pub fn read_answer(from: &mut impl Read) -> Result<(), StreamError> {
    match array(from)? {
        [RUNS] => Ok(()),
        [REFUSES] => {
            let len = usize::from(u16::from_le_bytes(array(from)?));
            if len > MOST_REASON {
                return Err(StreamError::Damaged("too long a reason"));
            }
            let reason = bytes(from, len as u64)?;
            let reason = String::from_utf8_lossy(&reason);
            let plain = |c: char| if c.is_control() { ' ' } else { c };
            Err(StreamError::Refused(reason.chars().map(plain).collect()))
        }
        _ => Err(StreamError::Damaged("an unknown answer")),
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// So many bytes, of which there is room as they come.
fn bytes(from: &mut impl Read, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> (Vec<u8>, Sections) {
        let mut sections = Sections::default();
        sections.put("a", &7u8).unwrap();
        let mut stream = Vec::new();
        write_hello(&mut stream, 1 << 20, "a = 1").unwrap();
        write_pages(&mut stream, 2, &[5; 2 * PAGE]).unwrap();
        write_zeros(&mut stream, 0..256).unwrap();
        write_state(&mut stream, &sections, true).unwrap();
        (stream, sections)
    }

    /// All records up to the state, or the first error.
    fn read_all(mut from: &[u8]) -> Result<Vec<StreamRecord>, StreamError> {
        let hello = read_hello(&mut from)?;
        let (mut records, mut buffer) = (Vec::new(), Vec::new());
        loop {
            records.push(read_record(&mut from, hello.memory >> 12, &mut buffer)?);
            if matches!(records.last(), Some(StreamRecord::State(..))) {
                return Ok(records);
            }
        }
    }

    #[test]
    fn what_is_sent_comes() {
        let (stream, sections) = some();
        let hello = read_hello(&mut &stream[..]).unwrap();
        assert_eq!((hello.memory, hello.flags.as_str()), (1 << 20, "a = 1"));
        let expected = [
            StreamRecord::Pages(2..4),
            StreamRecord::Zeros(0..256),
            StreamRecord::State(sections, true),
        ];
        assert_eq!(read_all(&stream).unwrap(), expected);
    }

    #[test]
    fn a_stream_that_is_cut_off_anywhere_is_an_error() {
        let (stream, _) = some();
        for len in (0..stream.len()).filter(|len| *len < 60 || len % 61 == 0) {
            assert!(read_all(&stream[..len]).is_err(), "{len}");
        }
        assert!(read_all(&stream[..stream.len() - 1]).is_err());
    }

    /// Nothing is allocated for them: the bytes behind are not there.
    #[test]
    fn hostile_numbers_are_refused() {
        let record = |kind: u8, first: u64, second: u64| {
            let mut bytes = vec![kind];
            bytes.extend(first.to_le_bytes());
            bytes.extend(second.to_le_bytes());
            read_record(&mut &bytes[..], 256, &mut Vec::new())
        };
        for (kind, first, second) in [
            (PAGES, 0, u64::MAX),
            (PAGES, 0, MOST_PAGES + 1),
            (PAGES, 256, 1),
            (PAGES, u64::MAX, 1),
            (PAGES, 0, 0),
            (ZEROS, 1, 256),
            (ZEROS, u64::MAX, u64::MAX),
            (STATE, MOST_BYTES + 1, 0),
            (STATE, 1, 2),
            (0, 0, 0),
            (4, 0, 1),
        ] {
            let error = record(kind, first, second).unwrap_err();
            assert!(
                !matches!(error, StreamError::Io(_)),
                "{kind} {first} {second}"
            );
        }
        let mut hello = Vec::new();
        write_hello(&mut hello, 1, "").unwrap();
        hello[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            read_hello(&mut &hello[..]),
            Err(StreamError::Damaged(_))
        ));
        hello[8] = 9;
        assert!(matches!(
            read_hello(&mut &hello[..]),
            Err(StreamError::Version(9))
        ));
        let page = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(matches!(
            read_hello(&mut &page[..]),
            Err(StreamError::Foreign)
        ));
    }

    #[test]
    fn the_destination_says_that_it_runs_or_why_not() {
        let mut said = Vec::new();
        write_runs(&mut said).unwrap();
        read_answer(&mut &said[..]).unwrap();
        let mut said = Vec::new();
        write_refusal(&mut said, &format!("no\n{}", "x".repeat(2000))).unwrap();
        let error = read_answer(&mut &said[..]).unwrap_err().to_string();
        assert!(error.starts_with("the destination says: no xxx"), "{error}");
        assert!(error.len() < 1100);
        for said in [&[][..], &[3], &[REFUSES, 0xff, 0xff]] {
            assert!(read_answer(&mut &said[..]).is_err());
        }
    }
}
