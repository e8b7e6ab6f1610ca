//! Machine code becomes a component here, and nowhere else: the one place of this project that is `unsafe`.
//!
//! wasmtime cannot tell good code from bad. What comes here was made by this host's own compiler, a moment ago or before, and in the
//! second case proven so by its MAC, over the very bytes that run: they lie in memory that nobody can write to any more.

use std::{
    fs::File,
    io::{Read, Result, Write as _},
    os::unix::fs::FileExt as _,
};

use wasmtime::component::Component;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Bytes that cannot be changed any more, by nobody.
pub(super) struct Sealed {
    file: File,
    bytes: u64,
}

impl Sealed {
    /// Copies so many bytes.
    pub(super) fn copy(from: &mut impl Read, bytes: u64) -> Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let memory = memfd_create("tendon-code", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
        let mut file = File::from(memory);
        let copied = std::io::copy(&mut from.take(bytes), &mut file)?;
        file.flush()?;
        if copied != bytes {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file, bytes })
    }

    /// Shows them, piece by piece.
    pub(super) fn each(&self, mut see: impl FnMut(&[u8])) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut at = 0;
        while at < self.bytes {
            let read = self.file.read_at(&mut piece, at)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            see(piece.get(..read).unwrap_or_default());
            at += read as u64;
        }
        Ok(())
    }
}

/// Loads what this host has compiled.
#[expect(unsafe_code, reason = "wasmtime takes machine code on trust; the module says on which")]
pub(super) fn load(engine: &wasmtime::Engine, code: &Sealed) -> wasmtime::Result<Component> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", code.file.as_raw_fd());
    // SAFETY: the bytes are those of an artifact that this host's compiler made with the same settings, which wasmtime checks,
    // and whose MAC was verified after they were sealed, where they were on a disk. The file is sealed against writing, shrinking
    // and growing, so what is mapped stays what it is as long as it is mapped. It is open for as long as it takes to map it.
    unsafe { Component::deserialize_file(engine, path) }
}
