//! The members of account requests, as [`Fields`](crate::http::fields::Fields) reads them: each of its readers has a
//! description of the same name here.

use utoipa::openapi::schema::{KnownFormat, Object, SchemaFormat};
use utoipa::openapi::{ObjectBuilder, Type};

use crate::accounts::{MAX_ADDRESS_CHARS, MAX_PASSWORD_BYTES, MAX_SESSION_NAME_CHARS, MIN_PASSWORD_CHARS};

/// The members of a request that is being described.
#[derive(Default)]
pub struct Outline(ObjectBuilder);

fn of_type(of: Type, meaning: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(of).description(Some(meaning))
}

fn text(meaning: &str) -> ObjectBuilder {
    of_type(Type::String, meaning)
}

fn address() -> ObjectBuilder {
    let format = SchemaFormat::Custom("email".to_owned());
    text("An email address.").format(Some(format)).max_length(Some(MAX_ADDRESS_CHARS))
}

fn secret(meaning: &str) -> ObjectBuilder {
    text(meaning).format(Some(SchemaFormat::KnownFormat(KnownFormat::Password))).min_length(Some(1))
}

fn credential() -> ObjectBuilder {
    of_type(Type::Object, "The browser's answer, with binary members in Base64url.")
}

fn new_password() -> ObjectBuilder {
    secret("The new password; at most 1024 bytes.").min_length(Some(MIN_PASSWORD_CHARS))
}

impl Outline {
    pub(super) fn build(self) -> Object {
        self.0.build()
    }

    fn optional(&mut self, name: &str, schema: ObjectBuilder) {
        self.0 = std::mem::take(&mut self.0).property(name, schema);
    }

    fn required(&mut self, name: &str, schema: ObjectBuilder) {
        self.optional(name, schema);
        self.0 = std::mem::take(&mut self.0).required(name);
    }

    pub fn email(&mut self) {
        self.required("email", address());
    }

    pub fn optional_email(&mut self) {
        self.optional("email", address());
    }

    pub fn registration(&mut self) {
        self.email();
        self.consent();
        self.invite();
    }

    pub fn new_password(&mut self, name: &str) {
        self.required(name, new_password());
    }

    pub fn optional_new_password(&mut self) {
        self.optional("password", new_password());
    }

    pub fn password(&mut self) {
        self.required("password", secret("The password.").max_length(Some(MAX_PASSWORD_BYTES)));
    }

    pub fn current_password(&mut self) {
        self.optional("currentPassword", secret("Proves who asks.").max_length(Some(MAX_PASSWORD_BYTES)));
    }

    pub fn token(&mut self) {
        self.required("token", secret("The token of the mailed link."));
    }

    pub fn name(&mut self) {
        let schema = text("A name for people.").min_length(Some(1)).max_length(Some(MAX_SESSION_NAME_CHARS));
        self.required("name", schema);
    }

    pub fn invite(&mut self) {
        self.optional("invite", text("The token of an invitation."));
    }

    pub fn credential(&mut self) {
        self.required("credential", credential());
    }

    pub fn optional_credential(&mut self) {
        self.optional("credential", credential());
    }

    pub fn optional_bool(&mut self, name: &str) {
        self.optional(name, ObjectBuilder::new().schema_type(Type::Boolean));
    }

    pub fn flag(&mut self, name: &str) {
        self.optional_bool(name);
    }

    pub fn switch_on(&mut self, name: &str) {
        self.optional(name, of_type(Type::Boolean, "True, or absent.").enum_values(Some([true])));
    }

    pub fn optional_count(&mut self, name: &str) {
        self.optional(name, ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)));
    }

    pub fn consent(&mut self) {
        let meaning = "Must be true where the server has legal documents to accept.";
        self.optional("termsAccepted", of_type(Type::Boolean, meaning));
    }
}
