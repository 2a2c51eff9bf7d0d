//! The security log, and mails to owners about changes of their credentials.
//!
//! A failure of log or mail never undoes the change. Both are bounded: see [`crate::store::SecurityStore`], and the
//! mailer's queue.

use super::{Accounts, Asker};
use crate::mail::{Letter, LetterKind, Mail};
use crate::protocol::UserId;
use crate::store::{SecurityEvent, SecurityKind, StoreError};

/// Maximum entries of an account's log, without failures.
pub const MAX_SECURITY_EVENTS: usize = 400;
/// Maximum failures in it.
pub const MAX_SECURITY_FAILURES: usize = 100;
/// Repetitions from the same place within an hour are counted in one entry.
pub const JOINS_WITHIN_MS: i64 = 60 * 60 * 1000;

/// Whether repetitions are counted in one entry, so that strangers or a stolen token can't flood the log.
const fn joins(kind: SecurityKind) -> bool {
    use SecurityKind as Kind;
    matches!(
        kind,
        Kind::SignInFailed
            | Kind::Exported
            | Kind::SessionRevoked
            | Kind::OtherSessionsRevoked
            | Kind::TokenReplaced
            | Kind::AddressChangeRequested
    )
}

/// The notice to an account's address. Those of changes of the address go to particular addresses.
const fn notice_of(kind: SecurityKind) -> Option<LetterKind> {
    match kind {
        SecurityKind::PasswordChanged => Some(LetterKind::PasswordChanged),
        SecurityKind::PasskeyAdded => Some(LetterKind::PasskeyAdded),
        SecurityKind::PasskeyRemoved => Some(LetterKind::PasskeyRemoved),
        SecurityKind::PasskeysReplaced => Some(LetterKind::PasskeysReplaced),
        SecurityKind::AdminGiven => Some(LetterKind::AdminGiven),
        _ => None,
    }
}

impl Accounts {
    /// Adds to an account's security log. Where the change decides who can sign in, also mails a notice to the account's
    /// address.
    pub async fn note(&self, user: UserId, kind: SecurityKind, asker: &Asker) {
        let at_ms = self.inner.clock.now_ms();
        let event = SecurityEvent {
            at_ms,
            kind,
            method: asker.by,
            address: asker.address_prefix(),
            device: asker.device(),
            times: 1,
        };
        let joins_since_ms = joins(kind).then_some(at_ms - JOINS_WITHIN_MS);
        let keep = if kind.is_failure() { MAX_SECURITY_FAILURES } else { MAX_SECURITY_EVENTS };
        if let Err(error) = self.inner.store.record_security_event(user, &event, joins_since_ms, keep).await {
            tracing::warn!(%error, user_id = user, kind = kind.as_str(), "security log not written");
        }
        if let Some(notice) = notice_of(kind)
            && self.inner.notices.can_deliver()
        {
            match self.inner.store.user_by_id(user).await {
                Ok(Some(row)) => self.tell(user, row.email, notice, asker),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, user_id = user, "notice of a change not mailed"),
            }
        }
    }

    /// Mails a notice to this address.
    pub(super) fn tell(&self, user: UserId, to: String, kind: LetterKind, asker: &Asker) {
        if self.inner.notices.can_deliver() {
            let letter = Letter::new(kind, self.inner.public_url.clone().into());
            self.inner.notices.send(Mail { user, to, letter, language: asker.language });
        }
    }

    /// An account's security log, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn security_log(&self, user: UserId) -> Result<Vec<SecurityEvent>, StoreError> {
        self.inner.store.security_events(user, MAX_SECURITY_EVENTS + MAX_SECURITY_FAILURES).await
    }
}
