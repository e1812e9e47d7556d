//! The allocator of a component. The one behind it, std's, looks for the block that fits best and joins neighbours, which
//! costs some 200 instructions for each block that is taken and given back. A hook does that a dozen times, and always with
//! the same few sizes. So a small block that is freed goes on a shelf with others of its size, and the next one is taken
//! from there. Everything else is left to the allocator behind.

#![expect(unsafe_code, reason = "an allocator; what it relies on is said at each place")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;

#[cfg(test)]
mod tests;

/// Blocks differ in size by so many bytes from shelf to shelf.
const STEP: usize = 16;
const SHELVES: usize = 256;
/// Of what is on shelves. Beyond that all of it goes back, for other sizes to be made of it.
const MOST_BYTES: usize = 64 << 10;
/// What every block has that the allocator behind gives out, without being asked, on wasm32.
const ALIGN: usize = 8;

/// Shelves before an allocator. For one thread.
#[derive(Debug)]
pub struct Shelved<A> {
    behind: A,
    state: UnsafeCell<State>,
}

#[derive(Debug)]
struct State {
    /// The first block on each shelf. Blocks on shelf `n` have `(n + 1) * STEP` bytes.
    first: [*mut Block; SHELVES],
    bytes: usize,
}

/// What a block holds while it is on a shelf.
#[derive(Debug)]
struct Block {
    next: *mut Self,
}

// SAFETY: this target has no threads.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
unsafe impl<A> Sync for Shelved<A> {}

impl<A: GlobalAlloc> Shelved<A> {
    pub const fn new(behind: A) -> Self {
        Self { behind, state: UnsafeCell::new(State { first: [ptr::null_mut(); SHELVES], bytes: 0 }) }
    }

    // The way to the allocator behind is apart from the short one, which stays short by that.

    #[cold]
    #[inline(never)]
    unsafe fn take(&self, layout: Layout) -> *mut u8 {
        let shelf = shelf_of(layout);
        unsafe { self.behind.alloc(if shelf < SHELVES { layout_of(shelf) } else { layout }) }
    }

    #[cold]
    #[inline(never)]
    unsafe fn give(&self, pointer: *mut u8, layout: Layout) {
        unsafe { self.behind.dealloc(pointer, layout) }
    }

    /// Gives everything on the shelves back.
    #[cold]
    #[inline(never)]
    fn clear(&self) {
        // SAFETY: the only reference, as below. What is on a shelf was allocated behind with the shelf's layout, and is
        // nobody's by now.
        unsafe {
            let state = &mut *self.state.get();
            state.bytes = 0;
            for (shelf, first) in state.first.iter_mut().enumerate() {
                while !first.is_null() {
                    let block = *first;
                    *first = (*block).next;
                    self.behind.dealloc(block.cast(), layout_of(shelf));
                }
            }
        }
    }
}

/// The shelf for blocks of this layout; one that is not there for those that are not kept.
fn shelf_of(layout: Layout) -> usize {
    if layout.align() > ALIGN { usize::MAX } else { layout.size().wrapping_sub(1) / STEP }
}

/// Of the blocks on a shelf.
fn layout_of(shelf: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and `shelf` less than SHELVES: the size is far from an overflow.
    unsafe { Layout::from_size_align_unchecked((shelf + 1) * STEP, ALIGN) }
}

// SAFETY: a block comes from the allocator behind, or from a shelf, where it was put when its owner freed it; in both cases
// it has the size of its shelf, which is not less than was asked for, and nobody else has it. It goes back with the same
// layout that it was allocated with, since the shelf follows from the layout alone, and `realloc` changes no block's shelf.
// The reference to the state is the only one: there is one thread, and the allocator behind does not call back.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Shelved<A> {
    // A call costs more than what it does: it saves registers, and looks at the stack and whether the time is up.
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let shelf = shelf_of(layout);
        unsafe {
            let state = &mut *self.state.get();
            match state.first.get_mut(shelf) {
                Some(first) if !first.is_null() => {
                    let block = *first;
                    *first = (*block).next;
                    state.bytes -= (shelf + 1) * STEP;
                    block.cast()
                }
                _ => self.take(layout),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let shelf = shelf_of(layout);
        unsafe {
            let state = &mut *self.state.get();
            let Some(first) = state.first.get_mut(shelf) else {
                return self.give(pointer, layout);
            };
            // Aligned to ALIGN, as every block on a shelf.
            #[expect(clippy::cast_ptr_alignment, reason = "see above")]
            let block = pointer.cast::<Block>();
            (*block).next = *first;
            *first = block;
            state.bytes += (shelf + 1) * STEP;
            if state.bytes > MOST_BYTES {
                self.clear();
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe {
            if shelf_of(layout) >= SHELVES {
                return self.behind.alloc_zeroed(layout);
            }
            let block = self.alloc(layout);
            if !block.is_null() {
                ptr::write_bytes(block, 0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe {
            // The caller promises that the size does not overflow.
            let wanted = Layout::from_size_align_unchecked(size, layout.align());
            let (shelf, target) = (shelf_of(layout), shelf_of(wanted));
            if shelf >= SHELVES && target >= SHELVES {
                return self.behind.realloc(pointer, layout, size);
            }
            if shelf == target {
                return pointer;
            }
            let block = self.alloc(wanted);
            if !block.is_null() {
                ptr::copy_nonoverlapping(pointer, block, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            block
        }
    }
}
