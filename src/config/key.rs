//! What is known of a setting: its name, the kind of its values, its default, its meaning.

/// A kind of values.
pub(super) struct Kind<T> {
    /// Type, unit and bounds, for documents.
    pub values: &'static str,
    /// The message about an invalid text.
    pub expected: &'static str,
    /// `None`: the text is invalid.
    pub parse: fn(&str) -> Option<T>,
    /// Whether values are never shown.
    pub secret: bool,
    /// Whether an invalid text is only warned about: how the Node server treats its clean-up and quota variables, so that
    /// files that worked there keep working.
    pub lenient: bool,
}

impl<T> Kind<T> {
    pub(super) const fn new(values: &'static str, expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { values, expected, parse, secret: false, lenient: false }
    }

    pub(super) const fn secret(values: &'static str, expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { secret: true, ..Self::new(values, expected, parse) }
    }

    pub(super) const fn lenient(values: &'static str, expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { lenient: true, ..Self::new(values, expected, parse) }
    }
}

/// The value of a setting that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text, parsed like a given one.
    Value(&'static str),
    /// Derived from other settings; the text says how.
    Computed(&'static str),
    /// Nothing.
    Unset,
}

/// What is known of a setting.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// Type, unit and bounds of its values, in Markdown.
    pub values: &'static str,
    /// Its value when unset.
    pub default: Default,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// Its meaning, in Markdown. One line.
    pub doc: &'static str,
}

/// A setting with its type.
pub(super) struct Key<T> {
    pub variable: Variable,
    pub kind: Kind<T>,
}

impl<T> Key<T> {
    pub(super) const fn name(&self) -> &'static str {
        self.variable.name
    }
}
