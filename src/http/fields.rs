//! The members of an account request and what may be wrong with them, in the words of the contract (accounts, section
//! 1.4).
//!
//! The members of a request are declared by [`members!`]. Every fault is reported at once, in the order of the declaration,
//! which a derived deserialiser can't do: it ends with the first. Members that are not declared are ignored.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};
use super::openapi::outline::Outline;
use super::state::AppState;
use crate::accounts::{
    Address, AddressError, MAX_PASSWORD_BYTES, MAX_SESSION_NAME_CHARS, PasswordRuleError, check_new_password,
};
use crate::protocol::response::Issue;

/// What a request's body has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON object.
    Object,
    /// The same, or no body: every member is optional.
    ObjectOrNothing,
    /// Whatever it likes: clients send bodies where none is needed.
    Anything,
}

/// The members of a request's body.
pub trait Members: Sized + Send {
    /// What the body has to be.
    const SHAPE: Shape = Shape::Object;

    /// Describes the members.
    fn describe(outline: &mut Outline);

    /// Reads the members. `None`: one has a fault, which `fields` has noted.
    fn read(fields: &mut Fields) -> Option<Self>;
}

/// Declares the members of a request: each with its type and the method of [`Fields`] that reads it.
macro_rules! members {
    ($($(#[$doc:meta])* $name:ident $(as $shape:ident)? { $($field:ident: $type:ty = $read:ident($($member:literal)?)),* $(,)? })+) => {
        $(
            $(#[$doc])*
            pub struct $name { $(pub(in crate::http) $field: $type),* }

            impl $crate::http::fields::Members for $name {
                $(const SHAPE: $crate::http::fields::Shape = $crate::http::fields::Shape::$shape;)?

                fn describe(outline: &mut $crate::http::openapi::outline::Outline) {
                    $(outline.$read($($member)?);)*
                }

                fn read(fields: &mut $crate::http::fields::Fields) -> Option<Self> {
                    $(let $field = fields.$read($($member)?);)*
                    Some(Self { $($field: $field?),* })
                }
            }
        )+
    };
}
pub(super) use members;

/// No members are read.
#[derive(Debug)]
pub struct Ignored;

impl Members for Ignored {
    const SHAPE: Shape = Shape::Anything;

    fn describe(_: &mut Outline) {}

    fn read(_: &mut Fields) -> Option<Self> {
        Some(Self)
    }
}

/// An address, and how it was written.
pub struct Email {
    /// For look-ups.
    pub address: Address,
    /// As it was sent.
    pub as_sent: String,
}

/// Who registers, in every way to do so.
pub struct Registration {
    /// The address.
    pub email: Email,
    /// Whether consent was needed and given: what nobody asked for is not recorded (accounts contract, section 13).
    pub terms_accepted: bool,
    /// The token of an invitation.
    pub invite: Option<SecretString>,
}

/// A request's members, and the faults found so far.
pub struct Fields {
    members: Map<String, Value>,
    issues: Vec<Issue>,
    requires_consent: bool,
}

impl Fields {
    /// Reads the members of a body.
    ///
    /// # Errors
    /// 400 with every fault.
    pub fn parse<T: Members>(body: Option<Value>, state: &AppState) -> ApiResult<T> {
        let mut fields = Self::of(body, T::SHAPE, state.config.legal.requires_consent())?;
        let members = T::read(&mut fields);
        fields.complete(members)
    }

    /// The members of a body that has this shape. Any other is a fault of the whole.
    ///
    /// # Errors
    /// 400 with that fault.
    pub fn of(body: Option<Value>, shape: Shape, requires_consent: bool) -> ApiResult<Self> {
        let members = match (body, shape) {
            (Some(Value::Object(members)), _) => members,
            (None, Shape::ObjectOrNothing) | (_, Shape::Anything) => Map::new(),
            (other, _) => return Err(ApiError::validation(Some(vec![wrong_type("object", other.as_ref(), None)]))),
        };
        Ok(Self { members, issues: Vec::new(), requires_consent })
    }

    /// What was read, if there is no fault.
    ///
    /// # Errors
    /// 400 with every fault found so far.
    pub fn complete<T>(self, read: Option<T>) -> ApiResult<T> {
        match read {
            Some(read) if self.issues.is_empty() => Ok(read),
            _ => Err(ApiError::validation(Some(self.issues))),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.members.get(name)?.as_str().map(str::to_owned)
    }

    /// `email`.
    pub fn email(&mut self) -> Option<Email> {
        let Some(as_sent) = self.text("email") else {
            self.expected("string", "email");
            return None;
        };
        let error = match Address::parse(&as_sent) {
            Ok(address) => return Some(Email { address, as_sent }),
            Err(error) => error,
        };
        let code = match error {
            AddressError::Form => "invalid_format",
            AddressError::TooLong => "too_big",
        };
        self.fault("email", code, &error.to_string());
        None
    }

    /// `email`, if it was given.
    pub fn optional_email(&mut self) -> Option<Option<Email>> {
        if self.has("email") { self.email().map(Some) } else { Some(None) }
    }

    /// `email`, `termsAccepted` and `invite` of a registration without a password.
    pub fn registration(&mut self) -> Option<Registration> {
        let email = self.email();
        let terms_accepted = self.consent();
        let invite = self.invite();
        Some(Registration { email: email?, terms_accepted: terms_accepted?, invite: invite? })
    }

    /// A password that is to be set, in the member with this name.
    pub fn new_password(&mut self, name: &str) -> Option<SecretString> {
        let password = self.secret(name)?;
        let error = match check_new_password(password.expose_secret()) {
            Ok(()) => return Some(password),
            Err(error) => error,
        };
        let code = match error {
            PasswordRuleError::TooShort => "too_small",
            PasswordRuleError::TooLong => "too_big",
        };
        self.fault(name, code, &error.to_string());
        None
    }

    /// `password`, if it was given, where it is to be set.
    pub fn optional_new_password(&mut self) -> Option<Option<SecretString>> {
        if self.has("password") { self.new_password("password").map(Some) } else { Some(None) }
    }

    /// `password` where it is compared with the stored one.
    pub fn password(&mut self) -> Option<SecretString> {
        self.given_password("password")
    }

    fn given_password(&mut self, name: &str) -> Option<SecretString> {
        let password = self.secret(name)?;
        if password.expose_secret().is_empty() {
            self.fault(name, "too_small", "Password is required");
            return None;
        }
        if password.expose_secret().len() > MAX_PASSWORD_BYTES {
            self.fault(name, "too_big", &PasswordRuleError::TooLong.to_string());
            return None;
        }
        Some(password)
    }

    /// `token`.
    pub fn token(&mut self) -> Option<SecretString> {
        let token = self.secret("token")?;
        if token.expose_secret().is_empty() {
            self.fault("token", "too_small", "Token is required");
            return None;
        }
        Some(token)
    }

    /// `name`: what a person calls something, without what surrounds it and without control characters.
    pub fn name(&mut self) -> Option<String> {
        let Some(text) = self.text("name") else {
            self.expected("string", "name");
            return None;
        };
        let name: String = text.trim().chars().filter(|c| !c.is_control()).collect();
        if name.is_empty() {
            self.fault("name", "too_small", "Name is required");
            return None;
        }
        if name.chars().count() > MAX_SESSION_NAME_CHARS {
            self.fault("name", "too_big", "Name must be at most 64 characters long");
            return None;
        }
        Some(name)
    }

    /// `invite`: the token of an invitation, or nothing.
    pub fn invite(&mut self) -> Option<Option<SecretString>> {
        match self.members.get("invite") {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) if text.is_empty() => Some(None),
            Some(_) => self.secret("invite").map(Some),
        }
    }

    /// `credential`: what a browser's authenticator gave. Its contents are judged later.
    pub fn credential(&mut self) -> Option<Map<String, Value>> {
        if let Some(Value::Object(credential)) = self.members.get_mut("credential") {
            return Some(std::mem::take(credential));
        }
        self.expected("object", "credential");
        None
    }

    /// `currentPassword`, if it was given.
    pub fn current_password(&mut self) -> Option<Option<SecretString>> {
        if self.has("currentPassword") { self.given_password("currentPassword").map(Some) } else { Some(None) }
    }

    /// Whether a member was given.
    pub fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| !value.is_null())
    }

    /// A boolean, or nothing.
    pub fn optional_bool(&mut self, name: &str) -> Option<Option<bool>> {
        match self.members.get(name) {
            None => Some(None),
            Some(Value::Bool(given)) => Some(Some(*given)),
            Some(_) => {
                self.expected("boolean", name);
                None
            }
        }
    }

    /// A boolean; absent counts as false.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        Some(self.optional_bool(name)? == Some(true))
    }

    /// What can only be switched on: `true`, or absent.
    pub fn switch_on(&mut self, name: &str) -> Option<bool> {
        let given = self.optional_bool(name)?;
        if given == Some(false) {
            self.fault(name, "invalid_value", "This can't be taken back");
            return None;
        }
        Some(given == Some(true))
    }

    /// A whole number above 0, or nothing.
    pub fn optional_count(&mut self, name: &str) -> Option<Option<i64>> {
        let Some(value) = self.members.get(name) else { return Some(None) };
        match value.as_i64() {
            Some(number) if number > 0 => return Some(Some(number)),
            Some(_) => self.fault(name, "too_small", "A number above 0 is needed"),
            None => self.expected("integer", name),
        }
        None
    }

    /// `termsAccepted`: must be true where there is something to accept, and is false where there is nothing.
    pub fn consent(&mut self) -> Option<bool> {
        if !self.requires_consent {
            self.optional_bool("termsAccepted")?;
            return Some(false);
        }
        if self.members.get("termsAccepted") != Some(&Value::Bool(true)) {
            self.fault("termsAccepted", "invalid_value", "You must accept the linked legal documents to register");
            return None;
        }
        Some(true)
    }

    /// Takes a text out of the request without leaving a copy behind.
    fn secret(&mut self, name: &str) -> Option<SecretString> {
        if let Some(Value::String(text)) = self.members.get_mut(name) {
            return Some(std::mem::take(text).into());
        }
        self.expected("string", name);
        None
    }

    fn expected(&mut self, expected: &str, name: &str) {
        let issue = wrong_type(expected, self.members.get(name), Some(name));
        self.issues.push(issue);
    }

    fn fault(&mut self, name: &str, code: &str, message: &str) {
        self.issues.push(issue(code, vec![name.into()], message.to_owned()));
    }
}

fn wrong_type(expected: &str, received: Option<&Value>, name: Option<&str>) -> Issue {
    let received = match received {
        None => "undefined",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    };
    let path = name.map(Value::from).into_iter().collect();
    let mut issue = issue("invalid_type", path, format!("Invalid input: expected {expected}, received {received}"));
    issue.0.insert("expected".into(), expected.into());
    issue
}

fn issue(code: &str, path: Vec<Value>, message: String) -> Issue {
    Issue(Map::from_iter([
        ("code".to_owned(), code.into()),
        ("path".to_owned(), path.into()),
        ("message".to_owned(), message.into()),
    ]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Code, path and message of every fault of a registration.
    fn faults(body: &Value) -> Vec<(String, String, String)> {
        let mut fields = Fields::of(Some(body.clone()), Shape::Object, false).ok().unwrap();
        let _ = (fields.email(), fields.new_password("password"), fields.consent());
        let text = |issue: &Issue, name: &str| issue.0[name].as_str().unwrap().to_owned();
        fields
            .issues
            .iter()
            .map(|i| (text(i, "code"), i.0["path"][0].as_str().unwrap().to_owned(), text(i, "message")))
            .collect()
    }

    fn fault(code: &str, path: &str, message: &str) -> (String, String, String) {
        (code.into(), path.into(), message.into())
    }

    #[test]
    fn every_fault_is_named_in_the_contract_s_words_and_order() {
        assert_eq!(
            faults(&json!({"termsAccepted": "yes"})),
            [
                fault("invalid_type", "email", "Invalid input: expected string, received undefined"),
                fault("invalid_type", "password", "Invalid input: expected string, received undefined"),
                fault("invalid_type", "termsAccepted", "Invalid input: expected boolean, received string"),
            ]
        );
        assert_eq!(
            faults(&json!({"email": "a@localhost", "password": "short", "termsAccepted": null})),
            [
                fault("invalid_format", "email", "Invalid email format"),
                fault("too_small", "password", "Password must be at least 12 characters long"),
                fault("invalid_type", "termsAccepted", "Invalid input: expected boolean, received null"),
            ]
        );
        assert_eq!(
            faults(&json!({"email": [], "password": "x".repeat(1025)})),
            [
                fault("invalid_type", "email", "Invalid input: expected string, received array"),
                fault("too_big", "password", "Password must be at most 1024 bytes long"),
            ]
        );
        assert_eq!(faults(&json!({"email": "a@b.co", "password": "twelve chars", "other": 1})), []);
    }

    #[test]
    fn consent_counts_only_where_there_is_something_to_accept() {
        let consent = |body: Value, is_required| {
            let mut fields = Fields::of(Some(body), Shape::Object, is_required).ok().unwrap();
            let given = fields.consent();
            (given, fields.issues.first().map(|issue| issue.0["message"].as_str().unwrap().to_owned()))
        };
        let refusal = Some("You must accept the linked legal documents to register".to_owned());
        assert_eq!(consent(json!({"termsAccepted": true}), true), (Some(true), None));
        for body in [json!({}), json!({"termsAccepted": false}), json!({"termsAccepted": "true"})] {
            assert_eq!(consent(body, true), (None, refusal.clone()));
        }
        assert_eq!(consent(json!({"termsAccepted": true}), false), (Some(false), None));
        assert!(consent(json!({"termsAccepted": 1}), false).1.is_some());
    }

    #[test]
    fn login_and_token_members_must_not_be_empty() {
        let mut fields = Fields::of(Some(json!({"password": "", "token": ""})), Shape::Object, false).ok().unwrap();
        assert!(fields.password().is_none());
        assert!(fields.token().is_none());
        let messages: Vec<_> = fields.issues.iter().map(|i| i.0["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["Password is required", "Token is required"]);
        let mut fields = Fields::of(Some(json!({"password": "x", "token": "y"})), Shape::Object, false).ok().unwrap();
        assert_eq!(fields.password().unwrap().expose_secret(), "x");
        assert_eq!(fields.token().unwrap().expose_secret(), "y");
        assert!(fields.complete(Some(())).is_ok());
    }

    #[test]
    fn a_body_that_is_no_object_is_one_fault_where_one_is_needed() {
        for body in [None, Some(json!(null)), Some(json!([])), Some(json!("x"))] {
            assert!(Fields::of(body.clone(), Shape::Object, false).is_err());
            assert!(Fields::of(body, Shape::Anything, false).is_ok());
        }
    }
}
