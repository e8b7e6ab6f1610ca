//! Builds a folder's components again whenever a source changes. Whether one has is decided by looking at the files:
//! a build reads them, too, and the operating system's hints do not tell reading from writing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify_debouncer_mini::{new_debouncer, notify};
use tokio::sync::mpsc;

use super::{Ctx, build, problem};

/// Folders that builds write to, and those of version control.
const IGNORED: [&str; 3] = ["target", "node_modules", ".git"];
/// What a component is built from.
const SOURCES: [&str; 3] = ["rs", "toml", "wit"];

/// The sources below a folder, with what tells one content from another without reading it.
pub(super) type Sources = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Follows the sources, as they were before they were built last, until the task is dropped; what comes of a build is for
/// the watcher of components to see.
pub(super) async fn follow(folder: PathBuf, mut built: Sources, debounce: Duration, ctx: Ctx) {
    let (hint, mut hints) = mpsc::channel(1);
    let watching = new_debouncer(debounce, move |_| {
        // A full channel means that a look is due already.
        let _ = hint.try_send(());
    });
    let watching = watching.and_then(|mut watching| {
        watching.watcher().watch(&folder, notify::RecursiveMode::Recursive)?;
        Ok(watching)
    });
    let _watching = match watching {
        Ok(watching) => watching,
        Err(error) => return ctx.out.talk(format!("sources are not watched: {error}")),
    };
    loop {
        let now = sources(&folder);
        if now != built {
            built = now;
            if let Err(error) = build::build(&build::Args::of(&folder), |line| ctx.out.talk(line)).await {
                problem::report(&error, ctx.out.format, ctx.globals.color.on_stderr());
            }
        }
        if hints.recv().await.is_none() {
            return;
        }
    }
}

/// Looks at them.
pub(super) fn sources(folder: &Path) -> Sources {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What cannot be read now is looked at again with the next hint.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(file) = entry.metadata() else { continue };
            if file.is_dir() && !IGNORED.iter().any(|ignored| name == *ignored) {
                folders.push(path);
            } else if file.is_file()
                && path.extension().is_some_and(|kind| SOURCES.iter().any(|source| kind == *source))
            {
                found.insert(path, (file.len(), file.modified().ok()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_that_were_written_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("src/lib.rs", "one");
        write("target/debug/build.rs", "one");
        write("data.db", "one");
        let before = sources(folder.path());
        assert_eq!(before.len(), 1);
        std::fs::read(folder.path().join("src/lib.rs")).unwrap();
        write("target/debug/build.rs", "two and more");
        write("data.db", "two and more");
        assert_eq!(sources(folder.path()), before);
        write("src/lib.rs", "two and more");
        assert_ne!(sources(folder.path()), before);
    }
}
