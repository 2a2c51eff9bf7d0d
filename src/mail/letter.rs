//! What mails say (accounts contract, section 7).
//!
//! One layout for all, in `templates/mail/`; the words are in the language catalogues under `mail.<name>.…`.

use askama::Template;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::language::Language;

const INFALLIBLE: &str = "a template fails only when its writer does, and a string does not";

/// What a mail is about, with the page to open.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Letter {
    /// Prove an address that somebody registered.
    VerifyAddress { link: SecretString, asked: Asked },
    /// Sign in without a password.
    MagicLogin { link: SecretString },
    /// Put a new passkey in the place of lost ones.
    RecoverPasskey { link: SecretString },
    /// Choose a new password.
    ResetPassword { link: SecretString },
    /// Prove the address that an account wants to change to.
    ChangeAddress { link: SecretString },
    /// Tell the owner of a change that decides who can sign in. Leads to the server's front page.
    Notice { kind: NoticeKind, link: SecretString },
    /// Tell the address that an account had that it has another one, and offer to undo that.
    UndoAddress { link: SecretString },
    /// Make an account on a server that is not open to everybody.
    Invite { link: SecretString },
    /// Show the operator that mail works. Leads to the server's front page.
    Test { link: SecretString },
}

/// What an account's owner is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NoticeKind {
    /// Another address was asked for; this goes to the present one.
    AddressChangeRequested,
    AddressChanged,
    PasswordChanged,
    PasskeyAdded,
    PasskeyRemoved,
    /// All were replaced by a new one.
    PasskeysReplaced,
    AdminGiven,
}

impl NoticeKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AddressChangeRequested,
        Self::AddressChanged,
        Self::PasswordChanged,
        Self::PasskeyAdded,
        Self::PasskeyRemoved,
        Self::PasskeysReplaced,
        Self::AdminGiven,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::AddressChangeRequested => "address-notice",
            Self::AddressChanged => "address-changed",
            Self::PasswordChanged => "password-changed",
            Self::PasskeyAdded => "passkey-added",
            Self::PasskeyRemoved => "passkey-removed",
            Self::PasskeysReplaced => "passkeys-replaced",
            Self::AdminGiven => "admin-given",
        }
    }
}

/// When somebody registered, and from where: so that the owner of an address can tell whether it was them.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Asked {
    pub at_ms: i64,
    /// The first part of an IP address, if it is known.
    pub network: Option<String>,
}

/// A mail ready to be sent.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Rendered {
    /// Names this mail, however often it is tried.
    pub id: Uuid,
    pub subject: &'static str,
    pub text: String,
    pub html: String,
}

#[derive(Template)]
#[template(path = "mail/letter.html")]
struct Html<'a> {
    t: Words<'a>,
}

#[derive(Template)]
#[template(path = "mail/letter.txt")]
struct Text<'a> {
    t: Words<'a>,
}

#[derive(Clone, Copy)]
struct Words<'a> {
    language: Language,
    subject: &'static str,
    purpose: &'static str,
    button: &'static str,
    validity: &'static str,
    otherwise: &'static str,
    copy: &'static str,
    link: &'a str,
    /// When and from where it was asked for, or nothing.
    asked: &'a str,
}

impl Asked {
    fn words(&self, language: Language) -> String {
        let at = Timestamp::from_millisecond(self.at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut words = format!("{} {}", language.text("mail.verify.asked"), at.strftime("%Y-%m-%d %H:%M UTC"));
        if let Some(network) = &self.network {
            words = format!("{words} {} {network}", language.text("mail.verify.from"));
        }
        words + "."
    }
}

impl Letter {
    /// The names of all letters, for previews.
    pub const NAMES: [&'static str; 15] = [
        "verify",
        "magic-login",
        "recover-passkey",
        "reset-password",
        "change-address",
        "undo-address",
        "address-notice",
        "address-changed",
        "password-changed",
        "passkey-added",
        "passkey-removed",
        "passkeys-replaced",
        "admin-given",
        "invite",
        "test",
    ];

    /// The letter with this name and link.
    #[must_use]
    pub fn named(name: &str, link: SecretString) -> Option<Self> {
        Some(match name {
            "verify" => Self::VerifyAddress { link, asked: Asked::default() },
            "magic-login" => Self::MagicLogin { link },
            "recover-passkey" => Self::RecoverPasskey { link },
            "reset-password" => Self::ResetPassword { link },
            "change-address" => Self::ChangeAddress { link },
            "undo-address" => Self::UndoAddress { link },
            "invite" => Self::Invite { link },
            "test" => Self::Test { link },
            _ => {
                let kind = NoticeKind::ALL.into_iter().find(|kind| kind.name() == name)?;
                Self::Notice { kind, link }
            }
        })
    }

    /// Its name: the part of the catalogue's keys, and what previews ask for.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VerifyAddress { .. } => "verify",
            Self::MagicLogin { .. } => "magic-login",
            Self::RecoverPasskey { .. } => "recover-passkey",
            Self::ResetPassword { .. } => "reset-password",
            Self::ChangeAddress { .. } => "change-address",
            Self::Notice { kind, .. } => kind.name(),
            Self::UndoAddress { .. } => "undo-address",
            Self::Invite { .. } => "invite",
            Self::Test { .. } => "test",
        }
    }

    /// The page to open. It holds a one-time token: never log it, except where the log stands in for mail.
    #[must_use]
    pub const fn link(&self) -> &SecretString {
        match self {
            Self::VerifyAddress { link, .. }
            | Self::MagicLogin { link }
            | Self::RecoverPasskey { link }
            | Self::ResetPassword { link }
            | Self::ChangeAddress { link }
            | Self::Notice { link, .. }
            | Self::UndoAddress { link }
            | Self::Invite { link }
            | Self::Test { link } => link,
        }
    }

    /// Subject, text part and HTML part.
    ///
    /// # Panics
    /// When a catalogue lacks a text, which a test of all letters rules out.
    #[must_use]
    pub fn render(&self, language: Language) -> Rendered {
        let asked = match self {
            Self::VerifyAddress { asked, .. } => asked.words(language),
            _ => String::new(),
        };
        let word = |part: &str| language.text(&format!("mail.{}.{part}", self.name()));
        let t = Words {
            language,
            subject: word("subject"),
            purpose: word("purpose"),
            button: word("button"),
            validity: word("validity"),
            otherwise: word("otherwise"),
            copy: language.text("mail.copy"),
            link: self.link().expose_secret(),
            asked: &asked,
        };
        Rendered {
            id: Uuid::now_v7(),
            subject: t.subject,
            text: Text { t }.render().expect(INFALLIBLE),
            html: Html { t }.render().expect(INFALLIBLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_carry_the_link_and_only_html_escapes_it() {
        let link = "https://sync.example.org/verify-email?token=a&b=\"'<>";
        let asked = Asked { at_ms: 1_700_000_000_000, network: Some("192.0.2.0/24".to_owned()) };
        let mail = Letter::VerifyAddress { link: link.to_owned().into(), asked }.render(Language::English);
        assert_eq!(mail.subject, "Verify your SuperSync account");
        assert!(mail.text.contains(&format!("\n{link}\n")), "{}", mail.text);
        let escaped = "https://sync.example.org/verify-email?token=a&#38;b=&#34;&#39;&#60;&#62;";
        assert_eq!(mail.html.matches(escaped).count(), 3, "button, address, text: {}", mail.html);
        assert!(!mail.html.contains(link));
        let asked = "The address was registered at 2023-11-14 22:13 UTC from the network 192.0.2.0/24.";
        assert!(mail.text.contains(asked) && mail.html.contains(asked), "{}", mail.text);
    }

    #[test]
    fn subjects_are_the_contract_s() {
        let subjects = [
            ("verify", "Verify your SuperSync account"),
            ("magic-login", "Your SuperSync login link"),
            ("recover-passkey", "Recover your SuperSync passkey"),
            ("reset-password", "Reset your SuperSync password"),
        ];
        for (name, subject) in subjects {
            let letter = Letter::named(name, String::new().into()).expect("known");
            assert_eq!(letter.render(Language::English).subject, subject);
        }
    }

    #[test]
    fn every_letter_has_a_name_and_words_in_every_language() {
        for name in Letter::NAMES {
            let letter = Letter::named(name, "https://sync.example.org/x".to_owned().into()).expect("known");
            assert_eq!(letter.name(), name);
            let mails = Language::ALL.map(|language| letter.render(language));
            assert_ne!(mails[0].subject, mails[1].subject, "{name}");
            for mail in mails {
                assert!(mail.text.lines().all(|line| line.len() < 200), "{}", mail.text);
            }
        }
        assert!(Letter::named("spam", String::new().into()).is_none());
    }
}
