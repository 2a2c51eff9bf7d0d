//! Sessions: year-long JWTs in the form that the app's existing tokens have (accounts contract, section 5.1).
//!
//! A token names its session (`jti`), which can be revoked alone; tokens of the old server name none. Of several
//! secrets the first signs and all verify; a token names its secret (`kid`), so that others need not be tried. Tokens
//! whose signature was found good are remembered for a while: a device shows the same one with every request for a
//! year, and checking it is half of the work of a poll.

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::AuthError;
use super::bounded::BoundedCache;
use crate::budget::Memory;
use crate::config::secrets_of;
use crate::protocol::UserId;
use crate::store::{Credential, SessionId};

/// How long a session lasts: 365 days. Don't shorten it and don't rotate tokens: a device's download cursor hangs on
/// its token.
pub const SESSION_SECONDS: i64 = 365 * 24 * 60 * 60;

/// A session as given out.
pub struct Session {
    /// The JWT.
    pub token: SecretString,
    /// Its number.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The address that the token names.
    pub email: String,
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    #[serde(rename = "userId")]
    user: UserId,
    email: &'a str,
    #[serde(rename = "tokenVersion")]
    token_version: i64,
    iat: i64,
    exp: i64,
    jti: String,
}

/// Memory of tokens whose signature was found good: some 30,000 of them.
const VERIFIED_BYTES: usize = 16 * 1024 * 1024;
/// Longer tokens, which this server never issues, are checked each time.
const MAX_REMEMBERED_CHARS: usize = 1024;

/// What a presented token claims. Times are numbers that may have a fraction.
#[derive(Clone, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "userId")]
    pub(super) user: UserId,
    #[serde(default)]
    pub(super) email: String,
    /// Tokens from before revocation existed have none.
    #[serde(rename = "tokenVersion", default)]
    token_version: i64,
    /// Tokens of the old server have none.
    #[serde(rename = "jti", default, deserialize_with = "session_id")]
    session: Option<SessionId>,
    iat: Option<f64>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// A name that is no session's is not one of ours.
fn session_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SessionId>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| SessionId::parse(&text).ok_or_else(|| D::Error::custom("no session"))).transpose()
}

impl Claims {
    /// What the database decides by.
    pub(super) fn credential(&self) -> Credential {
        // Saturates; nobody issues tokens in those years.
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 fit")]
        let issued_at = self.iat.map(|seconds| (seconds * 1000.0) as i64);
        Credential { session: self.session, token_version: self.token_version, issued_at }
    }
}

/// Issues and checks tokens with the operator's secrets.
pub(super) struct Tokens {
    encoding: EncodingKey,
    /// The header of new tokens.
    header: Header,
    /// By `kid`; the first one signs.
    decoding: Vec<(String, DecodingKey)>,
    validation: Validation,
    /// Tokens with a good signature, by their whole text. Says nothing about time: that is looked at on each use.
    verified: Mutex<BoundedCache<Box<str>, Verified>>,
}

struct Verified {
    claims: Claims,
    used_at_ms: i64,
}

fn bytes_of(token: &str, verified: &Verified) -> usize {
    /// Its slot in the table, and the allocator's rounding.
    const PLACE: usize = 96;
    token.len() + verified.claims.email.len() + size_of::<(Box<str>, Verified)>() + PLACE
}

/// The `kid` of a secret, long enough to tell a few apart. It helps guessing the secret no more than a token does.
fn key_id(secret: &str) -> String {
    let mut hash = Sha256::new_with_prefix(b"supersync kid ");
    hash.update(secret.as_bytes());
    hex::encode(&hash.finalize()[..8])
}

impl Tokens {
    /// A key is its secret's UTF-8 bytes, never decoded from hex or base64.
    pub(super) fn new(secret: &SecretString) -> Self {
        let secrets = secrets_of(secret.expose_secret());
        let signing = secrets.first().copied().unwrap_or_default();
        let decoding = secrets.iter().map(|text| (key_id(text), DecodingKey::from_secret(text.as_bytes()))).collect();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // `verify` checks the times itself, by the server's own clock and without leeway.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self {
            encoding: EncodingKey::from_secret(signing.as_bytes()),
            header: Header { kid: Some(key_id(signing)), ..Header::new(Algorithm::HS256) },
            decoding,
            validation,
            verified: Mutex::new(BoundedCache::new(VERIFIED_BYTES, |token, verified| bytes_of(token, verified))),
        }
    }

    pub(super) fn issue(&self, user: UserId, email: &str, token_version: i64, id: SessionId, now_ms: i64) -> Session {
        let iat = now_ms.div_euclid(1000);
        let claims = IssuedClaims { user, email, token_version, iat, exp: iat + SESSION_SECONDS, jti: id.to_string() };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.encoding)
            .expect("numbers and a string are always valid JSON, and an HMAC takes a key of any length");
        Session { token: token.into(), id, user, email: email.to_owned() }
    }

    /// Counts the memory of tokens there from now on.
    pub(super) fn count_in(&self, memory: &Memory) {
        self.verified().count_in(memory);
    }

    /// Forgets tokens that were last shown before then.
    pub(super) fn forget_unused(&self, before_ms: i64) {
        self.verified().forget_while(|verified| verified.used_at_ms < before_ms);
    }

    fn verified(&self) -> MutexGuard<'_, BoundedCache<Box<str>, Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, token: &str, now_ms: i64) -> Option<Claims> {
        let mut tokens = self.verified();
        let verified = tokens.get_mut(token)?;
        verified.used_at_ms = now_ms;
        Some(verified.claims.clone())
    }

    fn remember(&self, token: &str, claims: &Claims, now_ms: i64) {
        if token.len() <= MAX_REMEMBERED_CHARS {
            self.verified().put(token.into(), Verified { claims: claims.clone(), used_at_ms: now_ms });
        }
    }

    /// The claims, if the signature is one of ours.
    fn decode(&self, token: &str) -> Option<Claims> {
        let head = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
        let head: serde_json::Map<String, Value> = serde_json::from_slice(&head).ok()?;
        // Lists extensions that must be understood; none is.
        if head.contains_key("crit") {
            return None;
        }
        let named = head.get("kid").and_then(Value::as_str);
        let keys = match self.decoding.iter().position(|(id, _)| Some(id.as_str()) == named) {
            Some(at) => &self.decoding[at..=at],
            // The old server names none.
            None => &self.decoding[..],
        };
        keys.iter()
            .find_map(|(_, key)| jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok())
            .map(|data| data.claims)
    }

    /// Signature, then `nbf`, then `exp`. What the account's row says is the caller's to check.
    pub(super) fn verify(&self, token: &str, now_ms: i64) -> Result<Claims, AuthError> {
        let claims = if let Some(claims) = self.recall(token, now_ms) {
            claims
        } else {
            let claims = self.decode(token).ok_or(AuthError::Invalid)?;
            self.remember(token, &claims, now_ms);
            claims
        };
        // Exact up to the year 287396.
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
        let now = now_ms.div_euclid(1000) as f64;
        if claims.nbf.is_some_and(|nbf| nbf > now) {
            return Err(AuthError::Invalid);
        }
        if claims.exp.is_some_and(|exp| now >= exp) {
            return Err(AuthError::Expired);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_500;

    fn secret() -> SecretString {
        "0123456789abcdef0123456789abcdef".to_owned().into()
    }

    fn claims() -> Claims {
        Claims { user: 1, email: String::new(), token_version: 0, session: None, iat: None, exp: None, nbf: None }
    }

    fn signed(alg: Algorithm, claims: &Value, secret: &SecretString) -> String {
        jsonwebtoken::encode(&Header::new(alg), claims, &EncodingKey::from_secret(secret.expose_secret().as_bytes()))
            .unwrap()
    }

    fn error(claims: &Value) -> Option<AuthError> {
        Tokens::new(&secret()).verify(&signed(Algorithm::HS256, claims, &secret()), NOW_MS).err()
    }

    #[test]
    fn refuses_what_is_not_ours() {
        let tokens = Tokens::new(&secret());
        let claims = json!({"userId": 1, "email": "a@b.co"});
        let foreign = signed(Algorithm::HS256, &claims, &"another secret of thirty-two bytes".to_owned().into());
        let mut unsigned = signed(Algorithm::HS256, &claims, &secret());
        unsigned.truncate(unsigned.rfind('.').unwrap() + 1);
        // {"alg":"none"} with the same claims.
        let none = format!("eyJhbGciOiJub25lIn0.{}.", unsigned.split('.').nth(1).unwrap());
        for token in ["", "x", "a.b.c", &foreign, &unsigned, &none] {
            assert!(matches!(tokens.verify(token, NOW_MS), Err(AuthError::Invalid)), "{token}");
        }
        assert!(matches!(error(&json!({"email": "a@b.co"})), Some(AuthError::Invalid)), "no user");
        for jti in [json!("x"), json!(7), json!("")] {
            let claims = json!({"userId": 1, "email": "a@b.co", "jti": jti});
            assert!(matches!(error(&claims), Some(AuthError::Invalid)), "no session of ours: {jti}");
        }
    }

    #[test]
    fn what_must_be_understood_is_not() {
        let claims = json!({"userId": 1, "email": "a@b.co"});
        let tokens = Tokens::new(&secret());
        for (head, is_good) in [
            (json!({"alg": "HS256"}), true),
            (json!({"alg": "HS256", "kid": "another"}), true),
            (json!({"alg": "HS256", "crit": ["exp"], "exp": 1}), false),
            (json!({"alg": "HS256", "crit": []}), false),
            (json!({"alg": "HS256", "crit": null}), false),
        ] {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", part(&head), part(&claims));
            let key = EncodingKey::from_secret(secret().expose_secret().as_bytes());
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            assert_eq!(tokens.verify(&format!("{message}.{signature}"), NOW_MS).is_ok(), is_good, "{head}");
        }
    }

    #[test]
    fn the_first_of_several_secrets_signs_and_all_verify() {
        let (old, new) = ("an old secret".replace(' ', "-").repeat(3), "a-new-secret".repeat(3));
        let both = Tokens::new(&format!("{new} {old}").into());
        let issue = |tokens: &Tokens| tokens.issue(5, "a@b.co", 2, SessionId::random(), NOW_MS).token;
        let is_good = |tokens: &Tokens, token: &SecretString| tokens.verify(token.expose_secret(), NOW_MS).is_ok();
        let (only_old, only_new) = (Tokens::new(&old.clone().into()), Tokens::new(&new.clone().into()));
        let (by_old, by_both) = (issue(&only_old), issue(&both));
        assert!(is_good(&both, &by_old) && is_good(&both, &by_both));
        assert!(is_good(&only_new, &by_both) && !is_good(&only_old, &by_both) && !is_good(&only_new, &by_old));
        let unnamed = signed(Algorithm::HS256, &json!({"userId": 1, "email": "a@b.co"}), &old.into());
        assert!(is_good(&both, &unnamed.into()), "tokens of the old server name no key");
    }

    #[test]
    fn honours_times_without_leeway() {
        let at = |member: &str, value: f64| {
            let mut claims = json!({"userId": 1, "email": "a@b.co"});
            claims[member] = value.into();
            error(&claims)
        };
        assert!(matches!(at("exp", 1_700_000_000.0), Some(AuthError::Expired)));
        assert!(at("exp", 1_700_000_001.0).is_none());
        assert!(matches!(at("nbf", 1_700_000_001.0), Some(AuthError::Invalid)));
        assert!(at("nbf", 1_700_000_000.0).is_none());
        assert!(error(&json!({"userId": 1, "email": "a@b.co"})).is_none(), "a token without exp never expires");
    }

    #[test]
    fn accepts_the_three_hmac_algorithms_and_a_missing_version() {
        for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = signed(alg, &json!({"userId": 9, "email": "a@b.co", "aud": "x"}), &secret());
            let claims = Tokens::new(&secret()).verify(&token, NOW_MS).ok().unwrap();
            assert_eq!((claims.user, claims.email.as_str()), (9, "a@b.co"));
            assert_eq!(claims.credential(), Credential { session: None, token_version: 0, issued_at: None });
        }
    }

    #[test]
    fn a_remembered_token_is_judged_by_the_time_all_the_same_and_a_changed_one_anew() {
        let tokens = Tokens::new(&secret());
        let id = SessionId::random();
        let session = tokens.issue(5, "a@b.co", 2, id, NOW_MS);
        let token = session.token.expose_secret();
        for _ in 0..2 {
            let credential = tokens.verify(token, NOW_MS).ok().unwrap().credential();
            let issued_at = Some(1_700_000_000_000);
            assert_eq!(credential, Credential { session: Some(id), token_version: 2, issued_at });
        }
        assert!(tokens.recall(token, NOW_MS).is_some());
        assert!(matches!(tokens.verify(token, NOW_MS + SESSION_SECONDS * 1000), Err(AuthError::Expired)));
        let (rest, last) = token.split_at(token.len() - 5);
        let changed = format!("{rest}{}", last.chars().rev().collect::<String>());
        assert_ne!(changed, token);
        assert!(matches!(tokens.verify(&changed, NOW_MS), Err(AuthError::Invalid)));
        assert!(tokens.recall(&changed, NOW_MS).is_none(), "what is not good is not remembered");
    }

    #[test]
    fn the_memory_of_tokens_is_bounded() {
        let (tokens, claims) = (Tokens::new(&secret()), claims());
        let memory = Memory::new(usize::MAX);
        tokens.count_in(&memory);
        let token = |n: i64| format!("{n}{}", "x".repeat(600));
        for n in 0..60_000 {
            tokens.remember(&token(n), &claims, n);
        }
        assert!((VERIFIED_BYTES - 1024..=VERIFIED_BYTES).contains(&memory.kept()), "{}", memory.kept());
        assert!(tokens.recall(&token(0), 0).is_none() && tokens.recall(&token(59_999), 0).is_some());
        let long = "x".repeat(MAX_REMEMBERED_CHARS + 1);
        tokens.remember(&long, &claims, 0);
        assert!(tokens.recall(&long, 0).is_none());
    }

    #[test]
    fn tokens_that_nobody_shows_are_forgotten() {
        let tokens = Tokens::new(&secret());
        for token in ["a", "b"] {
            tokens.remember(token, &claims(), 1_000);
        }
        assert!(tokens.recall("a", 2_000).is_some());
        tokens.forget_unused(2_000);
        assert!(tokens.recall("a", 2_000).is_some() && tokens.recall("b", 2_000).is_none());
        tokens.forget_unused(2_001);
        assert!(tokens.recall("a", 2_001).is_none());
    }

    #[test]
    fn issues_the_contract_s_claims() {
        let tokens = Tokens::new(&secret());
        let id = SessionId::random();
        let session = tokens.issue(5, "a@b.co", 2, id, NOW_MS);
        let token = session.token.expose_secret();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        let key = DecodingKey::from_secret(secret().expose_secret().as_bytes());
        let data = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
        let mut expected =
            json!({"userId": 5, "email": "a@b.co", "tokenVersion": 2, "iat": 1_700_000_000, "exp": 1_731_536_000});
        expected["jti"] = id.to_string().into();
        assert_eq!(data.claims, expected);
        let head = jsonwebtoken::decode_header(token).unwrap();
        assert_eq!(
            (head.alg, head.typ.as_deref(), head.kid),
            (Algorithm::HS256, Some("JWT"), Some(key_id(secret().expose_secret())))
        );
        assert!(tokens.verify(token, NOW_MS + SESSION_SECONDS * 1000 - 501).is_ok());
        assert!(matches!(tokens.verify(token, NOW_MS + SESSION_SECONDS * 1000), Err(AuthError::Expired)));
    }
}
