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
    error::Retry,
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

/// Follows the files of a host, as they were before it read them, until the task is dropped; `tell` hears what came of each
/// change.
pub async fn follow(host: Arc<Host>, mut seen: Files, debounce: Duration, tell: impl Fn(Notice) + Send + Sync) {
    let (hint, mut hints) = mpsc::channel(1);
    let mut watcher = Watcher::new(debounce, hint);
    let config = seen.config_path.clone();
    let mut open = Unfinished::default();
    // An edit while the host started was not seen by anybody.
    let running = host.catalog().await.config;
    let mut was_edited = config::read(&config, Components::MustExist).is_ok_and(|mut now| {
        now.keep_states(&running);
        now != running
    });
    loop {
        watcher.watch(seen.folders());
        // A closed channel and a timeout mean the same as a hint: look.
        let _ = timeout(LOOK_INTERVAL, hints.recv()).await;
        let now = Files::look(&host, &config).await;
        // An edit that was refused may have been for its component.
        let refused = host.refused().await;
        let may_be_taken = now.components.iter().any(|(id, file)| {
            let has_changed = seen.components.get(id).is_some_and(|before| before != file);
            has_changed && refused.get(id).is_some_and(|refused| refused.is_of_config)
        });
        if std::mem::take(&mut was_edited) || now.config != seen.config || open.config.is_some() || may_be_taken {
            let notices = take_config(&host, &config).await;
            open.tell_config(notices, &tell);
        }
        for (id, file) in &now.components {
            let has_changed = seen.components.get(id).is_some_and(|before| before != file);
            if has_changed || open.components.contains_key(id) {
                let notice = host.reload(id).await;
                open.tell_component(id, notice, &tell);
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

/// Changes that were refused for a reason that may pass: they are tried at every look, and told when the answer is
/// another one.
#[derive(Default)]
struct Unfinished {
    config: Option<String>,
    components: BTreeMap<ConsumerId, String>,
}

impl Unfinished {
    fn tell_config(&mut self, notices: Vec<Notice>, tell: impl Fn(Notice)) {
        let said = || notices.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let now = notices.iter().any(Notice::may_pass).then(said);
        let before = std::mem::replace(&mut self.config, now);
        if before.is_none() || before != self.config {
            notices.into_iter().for_each(tell);
        }
    }

    fn tell_component(&mut self, id: &ConsumerId, notice: Option<Notice>, tell: impl Fn(Notice)) {
        let before = self.components.remove(id);
        let Some(notice) = notice else { return };
        let said = notice.to_string();
        let is_new = before.as_ref() != Some(&said);
        if notice.may_pass() {
            self.components.insert(id.clone(), said);
        }
        if is_new {
            tell(notice);
        }
    }
}

async fn take_config(host: &Host, path: &Path) -> Vec<Notice> {
    match config::read(path, Components::MustExist) {
        Err(error) => {
            let problems = Problem::of(&error).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            vec![Notice::ConfigRefused { problems, may_pass: false }]
        }
        Ok(config) => match host.reconfigure(config).await {
            Ok(notices) => notices,
            Err(error) => {
                let mut problems = error.chain();
                if let Some(help) = error.way_out() {
                    problems = format!("{problems}\nhelp: {help}");
                }
                vec![Notice::ConfigRefused { problems, may_pass: error.retry() != Retry::Never }]
            }
        },
    }
}

/// The files as they are at a moment.
pub struct Files {
    config: Stamp,
    config_path: PathBuf,
    components: BTreeMap<ConsumerId, (PathBuf, Stamp)>,
}

impl Files {
    /// Looks at the components of a host, and at its config.
    pub async fn look(host: &Host, config: &Path) -> Self {
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
