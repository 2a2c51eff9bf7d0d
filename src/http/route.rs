//! Which limit a route is counted under.

use axum::http::Method;

use super::health::PROBES;
use crate::config::{RateLimit, RateLimits};

/// A group of requests that share a per-address limit (contract, section 2.4). Each class has counters of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Class {
    Upload,
    Download,
    Snapshot,
    CurrentState,
    Status,
    Devices,
    Wipe,
    RestorePoints,
    Restore,
    Socket,
    Register,
    Login,
    VerifyEmail,
    RegisterMagicLink,
    RegisterPasskeyOptions,
    RegisterPasskeyVerify,
    LoginMagicLink,
    LoginMagicLinkVerify,
    LoginPasskeyOptions,
    LoginPasskeyVerify,
    RecoverPasskey,
    RecoverPasskeyOptions,
    RecoverPasskeyComplete,
    ForgotPassword,
    ResetPassword,
    ChangePassword,
    ChangeAddress,
    ConfirmAddress,
    ReplaceToken,
    DeleteAccount,
    Passkeys,
    Invites,
    Sessions,
    SocketTicket,
    Admin,
    Archives,
    BringBack,
    /// Downloads of whole data sets.
    Export,
    /// Everything without a limit of its own, unknown paths included.
    Other,
}

impl Class {
    /// Every class; a class's place is its number.
    pub const ALL: [Self; 39] = [
        Self::Upload,
        Self::Download,
        Self::Snapshot,
        Self::CurrentState,
        Self::Status,
        Self::Devices,
        Self::Wipe,
        Self::RestorePoints,
        Self::Restore,
        Self::Socket,
        Self::Register,
        Self::Login,
        Self::VerifyEmail,
        Self::RegisterMagicLink,
        Self::RegisterPasskeyOptions,
        Self::RegisterPasskeyVerify,
        Self::LoginMagicLink,
        Self::LoginMagicLinkVerify,
        Self::LoginPasskeyOptions,
        Self::LoginPasskeyVerify,
        Self::RecoverPasskey,
        Self::RecoverPasskeyOptions,
        Self::RecoverPasskeyComplete,
        Self::ForgotPassword,
        Self::ResetPassword,
        Self::ChangePassword,
        Self::ChangeAddress,
        Self::ConfirmAddress,
        Self::ReplaceToken,
        Self::DeleteAccount,
        Self::Passkeys,
        Self::Invites,
        Self::Sessions,
        Self::SocketTicket,
        Self::Admin,
        Self::Archives,
        Self::BringBack,
        Self::Export,
        Self::Other,
    ];

    /// The class of a request to the route with this path template; `None` is never counted: probes, and the routes
    /// that only exist in test mode.
    #[must_use]
    pub fn of(method: &Method, template: Option<&str>) -> Option<Self> {
        let Some(template) = template else { return Some(Self::Other) };
        if PROBES.contains(&template) || template.starts_with("/api/test/") {
            return None;
        }
        let reads = method == Method::GET || method == Method::HEAD;
        let posts = method == Method::POST;
        Some(match template {
            "/api/sync/ops" if posts => Self::Upload,
            "/api/sync/ops" if reads => Self::Download,
            "/api/sync/snapshot" if posts => Self::Snapshot,
            "/api/sync/snapshot" if reads => Self::CurrentState,
            "/api/sync/status" if reads => Self::Status,
            "/api/sync/devices" if reads => Self::Devices,
            "/api/sync/data" if method == Method::DELETE => Self::Wipe,
            "/api/sync/restore-points" if reads => Self::RestorePoints,
            "/api/sync/restore/{server_seq}" if reads => Self::Restore,
            "/api/sync/ws" if reads => Self::Socket,
            "/api/register" if posts => Self::Register,
            "/api/login" if posts => Self::Login,
            "/api/verify-email" | "/verify-email" if posts => Self::VerifyEmail,
            "/api/register/magic-link" if posts => Self::RegisterMagicLink,
            "/api/register/passkey/options" if posts => Self::RegisterPasskeyOptions,
            "/api/register/passkey/verify" if posts => Self::RegisterPasskeyVerify,
            "/api/login/magic-link" if posts => Self::LoginMagicLink,
            "/api/login/magic-link/verify" if posts => Self::LoginMagicLinkVerify,
            "/api/login/passkey/options" if posts => Self::LoginPasskeyOptions,
            "/api/login/passkey/verify" if posts => Self::LoginPasskeyVerify,
            "/api/recover/passkey" if posts => Self::RecoverPasskey,
            "/api/recover/passkey/options" if posts => Self::RecoverPasskeyOptions,
            "/api/recover/passkey/complete" if posts => Self::RecoverPasskeyComplete,
            "/api/forgot-password" if posts => Self::ForgotPassword,
            "/api/reset-password" if posts => Self::ResetPassword,
            "/api/account/password" if posts => Self::ChangePassword,
            "/api/account/email" if posts => Self::ChangeAddress,
            "/api/account/email/verify" if posts => Self::ConfirmAddress,
            "/api/replace-token" if posts => Self::ReplaceToken,
            "/api/account" if method == Method::DELETE => Self::DeleteAccount,
            "/api/invites" | "/api/invites/{id}" => Self::Invites,
            template if template == "/api/passkeys" || template.starts_with("/api/passkeys/") => Self::Passkeys,
            "/api/sessions" | "/api/sessions/{id}" | "/api/sessions/revoke-others" => Self::Sessions,
            "/api/sync/ws-ticket" if posts => Self::SocketTicket,
            template if template.starts_with("/api/admin/") => Self::Admin,
            "/api/sync/archives" if reads => Self::Archives,
            "/api/sync/archives/{id}/restore" if posts => Self::BringBack,
            "/api/sync/archives/{id}" | "/api/account/export" if reads => Self::Export,
            _ => Self::Other,
        })
    }

    /// The class's rule.
    #[must_use]
    pub const fn rule(self, limits: &RateLimits) -> RateLimit {
        match self {
            Self::Upload => limits.upload,
            Self::Download => limits.download,
            Self::Snapshot => limits.snapshot,
            Self::CurrentState | Self::Restore | Self::Export => limits.restore,
            Self::Status => limits.status,
            Self::Devices => limits.devices,
            Self::Wipe | Self::BringBack => limits.wipe,
            Self::RestorePoints | Self::Archives => limits.restore_points,
            Self::Socket => limits.ws,
            Self::Register => limits.register,
            Self::Login => limits.login,
            Self::VerifyEmail => limits.verify_email,
            Self::RegisterMagicLink
            | Self::RegisterPasskeyOptions
            | Self::RegisterPasskeyVerify
            | Self::LoginMagicLink
            | Self::LoginMagicLinkVerify
            | Self::LoginPasskeyOptions
            | Self::LoginPasskeyVerify
            | Self::RecoverPasskey
            | Self::RecoverPasskeyOptions
            | Self::RecoverPasskeyComplete => limits.sign_in,
            Self::ForgotPassword => limits.forgot_password,
            Self::ResetPassword => limits.reset_password,
            Self::ChangePassword | Self::ChangeAddress | Self::ConfirmAddress | Self::Passkeys | Self::Invites => {
                limits.credentials
            }
            Self::ReplaceToken => limits.replace_token,
            Self::DeleteAccount => limits.delete_account,
            Self::Sessions => limits.sessions,
            Self::SocketTicket => limits.ws_ticket,
            Self::Admin => limits.admin,
            Self::Other => limits.other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_at_its_number() {
        for (number, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }

    #[test]
    fn probes_are_not_counted_and_unknown_paths_are() {
        assert_eq!(Class::of(&Method::GET, Some("/health")), None);
        assert_eq!(Class::of(&Method::POST, Some("/api/test/cleanup")), None);
        assert_eq!(Class::of(&Method::GET, None), Some(Class::Other));
    }

    #[test]
    fn methods_of_one_path_are_counted_apart() {
        assert_eq!(Class::of(&Method::POST, Some("/api/sync/ops")), Some(Class::Upload));
        assert_eq!(Class::of(&Method::HEAD, Some("/api/sync/ops")), Some(Class::Download));
        assert_eq!(Class::of(&Method::PUT, Some("/api/sync/ops")), Some(Class::Other));
    }
}
