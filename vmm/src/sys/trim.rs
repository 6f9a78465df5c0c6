//! Gives the host back the memory that the start of a VM has used: a running VM needs a
//! small part of the program, of the heap, and of its threads' stacks.
#![expect(unsafe_code, reason = "madvise, malloc_trim, and where to")]

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;

use super::guest_ram::PAGE;

/// Bytes below a frame of this thread's stack that stay.
const STACK_LEFT: usize = 4 * PAGE;

/// Takes the program's code and constants, and what is free in the heap, out of this
/// process's memory. A page of the program that is used again comes back at its use, from
/// the host's page cache.
///
/// # Errors
/// What `madvise` says.
pub fn process() -> io::Result<()> {
    // SAFETY: it frees nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
    for pages in read_only_pages() {
        // SAFETY: nobody may write these pages of the program: their bytes are those of
        // its file, which cannot be written while it runs (ETXTBSY), and are read from
        // there again. No right of the mapping changes.
        unsafe { forget(pages)? };
    }
    Ok(())
}

/// Takes the unused part of the calling thread's stack out of this process's memory.
///
/// # Errors
/// What the C library or `madvise` says.
pub fn stack() -> io::Result<()> {
    let stack = stack_of_this_thread()?;
    let here = (&raw const stack).addr();
    let end = here.saturating_sub(STACK_LEFT) / PAGE * PAGE;
    if stack.contains(&here) && stack.start < end {
        // SAFETY: the stack grows down. What lies further below the frame of this function
        // than its own calls need is of calls that have returned.
        unsafe { forget(stack.start..end)? };
    }
    Ok(())
}

/// # Safety
/// The pages are mapped and private, and nobody needs what they have beyond the file, or
/// the zeros, that they are mapped to.
unsafe fn forget(pages: Range<usize>) -> io::Result<()> {
    let start = pages.start as *mut c_void;
    // SAFETY: as the caller says.
    let result = unsafe { libc::madvise(start, pages.len(), libc::MADV_DONTNEED) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn stack_of_this_thread() -> io::Result<Range<usize>> {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: it has no condition.
    let me = unsafe { libc::pthread_self() };
    // SAFETY: this thread lives, and the call fills in the attributes or fails.
    let result = unsafe { libc::pthread_getattr_np(me, attributes.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    let (mut start, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are filled in, and the places valid.
    let result =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut len) };
    // SAFETY: they are filled in, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    let start = start.addr();
    Ok(start..start + len)
}

/// The addresses of the whole pages of each segment of the program that is not writable.
fn read_only_pages() -> Vec<Range<usize>> {
    let mut pages = Vec::new();
    // SAFETY: `add_program` takes the data as the vector that it is, and keeps nothing of
    // it.
    unsafe { libc::dl_iterate_phdr(Some(add_program), (&raw mut pages).cast()) };
    pages
}

/// Adds the pages of the first object, which is the program, and ends the walk.
unsafe extern "C" fn add_program(
    object: *mut libc::dl_phdr_info,
    _len: libc::size_t,
    pages: *mut c_void,
) -> libc::c_int {
    // SAFETY: the C library passes a valid object, for as long as the call takes.
    let object = unsafe { &*object };
    // SAFETY: `read_only_pages` passes its vector, which nobody else has meanwhile.
    let pages = unsafe { &mut *pages.cast::<Vec<Range<usize>>>() };
    if object.dlpi_phdr.is_null() {
        return 1;
    }
    // SAFETY: the object says where its program headers are and how many; they are a part
    // of the loaded program.
    let headers = unsafe { slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = object.dlpi_addr.wrapping_add(header.p_vaddr);
        let (Ok(start), Ok(len)) = (usize::try_from(start), usize::try_from(header.p_memsz)) else {
            continue;
        };
        // A part of a page at either end may be of another segment.
        let end = start.saturating_add(len) / PAGE * PAGE;
        let start = start.next_multiple_of(PAGE);
        if start < end {
            pages.push(start..end);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::{fs, thread};

    use super::*;

    /// KiB that are in memory of the mapping with this in it.
    fn resident(is_it: impl Fn(&str) -> bool) -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut mappings = smaps.split_inclusive("VmFlags:");
        let mapping = mappings.find(|mapping| is_it(mapping)).unwrap();
        let rss = mapping.lines().find_map(|line| line.strip_prefix("Rss:"));
        rss.unwrap().trim_end_matches(" kB").trim().parse().unwrap()
    }

    #[test]
    fn the_program_runs_on_with_fewer_pages() {
        let program = std::env::current_exe().unwrap();
        let code = |mapping: &str| {
            mapping.contains(program.to_str().unwrap()) && mapping.contains(" r-xp ")
        };
        for page in read_only_pages()
            .into_iter()
            .flat_map(|pages| pages.step_by(PAGE))
        {
            // SAFETY: a byte of the program, which nobody writes.
            black_box(unsafe { (page as *const u8).read_volatile() });
        }
        let before = resident(code);
        process().unwrap();
        let after = resident(code);
        assert!(after < before / 2, "{after} KiB of {before} are left");
    }

    #[inline(never)]
    fn deep() -> u8 {
        let mut bytes = [1_u8; 1 << 18];
        black_box(&mut bytes);
        bytes[77]
    }

    #[test]
    fn a_deep_call_leaves_no_stack_and_its_caller_has_its_own() {
        let thread = thread::spawn(|| {
            let mine = black_box([7_u8; 4096]);
            let start = format!("{:x}-", stack_of_this_thread().unwrap().start);
            let stack = |mapping: &str| mapping.lines().any(|line| line.starts_with(&start));
            assert_eq!(deep(), 1);
            let before = resident(stack);
            super::stack().unwrap();
            let after = resident(stack);
            assert!(
                before >= 256 && after < 64,
                "{after} KiB of {before} are left"
            );
            assert_eq!(black_box(mine), [7; 4096]);
            assert_eq!(deep(), 1);
        });
        thread.join().unwrap();
    }
}
