//! Numbers for names, given once and kept for the life of the process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A table of names.
#[derive(Debug, Default)]
pub struct Names(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Arc<str>, u32>,
    list: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name.
    pub fn intern(&self, name: &str) -> (u32, Arc<str>) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, id)) = table.by_name.get_key_value(name) {
            return (*id, name.clone());
        }
        let (id, name) = (table.list.len() as u32, Arc::<str>::from(name));
        table.by_name.insert(name.clone(), id);
        table.list.push(name.clone());
        (id, name)
    }

    pub fn name(&self, id: u32) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).list.get(id as usize).cloned()
    }
}
