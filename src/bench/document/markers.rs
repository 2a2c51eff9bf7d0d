//! The parts of a page that a command writes.

/// Puts each text between its markers `<!-- bench:NAME -->` and `<!-- /bench -->`, each on a line of its own; everything
/// else stays.
///
/// # Errors
/// What is wrong with the page: a marker is missing, not closed, there twice, or nobody knows it.
pub fn fill(page: &str, texts: &[(&str, String)]) -> Result<String, String> {
    const END: &str = "<!-- /bench -->";
    let mut out = String::with_capacity(page.len());
    let mut done = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let marker = line.trim().strip_prefix("<!-- bench:").and_then(|rest| rest.strip_suffix(" -->"));
        let Some(name) = marker else {
            if line.trim() == END {
                return Err(format!("{END} without a beginning"));
            }
            continue;
        };
        let (_, text) = texts.iter().find(|(known, _)| *known == name).ok_or(format!("nothing is called {name:?}"))?;
        if done.contains(&name) {
            return Err(format!("the marker of {name:?} is there twice"));
        }
        done.push(name);
        // An empty line on both sides: Markdown needs it.
        out.push('\n');
        if !text.trim().is_empty() {
            out.push_str(text.trim_end());
            out.push_str("\n\n");
        }
        let closed =
            lines.by_ref().take_while(|line| !line.trim().starts_with("<!-- bench:")).find(|line| line.trim() == END);
        if closed.is_none() {
            return Err(format!("the marker of {name:?} is not closed by {END}"));
        }
        out.push_str(END);
        out.push('\n');
    }
    match texts.iter().find(|(name, _)| !done.contains(name)) {
        Some((name, _)) => Err(format!("the marker <!-- bench:{name} --> is missing")),
        None => Ok(out),
    }
}
