//! What hosts tell each other of: which streams were appended to. It is a hint that ends a reader's wait early. One that is
//! lost costs no more than the wait, for readers poll all the same.
//!
//! A transaction that notifies holds a lock that all those share, so commits do not: one statement behind them tells of
//! many.

use std::{
    collections::BTreeSet,
    sync::{Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{Inner, Log};

const CHANNEL: &str = "tendon";
/// At the most one statement in this time.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// The wait before a connection that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Of one database's handle. Its tasks end with it.
pub(super) struct Notices {
    /// Tells what this handle said from what others say.
    me: String,
    /// The numbers of the streams that nobody was told of yet.
    pending: Mutex<BTreeSet<i64>>,
    is_pending: mpsc::Sender<()>,
    listening: OnceLock<watch::Sender<()>>,
}

impl Notices {
    /// Those, and what wakes the one who tells.
    pub(super) fn new() -> (Self, mpsc::Receiver<()>) {
        let (is_pending, wakes) = mpsc::channel(1);
        let me = format!("{:016x}", fastrand::u64(..));
        (Self { me, pending: Mutex::default(), is_pending, listening: OnceLock::new() }, wakes)
    }

    /// Others are to be told that this stream was appended to.
    pub(super) fn add(&self, number: i64) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        // It is full where somebody is about to tell anyway.
        let _ = self.is_pending.try_send(());
    }

    fn take(&self) -> String {
        let numbers = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        // A payload has less than 8,000 bytes. Who appends to more streams at a time leaves the others to polling.
        let numbers: Vec<String> = numbers.into_iter().take(300).map(|number| number.to_string()).collect();
        format!("{} {}", self.me, numbers.join(" "))
    }

    /// Ends the listening.
    pub(super) fn close(&self) {
        if let Some(listening) = self.listening.get() {
            let _ = listening.send(());
        }
    }
}

/// Tells other hosts, as long as the handle is there.
pub(super) async fn tell(inner: Weak<Inner>, mut wakes: mpsc::Receiver<()>) {
    while wakes.recv().await.is_some() {
        let Some(inner) = inner.upgrade() else { return };
        let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(inner.notices.take());
        if let Err(error) = notify.execute(&inner.writers).await {
            tracing::debug!(%error, "other hosts were not told of new events; they poll");
        }
        drop(inner);
        sleep(DEBOUNCE).await;
    }
}

/// Listens to other hosts from now on. A connection of its own waits for them.
pub(super) fn listen(inner: &std::sync::Arc<Inner>) {
    inner.notices.listening.get_or_init(|| {
        let (end, ended) = watch::channel(());
        tokio::spawn(hear(std::sync::Arc::downgrade(inner), inner.connect.clone(), ended));
        end
    });
}

async fn hear(inner: Weak<Inner>, connect: PgConnectOptions, mut ended: watch::Receiver<()>) {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(connect);
    loop {
        tokio::select! {
            _ = ended.changed() => return,
            error = hear_until_it_fails(&inner, &pool) => {
                let Err(error) = error else { return };
                tracing::debug!(%error, "other hosts are not heard of now; streams are polled");
            }
        }
        sleep(AGAIN).await;
    }
}

/// Ends well once the handle is gone.
async fn hear_until_it_fails(inner: &Weak<Inner>, pool: &PgPool) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    let mut heard = None;
    loop {
        let Some(inner) = inner.upgrade() else { return Ok(()) };
        inner.wake(heard.as_deref());
        drop(inner);
        // None: the connection was lost and made anew, and whatever was said meanwhile is unknown.
        heard = listener.try_recv().await?.map(|notice| notice.payload().to_owned());
    }
}

impl Inner {
    /// Wakes the readers of the streams that a notice names; all where there is none.
    fn wake(&self, notice: Option<&str>) {
        let (from, numbers) = notice.map(|notice| notice.split_once(' ').unwrap_or_default()).unzip();
        if from == Some(self.notices.me.as_str()) {
            return;
        }
        let numbers: Option<BTreeSet<&str>> = numbers.map(|numbers: &str| numbers.split(' ').collect());
        for log in self.known.all().values() {
            let is_meant =
                |log: &Log| numbers.as_ref().is_none_or(|numbers| numbers.contains(&*log.number().to_string()));
            if is_meant(log) {
                log.appended().send_replace(());
            }
        }
    }
}
