//! Machine code that this host has compiled, on the disk, so that a restart compiles nothing.
//!
//! wasmtime runs nearly anything that looks like its own code, damaged or forged. So a file counts only if it is whole by a
//! code that nobody can make who has not the folder's key, and what was looked at is what runs: it is copied into memory that is
//! sealed before it is looked at. The folder must be this user's alone. Whatever is wrong with a file, the component is compiled.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hmac::{Hmac, Mac as _, digest::KeyInit};
use rustix::{
    fs::OFlags,
    rand::{GetRandomFlags, getrandom},
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{
    code::Sealed,
    compiler::{Artifact, CODE_BYTES_MAX},
    inspection::Inspection,
};
use crate::{
    error::{Error, Result},
    store::Digest,
};

/// What a file begins with.
const MAGIC: &[u8; 8] = b"tendon1\n";
/// Bytes of the code at the end of a file.
const MAC_BYTES: usize = 32;
/// As long as what the hash works on at a time.
const KEY_BYTES: usize = 64;
/// The longest that a file says of itself.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;
/// What a host was killed at while it wrote it is removed after this time.
const TORN_AFTER: Duration = Duration::from_secs(60 * 60);
/// Bytes that all files may have; beyond that those go that were used longest ago.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// See the module. A clone is the same cache.
#[derive(Clone)]
pub struct CodeCache(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
}

/// What a file says of itself, before the machine code.
#[derive(Serialize, Deserialize)]
struct Header {
    inspection: Inspection,
    settings: String,
}

impl CodeCache {
    /// Opens a folder, or makes it. One that others may write to is `Invalid`: they could have this host run what they like.
    pub fn open(folder: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("the code cache {} cannot be used", folder.display())).because(error)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        is_ours_alone(&folder, &folder.symlink_metadata().map_err(failed)?)?;
        let key = read_key(&folder.join("key"))?;
        Ok(Self(Arc::new(Inner { folder, key })))
    }

    /// The same, where nothing may be written: none where there is no such folder yet.
    pub fn look(folder: &Path) -> Result<Option<Self>> {
        if folder.join("key").exists() { Self::open(folder).map(Some) } else { Ok(None) }
    }

    /// What was compiled of a component by this version, for this machine; none where there is nothing that counts.
    pub(super) fn load(&self, digest: &Digest, settings: &str) -> Option<(Inspection, Sealed)> {
        let path = self.path(digest, settings);
        match self.read(&path, digest, settings) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(file = %path.display(), "compiled anew: {}", error.chain());
                None
            }
        }
    }

    fn read(&self, path: &Path, digest: &Digest, settings: &str) -> Result<Option<(Inspection, Sealed)>> {
        let failed = |error: std::io::Error| Error::unavailable("the file cannot be read").because(error);
        let Some(mut file) = open_ours(path)? else { return Ok(None) };
        let corrupt = || Error::corrupt("the file is not what this host has written");
        let bytes = file.metadata().map_err(failed)?.len();
        let mut head = [0; MAGIC.len() + 4];
        file.read_exact(&mut head).map_err(failed)?;
        let length = head.last_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
        let fixed = (head.len() + MAC_BYTES) as u64;
        let code_bytes = bytes.checked_sub(fixed).and_then(|rest| rest.checked_sub(length)).ok_or_else(corrupt)?;
        if length > HEADER_BYTES_MAX || code_bytes > CODE_BYTES_MAX {
            return Err(corrupt());
        }
        let mut header = vec![0; usize::try_from(length).map_err(|_| corrupt())?];
        file.read_exact(&mut header).map_err(failed)?;
        let sealed = Sealed::copy(&mut file, code_bytes).map_err(failed)?;
        let mut theirs = [0; MAC_BYTES];
        file.read_exact(&mut theirs).map_err(failed)?;
        let mut mac = self.mac();
        mac.update(&head);
        mac.update(&header);
        sealed.each(|piece| mac.update(piece)).map_err(failed)?;
        mac.verify_slice(&theirs).map_err(|_| corrupt())?;
        let header: Header = serde_json::from_slice(&header).map_err(|error| corrupt().because(error))?;
        if !head.starts_with(MAGIC) || header.inspection.digest != *digest || header.settings != settings {
            return Err(corrupt());
        }
        touch(&file);
        Ok(Some((header.inspection, sealed)))
    }

    /// Keeps what was compiled. That it cannot be kept is told, and changes nothing.
    pub(super) fn keep(&self, artifact: &Artifact, settings: &str) {
        if let Err(error) = self.write(artifact, settings) {
            tracing::warn!("not kept: {}", error.chain());
        }
    }

    fn write(&self, artifact: &Artifact, settings: &str) -> Result<()> {
        let Artifact { inspection, code } = artifact;
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("the code cache {} cannot be written", self.0.folder.display())).because(error)
        };
        let header = Header { inspection: inspection.clone(), settings: settings.to_owned() };
        let header = serde_json::to_vec(&header).map_err(|error| Error::corrupt("no JSON").because(error))?;
        let length = u32::try_from(header.len()).map_err(|_| Error::corrupt("a header that is too long"))?;
        let head = [&MAGIC[..], &length.to_le_bytes()].concat();
        let mut mac = self.mac();
        let parts = [&head[..], &header, code];
        parts.iter().for_each(|part| mac.update(part));
        let mac = mac.finalize().into_bytes();
        // Of this user alone, and found under its name only once it is whole.
        let mut file = tempfile::NamedTempFile::new_in(&self.0.folder).map_err(failed)?;
        for part in parts.into_iter().chain([&mac[..]]) {
            file.write_all(part).map_err(failed)?;
        }
        file.persist(self.path(&inspection.digest, settings)).map_err(|error| failed(error.error))?;
        self.prune().map_err(failed)
    }

    /// Removes those files that were used longest ago, until the others have no more bytes than all may have.
    fn prune(&self) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in self.0.folder.read_dir()? {
            let path = entry?.path();
            // Another host may have removed it meanwhile.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let modified = metadata.modified()?;
            if path.extension().is_some_and(|extension| extension == "code") {
                files.push((modified, metadata.len(), path));
            } else if is_torn(&path) && modified.elapsed().is_ok_and(|age| age > TORN_AFTER) {
                let _ = std::fs::remove_file(path);
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in files {
            if bytes <= BYTES_MAX {
                break;
            }
            let _ = std::fs::remove_file(path);
            bytes -= size;
        }
        Ok(())
    }

    fn path(&self, digest: &Digest, settings: &str) -> PathBuf {
        let of = Digest::of(format!("{digest} {settings}").as_bytes()).to_string();
        self.0.folder.join(of.trim_start_matches("sha256:")).with_extension("code")
    }

    fn mac(&self) -> Hmac<Sha256> {
        <Hmac<Sha256> as KeyInit>::new(&self.0.key.into())
    }
}

/// Whether it has the name of a file that is being written.
fn is_torn(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"))
}

/// Says that a file was used now; where that cannot be said it goes sooner.
#[expect(clippy::disallowed_methods, reason = "the file system's own time, which no consumer sees")]
fn touch(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// Opens a file that this user alone may write to, without following a link to another one.
fn open_ours(path: &Path) -> Result<Option<File>> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => {
            let failed = |error| Error::unavailable(format!("{}", path.display())).because(error);
            is_ours_alone(path, &file.metadata().map_err(failed)?)?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::unavailable(format!("{} cannot be opened", path.display())).because(error)),
    }
}

fn is_ours_alone(path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    let (mode, owner, me) = (metadata.mode() & 0o777, metadata.uid(), rustix::process::geteuid().as_raw());
    if owner == me && mode & 0o077 == 0 && (metadata.is_dir() || metadata.is_file()) {
        return Ok(());
    }
    let path = path.display();
    Err(Error::invalid(format!(
        "{path} is of user {owner} with mode {mode:o}: others could have this host run what they like"
    ))
    .help(format!("`chmod -R go= {path}` as its owner, or name another folder: `code-cache` under [host]")))
}

/// Reads the folder's key, or makes one. Whoever makes it first wins.
fn read_key(path: &Path) -> Result<[u8; KEY_BYTES]> {
    let failed =
        |error: std::io::Error| Error::unavailable(format!("the key {} cannot be made", path.display())).because(error);
    if let Some(mut file) = open_ours(path)? {
        let mut key = [0; KEY_BYTES];
        match file.read_exact(&mut key) {
            Ok(()) => return Ok(key),
            // A power failure has cut it. Nothing has a MAC by it that could be found.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => std::fs::remove_file(path).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        }
    }
    let mut key = [0; KEY_BYTES];
    let random = getrandom(&mut key, GetRandomFlags::empty()).map_err(|error| failed(error.into()))?;
    if random != KEY_BYTES {
        return Err(failed(ErrorKind::UnexpectedEof.into()));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(&key).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(key),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => read_key(path),
        Err(error) => Err(failed(error.error)),
    }
}
