//! Rate limits: each counter's limit, its group, and the factors by which an operator changes a group.

use std::time::Duration;

/// A fixed-window limit. `max == 0` switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RateLimit {
    pub max: u32,
    pub window: Duration,
}

/// Limits that an operator changes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateGroup {
    /// Signing in, registering, and changing credentials: password hashes and mails.
    SignIn,
    /// Requests that write or replace data.
    Writes,
    /// Requests that read, pages, and everything else.
    Reads,
    /// WebSockets and tickets for them.
    Sockets,
}

impl RateGroup {
    /// Every group, by its number.
    pub const ALL: [Self; 4] = [Self::SignIn, Self::Writes, Self::Reads, Self::Sockets];

    /// Its name in `RATE_LIMITS`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign-in",
            Self::Writes => "writes",
            Self::Reads => "reads",
            Self::Sockets => "sockets",
        }
    }
}

/// The value of `RATE_LIMITS`: a factor for each group, in percent; or no limits per address.
pub(super) type Factors = Option<[u32; 4]>;

/// A factor for all groups, or for some of them.
pub(super) fn factors(text: &str) -> Option<Factors> {
    match text {
        "on" => return Some(Some([100; 4])),
        "off" => return Some(None),
        _ => {}
    }
    if let Some(all) = percent(text) {
        return Some(Some([all; 4]));
    }
    let mut factors = [None; 4];
    for item in text.split(',') {
        let (name, factor) = item.split_once('=')?;
        let group = RateGroup::ALL.into_iter().find(|group| group.as_str() == name.trim())?;
        // Which of two factors counts is nobody's guess.
        if factors[group as usize].replace(percent(factor.trim())?).is_some() {
            return None;
        }
    }
    Some(Some(factors.map(|factor| factor.unwrap_or(100))))
}

/// A factor with at most two decimals, in percent.
fn percent(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole, 4) || !is_number(decimals, 2) {
        return None;
    }
    let percent = format!("{whole}{decimals:0<2}").parse().ok()?;
    (1..=100_000).contains(&percent).then_some(percent)
}

/// What documents say about a limit.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Rate {
    pub group: RateGroup,
    /// The requests that count, in Markdown.
    pub requests: &'static str,
    pub usual: RateLimit,
}

/// Declares the limits per address: requests, group, number per minutes, and the name of the setting that each once had.
macro_rules! rates {
    ($($(#[doc = $doc:literal])+ $field:ident: $group:ident, $max:literal per $minutes:literal, $retired:literal;)+) => {
        /// Rate limits (contract, section 2.4).
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct RateLimits {
            /// Whether the limits per address are on at all; off in test mode.
            pub per_address: bool,
            /// Uploads of one account in a minute (`UPLOADS_PER_USER_PER_MINUTE`).
            pub uploads_per_user: RateLimit,
            $($(#[doc = $doc])+ pub $field: RateLimit,)+
        }

        /// Every limit per address.
        pub const RATES: &[Rate] = &[$(Rate {
            group: RateGroup::$group,
            requests: concat!($($doc),+),
            usual: RateLimit { max: $max, window: Duration::from_mins($minutes) },
        }),+];

        /// The names that limits once had, each a setting.
        pub(super) const RETIRED: &[(&str, fn(&mut RateLimits) -> &mut RateLimit)] =
            &[$(($retired, |limits| &mut limits.$field)),+];

        impl RateLimits {
            /// The usual limits, each times its group's factor.
            pub(super) fn new(factors: Factors, uploads_per_user: u32) -> Self {
                let percent = factors.unwrap_or([100; 4]);
                let limit = |group: RateGroup, max: u32, minutes: u64| {
                    let scaled = u64::from(max) * u64::from(percent[group as usize]) / 100;
                    let max = u32::try_from(scaled).unwrap_or(u32::MAX).max(1);
                    RateLimit { max, window: Duration::from_mins(minutes) }
                };
                Self {
                    per_address: factors.is_some(),
                    uploads_per_user: RateLimit { max: uploads_per_user, window: Duration::from_mins(1) },
                    $($field: limit(RateGroup::$group, $max, $minutes),)+
                }
            }
        }
    };
}

rates! {
    /// `POST /api/register`
    register: SignIn, 5 per 15, "RATE_LIMIT_REGISTER_PER_15_MINUTES";
    /// `POST /api/login`
    login: SignIn, 10 per 15, "RATE_LIMIT_LOGIN_PER_15_MINUTES";
    /// `/api/verify-email` and the page behind the mailed link
    verify_email: SignIn, 20 per 15, "RATE_LIMIT_VERIFY_EMAIL_PER_15_MINUTES";
    /// each of the routes below `/api/register/`, `/api/login/` and `/api/recover/`
    sign_in: SignIn, 50 per 15, "RATE_LIMIT_SIGN_IN_PER_15_MINUTES";
    /// `POST /api/forgot-password`
    forgot_password: SignIn, 5 per 15, "RATE_LIMIT_FORGOT_PASSWORD_PER_15_MINUTES";
    /// `POST /api/reset-password`
    reset_password: SignIn, 10 per 15, "RATE_LIMIT_RESET_PASSWORD_PER_15_MINUTES";
    /// each of `POST /api/account/password`, `/api/account/email`, `/api/account/email/verify` with `/undo`,
    /// `/api/account/step-up` with `/options`, `/api/passkeys` and `/api/invites` with the routes below them
    credentials: SignIn, 20 per 15, "RATE_LIMIT_CREDENTIALS_PER_15_MINUTES";
    /// `POST /api/replace-token`
    replace_token: SignIn, 5 per 15, "RATE_LIMIT_REPLACE_TOKEN_PER_15_MINUTES";
    /// `DELETE /api/account`
    delete_account: SignIn, 3 per 15, "RATE_LIMIT_DELETE_ACCOUNT_PER_15_MINUTES";
    /// `POST /api/sync/ops`
    upload: Writes, 100 per 1, "RATE_LIMIT_UPLOADS_PER_MINUTE";
    /// `POST /api/sync/snapshot`
    snapshot: Writes, 10 per 15, "RATE_LIMIT_SNAPSHOTS_PER_15_MINUTES";
    /// each of `DELETE /api/sync/data` and bringing archived data back
    wipe: Writes, 3 per 15, "RATE_LIMIT_WIPES_PER_15_MINUTES";
    /// `GET /api/sync/ops`
    download: Reads, 200 per 1, "RATE_LIMIT_DOWNLOADS_PER_MINUTE";
    /// `GET /api/sync/status`
    status: Reads, 60 per 1, "RATE_LIMIT_STATUS_PER_MINUTE";
    /// `GET /api/sync/devices`
    devices: Reads, 30 per 1, "RATE_LIMIT_DEVICES_PER_MINUTE";
    /// each of `GET /api/sync/restore-points` and `GET /api/sync/archives`
    restore_points: Reads, 30 per 1, "RATE_LIMIT_RESTORE_POINTS_PER_MINUTE";
    /// each of `GET /api/sync/restore/:serverSeq`, `GET /api/sync/snapshot`, and downloads of archived data or of everything
    restore: Reads, 10 per 5, "RATE_LIMIT_RESTORES_PER_5_MINUTES";
    /// `/api/sessions` with the routes below it, and `/api/account/security-log`
    sessions: Reads, 100 per 15, "RATE_LIMIT_SESSIONS_PER_15_MINUTES";
    /// the routes below `/api/admin/`
    admin: Reads, 500 per 15, "RATE_LIMIT_ADMIN_PER_15_MINUTES";
    /// everything else, one counter
    other: Reads, 500 per 15, "RATE_LIMIT_OTHER_PER_15_MINUTES";
    /// `GET /api/sync/ws`, per address and client
    ws: Sockets, 120 per 1, "RATE_LIMIT_WS_PER_MINUTE";
    /// `POST /api/sync/ws-ticket`
    ws_ticket: Sockets, 60 per 1, "RATE_LIMIT_WS_TICKETS_PER_MINUTE";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_their_numbers() {
        for (number, group) in RateGroup::ALL.into_iter().enumerate() {
            assert_eq!(group as usize, number);
        }
    }
}
