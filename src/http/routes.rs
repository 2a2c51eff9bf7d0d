//! The table of routes: each with its purpose, its method, its path, the right to use it, the limit that counts its
//! requests, the bound of its body, and its handler.
//!
//! The router and the description of the interface are made from it; `super::admit` and the limits read it. So a route stands
//! nowhere else: a new one is a row here and a handler. There is one time limit for all (`REQUEST_TIMEOUT_SECONDS`), so that
//! the table has no column for it.

use axum::Router;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};

use super::account::{admin, credentials, invites, links, passkeys, profile, qr, sessions, step_up};
use super::class::Class;
use super::openapi::sketch::describe;
use super::pages::{api, assets, legal, link};
use super::route::{Access, BodyLimit, Route};
use super::state::AppState;
use super::{archives, export, health, openapi, pages, sync, test_mode, ws};

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
                describe: |sketch| describe(&$handler, sketch),
            }),+
        ];

        fn services() -> Vec<MethodRouter<AppState>> {
            vec![$(on(MethodFilter::$method, $handler)),+]
        }
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
    let routes = ROUTES.iter().zip(services()).filter(|(route, _)| test_mode || route.access != Access::Test);
    routes.fold(Router::new(), |router, (route, service)| router.route(route.path, service))
}

#[cfg(test)]
mod tests {
    use super::super::route::find;
    use super::*;

    #[test]
    fn methods_of_one_path_are_routes_of_their_own() {
        let class = |method, path| find(ROUTES, &method, path).map(|route| route.class);
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
