//! Other positions in the place of all that a consumer has.

use super::Tables;
use crate::{
    backend::item,
    error::Result,
    store::{Epoch, Fence, Position, Rewrite},
};

impl Tables {
    /// What the rows become; an error where they are not those that it was meant for.
    pub(super) fn rewritten(&mut self, rewrite: &Rewrite) -> Result<Vec<Position>> {
        let found = self.positions.values().filter(|row| row.shard.consumer == rewrite.consumer).cloned().collect();
        let fence = Fence(self.draw());
        item::rewritten(rewrite, found, fence, None)
    }

    pub(super) fn rewrite(&mut self, rewrite: &Rewrite, rows: Vec<Position>, epoch: Option<Epoch>) {
        let consumer = &rewrite.consumer;
        self.positions.retain(|shard, _| shard.consumer != *consumer);
        let is_gone = rows.is_empty();
        for row in rows {
            self.positions.insert(row.shard.clone(), Position { epoch: epoch.unwrap_or(row.epoch), ..row });
        }
        if rewrite.clears_state || is_gone {
            self.state.retain(|(owner, _), _| owner != consumer);
        }
        if is_gone {
            self.dead_letters.remove(consumer);
            self.parked.retain(|(owner, ..), _| owner != consumer);
            self.deployments.remove(consumer);
            self.history.retain(|shard, _| shard.consumer != *consumer);
        }
    }
}
