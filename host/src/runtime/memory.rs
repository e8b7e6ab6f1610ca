//! The limit of a guest's memory: one sum over all its memories and tables. wasmtime's own limit holds for each
//! memory by itself, and a component may have a hundred.

use bytesize::ByteSize;
use wasmtime::ResourceLimiter;

use super::trap::Stop;

/// What an element of a table takes.
const TABLE_ELEMENT_BYTES: usize = 8;
/// Core instances, memories and tables of one component. The largest guest known has 20 of them together.
const PARTS_MAX: usize = 100;

/// What an instance holds, and what it may hold.
pub(super) struct MemoryBudget {
    limit_bytes: usize,
    held_bytes: usize,
    /// What was granted last: given back where the system then has no memory for it.
    last_bytes: usize,
}

impl MemoryBudget {
    /// A budget of which nothing is used.
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes: usize::try_from(limit_bytes).unwrap_or(usize::MAX), held_bytes: 0, last_bytes: 0 }
    }

    /// Bytes of all memories and tables.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn grow(&mut self, added_bytes: usize) -> wasmtime::Result<bool> {
        let wanted = self.held_bytes.saturating_add(added_bytes);
        if wanted > self.limit_bytes {
            let [wanted, limit] = [wanted, self.limit_bytes].map(|bytes| ByteSize::b(bytes as u64).display().iec());
            return Err(Stop::limit(
                "limits.memory",
                &limit.to_string(),
                format!("the guest asked for {wanted} of memory"),
            )
            .into());
        }
        self.held_bytes = wanted;
        self.last_bytes = added_bytes;
        Ok(true)
    }

    fn give_back(&mut self) {
        self.held_bytes = self.held_bytes.saturating_sub(std::mem::take(&mut self.last_bytes));
    }
}

impl ResourceLimiter for MemoryBudget {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.give_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.give_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_are_summed_and_held_to_one_limit() {
        let mut budget = MemoryBudget::new(3 * 65_536);
        assert!(budget.memory_growing(0, 65_536, None).unwrap());
        assert!(budget.memory_growing(0, 65_536, None).unwrap());
        assert!(budget.table_growing(0, 65_536 / 8 - 1, None).unwrap());
        assert!(budget.table_growing(65_536 / 8 - 1, 65_536 / 8, None).unwrap());
        assert_eq!(budget.held_bytes(), 3 * 65_536);
        let error = budget.table_growing(65_536 / 8, 65_536 / 8 + 1, None).unwrap_err();
        assert!(error.to_string().contains("limits.memory"), "{error}");
    }

    #[test]
    fn what_the_system_refused_is_given_back() {
        let mut budget = MemoryBudget::new(65_536);
        budget.memory_growing(0, 65_536, None).unwrap();
        budget.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert_eq!(budget.held_bytes(), 0);
    }
}
