//! What a histogram says of the time between two looks at it.

use super::text::{Sample, Samples};

/// How often each bucket was met, by upper bound, ascending, cumulative.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    buckets: Vec<(f64, f64)>,
    sum: f64,
}

impl Histogram {
    /// What came between two scrapes, over all series that are `wanted`. A counter that has shrunk began anew.
    pub(super) fn between(before: &Samples, now: &Samples, name: &str, wanted: impl Fn(&Sample) -> bool) -> Self {
        let (buckets_of, sum_of) = (format!("{name}_bucket"), format!("{name}_sum"));
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (sample, count) in grown(before, now, &buckets_of).filter(|(sample, _)| wanted(sample)) {
            let Ok(bound) = sample.label("le").parse::<f64>() else { continue };
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sum = grown(before, now, &sum_of).filter(|(sample, _)| wanted(sample)).map(|(_, grown)| grown).sum();
        Self { buckets, sum }
    }

    /// How many values there were.
    pub(super) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// Their mean.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// The value that the given part of them does not exceed, as far as the buckets tell: values are taken to lie evenly in
    /// their bucket. Beyond the last bound it is that bound.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let count = self.count();
        if count <= 0.0 {
            return None;
        }
        let rank = part * count;
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, cumulative) in &self.buckets {
            if *cumulative >= rank && *cumulative > counted {
                return Some(if bound.is_finite() {
                    below + (bound - below) * ((rank - counted) / (cumulative - counted))
                } else {
                    below
                });
            }
            if bound.is_finite() {
                below = *bound;
            }
            counted = *cumulative;
        }
        Some(below)
    }
}

/// Every series of that name with what it has grown by.
pub(super) fn grown<'a>(before: &'a Samples, now: &'a Samples, name: &str) -> impl Iterator<Item = (&'a Sample, f64)> {
    let known: std::collections::HashMap<&[(String, String)], f64> =
        before.of(name).iter().map(|sample| (sample.labels.as_slice(), sample.value)).collect();
    now.of(name).iter().map(move |sample| {
        let was = known.get(sample.labels.as_slice()).copied().unwrap_or(0.0);
        (sample, if sample.value >= was { sample.value - was } else { sample.value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(counts: [u32; 4], route: &str) -> String {
        let bounds = ["0.1", "0.2", "1", "+Inf"];
        let lines = bounds.iter().zip(counts).map(|(le, n)| format!("x_bucket{{route=\"{route}\",le=\"{le}\"}} {n}\n"));
        lines.collect::<String>() + &format!("x_sum{{route=\"{route}\"}} {}\n", counts[3])
    }

    fn between(before: &str, now: &str) -> Histogram {
        let parse = |text: &str| Samples::parse(text).expect("metrics");
        Histogram::between(&parse(before), &parse(now), "x", |sample| sample.label("route") != "c")
    }

    #[test]
    fn nothing_has_no_quantile() {
        let empty = between("", "");
        assert_eq!((empty.quantile(0.5), empty.mean(), empty.count()), (None, None, 0.0));
        let same = samples([1, 2, 3, 4], "a");
        assert_eq!(between(&same, &same).quantile(0.99), None);
    }

    #[test]
    fn quantiles_are_of_what_came_between() {
        let before = samples([100, 100, 100, 100], "a");
        let now = samples([150, 190, 199, 200], "a") + &samples([0, 0, 0, 9], "c");
        let histogram = between(&before, &now);
        assert_eq!((histogram.count(), histogram.mean()), (100.0, Some(1.0)));
        let near = |part: f64, value: f64| {
            let quantile = histogram.quantile(part).expect("values");
            assert!((quantile - value).abs() < 1e-9, "{part}: {quantile}");
        };
        near(0.25, 0.05);
        near(0.5, 0.1);
        near(0.7, 0.15);
        near(0.99, 1.0);
        near(1.0, 1.0);
    }

    #[test]
    fn series_are_added_up_and_a_restart_begins_anew() {
        let before = samples([100, 100, 100, 100], "a");
        let now = samples([1, 2, 3, 4], "a") + &samples([1, 2, 3, 4], "b");
        assert!((between(&before, &now).count() - 8.0).abs() < 1e-9);
    }
}
