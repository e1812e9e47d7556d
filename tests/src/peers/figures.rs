//! Medians, quartiles, percentiles and ratios.

pub use crate::soak::figures::quantile as percentile;

/// How values that were measured again and again spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub lower_quartile: f64,
    pub median: f64,
    pub upper_quartile: f64,
    pub most: f64,
}

impl Spread {
    /// Zeros if there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share| between(&sorted, share);
        Self { least: at(0.0), lower_quartile: at(0.25), median: at(0.5), upper_quartile: at(0.75), most: at(1.0) }
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).median
}

/// The median of what one measured over what the other did in the same round. A machine changes its speed from one round
/// to the next, mostly not within one.
pub fn ratio(values: &[f64], reference: &[f64]) -> f64 {
    median(values.iter().zip(reference).map(|(value, reference)| value / reference))
}

/// The median of the differences within a round.
pub fn difference(values: &[f64], reference: &[f64]) -> f64 {
    median(values.iter().zip(reference).map(|(value, reference)| value - reference))
}

/// Of a few sorted values, the point at this share of the way, between two of them if need be.
fn between(sorted: &[f64], share: f64) -> f64 {
    let place = sorted.len().saturating_sub(1) as f64 * share;
    let value = |at: f64| sorted.get(at as usize).copied().unwrap_or_default();
    let (low, high) = (value(place.floor()), value(place.ceil()));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_does_not_depend_on_the_order_and_has_its_middle_between_the_middle_two() {
        let expected = Spread { least: 1.0, lower_quartile: 1.75, median: 2.5, upper_quartile: 3.25, most: 4.0 };
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), expected);
        assert_eq!(Spread::of([7.0]).lower_quartile, 7.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn a_ratio_compares_within_rounds() {
        // The machine was ten times as slow in the second round, for both.
        let (one, other) = ([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]);
        assert_eq!(ratio(&one, &other), 2.0);
        assert_eq!(difference(&one, &other), 1.0);
        // The ratio of the medians would be 3.
        assert_eq!(ratio(&[3.0, 3.0, 40.0], &[1.0, 10.0, 10.0]), 3.0);
        assert_eq!(ratio(&[3.0, 3.0, 5.0], &[1.0, 10.0, 1.0]), 3.0);
        assert_eq!(ratio(&[3.0, 3.0, 1.0], &[1.0, 10.0, 1.0]), 1.0);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let thousand: Vec<u64> = (1..=1000).collect();
        let at = |share| percentile(&thousand, share);
        assert_eq!([at(0.0), at(0.5), at(0.99), at(0.999), at(1.0)], [1, 500, 990, 999, 1000].map(Some));
        assert_eq!(percentile(&[5], 0.999), Some(5));
        assert_eq!(percentile(&[1, 9], 0.5), Some(1));
        assert_eq!(percentile::<u64>(&[], 0.5), None);
    }
}
