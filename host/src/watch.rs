//! Watches component files and the config while a host runs. What changed is decided by looking at the files, not by
//! what the operating system says happened: its hints only make the look come sooner, and one comes anyway now and
//! then, so that a watch that died is not noticed by anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify_debouncer_mini::{Debouncer, new_debouncer, notify};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    config::{self, Components, Problem},
    host::Host,
    notice::Notice,
    tenant::ConsumerId,
};

/// How long a file must be left alone before it is looked at.
pub const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often files are looked at without a hint.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What tells one content of a file from another without reading it.
type Stamp = Option<(u64, Option<SystemTime>)>;

/// Follows the files of a host until the task is dropped; `tell` hears what came of each change.
pub async fn follow(host: Arc<Host>, config: PathBuf, debounce: Duration, tell: impl Fn(Notice) + Send + Sync) {
    let (hint, mut hints) = mpsc::channel(1);
    let mut watcher = Watcher::new(debounce, hint);
    let mut seen = Files::look(&host, &config).await;
    loop {
        watcher.watch(seen.folders());
        // A closed channel and a timeout mean the same as a hint: look.
        let _ = timeout(LOOK_INTERVAL, hints.recv()).await;
        let now = Files::look(&host, &config).await;
        if now.config != seen.config {
            for notice in take_config(&host, &config).await {
                tell(notice);
            }
        }
        for (id, file) in &now.components {
            if seen.components.get(id).is_some_and(|before| before != file)
                && let Some(notice) = host.reload(id).await
            {
                tell(notice);
            }
        }
        // Consumers that a new config brought are known from now on; what they are was decided with the config.
        let after = Files::look(&host, &config).await;
        seen = now;
        for (id, file) in after.components {
            seen.components.entry(id).or_insert(file);
        }
    }
}

async fn take_config(host: &Host, path: &Path) -> Vec<Notice> {
    let refused = |problems: String| vec![Notice::ConfigRefused { problems }];
    match config::read(path, Components::MustExist) {
        Err(error) => refused(Problem::of(&error).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        Ok(config) => match host.reconfigure(config).await {
            Ok(notices) => notices,
            Err(error) => refused(error.chain()),
        },
    }
}

/// The files as they are at a moment.
struct Files {
    config: Stamp,
    config_path: PathBuf,
    components: BTreeMap<ConsumerId, (PathBuf, Stamp)>,
}

impl Files {
    async fn look(host: &Host, config: &Path) -> Self {
        let catalog = host.catalog().await;
        let components = catalog.config.consumers.into_values().map(|consumer| {
            let stamp = stamp(&consumer.component);
            (consumer.id, (consumer.component, stamp))
        });
        Self { config: stamp(config), config_path: config.to_owned(), components: components.collect() }
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let files = self.components.values().map(|(path, _)| path).chain([&self.config_path]);
        files.filter_map(|path| path.parent()).filter(|folder| folder.is_dir()).map(Path::to_owned).collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((file.len(), file.modified().ok()))
}

/// The operating system's hints. Where it gives none, looking now and then must do.
struct Watcher {
    debouncer: Option<Debouncer<notify::RecommendedWatcher>>,
    watched: BTreeSet<PathBuf>,
}

impl Watcher {
    fn new(debounce: Duration, hint: mpsc::Sender<()>) -> Self {
        // A full channel means that a look is due already.
        let debouncer = new_debouncer(debounce, move |_| {
            let _ = hint.try_send(());
        });
        if let Err(error) = &debouncer {
            tracing::warn!("files are looked at every {LOOK_INTERVAL:?} only: {error}");
        }
        Self { debouncer: debouncer.ok(), watched: BTreeSet::new() }
    }

    fn watch(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(debouncer) = &mut self.debouncer else { return };
        for gone in self.watched.difference(&folders) {
            // It may be gone from the disk, and the watch with it.
            let _ = debouncer.watcher().unwatch(gone);
        }
        for folder in folders.difference(&self.watched) {
            if let Err(error) = debouncer.watcher().watch(folder, notify::RecursiveMode::NonRecursive) {
                tracing::warn!("{} is looked at every {LOOK_INTERVAL:?} only: {error}", folder.display());
            }
        }
        self.watched = folders;
    }
}
