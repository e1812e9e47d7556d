use super::*;
use std::alloc::System;
use std::cell::Cell;

/// The allocator behind, which counts what it has given out.
#[derive(Default)]
struct Counting {
    bytes: Cell<usize>,
    calls: Cell<usize>,
}

// SAFETY: it is `System` but for the counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.bytes.set(self.bytes.get() + layout.size());
        self.calls.set(self.calls.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.bytes.set(self.bytes.get() - layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    /// Mostly small, as what hooks allocate, and around all limits.
    fn layout(&mut self) -> Layout {
        let size = match self.below(8) {
            0 => 1 + self.below(20_000),
            1 => STEP * SHELVES - 2 + self.below(5),
            2 => STEP * (1 + self.below(8)) - 1 + self.below(3),
            _ => 1 + self.below(600),
        };
        Layout::from_size_align(size, 1 << self.below(7)).unwrap()
    }
}

/// A block in use, with bytes that no other has in this order.
struct Used {
    at: *mut u8,
    layout: Layout,
    seed: u8,
}

impl Used {
    fn fill(at: *mut u8, layout: Layout, seed: u8) -> Self {
        assert!(!at.is_null() && at.addr().is_multiple_of(layout.align()), "{layout:?}");
        (0..layout.size()).for_each(|i| unsafe { at.add(i).write(seed.wrapping_add(i as u8)) });
        Self { at, layout, seed }
    }

    fn is_whole(&self, bytes: usize) -> bool {
        (0..bytes).all(|i| unsafe { self.at.add(i).read() } == self.seed.wrapping_add(i as u8))
    }
}

fn on_shelves(shelved: &Shelved<Counting>) -> usize {
    unsafe { (*shelved.state.get()).bytes }
}

/// What a block takes of the allocator behind.
fn taken(layout: Layout) -> usize {
    if shelf_of(layout) < SHELVES { layout_of(shelf_of(layout)).size() } else { layout.size() }
}

#[test]
fn blocks_are_aligned_keep_their_bytes_and_never_overlap() {
    let shelved = Shelved::new(Counting::default());
    let (mut random, mut used) = (Random(7), Vec::<Used>::new());
    for step in 0..20_000 {
        let seed = random.below(256) as u8;
        match random.below(5) {
            // As much is freed as is allocated, in waves.
            0 | 1 if used.len() < 20 + (step >> 4) % 300 => {
                let layout = random.layout();
                used.push(Used::fill(unsafe { shelved.alloc(layout) }, layout, seed));
            }
            2 => {
                let layout = random.layout();
                let at = unsafe { shelved.alloc_zeroed(layout) };
                assert!((0..layout.size()).all(|i| unsafe { at.add(i).read() } == 0), "{layout:?}");
                used.push(Used::fill(at, layout, seed));
            }
            3 if !used.is_empty() => {
                let old = used.swap_remove(random.below(used.len()));
                let size = random.layout().size();
                let at = unsafe { shelved.realloc(old.at, old.layout, size) };
                let moved = Used { at, ..old };
                assert!(moved.is_whole(old.layout.size().min(size)), "{:?} to {size}", old.layout);
                let layout = Layout::from_size_align(size, old.layout.align()).unwrap();
                used.push(Used::fill(at, layout, seed));
            }
            _ if !used.is_empty() => {
                let old = used.swap_remove(random.below(used.len()));
                assert!(old.is_whole(old.layout.size()), "{:?}", old.layout);
                unsafe { shelved.dealloc(old.at, old.layout) };
            }
            _ => {}
        }
        assert!(on_shelves(&shelved) <= MOST_BYTES);
        if step % 64 == 0 {
            let needed: usize = used.iter().map(|used| taken(used.layout)).sum();
            assert_eq!(shelved.behind.bytes.get(), needed + on_shelves(&shelved), "at {step}");
        }
    }
    for old in used {
        assert!(old.is_whole(old.layout.size()), "{:?}", old.layout);
        unsafe { shelved.dealloc(old.at, old.layout) };
    }
    shelved.clear();
    assert_eq!((shelved.behind.bytes.get(), on_shelves(&shelved)), (0, 0));
}

#[test]
fn what_is_freed_is_used_again() {
    let shelved = Shelved::new(Counting::default());
    let layouts = [1, 16, 17, 55, 547, 4096].map(|size| Layout::from_size_align(size, 4).unwrap());
    let hook = || {
        let blocks = layouts.map(|layout| (unsafe { shelved.alloc(layout) }, layout));
        blocks.iter().for_each(|(block, layout)| unsafe { shelved.dealloc(*block, *layout) });
    };
    hook();
    let first = shelved.behind.calls.get();
    assert_eq!(first, layouts.len());
    (0..1_000).for_each(|_| hook());
    assert_eq!(shelved.behind.calls.get(), first);
    shelved.clear();
}

#[test]
fn what_is_kept_is_bounded_and_does_not_stay_in_the_way_of_other_sizes() {
    let shelved = Shelved::new(Counting::default());
    for size in (1..=4096).step_by(STEP) {
        let layout = Layout::from_size_align(size, 1).unwrap();
        let blocks: Vec<*mut u8> = (0..100).map(|_| unsafe { shelved.alloc(layout) }).collect();
        blocks.into_iter().for_each(|block| unsafe { shelved.dealloc(block, layout) });
        assert!(shelved.behind.bytes.get() == on_shelves(&shelved) && on_shelves(&shelved) <= MOST_BYTES, "{size}");
    }
    shelved.clear();
    assert_eq!(shelved.behind.bytes.get(), 0);
}

#[test]
fn a_block_grows_in_place_as_far_as_its_shelf_goes() {
    let shelved = Shelved::new(Counting::default());
    let layout = |size| Layout::from_size_align(size, 1).unwrap();
    let block = unsafe { shelved.alloc(layout(17)) };
    assert_eq!(unsafe { shelved.realloc(block, layout(17), 32) }, block);
    let moved = unsafe { shelved.realloc(block, layout(32), 33) };
    assert_ne!(moved, block);
    unsafe { shelved.dealloc(moved, layout(33)) };
    shelved.clear();
    assert_eq!(shelved.behind.bytes.get(), 0);
}
