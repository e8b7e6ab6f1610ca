//! The guest's allocator: free lists of small blocks in front of std's.
//!
//! Every string and list that crosses from the host is an allocation and a release; with std's allocator they are a
//! good part of what a small call costs. A released block goes on the list of its size and is what the next request
//! of that size gets. Blocks of one size never become another's, so a guest holds its peak of each size: at most its
//! peak of small blocks in all.
//!
//! This is the SDK's only unsafe code of its own. What it rests on:
//!
//! * A guest has one thread (this is compiled only where wasm has no atomics), so no two calls overlap, and none of
//!   them calls back: `Sync` is sound although nothing is locked.
//! * A block on a list was handed out by this allocator with exactly that class's size and alignment, is at least as
//!   large and as aligned as a pointer, and belongs to nobody: its first bytes may hold the next block's address.
#![allow(unsafe_code, reason = "an allocator cannot be written without; the module says what it rests on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr,
};

/// Sizes are rounded up to a multiple of this.
const STEP: usize = 16;
/// Larger blocks are std's.
const SMALL_MAX: usize = 1024;
/// As std's allocator aligns everything anyway; what asks for more is std's.
const ALIGN: usize = 8;

#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
#[global_allocator]
static GLOBAL: FreeLists = FreeLists::new();

/// A list of released blocks for each size.
struct FreeLists([Cell<*mut u8>; SMALL_MAX / STEP]);

// SAFETY: see the module: there is one thread.
unsafe impl Sync for FreeLists {}

impl FreeLists {
    const fn new() -> Self {
        Self([const { Cell::new(ptr::null_mut()) }; SMALL_MAX / STEP])
    }

    /// The list of a layout, and the layout that its blocks have; none where the block is std's.
    fn list(&self, layout: Layout) -> Option<(&Cell<*mut u8>, Layout)> {
        if layout.align() > ALIGN {
            return None;
        }
        let class = layout.size().checked_sub(1)? / STEP;
        let block = Layout::from_size_align((class + 1) * STEP, ALIGN).ok()?;
        Some((self.0.get(class)?, block))
    }
}

// SAFETY: a small block comes from std with its class's layout, or from the list of that class, and goes back to that
// list; every other block goes to and comes from std unchanged. Which of the two it is depends on the layout alone.
unsafe impl GlobalAlloc for FreeLists {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((list, block)) = self.list(layout) else {
            // SAFETY: the caller's promise, passed on.
            return unsafe { System.alloc(layout) };
        };
        let head = list.get();
        if head.is_null() {
            // SAFETY: a class's size is not zero.
            return unsafe { System.alloc(block) };
        }
        // SAFETY: a block on a list holds the address of the next one.
        list.set(unsafe { head.cast::<*mut u8>().read() });
        head
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some((list, _)) = self.list(layout) else {
            // SAFETY: the caller's promise, passed on.
            return unsafe { System.dealloc(pointer, layout) };
        };
        // SAFETY: the block is the caller's to give, at least `STEP` bytes large and aligned to `ALIGN`.
        unsafe { pointer.cast::<*mut u8>().write(list.get()) };
        list.set(pointer);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, fits.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (self.list(layout), self.list(wanted)) {
            // SAFETY: both are std's: the caller's promise, passed on.
            (None, None) => unsafe { System.realloc(pointer, layout, size) },
            (Some((old, _)), Some((new, _))) if ptr::eq(old, new) => pointer,
            // SAFETY: the new block does not overlap the old one, which the caller promises to be `layout` large.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                    self.dealloc(pointer, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn a_released_block_is_the_next_one_of_its_size() {
        let lists = FreeLists::new();
        // SAFETY: every block is released with the layout that it was asked for with, once.
        unsafe {
            let [a, b] = [lists.alloc(layout(17)), lists.alloc(layout(32))];
            lists.dealloc(a, layout(17));
            lists.dealloc(b, layout(32));
            assert_eq!(lists.alloc(layout(20)), b);
            assert_eq!(lists.alloc(layout(31)), a);
            assert_ne!(lists.alloc(layout(33)), a);
        }
    }

    #[test]
    fn blocks_of_every_size_keep_their_bytes_while_they_grow_and_shrink() {
        let lists = FreeLists::new();
        let sizes = [1, 15, 16, 17, 100, 1023, 1024, 1025, 5000, 1024, 3];
        // SAFETY: every block is used within its size and released with its layout, once.
        unsafe {
            for start in sizes {
                let mut size = start;
                let mut block = lists.alloc(layout(size));
                block.write_bytes(7, size);
                for next in sizes {
                    let moved = lists.realloc(block, layout(size), next);
                    for at in 0..size.min(next) {
                        assert_eq!(moved.add(at).read(), 7, "byte {at} of {size} -> {next}");
                    }
                    moved.write_bytes(7, next);
                    (block, size) = (moved, next);
                }
                lists.dealloc(block, layout(size));
            }
        }
    }
}
