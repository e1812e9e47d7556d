//! State that the instances of a policy share.

use super::{State, open};
use crate::cells::{Cell, Kind};
use crate::clock::now;
use crate::plugin::bindings::cells;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::Result;

impl cells::Host for State {
    fn open(&mut self, name: String, kind: cells::Kind) -> Result<std::result::Result<u32, String>> {
        let kind = match kind {
            cells::Kind::Word => Kind::Word,
            cells::Kind::CountWindow(size) => Kind::CountWindow(size),
            cells::Kind::TimeWindow(span) => Kind::TimeWindow(span),
            cells::Kind::Bucket(bucket) => Kind::Bucket { rate: bucket.rate.to_bits(), burst: bucket.burst.to_bits() },
        };
        let cell = self.context()?.cells.open(&name, kind, now());
        Ok(cell.and_then(|cell| open(&mut self.cells, cell)))
    }

    fn load(&mut self, cell: u32) -> Result<u64> {
        Ok(word(self.cell(cell)?)?.load(Ordering::SeqCst))
    }

    fn fetch_add(&mut self, cell: u32, delta: u64) -> Result<u64> {
        Ok(word(self.cell(cell)?)?.fetch_add(delta, Ordering::SeqCst))
    }

    fn compare_exchange(&mut self, cell: u32, current: u64, new: u64) -> Result<std::result::Result<(), u64>> {
        Ok(word(self.cell(cell)?)?.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).map(|_| ()))
    }

    fn record_result(&mut self, cell: u32, failed: bool, slow: bool) -> Result<cells::Tally> {
        let tally = self
            .cell(cell)?
            .record(failed, slow, now())
            .ok_or_else(|| wasmtime::Error::msg(format!("cell {cell} is not a window")))?;
        Ok(cells::Tally { total: tally.total, failed: tally.failed, slow: tally.slow })
    }

    fn clear(&mut self, cell: u32) -> Result<()> {
        self.cell(cell)?.clear();
        Ok(())
    }

    fn take(&mut self, cell: u32, tokens: f64) -> Result<bool> {
        self.cell(cell)?.take(tokens, now()).ok_or_else(|| wasmtime::Error::msg(format!("cell {cell} is not a bucket")))
    }

    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        Ok(self.context()?.cells.get(&key, now()))
    }

    fn put(&mut self, key: String, value: Vec<u8>, ttl: u64) -> Result<std::result::Result<(), String>> {
        Ok(self.context()?.cells.put(key, value, now().saturating_add(ttl)))
    }
}

fn word(cell: &Cell) -> Result<&AtomicU64> {
    cell.word().ok_or_else(|| wasmtime::Error::msg("the cell is not a word"))
}
