//! The wait of a reader at the head of a stream whose server tells nobody what others append.

use std::time::Duration;

use tokio::sync::watch;

/// The wait after something new.
const SHORTEST: Duration = Duration::from_millis(2);
/// The wait when nothing has come for a while.
const LONGEST: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Poll(Duration);

impl Default for Poll {
    fn default() -> Self {
        Self(SHORTEST)
    }
}

impl Poll {
    /// Until this process appends, or it is time to look again: each time later, as long as nothing comes. Whether it is
    /// known that there is something new.
    pub(super) async fn wait(&mut self, appended: &mut watch::Receiver<()>) -> bool {
        tokio::select! {
            _ = appended.changed() => {
                self.0 = SHORTEST;
                true
            }
            () = tokio::time::sleep(self.0) => {
                self.0 = LONGEST.min(self.0 * 2);
                false
            }
        }
    }
}
