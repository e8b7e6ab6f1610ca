//! One host at a time for a database: a lock on a file beside it, which ends with the process that holds it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whoever looks at a lock holds a shared one for a moment: that many tries, a moment apart, outlast it.
const TRIES: u32 = 100;
const MOMENT: Duration = Duration::from_millis(1);

/// The host that holds a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Where its API listens, once it does.
    pub api: Option<SocketAddr>,
}

/// Holds a database for this host, until it is dropped.
#[derive(Debug)]
pub struct HostLock {
    file: File,
    path: PathBuf,
}

impl HostLock {
    /// Takes the lock, or is `Unavailable` with the pid of the host that has it.
    pub fn acquire(database: &Path, api: Option<SocketAddr>) -> Result<Self> {
        let path = lock_path(database);
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("take the lock {}", path.display()))
                .because(error)
                .help("the folder of the database must exist, and this user must be allowed to write there")
        };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => {
                    let lock = Self { file, path };
                    lock.write(api)?;
                    return Ok(lock);
                }
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(MOMENT),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let pid = read(&file).map_or_else(|| "unknown".to_owned(), |holder| holder.pid.to_string());
        Err(Error::unavailable(format!("database {} is held by another host, pid {pid}", database.display()))
            .help(format!("end it (`kill {pid}`), or use it: it is live")))
    }

    /// Tells those who look where this host's API listens.
    pub fn set_api(&self, api: SocketAddr) -> Result<()> {
        self.write(Some(api))
    }

    fn write(&self, api: Option<SocketAddr>) -> Result<()> {
        let holder = Holder { pid: std::process::id(), api };
        if read(&self.file).as_ref() == Some(&holder) {
            return Ok(());
        }
        let mut file = &self.file;
        let written = serde_json::to_vec(&holder).map_err(std::io::Error::from).and_then(|text| {
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(&text)
        });
        written.map_err(|error| Error::unavailable(format!("write the lock {}", self.path.display())).because(error))
    }
}

/// The host that holds a database; none where nobody does.
pub fn holder(database: &Path) -> Option<Holder> {
    let file = File::open(lock_path(database)).ok()?;
    match file.try_lock_shared() {
        // It may be about to write who it is.
        Err(TryLockError::WouldBlock) => (0..TRIES).find_map(|_| {
            let holder = read(&file);
            if holder.is_none() {
                std::thread::park_timeout(MOMENT);
            }
            holder
        }),
        // What stands in a file that nobody holds is of a host that has ended.
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Beside the file itself: by whatever links it is reached, its lock is one.
fn lock_path(database: &Path) -> PathBuf {
    let of_a_new_one = || Some(database.parent()?.canonicalize().ok()?.join(database.file_name()?));
    let real = database.canonicalize().ok().or_else(of_a_new_one).unwrap_or_else(|| database.to_owned());
    let mut path = real.into_os_string();
    path.push(".lock");
    path.into()
}

fn read(file: &File) -> Option<Holder> {
    let mut text = String::new();
    let mut file = file;
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_second_host_is_refused_with_the_pid_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("x.db");
        assert_eq!(holder(&database), None);
        let lock = HostLock::acquire(&database, None).unwrap();
        let second = HostLock::acquire(&database, None).unwrap_err();
        assert_eq!(second.kind(), Kind::Unavailable);
        assert!(second.chain().contains(&format!("pid {}", std::process::id())), "{second}");
        let api = SocketAddr::from(([127, 0, 0, 1], 4711));
        lock.set_api(api).unwrap();
        assert_eq!(holder(&database), Some(Holder { pid: std::process::id(), api: Some(api) }));
        drop(lock);
        assert_eq!(holder(&database), None);
        HostLock::acquire(&database, None).unwrap();
    }

    #[test]
    fn a_link_to_a_database_has_the_same_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (database, link) = (folder.path().join("x.db"), folder.path().join("link.db"));
        File::create(&database).unwrap();
        std::os::unix::fs::symlink(&database, &link).unwrap();
        let _lock = HostLock::acquire(&database, None).unwrap();
        assert!(HostLock::acquire(&link, None).is_err());
    }
}
