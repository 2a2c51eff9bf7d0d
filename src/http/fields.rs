//! The members of an account request and what may be wrong with them, in the words of the contract (accounts, section
//! 1.4).
//!
//! Every fault is reported at once, in the order in which a handler asks for the members. Members that nobody asks for
//! are ignored.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::accounts::{
    Address, AddressError, MAX_PASSWORD_BYTES, MAX_SESSION_NAME_CHARS, PasswordRuleError, check_new_password,
};
use crate::http::error::{ApiError, ApiResult};
use crate::protocol::response::Issue;

/// A request's members, and the faults found so far.
pub(super) struct Fields {
    members: Map<String, Value>,
    issues: Vec<Issue>,
}

impl Fields {
    /// The members of a JSON object. Anything else, or no body, is a fault of the whole.
    pub(super) fn of(body: Option<Value>) -> ApiResult<Self> {
        match body {
            Some(Value::Object(members)) => Ok(Self { members, issues: Vec::new() }),
            other => Err(ApiError::validation(Some(vec![wrong_type("object", other.as_ref(), None)]))),
        }
    }

    /// The refusal with every fault found so far.
    pub(super) fn refuse(self) -> ApiError {
        ApiError::validation(Some(self.issues))
    }

    /// Goes on only if there is no fault.
    pub(super) fn check(self) -> ApiResult<()> {
        if self.issues.is_empty() { Ok(()) } else { Err(self.refuse()) }
    }

    /// A member as it was sent, if it is a text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.members.get(name)?.as_str().map(str::to_owned)
    }

    /// `email`.
    pub(super) fn address(&mut self) -> Option<Address> {
        let Some(text) = self.text("email") else {
            self.expected("string", "email");
            return None;
        };
        let error = match Address::parse(&text) {
            Ok(address) => return Some(address),
            Err(error) => error,
        };
        let code = match error {
            AddressError::Form => "invalid_format",
            AddressError::TooLong => "too_big",
        };
        self.fault("email", code, &error.to_string());
        None
    }

    /// `password` where a new one is set.
    pub(super) fn new_password(&mut self) -> Option<SecretString> {
        self.chosen_password("password")
    }

    /// A new password in a member with this name.
    pub(super) fn chosen_password(&mut self, name: &str) -> Option<SecretString> {
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

    /// `password` where it is compared with the stored one.
    pub(super) fn password(&mut self) -> Option<SecretString> {
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
    pub(super) fn token(&mut self) -> Option<SecretString> {
        let token = self.secret("token")?;
        if token.expose_secret().is_empty() {
            self.fault("token", "too_small", "Token is required");
            return None;
        }
        Some(token)
    }

    /// `name`: what a person calls something, without what surrounds it and without control characters.
    pub(super) fn name(&mut self) -> Option<String> {
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
    pub(super) fn invite(&mut self) -> Option<SecretString> {
        match self.members.get("invite") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(_) => self.secret("invite"),
        }
    }

    /// `credential`: what a browser's authenticator gave. Its contents are judged later.
    pub(super) fn credential(&mut self) -> Option<Map<String, Value>> {
        if let Some(Value::Object(credential)) = self.members.get_mut("credential") {
            return Some(std::mem::take(credential));
        }
        self.expected("object", "credential");
        None
    }

    /// `currentPassword`, if it was given.
    pub(super) fn current_password(&mut self) -> Option<SecretString> {
        match self.members.get("currentPassword") {
            None | Some(Value::Null) => None,
            Some(_) => self.given_password("currentPassword"),
        }
    }

    /// Whether a member was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| !value.is_null())
    }

    /// A boolean; absent counts as false.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.optional_bool(name);
        self.members.get(name) == Some(&Value::Bool(true))
    }

    /// A member that is a boolean or absent.
    pub(super) fn optional_bool(&mut self, name: &str) {
        if !matches!(self.members.get(name), None | Some(Value::Bool(_))) {
            self.expected("boolean", name);
        }
    }

    /// A member that is a whole number above 0, or absent.
    pub(super) fn optional_count(&mut self, name: &str) -> Option<i64> {
        let value = self.members.get(name)?;
        let Some(number) = value.as_i64() else {
            self.expected("integer", name);
            return None;
        };
        if number <= 0 {
            self.fault(name, "too_small", "A number above 0 is needed");
            return None;
        }
        Some(number)
    }

    /// A member that is a boolean, if it is there.
    pub(super) fn bool_if_given(&mut self, name: &str) -> Option<bool> {
        self.optional_bool(name);
        self.members.get(name)?.as_bool()
    }

    /// A member that can only be switched on: `true`, or absent.
    pub(super) fn true_if_given(&mut self, name: &str) -> bool {
        let given = self.bool_if_given(name);
        if given == Some(false) {
            self.fault(name, "invalid_value", "This can't be taken back");
        }
        given == Some(true)
    }

    /// `termsAccepted`: must be true where there is something to accept. Gives whether consent was needed and given: what
    /// nobody asked for is not recorded (accounts contract, section 13).
    pub(super) fn consent(&mut self, is_required: bool) -> bool {
        if !is_required {
            self.optional_bool("termsAccepted");
            return false;
        }
        let given = self.members.get("termsAccepted") == Some(&Value::Bool(true));
        if !given {
            self.fault("termsAccepted", "invalid_value", "You must accept the linked legal documents to register");
        }
        given
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
        let mut fields = Fields::of(Some(body.clone())).ok().unwrap();
        let _address = fields.address();
        let _password = fields.new_password();
        fields.optional_bool("termsAccepted");
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
            let mut fields = Fields::of(Some(body)).ok().unwrap();
            let given = fields.consent(is_required);
            (given, fields.issues.first().map(|issue| issue.0["message"].as_str().unwrap().to_owned()))
        };
        let refusal = Some("You must accept the linked legal documents to register".to_owned());
        assert_eq!(consent(json!({"termsAccepted": true}), true), (true, None));
        for body in [json!({}), json!({"termsAccepted": false}), json!({"termsAccepted": "true"})] {
            assert_eq!(consent(body, true), (false, refusal.clone()));
        }
        assert_eq!(consent(json!({"termsAccepted": true}), false), (false, None));
        assert!(consent(json!({"termsAccepted": 1}), false).1.is_some());
    }

    #[test]
    fn login_and_token_members_must_not_be_empty() {
        let mut fields = Fields::of(Some(json!({"password": "", "token": ""}))).ok().unwrap();
        assert!(fields.password().is_none());
        assert!(fields.token().is_none());
        let messages: Vec<_> = fields.issues.iter().map(|i| i.0["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["Password is required", "Token is required"]);
        let mut fields = Fields::of(Some(json!({"password": "x", "token": "y"}))).ok().unwrap();
        assert_eq!(fields.password().unwrap().expose_secret(), "x");
        assert_eq!(fields.token().unwrap().expose_secret(), "y");
        assert!(fields.check().is_ok());
    }

    #[test]
    fn a_body_that_is_no_object_is_one_fault() {
        for body in [None, Some(json!(null)), Some(json!([])), Some(json!("x"))] {
            assert!(Fields::of(body).is_err());
        }
    }
}
