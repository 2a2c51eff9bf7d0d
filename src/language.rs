//! The languages of pages and mails, and their texts.
//!
//! Owns the catalogues in `templates/texts/`: one JSON object per language, flat, from key to text. Both have the same
//! keys; tests hold them to each other, and the templates and scripts to them. Keys that begin with [`SCRIPT_PREFIX`]
//! are for scripts in browsers, whose texts may have places in braces (`{count}`); the other texts have none.
//!
//! What the API answers stays English: clients compare it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Where the app's settings for this server are, in the app's own words (its `en.json`, release 18.20).
pub const APP_PATH: &str = "Settings > Sync & Backup > Set up sync > SuperSync";

/// What the keys of texts for scripts begin with.
pub const SCRIPT_PREFIX: &str = "js.";

/// A language of pages and mails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Language {
    /// Also for everybody whose language is none of these.
    #[default]
    English,
    /// German.
    German,
}

type Catalogue = BTreeMap<String, String>;

static ENGLISH: LazyLock<Catalogue> = LazyLock::new(|| parse(include_str!("../templates/texts/en.json")));
static GERMAN: LazyLock<Catalogue> = LazyLock::new(|| parse(include_str!("../templates/texts/de.json")));

fn parse(json: &str) -> Catalogue {
    serde_json::from_str(json).expect("the catalogues are compiled in, and tests read them")
}

impl Language {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::English, Self::German];

    /// The ISO 639-1 code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
        }
    }

    /// What the language calls itself.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::German => "Deutsch",
        }
    }

    /// The language with this code; a region (`de-AT`) does not matter.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let primary = code.split(['-', '_']).next().unwrap_or_default();
        Self::ALL.into_iter().find(|language| primary.eq_ignore_ascii_case(language.code()))
    }

    /// The most wanted of our languages in an `Accept-Language` header; of equally wanted ones the first. None of them
    /// is the default.
    #[must_use]
    pub fn from_accept_language(header: &str) -> Self {
        let mut best = (0.0, Self::default());
        for item in header.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let Some(language) = parts.next().and_then(Self::from_code) else { continue };
            let weight =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }

    /// The text for `key`.
    ///
    /// # Panics
    /// When no catalogue has the key, which tests of all templates and scripts rule out.
    #[must_use]
    pub fn text(self, key: &str) -> &'static str {
        self.catalogue().get(key).unwrap_or_else(|| panic!("the catalogues have no text {key:?}"))
    }

    /// The texts for scripts, by their keys without the prefix.
    pub fn script_texts(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.catalogue().iter().filter_map(|(key, text)| Some((key.strip_prefix(SCRIPT_PREFIX)?, text.as_str())))
    }

    fn catalogue(self) -> &'static Catalogue {
        match self {
            Self::English => &ENGLISH,
            Self::German => &GERMAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_most_wanted_language_that_there_is_counts() {
        for (header, language) in [
            ("", Language::English),
            ("fr, es;q=0.5", Language::English),
            ("de", Language::German),
            ("de-AT,de;q=0.9,en;q=0.8", Language::German),
            ("fr,en;q=0.4,de;q=0.5", Language::German),
            ("en,de", Language::English),
            ("de;q=0, en;q=0.1", Language::English),
            ("de;q=x", Language::English),
        ] {
            assert_eq!(Language::from_accept_language(header), language, "{header}");
        }
    }

    #[test]
    fn codes_are_found_whatever_their_region() {
        assert_eq!(Language::from_code("DE_ch"), Some(Language::German));
        assert_eq!(Language::from_code("deu"), None);
        assert_eq!(Language::from_code(""), None);
    }

    #[test]
    fn the_readme_has_the_words_of_the_app() {
        assert!(include_str!("../README.md").contains(APP_PATH));
    }

    #[test]
    fn catalogues_have_the_same_keys_and_places() {
        let places = |text: &str| -> BTreeSet<String> {
            text.split('{').skip(1).map(|part| part.split('}').next().expect("a part").to_owned()).collect()
        };
        assert_eq!(ENGLISH.keys().collect::<Vec<_>>(), GERMAN.keys().collect::<Vec<_>>());
        for (key, text) in ENGLISH.iter() {
            assert!(!text.trim().is_empty() && !GERMAN[key].trim().is_empty(), "{key}");
            assert_eq!(places(text), places(&GERMAN[key]), "{key}");
            assert!(key.starts_with(SCRIPT_PREFIX) || places(text).is_empty(), "{key}");
        }
    }

    /// Everything between a mark and the quotation mark that ends it.
    fn between<'a>(source: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
        source.split(mark).skip(1).filter_map(move |rest| rest.split(['"', '\'', '`']).next())
    }

    #[test]
    fn every_key_is_used_and_every_used_key_exists() {
        // A key may also stand in a list or behind a condition, so in quotation marks anywhere is use enough.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut used = BTreeSet::new();
        // Keys that are put together: what begins like this counts as used.
        let mut families = BTreeSet::from(["mail.".to_owned()]);
        let mut everything = String::new();
        for (folder, mark, prefix) in
            [("templates", "t.text(\"", ""), ("templates/mail", "t.text(\"", ""), ("assets", "text('", SCRIPT_PREFIX)]
        {
            for entry in std::fs::read_dir(root.join(folder)).expect("a folder").map(|entry| entry.expect("an entry")) {
                if !entry.file_type().expect("a type").is_file() {
                    continue;
                }
                let source = std::fs::read_to_string(entry.path()).expect("text");
                everything.push_str(&source);
                used.extend(between(&source, mark).map(|key| format!("{prefix}{key}")));
                families.extend(between(&source, "ext(`").map(|key| {
                    let fixed = key.split("${").next().expect("a part");
                    format!("{prefix}{fixed}")
                }));
            }
        }
        for source in [include_str!("http/pages.rs"), include_str!("http/pages/link.rs")] {
            used.extend(between(source, "text(\"").map(str::to_owned));
            everything.push_str(source);
        }
        for key in &used {
            assert!(ENGLISH.contains_key(key), "{key} is used but has no text");
        }
        assert!(!families.contains(SCRIPT_PREFIX), "a key that is nothing but a variable proves nothing");
        for key in ENGLISH.keys() {
            let quoted = match key.strip_prefix(SCRIPT_PREFIX) {
                Some(key) => everything.contains(&format!("'{key}'")),
                None => everything.contains(&format!("\"{key}\"")),
            };
            assert!(quoted || families.iter().any(|family| key.starts_with(family)), "{key} is not used");
        }
    }
}
