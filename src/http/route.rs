//! What is known of a route: its method, its path, the right to use it, the limit that counts its requests, and the bound of
//! its body. The routes themselves are in [`super::routes`].

use axum::http::Method;

use super::class::Class;
use super::openapi::sketch::Sketch;
use crate::config::Limits;

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

/// Bounds of one request's body.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Bytes on the wire, plain or binary gzip; also of the gzip after base64 decoding.
    pub wire: usize,
    /// Bytes after inflating.
    pub inflated: usize,
}

impl Caps {
    /// The same bound for a body that is not compressed.
    pub(super) const fn plain(bytes: usize) -> Self {
        Self { wire: bytes, inflated: bytes }
    }

    /// Wire bytes of a body whose gzip is wrapped in base64.
    pub(super) const fn wire_base64(self) -> usize {
        self.wire.div_ceil(3) * 4 + 4
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
}

/// The route of a request with this path template.
#[must_use]
pub fn find(routes: &'static [Route], method: &Method, path: &str) -> Option<&'static Route> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    routes.iter().find(|route| route.path == path && route.method == *method)
}
