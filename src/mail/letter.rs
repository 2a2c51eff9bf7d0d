//! What mails say (accounts contract, section 7).
//!
//! One layout for all, in `templates/mail/`; the words are in the language catalogues under `mail.<name>.…`.

use askama::Template;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::language::Language;

const INFALLIBLE: &str = "a template fails only when its writer does, and a string does not";

/// What a mail is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterKind {
    /// Prove an address that somebody registered.
    VerifyAddress,
    /// Sign in without a password.
    MagicLogin,
    /// Put a new passkey in the place of lost ones.
    RecoverPasskey,
    /// Choose a new password.
    ResetPassword,
    /// Prove the address that an account wants to change to.
    ChangeAddress,
    /// Tell the address that an account had that it has another one, and offer to undo that.
    UndoAddress,
    /// Tell the owner that another address was asked for; this goes to the present one. All notices are of changes that
    /// decide who can sign in, and lead to the server's front page.
    AddressNotice,
    /// Tell the owner: the address.
    AddressChanged,
    /// Tell the owner: the password.
    PasswordChanged,
    /// Tell the owner: a passkey more.
    PasskeyAdded,
    /// Tell the owner: a passkey less.
    PasskeyRemoved,
    /// Tell the owner: all passkeys were replaced by a new one.
    PasskeysReplaced,
    /// Tell the owner: the account is an administrator's.
    AdminGiven,
    /// Make an account on a server that is not open to everybody.
    Invite,
    /// Show the operator that mail works. Leads to the server's front page.
    Test,
}

/// What a mail says.
#[derive(Clone, Debug)]
pub struct Letter {
    /// What it is about.
    pub kind: LetterKind,
    /// The page to open. It can hold a one-time token: never log it, except where the log stands in for mail.
    pub link: SecretString,
    /// What led to it.
    pub asked: Option<Asked>,
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

impl LetterKind {
    /// All of them in order, with their names: parts of the catalogue's keys, and what previews ask for.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::VerifyAddress, "verify"),
        (Self::MagicLogin, "magic-login"),
        (Self::RecoverPasskey, "recover-passkey"),
        (Self::ResetPassword, "reset-password"),
        (Self::ChangeAddress, "change-address"),
        (Self::UndoAddress, "undo-address"),
        (Self::AddressNotice, "address-notice"),
        (Self::AddressChanged, "address-changed"),
        (Self::PasswordChanged, "password-changed"),
        (Self::PasskeyAdded, "passkey-added"),
        (Self::PasskeyRemoved, "passkey-removed"),
        (Self::PasskeysReplaced, "passkeys-replaced"),
        (Self::AdminGiven, "admin-given"),
        (Self::Invite, "invite"),
        (Self::Test, "test"),
    ];

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(kind, of_kind)| (of_kind == name).then_some(kind))
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Whether it only tells the owner of a change.
    pub(super) const fn is_notice(self) -> bool {
        matches!(
            self,
            Self::AddressNotice
                | Self::AddressChanged
                | Self::PasswordChanged
                | Self::PasskeyAdded
                | Self::PasskeyRemoved
                | Self::PasskeysReplaced
                | Self::AdminGiven
        )
    }
}

impl Letter {
    /// A letter that leads to this page.
    #[must_use]
    pub const fn new(kind: LetterKind, link: SecretString) -> Self {
        Self { kind, link, asked: None }
    }

    /// Subject, text part and HTML part.
    ///
    /// # Panics
    /// When a catalogue lacks a text, which a test of all letters rules out.
    #[must_use]
    pub fn render(&self, language: Language) -> Rendered {
        let asked = self.asked.as_ref().map_or_else(String::new, |asked| asked.words(language));
        let word = |part: &str| language.text(&format!("mail.{}.{part}", self.kind.name()));
        let t = Words {
            language,
            subject: word("subject"),
            purpose: word("purpose"),
            button: word("button"),
            validity: word("validity"),
            otherwise: word("otherwise"),
            copy: language.text("mail.copy"),
            link: self.link.expose_secret(),
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
        let asked = Some(Asked { at_ms: 1_700_000_000_000, network: Some("192.0.2.0/24".to_owned()) });
        let letter = Letter { kind: LetterKind::VerifyAddress, link: link.to_owned().into(), asked };
        let mail = letter.render(Language::English);
        assert_eq!(mail.subject, "Verify your SuperSync account");
        assert!(mail.text.contains(&format!("\n{link}\n")), "{}", mail.text);
        let escaped = "https://sync.example.org/verify-email?token=a&#38;b=&#34;&#39;&#60;&#62;";
        assert_eq!(mail.html.matches(escaped).count(), 3, "button, address, text: {}", mail.html);
        assert!(!mail.html.contains(link));
        let asked = "The address was registered at 2023-11-14 22:13 UTC from the network 192.0.2.0/24.";
        assert!(mail.text.contains(asked) && mail.html.contains(asked), "{}", mail.text);
    }

    fn subject(kind: LetterKind) -> &'static str {
        Letter::new(kind, String::new().into()).render(Language::English).subject
    }

    #[test]
    fn subjects_are_the_contract_s() {
        assert_eq!(subject(LetterKind::VerifyAddress), "Verify your SuperSync account");
        assert_eq!(subject(LetterKind::MagicLogin), "Your SuperSync login link");
        assert_eq!(subject(LetterKind::RecoverPasskey), "Recover your SuperSync passkey");
        assert_eq!(subject(LetterKind::ResetPassword), "Reset your SuperSync password");
    }

    #[test]
    fn every_letter_has_a_name_and_words_in_every_language() {
        for (kind, name) in LetterKind::ALL {
            assert_eq!(kind.name(), name);
            let link = "https://sync.example.org/x".to_owned().into();
            let letter = Letter { kind, link, asked: Some(Asked::default()) };
            let mails = Language::ALL.map(|language| letter.render(language));
            assert_ne!(mails[0].subject, mails[1].subject, "{name}");
            for mail in mails {
                assert!(mail.text.lines().all(|line| line.len() < 200), "{}", mail.text);
            }
        }
    }
}
