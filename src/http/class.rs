//! Classes of routes: those of one class share a limit per address.

use crate::config::{RateLimit, RateLimits};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_at_its_number() {
        for (number, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, number);
        }
    }
}
