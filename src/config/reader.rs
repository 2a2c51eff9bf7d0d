//! Reads variables by the table and collects everything that is wrong, so that an operator mends a file in one go.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::given::Given;
use super::masked;
use super::table::{self, Default, Variable};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable or file.
    pub name: String,
    /// Where it was set, unless in the environment.
    pub place: Option<String>,
    /// What it was, unless it was not set or is secret.
    pub was: Option<String>,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        match &self.was {
            Some(was) => write!(f, ": is {was:?}; {}", self.expected),
            None => write!(f, ": {}", self.expected),
        }
    }
}

/// Everything that is wrong with the configuration, in the table's order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem(s):{}", .0.len(), lines(.0))]
pub struct ConfigErrors(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |all, problem| format!("{all}\n  {problem}"))
}

/// A variable's value in force, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value; secrets are masked, in addresses too. `None` = not set.
    pub value: Option<String>,
    /// Whether the environment or the `.env` file gave it.
    pub given: bool,
}

/// Reads one environment.
pub(super) struct Reader<'a> {
    given: &'a HashMap<String, String>,
    places: &'a HashMap<String, String>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    shown: HashMap<&'static str, String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(given: &'a Given) -> Self {
        let Given { values, places, problems, warnings } = given;
        Self { given: values, places, problems: problems.clone(), warnings: warnings.clone(), shown: HashMap::new() }
    }

    /// Every variable that was given, in the order of their names.
    pub(super) fn names(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self.given.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// A variable's text without surrounding white space; unset and empty are the same (compose passes `${X:-}`).
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.given.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// Exactly as given: for secrets, where white space counts, and for the two variables where empty is not unset.
    pub(super) fn verbatim(&self, name: &str) -> Option<&'a str> {
        self.given.get(name).map(String::as_str)
    }

    /// A variable with a default in the table. An invalid text is a problem; reading goes on with the default.
    pub(super) fn value<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let variable = variable(name);
        if let Some(text) = self.text(name) {
            if let Some(parsed) = parse(text) {
                return parsed;
            }
            self.problem(name, expected);
        }
        parsed_default(variable, parse)
    }

    /// Like [`Self::value`], but an invalid text is only warned about: how the Node server treats its clean-up and
    /// quota variables, so that files that worked there keep working.
    pub(super) fn lenient<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let variable = variable(name);
        if let Some(text) = self.text(name) {
            if let Some(parsed) = parse(text) {
                return parsed;
            }
            let place = self.places.get(name).map_or(String::new(), |place| format!(" ({place})"));
            self.warn(format!("{name}{place}: is {text:?}; {expected}; using the default"));
        }
        parsed_default(variable, parse)
    }

    /// A variable without a default.
    pub(super) fn optional<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(text);
        if parsed.is_none() {
            self.problem(name, expected);
        }
        parsed
    }

    /// Notes that a variable is wrong.
    pub(super) fn problem(&mut self, name: &str, expected: impl Into<String>) {
        // Only what is known to be no secret is shown: a mistyped name may hold one.
        let public = table::variables().any(|variable| variable.name == name && !variable.secret);
        let was = self.verbatim(name).filter(|_| public).map(masked);
        let place = self.places.get(name).cloned();
        self.problems.push(Problem { name: name.to_owned(), place, was, expected: expected.into() });
    }

    /// Whether anything is wrong so far.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Notes something that works but is probably not meant.
    pub(super) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(masked(&warning.into()));
    }

    /// What `--print-config` shows for a variable whose default is computed.
    pub(super) fn show(&mut self, name: &'static str, value: impl Into<String>) {
        self.shown.insert(name, value.into());
    }

    /// Every variable in the table's order, and the warnings; or the problems.
    pub(super) fn finish(self) -> Result<(Vec<Setting>, Vec<String>), ConfigErrors> {
        if !self.problems.is_empty() {
            let order = |problem: &Problem| {
                table::variables().position(|variable| variable.name == problem.name).unwrap_or(usize::MAX)
            };
            let mut problems = self.problems;
            problems.sort_by_key(order);
            return Err(ConfigErrors(problems));
        }
        let settings = table::variables().map(|variable| {
            let given = self.text(variable.name);
            let shown = self.shown.get(variable.name).cloned();
            let value = match (given, variable.default) {
                (Some(_), _) if variable.secret => Some(shown.unwrap_or_else(|| "********".to_owned())),
                (Some(text), _) | (None, Default::Value(text)) => Some(masked(text)),
                (None, Default::Computed(how)) => Some(shown.unwrap_or_else(|| how.to_owned())),
                (None, Default::Unset) => None,
            };
            Setting { name: variable.name, value, given: given.is_some() }
        });
        Ok((settings.collect(), self.warnings))
    }
}

fn variable(name: &str) -> &'static Variable {
    table::variables().find(|variable| variable.name == name).expect("only names of the table are read")
}

fn parsed_default<T>(variable: &Variable, parse: impl Fn(&str) -> Option<T>) -> T {
    let Default::Value(text) = variable.default else { unreachable!("{} has no default text", variable.name) };
    parse(text).expect("the table's defaults are valid: every test that parses an empty environment shows it")
}

/// A whole number in a range.
pub(super) fn number<T: TryFrom<u64>>(range: std::ops::RangeInclusive<u64>) -> impl Fn(&str) -> Option<T> {
    move |text| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten().filter(|number| range.contains(number))?;
        T::try_from(number).ok()
    }
}

/// A number of bytes, at least one, with an optional unit.
pub(super) fn bytes(text: &str) -> Option<usize> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), *unit))).unwrap_or((text, 1));
    let number: u64 = number(1..=u64::MAX)(digits)?;
    usize::try_from(number.checked_mul(unit)?).ok()
}

/// A time in seconds, above zero and at most ten years; fractions down to a millisecond.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    const TEN_YEARS: f64 = 315_360_000.0;
    let seconds: f64 = text.parse().ok()?;
    (0.001..=TEN_YEARS).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// Seconds to wait, 0 included.
pub(super) fn delay(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (0.0..=300.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// A whole number of hours, 0 included.
pub(super) fn hours(text: &str) -> Option<Duration> {
    let hours: u64 = number(0..=87_600)(text)?;
    Some(Duration::from_secs(hours * 60 * 60))
}

/// A whole number of days.
pub(super) fn days(text: &str) -> Option<Duration> {
    let days: u64 = number(1..=3650)(text)?;
    Some(Duration::from_secs(days * 24 * 60 * 60))
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
