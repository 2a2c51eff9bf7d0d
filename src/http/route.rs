//! The table of routes: each with its method, its path, the right to use it, the limit that counts its requests, the
//! bound of its body, and its handler.
//!
//! The router is made from it, and `super::admit` and the limits read it, so that a route stands nowhere else. A new
//! one is a row here and a handler; its class and its body are among those below. There is one time limit for all
//! (`REQUEST_TIMEOUT_SECONDS`), so that the table has no column for it.

use axum::Router;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};

use super::account::{admin, credentials, invites, links, passkeys, profile, qr, sessions, step_up};
use super::body::Caps;
use super::openapi::{self, Sketch};
use super::pages::{api, assets, legal, link};
use super::state::AppState;
use super::{archives, export, health, pages, sync, test_mode, ws};
use crate::config::{Limits, RateLimit, RateLimits};

/// Makes the classes: each with the rule that counts for it, and with where it is counted. `together`: several processes
/// count its requests exactly, which asks the database each time; for requests that hash passwords, send mail, replay
/// or replace a data set. `apart`: each process allows its share.
macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident: $rule:ident $counting:ident),+ $(,)?) => {
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

            /// Whether all processes count its requests together.
            #[must_use]
            pub const fn is_counted_together(self) -> bool {
                match self {
                    $(Self::$name => counting!($counting)),+
                }
            }
        }
    };
}

macro_rules! counting {
    (together) => {
        true
    };
    (apart) => {
        false
    };
}

classes! {
    Upload: upload apart,
    Download: download apart,
    Snapshot: snapshot together,
    CurrentState: restore together,
    Status: status apart,
    Devices: devices apart,
    Wipe: wipe together,
    RestorePoints: restore_points apart,
    Restore: restore together,
    Socket: ws apart,
    Register: register together,
    Login: login together,
    VerifyEmail: verify_email together,
    RegisterMagicLink: sign_in together,
    RegisterPasskeyOptions: sign_in together,
    RegisterPasskeyVerify: sign_in together,
    LoginMagicLink: sign_in together,
    LoginMagicLinkVerify: sign_in together,
    LoginPasskeyOptions: sign_in together,
    LoginPasskeyVerify: sign_in together,
    RecoverPasskey: sign_in together,
    RecoverPasskeyOptions: sign_in together,
    RecoverPasskeyComplete: sign_in together,
    ForgotPassword: forgot_password together,
    ResetPassword: reset_password together,
    ChangePassword: credentials together,
    ChangeAddress: credentials together,
    ConfirmAddress: credentials together,
    StepUp: credentials together,
    ReplaceToken: replace_token together,
    DeleteAccount: delete_account together,
    Passkeys: credentials together,
    Invites: credentials together,
    Sessions: sessions apart,
    SocketTicket: ws_ticket apart,
    Admin: admin apart,
    Archives: restore_points apart,
    BringBack: wipe together,
    /// Downloads of whole data sets.
    Export: restore together,
    /// Everything without a limit of its own, unknown paths included.
    Other: other apart,
}

/// The right to use a route. `super::admit` checks it before the handler runs, the proof excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody. Some routes want a one-time token in the body.
    Everybody,
    /// An account's token.
    Account,
    /// The same, checked after the body: so did the old server (accounts contract, section 1.1).
    AccountAfterBody,
    /// An account's token and a recent proof of identity, in the session or in this request. The handler takes
    /// `super::sender::SteppedUp`.
    Proven,
    /// The same, checked after the body.
    ProvenAfterBody,
    /// An administrator's token.
    Admin,
    /// An administrator's token and a recent proof.
    ProvenAdmin,
    /// A token in the address, checked after the upgrade.
    Socket,
    /// Everybody, in test mode only.
    Test,
}

impl Access {
    /// Whether the request must show an account's token in the usual header.
    #[must_use]
    pub const fn wants_token(self) -> bool {
        !matches!(self, Self::Everybody | Self::Socket | Self::Test)
    }

    /// Whether it must be an administrator.
    #[must_use]
    pub const fn wants_admin(self) -> bool {
        matches!(self, Self::Admin | Self::ProvenAdmin)
    }

    /// Whether a token alone is not enough.
    #[must_use]
    pub const fn wants_proof(self) -> bool {
        matches!(self, Self::Proven | Self::ProvenAfterBody | Self::ProvenAdmin)
    }

    /// Whether the body is judged before the token.
    #[must_use]
    pub const fn is_after_body(self) -> bool {
        matches!(self, Self::AccountAfterBody | Self::ProvenAfterBody)
    }
}

/// The bound of a route's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLimit {
    /// None is read.
    NoBody,
    /// A few members: 64 KiB. The contract allows 20 MiB; no account request needs more than a few KiB, and a parsed value
    /// may take forty times the room of its text.
    Small,
    /// A page's form with a token and a password, twice: 8 KiB.
    Form,
    /// Uploaded operations, as configured.
    Operations,
    /// An uploaded full state, as configured.
    Snapshot,
}

impl BodyLimit {
    /// Bytes on the wire and after inflating.
    #[must_use]
    pub const fn caps(self, limits: &Limits) -> Caps {
        match self {
            Self::NoBody => Caps::plain(0),
            Self::Small => Caps::plain(64 * 1024),
            Self::Form => Caps::plain(8 * 1024),
            Self::Operations => Caps { wire: limits.upload_body_bytes, inflated: limits.upload_inflated_bytes },
            Self::Snapshot => Caps { wire: limits.snapshot_body_bytes, inflated: limits.snapshot_inflated_bytes },
        }
    }
}

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    /// `GET` stands for `HEAD` as well.
    pub method: Method,
    /// As the router has it.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// The limit that counts its requests; `None`: never counted.
    pub class: Option<Class>,
    /// The bound of its body.
    pub body: BodyLimit,
    /// Its purpose, for the description of the interface; pages have none.
    pub summary: &'static str,
    /// The path of its handler.
    pub name: &'static str,
    /// Describes what the handler takes and answers.
    pub describe: fn(&mut Sketch),
    service: fn() -> MethodRouter<AppState>,
}

macro_rules! class {
    (Uncounted) => {
        None
    };
    ($class:ident) => {
        Some(Class::$class)
    };
}

macro_rules! routes {
    ($($(#[doc = $summary:literal])* $method:ident $path:literal $access:ident $class:ident $body:ident $handler:expr;)+) => {
        /// Every route; those that are asked for most come first.
        pub static ROUTES: &[Route] = &[
            $(Route {
                method: Method::$method,
                path: $path,
                access: Access::$access,
                class: class!($class),
                body: BodyLimit::$body,
                summary: concat!($($summary),*),
                name: stringify!($handler),
                describe: |sketch| openapi::describe(&$handler, sketch),
                service: || on(MethodFilter::$method, $handler),
            }),+
        ];
    };
}

routes! {
    // method path                                         right            limit                  body       handler
    /// Operations after a sequence, in the order of the log.
    GET    "/api/sync/ops"                                        Account          Download               NoBody     sync::download;
    /// Adds operations to the log; each is accepted or refused by itself.
    POST   "/api/sync/ops"                                        Account          Upload                 Operations sync::upload;
    /// The account's counter, storage and devices online.
    GET    "/api/sync/status"                                     Account          Status                 NoBody     sync::status;
    /// Notices of new operations, by WebSocket; the token or a ticket is in the query.
    GET    "/api/sync/ws"                                         Socket           Socket                 NoBody     ws::upgrade;
    /// Adds a full state to the log, or replaces the data set by one.
    POST   "/api/sync/snapshot"                                   Account          Snapshot               Snapshot   sync::upload_snapshot;
    /// The newest state, rebuilt.
    GET    "/api/sync/snapshot"                                   Account          CurrentState           NoBody     sync::current_state;
    /// Devices that were seen within 45 days.
    GET    "/api/sync/devices"                                    Account          Devices                NoBody     sync::devices;
    /// Deletes the data set of the account.
    DELETE "/api/sync/data"                                       Account          Wipe                   NoBody     sync::wipe;
    /// Full states that the account can go back to.
    GET    "/api/sync/restore-points"                             Account          RestorePoints          NoBody     sync::restore_points;
    /// The state as of a sequence, rebuilt.
    GET    "/api/sync/restore/{server_seq}"                       Account          Restore                NoBody     sync::restore;
    /// A ticket that opens one socket.
    POST   "/api/sync/ws-ticket"                                  Account          SocketTicket           Small      sessions::ticket;
    /// Data sets that were replaced or deleted and are still kept.
    GET    "/api/sync/archives"                                   Account          Archives               NoBody     archives::list;
    /// The operations of an archived data set, one per line.
    GET    "/api/sync/archives/{id}"                              Account          Export                 NoBody     archives::download;
    /// Replaces the data set by an archived one.
    POST   "/api/sync/archives/{id}/restore"                      Account          BringBack              NoBody     archives::bring_back;
    /// Signs in with a password.
    POST   "/api/login"                                           Everybody        Login                  Small      credentials::login;
    /// Mails a link that signs in.
    POST   "/api/login/magic-link"                                Everybody        LoginMagicLink         Small      links::request_login;
    /// Signs in with a mailed link.
    POST   "/api/login/magic-link/verify"                         Everybody        LoginMagicLinkVerify   Small      links::login;
    /// Begins a sign-in with a passkey.
    POST   "/api/login/passkey/options"                           Everybody        LoginPasskeyOptions    Small      passkeys::login_options;
    /// Signs in with a passkey.
    POST   "/api/login/passkey/verify"                            Everybody        LoginPasskeyVerify     Small      passkeys::login;
    /// Registers an account with a password.
    POST   "/api/register"                                        Everybody        Register               Small      credentials::register;
    /// Registers an account without a password.
    POST   "/api/register/magic-link"                             Everybody        RegisterMagicLink      Small      links::register;
    /// Begins a registration with a passkey.
    POST   "/api/register/passkey/options"                        Everybody        RegisterPasskeyOptions Small      passkeys::register_options;
    /// Registers an account with a passkey.
    POST   "/api/register/passkey/verify"                         Everybody        RegisterPasskeyVerify  Small      passkeys::register;
    /// Verifies the address of an account with a mailed link.
    POST   "/api/verify-email"                                    Everybody        VerifyEmail            Small      credentials::verify_email;
    /// Mails a link that sets a new passkey.
    POST   "/api/recover/passkey"                                 Everybody        RecoverPasskey         Small      passkeys::request_recovery;
    /// Begins to set a new passkey with a mailed link.
    POST   "/api/recover/passkey/options"                         Everybody        RecoverPasskeyOptions  Small      passkeys::recovery_options;
    /// Sets a new passkey with a mailed link.
    POST   "/api/recover/passkey/complete"                        Everybody        RecoverPasskeyComplete Small      passkeys::recover;
    /// Mails a link that sets a new password.
    POST   "/api/forgot-password"                                 Everybody        ForgotPassword         Small      links::forgot_password;
    /// Sets a new password with a mailed link.
    POST   "/api/reset-password"                                  Everybody        ResetPassword          Small      links::reset_password;
    // Released clients send it with nothing but their token. It proves nothing, and what comes out of it is no fresher.
    /// Ends every session of the account and starts a new one.
    POST   "/api/replace-token"                                   AccountAfterBody ReplaceToken           Small      credentials::replace_token;
    /// The own account.
    GET    "/api/account"                                         Account          Other                  NoBody     profile::facts;
    /// Deletes the own account with all its data.
    DELETE "/api/account"                                         ProvenAfterBody  DeleteAccount          Small      profile::delete;
    /// Everything that the server holds for the account, as a zip file.
    GET    "/api/account/export"                                  Account          Export                 NoBody     export::export;
    /// The token of the request as a QR code.
    GET    "/api/account/qr"                                      Account          Other                  NoBody     qr::token_as_qr;
    /// Sign-ins and changes of the last 90 days.
    GET    "/api/account/security-log"                            Account          Sessions               NoBody     profile::security_log;
    /// Proves who asks; for 15 minutes no route asks again.
    POST   "/api/account/step-up"                                 Account          StepUp                 Small      step_up::step_up;
    /// Begins a proof with a passkey.
    POST   "/api/account/step-up/options"                         Account          StepUp                 Small      step_up::options;
    /// Changes the password.
    POST   "/api/account/password"                                Proven           ChangePassword         Small      profile::change_password;
    /// Mails a link to a new address.
    POST   "/api/account/email"                                   Proven           ChangeAddress          Small      profile::request_address_change;
    /// Changes the address with a mailed link.
    POST   "/api/account/email/verify"                            Everybody        ConfirmAddress         Small      profile::change_address;
    /// Undoes a change of the address with a mailed link and ends every session.
    POST   "/api/account/email/undo"                              Everybody        ConfirmAddress         Small      profile::undo_address;
    /// Sessions of the account.
    GET    "/api/sessions"                                        Account          Sessions               NoBody     sessions::list;
    /// Ends every other session.
    POST   "/api/sessions/revoke-others"                          Account          Sessions               Small      sessions::revoke_others;
    /// Renames a session.
    PATCH  "/api/sessions/{id}"                                   Account          Sessions               Small      sessions::rename;
    /// Ends a session.
    DELETE "/api/sessions/{id}"                                   Account          Sessions               Small      sessions::revoke;
    /// Passkeys of the account.
    GET    "/api/passkeys"                                        Account          Passkeys               NoBody     passkeys::list;
    /// Begins to add a passkey.
    POST   "/api/passkeys/options"                                Proven           Passkeys               Small      passkeys::add_options;
    // The challenge was given to this session when it had proven who it is.
    /// Adds a passkey.
    POST   "/api/passkeys/verify"                                 Account          Passkeys               Small      passkeys::add;
    /// Renames a passkey.
    PATCH  "/api/passkeys/{id}"                                   Account          Passkeys               Small      passkeys::rename;
    /// Removes a passkey.
    DELETE "/api/passkeys/{id}"                                   Proven           Passkeys               Small      passkeys::remove;
    /// Invitations.
    GET    "/api/invites"                                         Admin            Invites                NoBody     invites::list;
    /// Makes an invitation; its link is shown once.
    POST   "/api/invites"                                         ProvenAdmin      Invites                Small      invites::invite;
    /// Deletes an invitation.
    DELETE "/api/invites/{id}"                                    ProvenAdmin      Invites                Small      invites::take_back;
    /// Accounts, in pages.
    GET    "/api/admin/users"                                     Admin            Admin                  NoBody     admin::list;
    /// An account.
    GET    "/api/admin/users/{id}"                                Admin            Admin                  NoBody     admin::show;
    /// Changes an account.
    PATCH  "/api/admin/users/{id}"                                ProvenAdmin      Admin                  Small      admin::change;
    /// Deletes an account with all its data.
    DELETE "/api/admin/users/{id}"                                ProvenAdmin      Admin                  Small      admin::delete;
    /// Ends every session of an account.
    POST   "/api/admin/users/{id}/revoke"                         ProvenAdmin      Admin                  Small      admin::revoke;
    /// Version, size and load of the server.
    GET    "/api/admin/server"                                    Admin            Admin                  NoBody     admin::server::facts;
    /// Checks of the set-up.
    GET    "/api/admin/diagnostics"                               Admin            Admin                  NoBody     admin::diagnostics::all;
    /// This description.
    GET    "/api/openapi.json"                                    Everybody        Other                  NoBody     openapi::serve;
    GET    "/api"                                                 Everybody        Other                  NoBody     api::page;
    GET    "/"                                                    Everybody        Other                  NoBody     pages::home;
    GET    "/index.html"                                          Everybody        Other                  NoBody     pages::home;
    GET    "/claim"                                               Everybody        Other                  NoBody     pages::invited;
    GET    "/invite"                                              Everybody        Other                  NoBody     pages::invited;
    GET    "/admin"                                               Everybody        Other                  NoBody     pages::admin;
    GET    "/verify-email"                                        Everybody        Other                  NoBody     link::verify_email;
    POST   "/verify-email"                                        Everybody        VerifyEmail            Form       link::verify_email_confirmed;
    GET    "/magic-login"                                         Everybody        Other                  NoBody     link::page::<link::MagicLogin>;
    GET    "/recover-passkey"                                     Everybody        Other                  NoBody     link::page::<link::RecoverPasskey>;
    GET    "/reset-password"                                      Everybody        Other                  NoBody     link::page::<link::ResetPassword>;
    GET    "/change-email"                                        Everybody        Other                  NoBody     link::page::<link::ChangeEmail>;
    GET    "/undo-email"                                          Everybody        Other                  NoBody     link::page::<link::UndoEmail>;
    GET    "/privacy.html"                                        Everybody        Other                  NoBody     legal::privacy;
    GET    "/terms.html"                                          Everybody        Other                  NoBody     legal::terms;
    GET    "/assets/{version}/{name}"                             Everybody        Other                  NoBody     assets::serve;
    GET    "/favicon.ico"                                         Everybody        Other                  NoBody     assets::icon;
    /// Whether the server and its database answer.
    GET    "/health"                                              Everybody        Uncounted              NoBody     health::health;
    /// Whether the process answers.
    GET    "/livez"                                               Everybody        Uncounted              NoBody     health::alive;
    /// Whether the server takes requests that write.
    GET    "/readyz"                                              Everybody        Uncounted              NoBody     health::ready;
    /// Whether the server takes requests that read.
    GET    "/readyz/reads"                                        Everybody        Uncounted              NoBody     health::ready_for_reads;
    POST   "/api/test/create-user"                                Test             Uncounted              Small      test_mode::create_user;
    POST   "/api/test/cleanup"                                    Test             Uncounted              NoBody     test_mode::cleanup;
    DELETE "/api/test/user/{user_id}"                             Test             Uncounted              NoBody     test_mode::delete_user;
    GET    "/api/test/user/{user_id}/ops"                         Test             Uncounted              NoBody     test_mode::newest_ops;
    POST   "/api/test/user/{user_id}/legacy-plaintext-ops"        Test             Uncounted              Small      test_mode::seed_plaintext;
    DELETE "/api/test/user/{user_id}/ops-after/{server_seq}"      Test             Uncounted              NoBody     test_mode::delete_ops_after;
}

/// The router of every route; those of test mode only if it is on.
pub(super) fn router(test_mode: bool) -> Router<AppState> {
    let routes = ROUTES.iter().filter(|route| test_mode || route.access != Access::Test);
    routes.fold(Router::new(), |router, route| router.route(route.path, (route.service)()))
}

/// The route of a request with this path template.
#[must_use]
pub fn find(method: &Method, path: &str) -> Option<&'static Route> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().find(|route| route.path == path && route.method == *method)
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
    fn methods_of_one_path_are_routes_of_their_own() {
        let class = |method, path| find(&method, path).map(|route| route.class);
        assert_eq!(class(Method::POST, "/api/sync/ops"), Some(Some(Class::Upload)));
        assert_eq!(class(Method::HEAD, "/api/sync/ops"), Some(Some(Class::Download)));
        assert_eq!(class(Method::GET, "/health"), Some(None), "probes are not counted");
        assert_eq!(class(Method::PUT, "/api/sync/ops"), None);
    }

    /// Their handlers take [`crate::http`]'s `Call`, which knows tokens only.
    #[test]
    fn routes_of_the_app_want_a_token_and_nothing_else() {
        for route in ROUTES.iter().filter(|route| route.path.starts_with("/api/sync/")) {
            assert!(matches!(route.access, Access::Account | Access::Socket), "{route:?}");
        }
    }
}
