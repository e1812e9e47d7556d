//! The figures, and whether they are what they should be.

use std::fmt;

#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

#[derive(Debug)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// What it should be below.
    aim: Option<f64>,
    note: String,
}

impl Table {
    pub fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.row(what, value, unit, None, "");
    }

    pub fn row(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: impl Into<Option<f64>>,
        note: impl Into<String>,
    ) {
        self.0.push(Row { what: what.into(), value, unit, aim: aim.into(), note: note.into() });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { what, value, unit, aim, note } in &self.0 {
            let decimals = if *value < 10.0 { 2 } else { 0 };
            write!(f, "{what:58} {value:>9.decimals$} {unit:6}")?;
            if let Some(aim) = aim {
                write!(f, "  aim {aim}: {}", if value < aim { "met" } else { "missed" })?;
            }
            if !note.is_empty() {
                write!(f, "  {note}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Of any values, by nearest rank.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}
