//! Medians, and how sure a median of paired differences is. Pure.

/// Middle value; of an even number the lower one of the two. None of nothing.
pub(crate) fn median<T: Copy + PartialOrd>(values: &mut [T]) -> Option<T> {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// A median and the bounds that 95 % of resampled medians stay within.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Percentile bootstrap of the median, 10,000 times, from a fixed seed: the same values give the same answer.
pub(crate) fn bootstrap(values: &[f64]) -> Option<Estimate> {
    const TIMES: usize = 10_000;
    let length = u64::try_from(values.len()).ok().filter(|length| *length > 0)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut medians = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let mut sample: Vec<f64> = (0..length)
            .filter_map(|_| {
                // xorshift64: good enough to choose among some tens of values.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state % length).ok().and_then(|index| values.get(index)).copied()
            })
            .collect();
        medians.push(median(&mut sample)?);
    }
    let median = median(&mut values.to_vec())?;
    medians.sort_unstable_by(f64::total_cmp);
    Some(Estimate { median, low: *medians.get(TIMES / 40)?, high: *medians.get(TIMES - 1 - TIMES / 40)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_values_that_occurred() {
        assert_eq!(median::<u64>(&mut []), None);
        assert_eq!(median(&mut [7]), Some(7));
        assert_eq!(median(&mut [9, 1]), Some(1));
        assert_eq!(median(&mut [9, 1, 5]), Some(5));
    }

    #[test]
    fn an_estimate_encloses_its_median_and_repeats() {
        let values: Vec<f64> = (0..21).map(f64::from).collect();
        let one = bootstrap(&values).unwrap();
        assert!(one.low < 10.0 && one.high > 10.0);
        assert!((one.median - 10.0).abs() < f64::EPSILON);
        let again = bootstrap(&values).unwrap();
        assert_eq!(one.low.to_bits(), again.low.to_bits());
        let same = bootstrap(&[3.0; 9]).unwrap();
        assert_eq!((same.low.to_bits(), same.high.to_bits()), (3.0_f64.to_bits(), 3.0_f64.to_bits()));
        assert!(bootstrap(&[]).is_none());
    }
}
