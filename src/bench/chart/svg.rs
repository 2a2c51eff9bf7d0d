//! A drawing: elements one after the other.

use std::fmt::Write as _;

/// What every drawing says about its looks. Neutral greys carry text and axes; two hues that differ in lightness as well
/// carry the data.
const STYLE: &str = "\
text{font:13px system-ui,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}\
.title{font-size:16px;font-weight:600}.soft{fill:#59636e}.small{font-size:12px}.good{fill:#1a7f37}.bad{fill:#cf222e}\
.paper{fill:#fff}.data{fill:#0969da}.more{fill:#9a6700}.faint{fill:#d1d9e0}.band{fill:#1a7f37;opacity:.12}\
.axis{stroke:#d1d9e0;stroke-width:1}.mark{stroke:#cf222e;stroke-width:2}.range{stroke:#0969da;stroke-width:3}\
.trend{fill:none;stroke-width:2.5}.s0{stroke:#0969da}.s1{stroke:#9a6700}.s2{stroke:#8250df}.s3{stroke:#1a7f37}\
.f0{fill:#0969da}.f1{fill:#9a6700}.f2{fill:#8250df}.f3{fill:#1a7f37}\
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.soft{fill:#9198a1}.good{fill:#3fb950}.bad{fill:#f85149}\
.paper{fill:#0d1117}.data{fill:#4493f8}.more{fill:#d29922}.faint{fill:#3d444d}.band{fill:#3fb950;opacity:.15}\
.axis{stroke:#3d444d}.mark{stroke:#f85149}.range{stroke:#4493f8}\
.s0{stroke:#4493f8}.s1{stroke:#d29922}.s2{stroke:#ab7df8}.s3{stroke:#3fb950}\
.f0{fill:#4493f8}.f1{fill:#d29922}.f2{fill:#ab7df8}.f3{fill:#3fb950}}";

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The text begins there.
    Start,
    /// The text's middle is there.
    Middle,
    /// The text ends there.
    End,
}

/// A drawing of a fixed size.
pub struct Drawing {
    body: String,
    width: f64,
    height: f64,
    title: String,
}

impl Drawing {
    /// An empty one; `title` is also what a screen reader says.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Self { body: String::new(), width, height, title: escaped(title) }
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        let written = writeln!(self.body, "{element}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }

    /// A text in one of the style's classes.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#));
    }

    /// A rectangle; nothing when it is too narrow to see.
    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        if width > 0.0 && height > 0.0 {
            self.put(format_args!(
                r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" class="{class}"/>"#
            ));
        }
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#));
    }

    /// A dot.
    pub fn dot(&mut self, x: f64, y: f64, radius: f64, class: &str) {
        self.put(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" class="{class}"/>"#));
    }

    /// The file.
    pub fn finish(self) -> String {
        let Self { body, width, height, title } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect x=\"0\" y=\"0\" width=\"{width:.0}\" height=\"{height:.0}\" class=\"paper\"/>\n{body}</svg>\n"
        )
    }
}

/// Text as XML; what XML can't hold becomes a replacement character.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
