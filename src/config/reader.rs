//! Reads settings and collects everything that is wrong, so that an operator mends a file in one go.

use std::collections::HashMap;
use std::fmt;

use super::given::Given;
use super::kinds::Kind;
use super::settings::{self, Default, Key};
use super::{masked, retired};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting or file.
    pub name: String,
    /// Where it was set, unless in the environment.
    pub place: Option<String>,
    /// Its text, unless it was not set or is secret.
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

/// Everything that is wrong with the configuration, in the order of the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem(s):{}", .0.len(), lines(.0))]
pub struct ConfigErrors(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |all, problem| format!("{all}\n  {problem}"))
}

/// A setting's value in force, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The setting.
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

    /// Every name that was given, in alphabetical order, with its text.
    pub(super) fn names(&self) -> Vec<(&'a str, &'a str)> {
        let mut names: Vec<_> = self.given.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        names.sort_unstable();
        names
    }

    /// A setting's text without surrounding white space; unset and empty are the same (compose passes `${X:-}`).
    pub(super) fn text<T>(&self, key: &Key<T>) -> Option<&'a str> {
        self.named(key.name())
    }

    fn named(&self, name: &str) -> Option<&'a str> {
        self.given.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// Exactly as given: for secrets, where white space counts, and for the two settings where empty is not unset.
    pub(super) fn verbatim<T>(&self, key: &Key<T>) -> Option<&'a str> {
        self.given.get(key.name()).map(String::as_str)
    }

    /// A setting with a default text. An invalid text is noted as a problem, and the default is used.
    pub(super) fn get<T>(&mut self, key: &Key<T>) -> T {
        self.optional(key).unwrap_or_else(|| {
            let Default::Value(text) = key.variable.default else { unreachable!("{} has no default text", key.name()) };
            (key.kind.parse)(text).expect("defaults are valid: every test that parses an empty environment shows it")
        })
    }

    /// A setting's value if it was given. An invalid text is a problem, and no value.
    pub(super) fn optional<T>(&mut self, key: &Key<T>) -> Option<T> {
        self.parsed(key.name(), &key.kind)
    }

    /// The value of a name that goes with the next release.
    pub(super) fn retired<T>(&mut self, name: &'static str, kind: &Kind<T>) -> Option<T> {
        let value = self.parsed(name, kind)?;
        let instead = retired::all().find(|retired| retired.name == name).map_or("", |retired| retired.instead);
        self.warn(format!("{name} will have no effect from the next release on: {}", instead.replace('`', "")));
        Some(value)
    }

    fn parsed<T>(&mut self, name: &str, kind: &Kind<T>) -> Option<T> {
        let text = self.named(name)?;
        let parsed = (kind.parse)(text);
        if parsed.is_none() && kind.lenient {
            let place = self.places.get(name).map_or(String::new(), |place| format!(" ({place})"));
            self.warn(format!("{name}{place}: is {text:?}; {}; using the default", kind.expected));
        } else if parsed.is_none() {
            self.problem(name, kind.expected);
        }
        parsed
    }

    /// Notes that a setting is wrong.
    pub(super) fn problem(&mut self, name: &str, expected: impl Into<String>) {
        // Only what is known to be no secret is shown: a mistyped name may hold one.
        let public = settings::find(name).is_some_and(|variable| !variable.secret)
            || retired::all().any(|retired| retired.name == name);
        let was = self.given.get(name).filter(|_| public).map(|text| masked(text));
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

    /// The text of `--print-config` for a setting whose default is computed.
    pub(super) fn show<T>(&mut self, key: &Key<T>, value: impl Into<String>) {
        self.shown.insert(key.name(), value.into());
    }

    /// Every setting in order, then given names that go with the next release, and the warnings; or the problems.
    pub(super) fn finish(self) -> Result<(Vec<Setting>, Vec<String>), ConfigErrors> {
        if !self.problems.is_empty() {
            let order = |problem: &Problem| {
                settings::variables().position(|variable| variable.name == problem.name).unwrap_or(usize::MAX)
            };
            let mut problems = self.problems;
            problems.sort_by_key(order);
            return Err(ConfigErrors(problems));
        }
        let settings = settings::variables().map(|variable| {
            let given = self.named(variable.name);
            let shown = self.shown.get(variable.name).cloned();
            let value = match (given, variable.default) {
                (Some(_), _) if variable.secret => Some(shown.unwrap_or_else(|| "********".to_owned())),
                (Some(text), _) | (None, Default::Value(text)) => Some(masked(text)),
                (None, Default::Computed(how)) => Some(shown.unwrap_or_else(|| how.to_owned())),
                (None, Default::Unset) => None,
            };
            Setting { name: variable.name, value, given: given.is_some() }
        });
        let retired = retired::all().filter_map(|retired| {
            Some(Setting { name: retired.name, value: Some(masked(self.named(retired.name)?)), given: true })
        });
        Ok((settings.chain(retired).collect(), self.warnings))
    }
}
