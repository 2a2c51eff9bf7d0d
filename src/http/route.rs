//! The table of routes: who may use each, whether they must have proven a short while ago who they are, and which limit
//! its requests are counted under.
//!
//! Whoever handles a request with a token asks [`access`]; a test holds the table to the routes that there are. A route
//! that is missing here asks for everything, and is counted with all others.

use axum::http::Method;

use crate::config::{RateLimit, RateLimits};

/// Makes the classes: each with the rule that counts for it.
macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident: $rule:ident),+ $(,)?) => {
        /// A group of requests that share a per-address limit (contract, section 2.4). Each class has counters of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Class {
            $($(#[$doc])* $name),+
        }

        impl Class {
            /// Every class; a class's place is its number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The class's rule.
            #[must_use]
            pub const fn rule(self, limits: &RateLimits) -> RateLimit {
                match self {
                    $(Self::$name => limits.$rule),+
                }
            }
        }
    };
}

impl Class {
    /// Whether several processes count its requests together, exactly, which asks the database each time: what hashes
    /// passwords, sends mail, replays or replaces a data set. Of all others each process allows its share.
    #[must_use]
    pub const fn is_counted_together(self) -> bool {
        !matches!(
            self,
            Self::Upload
                | Self::Download
                | Self::Status
                | Self::Devices
                | Self::RestorePoints
                | Self::Socket
                | Self::SocketTicket
                | Self::Archives
                | Self::Sessions
                | Self::Admin
                | Self::Other
        )
    }
}

classes! {
    Upload: upload,
    Download: download,
    Snapshot: snapshot,
    CurrentState: restore,
    Status: status,
    Devices: devices,
    Wipe: wipe,
    RestorePoints: restore_points,
    Restore: restore,
    Socket: ws,
    Register: register,
    Login: login,
    VerifyEmail: verify_email,
    RegisterMagicLink: sign_in,
    RegisterPasskeyOptions: sign_in,
    RegisterPasskeyVerify: sign_in,
    LoginMagicLink: sign_in,
    LoginMagicLinkVerify: sign_in,
    LoginPasskeyOptions: sign_in,
    LoginPasskeyVerify: sign_in,
    RecoverPasskey: sign_in,
    RecoverPasskeyOptions: sign_in,
    RecoverPasskeyComplete: sign_in,
    ForgotPassword: forgot_password,
    ResetPassword: reset_password,
    ChangePassword: credentials,
    ChangeAddress: credentials,
    ConfirmAddress: credentials,
    StepUp: credentials,
    ReplaceToken: replace_token,
    DeleteAccount: delete_account,
    Passkeys: credentials,
    Invites: credentials,
    Sessions: sessions,
    SocketTicket: ws_ticket,
    Admin: admin,
    Archives: restore_points,
    BringBack: wipe,
    /// Downloads of whole data sets.
    Export: restore,
    /// Everything without a limit of its own, unknown paths included.
    Other: other,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; or whoever has the one-time token in the body.
    Everybody,
    /// Whoever has an account's token.
    Account,
    /// The same, having proven a short while ago, or in this request, who they are.
    Proven,
    /// An administrator.
    Admin,
    /// An administrator, having proven it.
    ProvenAdmin,
    /// Whoever has a token in the address. Answers after the upgrade.
    Socket,
    /// Everybody, in test mode only.
    Test,
}

impl Access {
    /// Whether it must be an administrator.
    #[must_use]
    pub const fn wants_admin(self) -> bool {
        matches!(self, Self::Admin | Self::ProvenAdmin)
    }

    /// Whether a token alone is not enough.
    #[must_use]
    pub const fn wants_proof(self) -> bool {
        matches!(self, Self::Proven | Self::ProvenAdmin)
    }
}

/// A request's method, as far as there are routes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    /// And `HEAD`.
    Get,
    Post,
    Patch,
    Delete,
}

impl Verb {
    fn of(method: &Method) -> Option<Self> {
        Some(match *method {
            Method::GET | Method::HEAD => Self::Get,
            Method::POST => Self::Post,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            _ => return None,
        })
    }

    /// The method's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A route.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Route {
    pub verb: Verb,
    /// As the router has it.
    pub path: &'static str,
    pub access: Access,
    /// `None`: never counted.
    pub class: Option<Class>,
}

const fn row(verb: Verb, path: &'static str, access: Access, class: Class) -> Route {
    Route { verb, path, access, class: Some(class) }
}

const fn uncounted(verb: Verb, path: &'static str, access: Access) -> Route {
    Route { verb, path, access, class: None }
}

use Access::{Account, Admin, Everybody, Proven, ProvenAdmin, Socket, Test};
use Verb::{Delete, Get, Patch, Post};

/// Every route; those that are asked for most come first.
pub const ROUTES: &[Route] = &[
    row(Get, "/api/sync/ops", Account, Class::Download),
    row(Post, "/api/sync/ops", Account, Class::Upload),
    row(Get, "/api/sync/status", Account, Class::Status),
    row(Get, "/api/sync/ws", Socket, Class::Socket),
    row(Post, "/api/sync/snapshot", Account, Class::Snapshot),
    row(Get, "/api/sync/snapshot", Account, Class::CurrentState),
    row(Get, "/api/sync/devices", Account, Class::Devices),
    row(Delete, "/api/sync/data", Account, Class::Wipe),
    row(Get, "/api/sync/restore-points", Account, Class::RestorePoints),
    row(Get, "/api/sync/restore/{server_seq}", Account, Class::Restore),
    row(Post, "/api/sync/ws-ticket", Account, Class::SocketTicket),
    row(Get, "/api/sync/archives", Account, Class::Archives),
    row(Get, "/api/sync/archives/{id}", Account, Class::Export),
    row(Post, "/api/sync/archives/{id}/restore", Account, Class::BringBack),
    row(Post, "/api/login", Everybody, Class::Login),
    row(Post, "/api/login/magic-link", Everybody, Class::LoginMagicLink),
    row(Post, "/api/login/magic-link/verify", Everybody, Class::LoginMagicLinkVerify),
    row(Post, "/api/login/passkey/options", Everybody, Class::LoginPasskeyOptions),
    row(Post, "/api/login/passkey/verify", Everybody, Class::LoginPasskeyVerify),
    row(Post, "/api/register", Everybody, Class::Register),
    row(Post, "/api/register/magic-link", Everybody, Class::RegisterMagicLink),
    row(Post, "/api/register/passkey/options", Everybody, Class::RegisterPasskeyOptions),
    row(Post, "/api/register/passkey/verify", Everybody, Class::RegisterPasskeyVerify),
    row(Post, "/api/verify-email", Everybody, Class::VerifyEmail),
    row(Post, "/api/recover/passkey", Everybody, Class::RecoverPasskey),
    row(Post, "/api/recover/passkey/options", Everybody, Class::RecoverPasskeyOptions),
    row(Post, "/api/recover/passkey/complete", Everybody, Class::RecoverPasskeyComplete),
    row(Post, "/api/forgot-password", Everybody, Class::ForgotPassword),
    row(Post, "/api/reset-password", Everybody, Class::ResetPassword),
    // Released clients send it with nothing but their token. It proves nothing, and what comes out of it is no fresher.
    row(Post, "/api/replace-token", Account, Class::ReplaceToken),
    row(Get, "/api/account", Account, Class::Other),
    row(Delete, "/api/account", Proven, Class::DeleteAccount),
    row(Get, "/api/account/export", Account, Class::Export),
    row(Get, "/api/account/qr", Account, Class::Other),
    row(Get, "/api/account/security-log", Account, Class::Sessions),
    row(Post, "/api/account/step-up", Account, Class::StepUp),
    row(Post, "/api/account/step-up/options", Account, Class::StepUp),
    row(Post, "/api/account/password", Proven, Class::ChangePassword),
    row(Post, "/api/account/email", Proven, Class::ChangeAddress),
    row(Post, "/api/account/email/verify", Everybody, Class::ConfirmAddress),
    row(Post, "/api/account/email/undo", Everybody, Class::ConfirmAddress),
    row(Get, "/api/sessions", Account, Class::Sessions),
    row(Post, "/api/sessions/revoke-others", Account, Class::Sessions),
    row(Patch, "/api/sessions/{id}", Account, Class::Sessions),
    row(Delete, "/api/sessions/{id}", Account, Class::Sessions),
    row(Get, "/api/passkeys", Account, Class::Passkeys),
    row(Post, "/api/passkeys/options", Proven, Class::Passkeys),
    // The challenge was given to this session when it had proven who it is.
    row(Post, "/api/passkeys/verify", Account, Class::Passkeys),
    row(Patch, "/api/passkeys/{id}", Account, Class::Passkeys),
    row(Delete, "/api/passkeys/{id}", Proven, Class::Passkeys),
    row(Get, "/api/invites", Admin, Class::Invites),
    row(Post, "/api/invites", ProvenAdmin, Class::Invites),
    row(Delete, "/api/invites/{id}", ProvenAdmin, Class::Invites),
    row(Get, "/api/admin/users", Admin, Class::Admin),
    row(Get, "/api/admin/users/{id}", Admin, Class::Admin),
    row(Patch, "/api/admin/users/{id}", ProvenAdmin, Class::Admin),
    row(Delete, "/api/admin/users/{id}", ProvenAdmin, Class::Admin),
    row(Post, "/api/admin/users/{id}/revoke", ProvenAdmin, Class::Admin),
    row(Get, "/api/admin/server", Admin, Class::Admin),
    row(Get, "/api/admin/diagnostics", Admin, Class::Admin),
    row(Get, "/", Everybody, Class::Other),
    row(Get, "/index.html", Everybody, Class::Other),
    row(Get, "/claim", Everybody, Class::Other),
    row(Get, "/invite", Everybody, Class::Other),
    row(Get, "/admin", Everybody, Class::Other),
    row(Get, "/verify-email", Everybody, Class::Other),
    row(Post, "/verify-email", Everybody, Class::VerifyEmail),
    row(Get, "/magic-login", Everybody, Class::Other),
    row(Get, "/recover-passkey", Everybody, Class::Other),
    row(Get, "/reset-password", Everybody, Class::Other),
    row(Get, "/change-email", Everybody, Class::Other),
    row(Get, "/undo-email", Everybody, Class::Other),
    row(Get, "/privacy.html", Everybody, Class::Other),
    row(Get, "/terms.html", Everybody, Class::Other),
    row(Get, "/assets/{version}/{name}", Everybody, Class::Other),
    row(Get, "/favicon.ico", Everybody, Class::Other),
    uncounted(Get, "/health", Everybody),
    uncounted(Get, "/livez", Everybody),
    uncounted(Get, "/readyz", Everybody),
    uncounted(Get, "/readyz/reads", Everybody),
    uncounted(Post, "/api/test/create-user", Test),
    uncounted(Post, "/api/test/cleanup", Test),
    uncounted(Delete, "/api/test/user/{user_id}", Test),
    uncounted(Get, "/api/test/user/{user_id}/ops", Test),
    uncounted(Post, "/api/test/user/{user_id}/legacy-plaintext-ops", Test),
    uncounted(Delete, "/api/test/user/{user_id}/ops-after/{server_seq}", Test),
];

fn find(method: &Method, path: Option<&str>) -> Option<&'static Route> {
    let (verb, path) = (Verb::of(method)?, path?);
    ROUTES.iter().find(|route| route.path == path && route.verb == verb)
}

/// Who may send a request to the route with this path template.
#[must_use]
pub fn access(method: &Method, path: Option<&str>) -> Access {
    find(method, path).map_or(ProvenAdmin, |route| route.access)
}

/// The class of a request to the route with this path template; `None` is never counted: probes, and the routes that only
/// exist in test mode.
#[must_use]
pub fn class(method: &Method, path: Option<&str>) -> Option<Class> {
    find(method, path).map_or(Some(Class::Other), |route| route.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_at_its_number() {
        for (number, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, number);
        }
    }

    #[test]
    fn probes_are_not_counted_and_unknown_paths_are() {
        assert_eq!(class(&Method::GET, Some("/health")), None);
        assert_eq!(class(&Method::POST, Some("/api/test/cleanup")), None);
        assert_eq!(class(&Method::GET, None), Some(Class::Other));
    }

    #[test]
    fn methods_of_one_path_are_counted_apart() {
        assert_eq!(class(&Method::POST, Some("/api/sync/ops")), Some(Class::Upload));
        assert_eq!(class(&Method::HEAD, Some("/api/sync/ops")), Some(Class::Download));
        assert_eq!(class(&Method::PUT, Some("/api/sync/ops")), Some(Class::Other));
    }

    #[test]
    fn what_is_not_in_the_table_asks_for_everything() {
        assert_eq!(access(&Method::POST, Some("/api/new")), ProvenAdmin);
        assert_eq!(access(&Method::PUT, Some("/api/account")), ProvenAdmin);
    }

    /// Whose handlers authenticate by [`crate::http`]'s `Call`, which knows tokens only.
    #[test]
    fn routes_of_the_app_want_a_token_and_nothing_else() {
        for route in ROUTES.iter().filter(|route| route.path.starts_with("/api/sync/")) {
            assert!(matches!(route.access, Account | Socket), "{route:?}");
        }
    }
}
