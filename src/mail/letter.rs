//! The mails' texts (accounts contract, section 7).

use secrecy::ExposeSecret;

use super::Letter;

/// A mail ready to be sent.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Rendered {
    pub subject: &'static str,
    pub text: String,
    pub html: String,
}

impl Letter {
    /// Subject, text part, HTML part.
    pub(super) fn render(&self) -> Rendered {
        match self {
            Self::VerifyAddress { link } => render(
                "Verify your SuperSync account",
                "Please verify your e-mail address to finish setting up your SuperSync account.",
                "Verify e-mail address",
                link.expose_secret(),
                "If you did not register, ignore this mail and do not open the link.",
            ),
        }
    }
}

fn render(subject: &'static str, purpose: &str, button: &str, link: &str, otherwise: &str) -> Rendered {
    let href = escape_html(link);
    Rendered {
        subject,
        text: format!("{purpose}\n\n{link}\n\n{otherwise}\n"),
        html: format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{subject}</title></head>\
             <body style=\"font-family:sans-serif\">\n<p>{purpose}</p>\n\
             <p><a href=\"{href}\" style=\"display:inline-block;padding:10px 20px;background:#1976d2;color:#fff;\
             text-decoration:none;border-radius:4px\">{button}</a></p>\n\
             <p>Or copy this address into your browser:<br><a href=\"{href}\">{href}</a></p>\n<p>{otherwise}</p>\n</body></html>\n"
        ),
    }
}

/// Makes text safe between tags and inside quoted attributes.
#[must_use]
pub fn escape_html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_carry_the_link_and_only_html_escapes_it() {
        let link = "https://sync.example.org/verify-email?token=a&b=\"'<>";
        let mail = Letter::VerifyAddress { link: link.to_owned().into() }.render();
        assert_eq!(mail.subject, "Verify your SuperSync account");
        assert!(mail.text.contains(&format!("\n{link}\n")));
        let escaped = "https://sync.example.org/verify-email?token=a&amp;b=&quot;&#39;&lt;&gt;";
        assert_eq!(mail.html.matches(escaped).count(), 3, "button, address, text: {}", mail.html);
        assert!(!mail.html.contains(link));
    }
}
