//! The mails' texts (accounts contract, section 7).

use secrecy::{ExposeSecret, SecretString};

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
    /// Its name, for the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VerifyAddress { .. } => "verify",
            Self::MagicLogin { .. } => "magic-login",
            Self::RecoverPasskey { .. } => "recover-passkey",
            Self::ResetPassword { .. } => "reset-password",
            Self::ChangeAddress { .. } => "change-address",
            Self::Invite { .. } => "invite",
        }
    }

    /// The page to open. It holds a one-time token: never log it, except where the log stands in for mail.
    #[must_use]
    pub const fn link(&self) -> &SecretString {
        match self {
            Self::VerifyAddress { link }
            | Self::MagicLogin { link }
            | Self::RecoverPasskey { link }
            | Self::ResetPassword { link }
            | Self::ChangeAddress { link }
            | Self::Invite { link } => link,
        }
    }

    /// Subject, text part, HTML part.
    pub(super) fn render(&self) -> Rendered {
        let link = self.link().expose_secret();
        match self {
            Self::VerifyAddress { .. } => render(
                "Verify your SuperSync account",
                "Please verify your e-mail address to finish setting up your SuperSync account.",
                "Verify e-mail address",
                link,
                "If you did not register, ignore this mail and do not open the link.",
            ),
            Self::MagicLogin { .. } => render(
                "Your SuperSync login link",
                "Open this link to sign in to SuperSync.",
                "Sign in",
                link,
                "The link works once and for 15 minutes. If you did not ask for it, ignore this mail.",
            ),
            Self::RecoverPasskey { .. } => render(
                "Recover your SuperSync passkey",
                "Open this link to create a new passkey for your SuperSync account. All older passkeys stop working.",
                "Create a new passkey",
                link,
                "The link works once and for 1 hour. If you did not ask for it, ignore this mail.",
            ),
            Self::ResetPassword { .. } => render(
                "Reset your SuperSync password",
                "Open this link to choose a new password for your SuperSync account.",
                "Choose a new password",
                link,
                "The link works once and for 1 hour. If you did not ask for it, ignore this mail.",
            ),
            Self::ChangeAddress { .. } => render(
                "Confirm your new SuperSync address",
                "Open this link to use this e-mail address for your SuperSync account.",
                "Confirm this address",
                link,
                "The link works once and for 24 hours. If you did not ask for it, ignore this mail.",
            ),
            Self::Invite { .. } => render(
                "You are invited to SuperSync",
                "You have been invited to create an account on a SuperSync server.",
                "Create an account",
                link,
                "The link works once and for 7 days. If you don't know what this is about, ignore this mail.",
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
