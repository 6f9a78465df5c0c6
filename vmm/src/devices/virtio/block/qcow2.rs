//! qcow2 images, by the crate `imago`. Nothing that an image names is opened.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use vm_memory::{GuestMemory, Permissions};

use super::super::queue::GuestBuffer;
use super::image::DiskImage;
use crate::sys::disk_io::Transfer;
use crate::sys::guest_ram::{GuestRam, GuestRamSlice};

/// An image that is open.
#[derive(Debug)]
pub(super) struct Qcow2Image {
    image: FormatAccess<imago::file::File>,
}

/// Why an image is not opened.
#[derive(Debug)]
pub(super) enum Qcow2Fault {
    /// It is no image that can be read.
    Io(io::Error),
    /// It needs another file.
    Needs(String),
}

impl Qcow2Image {
    /// Opens the image in `file`, whose flags agree with `writable` and `direct`.
    pub(super) fn open(
        file: File,
        path: &Path,
        writable: bool,
        direct: bool,
    ) -> Result<Self, Qcow2Fault> {
        let options = StorageOpenOptions::new()
            .filename(path)
            .write(writable)
            .direct(direct);
        let storage = imago::file::File::from_open_file(file, options).map_err(Qcow2Fault::Io)?;
        let image = Qcow2::<imago::file::File>::builder(storage)
            .write(writable)
            .backing(None)
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map_err(Qcow2Fault::Io)?;
        if let Some(backing) = image.implicit_backing_file() {
            return Err(Qcow2Fault::Needs(backing.clone()));
        }
        if image.requires_external_data_file() {
            let name = image.implicit_external_data_file().cloned();
            return Err(Qcow2Fault::Needs(name.unwrap_or_default()));
        }
        let image = FormatAccess::new(image);
        Ok(Self { image })
    }
}

impl DiskImage for Qcow2Image {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn transfer(
        &mut self,
        way: Transfer,
        memory: &GuestRam,
        buffers: &[GuestBuffer],
        offset: u64,
    ) -> io::Result<()> {
        let slices = slices(memory, buffers, way)?;
        match way {
            Transfer::Read => {
                let (vector, guard) = IoVectorMut::from_volatile_slice(&slices);
                let result = self.image.readv(vector, offset);
                drop(guard);
                result
            }
            Transfer::Write => {
                let (vector, guard) = IoVector::from_volatile_slice(&slices);
                let result = self.image.writev(vector, offset);
                drop(guard);
                result
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.flush()?;
        self.image.sync()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match self.image.discard_to_any(offset, len) {
            // Advice, which an image need not follow.
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, _punch: bool) -> io::Result<()> {
        self.image.write_zeroes(offset, len)
    }
}

fn slices<'a>(
    memory: &'a GuestRam,
    buffers: &[GuestBuffer],
    way: Transfer,
) -> io::Result<Vec<GuestRamSlice<'a>>> {
    let outside = |_| io::Error::from_raw_os_error(libc::EFAULT);
    let access = match way {
        Transfer::Read => Permissions::Write,
        Transfer::Write => Permissions::Read,
    };
    let mut found = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let slices = memory.get_slices(buffer.address, buffer.len as usize, access);
        for slice in slices.map_err(outside)? {
            found.push(slice.map_err(outside)?);
        }
    }
    Ok(found)
}
