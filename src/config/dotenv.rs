//! The `.env` file, read as dotenv 17 reads it for the Node server: the same text gives the same values, nothing is
//! expanded. One difference: dotenv skips a line that it does not understand; here it is a [`Stray`], so that a setting is
//! never lost silently.

/// An assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub name: String,
    pub value: String,
    /// Counted from 1.
    pub line: usize,
    /// What was probably not meant.
    pub doubt: Option<&'static str>,
}

/// A line that is neither an assignment nor a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stray {
    pub line: usize,
    /// The word that it begins with, if that can be a name.
    pub name: Option<String>,
}

const QUOTES: [char; 3] = ['\'', '"', '`'];

/// Everything in a file's text, in its order.
pub(super) fn parse(text: &str) -> (Vec<Assignment>, Vec<Stray>) {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut assignments, mut strays) = (Vec::new(), Vec::new());
    let (mut rest, mut line) = (text.as_str(), 1);
    while !rest.is_empty() {
        let blank = rest.len() - skip_blank(rest).len();
        line += lines_in(&rest[..blank]);
        rest = &rest[blank..];
        let after = if rest.starts_with('#') {
            skip_line(rest)
        } else if let Some((name, given, after)) = assignment(rest) {
            let (value, doubt) = value(given, after);
            assignments.push(Assignment { name: name.to_owned(), value, line, doubt });
            skip_line(after)
        } else {
            if !rest.is_empty() {
                let name = name(rest).map(|(name, _)| name.to_owned());
                strays.push(Stray { line, name });
            }
            skip_line(rest)
        };
        line += lines_in(&rest[..rest.len() - after.len()]);
        rest = after;
    }
    (assignments, strays)
}

fn lines_in(text: &str) -> usize {
    text.matches('\n').count()
}

/// White space as JavaScript has it, which counts a byte order mark.
fn is_blank(c: char) -> bool {
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

fn skip_blank(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

/// What follows the rest of the line.
fn skip_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, after)| after)
}

/// The name at the beginning, after an optional `export`.
fn name(text: &str) -> Option<(&str, &str)> {
    let word = |text| {
        let end = str::find(text, |c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c)).unwrap_or(text.len());
        (end > 0).then(|| text.split_at(end))
    };
    let exported = text.strip_prefix("export").filter(|rest| rest.starts_with(is_blank)).map(skip_blank);
    // A variable may itself be called so.
    exported.and_then(word).or_else(|| word(text))
}

/// Name, value as given, and what follows the value; none if the text does not begin with an assignment.
fn assignment(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = name(text)?;
    let colon = || rest.strip_prefix(':').and_then(|rest| rest.strip_prefix(is_blank));
    let given = skip_blank(rest).strip_prefix('=').or_else(colon)?;
    // A quoted value may span lines, and begin on a later one.
    if let Some(after) = QUOTES.into_iter().find_map(|quote| quoted(skip_blank(given), quote)) {
        return Some((name, &given[..given.len() - after.len()], after));
    }
    let end = given.find(['#', '\n']).unwrap_or(given.len());
    Some((name, &given[..end], &given[end..]))
}

/// What follows a quoted text, if nothing but a comment follows it on its line. A quote after a backslash may end the text
/// or belong to it: the longest text counts.
fn quoted(text: &str, quote: char) -> Option<&str> {
    let inside = text.strip_prefix(quote)?;
    let mut found = None;
    let mut before = quote;
    for (at, c) in inside.char_indices() {
        if c == quote {
            let after = &inside[at + 1..];
            let line = after.split('\n').next().unwrap_or_default();
            let tail = line.trim_start_matches(is_blank);
            if tail.is_empty() || tail.starts_with('#') {
                found = Some(after);
            }
            if before != '\\' {
                break;
            }
        }
        before = c;
    }
    found
}

/// The value, and what is strange about it. `after`: the text that follows.
fn value(given: &str, after: &str) -> (String, Option<&'static str>) {
    let is_cut = after.starts_with('#') && given.ends_with(|c| !is_blank(c));
    let given = given.trim_matches(is_blank);
    let quote = given.chars().next().filter(|first| QUOTES.contains(first));
    let inside = quote.and_then(|quote| given.strip_prefix(quote)?.strip_suffix(quote));
    let doubt = match quote {
        Some(quote) if inside.is_none() && given.matches(quote).count() % 2 == 1 => {
            Some("begins with a quote that is not closed, so the quote is a part of the value")
        }
        None if is_cut => Some("ends at a #, which begins a comment: quote the value if the # is a part of it"),
        _ => None,
    };
    let value = inside.unwrap_or(given);
    if quote == Some('"') {
        (value.replace("\\n", "\n").replace("\\r", "\r"), doubt)
    } else {
        (value.to_owned(), doubt)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Texts with what dotenv 17.4.2 has read of them.
    const VECTORS: &str = include_str!("dotenv/vectors.json");

    #[test]
    fn every_text_has_the_values_that_dotenv_gives_it() {
        let vectors: Vec<(String, BTreeMap<String, String>)> = serde_json::from_str(VECTORS).expect("JSON");
        assert!(vectors.len() > 200);
        for (text, expected) in vectors {
            let read: BTreeMap<_, _> = parse(&text).0.into_iter().map(|found| (found.name, found.value)).collect();
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    fn the_documented_readings_are_ours() {
        let document = include_str!("../../docs/configuration.md");
        let (_, table) = document.split_once("<!-- readings -->").expect("the table");
        let rows = table.split("<!-- /readings -->").next().expect("its end").lines().skip(3);
        let mut count = 0;
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let read = parse(cells[1]).0.pop().expect("an assignment");
            assert_eq!(read.value.replace('\n', "↵"), cells[2], "{row}");
            count += 1;
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn lines_are_counted_and_none_is_lost_silently() {
        let text =
            "\u{feff}# comment\r\nA=1\r\n\r\nB=\"two\r\nlines\"\r\n  C = 3\r\nENCRYPTION_POLICY required\r\n!?\r\nD=4";
        let (assignments, strays) = parse(text);
        let lines: Vec<_> = assignments.iter().map(|found| (found.name.as_str(), found.line)).collect();
        assert_eq!(lines, [("A", 2), ("B", 4), ("C", 6), ("D", 9)]);
        let policy = Stray { line: 7, name: Some("ENCRYPTION_POLICY".to_owned()) };
        assert_eq!(strays, [policy, Stray { line: 8, name: None }]);
    }

    #[test]
    fn what_was_probably_not_meant_is_told() {
        let doubt = |text: &str| parse(text).0.pop().expect("an assignment").doubt.unwrap_or_default().to_owned();
        assert!(doubt("A=\"open").contains("not closed"));
        assert!(doubt("A=secret#rest").contains("comment"));
        for fine in ["A=secret # comment", "A=\"Name\" <a@b.example>", "A=it's", "A=", "A=#", "A='x'#y"] {
            assert_eq!(doubt(fine), "", "{fine}");
        }
    }
}
