//! Reads Prometheus' text format: what a metrics listener answers.

use std::collections::HashMap;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    /// The label's value; nothing if it has none.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// All figures of a scrape, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(HashMap<String, Vec<Sample>>);

/// A line that is not of that format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is no metric")]
pub(super) struct NoMetric(usize);

impl Samples {
    pub(super) fn parse(text: &str) -> Result<Self, NoMetric> {
        let mut samples: HashMap<String, Vec<Sample>> = HashMap::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, sample) = parse_line(line).ok_or(NoMetric(n + 1))?;
            samples.entry(name).or_default().push(sample);
        }
        Ok(Self(samples))
    }

    pub(super) fn of(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sum over all labels; 0 if there is none.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.of(name).iter().fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The only figure of that name.
    pub(super) fn one(&self, name: &str) -> Option<f64> {
        self.of(name).first().map(|sample| sample.value)
    }
}

fn parse_line(line: &str) -> Option<(String, Sample)> {
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(name_end);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    if name.is_empty() || !name.chars().all(valid) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), Sample { labels, value }))
}

/// Everything up to the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = parse_value(after)?;
        labels.push((name.trim().to_owned(), value));
        rest = after;
    }
}

/// A label's value up to its closing quote, and what follows it.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_is_refused_with_its_line() {
        for wrong in ["<html>", "name", "name{a=\"b\" 1", "name{a=b} 1", "name x", "{a=\"b\"} 1", "a b=\"c\" 1"] {
            assert_eq!(Samples::parse(&format!("# HELP x y\nok 1\n{wrong}")), Err(NoMetric(3)), "{wrong}");
        }
        assert_eq!(Samples::parse(""), Ok(Samples::default()));
    }

    #[test]
    fn figures_are_found_by_name_and_label() {
        let text =
            "# TYPE a counter\na{x=\"1\",y=\"q\\\"\\\\\\n}\"} 2.5\na{x=\"2\",} 1 1700000000\nb +Inf\n\nc{} 3e2\n";
        let samples = Samples::parse(text).expect("metrics");
        assert_eq!(samples.of("a")[0].label("y"), "q\"\\\n}");
        assert_eq!((samples.of("a")[1].label("x"), samples.of("a")[1].label("z")), ("2", ""));
        assert_eq!((samples.sum("a"), samples.one("c"), samples.one("d")), (3.5, Some(300.0), None));
        assert!(samples.one("b").is_some_and(f64::is_infinite));
    }
}
