//! Reads settings and collects everything that is wrong, so that an operator mends a file in one go.

use std::collections::HashMap;

use super::key::{self, Key, Kind, Variable};
use super::{ConfigErrors, Problem, Setting, masked};

/// Variables with their values, and where each comes from if that is not the environment.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub values: HashMap<String, String>,
    pub places: HashMap<String, String>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// Reads one environment.
pub(super) struct Reader<'a> {
    given: &'a Given,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    shown: HashMap<&'static str, String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(given: &'a Given) -> Self {
        let (problems, warnings) = (given.problems.clone(), given.warnings.clone());
        Self { given, problems, warnings, shown: HashMap::new() }
    }

    /// Every name that was given, in alphabetical order, with its text.
    pub(super) fn names(&self) -> Vec<(&'a str, &'a str)> {
        let mut names: Vec<_> = self.given.values.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        names.sort_unstable();
        names
    }

    /// A setting's text without surrounding white space; unset and empty are the same (compose passes `${X:-}`).
    pub(super) fn text<T>(&self, key: &Key<T>) -> Option<&'a str> {
        self.named(key.name())
    }

    fn named(&self, name: &str) -> Option<&'a str> {
        self.given.values.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// Exactly as given: for secrets, where white space counts, and for the two settings where empty is not unset.
    pub(super) fn verbatim<T>(&self, key: &Key<T>) -> Option<&'a str> {
        self.given.values.get(key.name()).map(String::as_str)
    }

    /// A setting with a default text. An invalid text is noted as a problem, and the default is used.
    pub(super) fn get<T>(&mut self, key: &Key<T>) -> T {
        self.optional(key).unwrap_or_else(|| {
            let key::Default::Value(text) = key.variable.default else {
                unreachable!("{} has no default text", key.name())
            };
            (key.kind.parse)(text).expect("defaults are valid: every test that parses an empty environment shows it")
        })
    }

    /// A setting's value if it was given. An invalid text is a problem, and no value.
    pub(super) fn optional<T>(&mut self, key: &Key<T>) -> Option<T> {
        self.parsed(key.name(), &key.kind)
    }

    /// The same by name.
    pub(super) fn parsed<T>(&mut self, name: &str, kind: &Kind<T>) -> Option<T> {
        let text = self.named(name)?;
        let parsed = (kind.parse)(text);
        if parsed.is_none() && kind.lenient {
            let place = self.given.places.get(name).map_or(String::new(), |place| format!(" ({place})"));
            self.warn(format!("{name}{place}: is {text:?}; {}; using the default", kind.expected));
        } else if parsed.is_none() {
            self.problem_of(name, kind.secret, kind.expected);
        }
        parsed
    }

    /// Notes that a setting is wrong.
    pub(super) fn problem<T>(&mut self, key: &Key<T>, expected: impl Into<String>) {
        self.problem_of(key.name(), key.variable.secret, expected);
    }

    /// Notes that something else is wrong. Its text is not shown: a mistyped name may hold a secret.
    pub(super) fn problem_elsewhere(&mut self, name: &str, expected: impl Into<String>) {
        self.problem_of(name, true, expected);
    }

    fn problem_of(&mut self, name: &str, secret: bool, expected: impl Into<String>) {
        let was = self.given.values.get(name).filter(|_| !secret).map(|text| masked(text));
        let place = self.given.places.get(name).cloned();
        self.problems.push(Problem { place, was, ..Problem::new(name, expected) });
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
    pub(super) fn finish(
        mut self,
        variables: &[&'static Variable],
        retired: impl Iterator<Item = &'static str>,
    ) -> Result<(Vec<Setting>, Vec<String>), ConfigErrors> {
        if !self.problems.is_empty() {
            let order = |name: &str| variables.iter().position(|variable| variable.name == name).unwrap_or(usize::MAX);
            self.problems.sort_by_key(|problem| order(&problem.name));
            return Err(ConfigErrors(self.problems));
        }
        let settings = variables.iter().map(|variable| {
            let given = self.named(variable.name);
            let shown = self.shown.get(variable.name).cloned();
            let value = match (given, variable.default) {
                (Some(_), _) if variable.secret => Some(shown.unwrap_or_else(|| "********".to_owned())),
                (Some(text), _) | (None, key::Default::Value(text)) => Some(masked(text)),
                (None, key::Default::Computed(how)) => Some(shown.unwrap_or_else(|| how.to_owned())),
                (None, key::Default::Unset) => None,
            };
            Setting { name: variable.name, value, given: given.is_some() }
        });
        let retired =
            retired.filter_map(|name| Some(Setting { name, value: Some(masked(self.named(name)?)), given: true }));
        Ok((settings.chain(retired).collect(), self.warnings))
    }
}
