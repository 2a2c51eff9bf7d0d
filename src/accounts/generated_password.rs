//! Passwords that are made up here, for accounts that an administrator opens.

use rand::Rng as _;
use secrecy::SecretString;

/// Without 0, o, 1, l, i, u: a password that is read from a screen and typed.
const ALPHABET: &[u8; 30] = b"23456789abcdefghjkmnpqrstwxyzv";
/// Groups of [`GROUP`] characters: 20 in all, 98 bits.
const GROUPS: usize = 4;
const GROUP: usize = 5;

/// A password that nobody can guess and that passes the rule for new ones.
#[must_use]
pub fn generate_password() -> SecretString {
    let mut rng = rand::rng();
    let mut password = String::with_capacity(GROUPS * (GROUP + 1));
    for place in 0..GROUPS * GROUP {
        if place != 0 && place % GROUP == 0 {
            password.push('-');
        }
        password.push(char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    }
    password.into()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::accounts::check_new_password;

    #[test]
    fn made_up_passwords_pass_the_rule_and_differ() {
        let (one, two) = (generate_password(), generate_password());
        assert_eq!(check_new_password(one.expose_secret()), Ok(()));
        assert_eq!(one.expose_secret().len(), 23);
        assert_ne!(one.expose_secret(), two.expose_secret());
    }
}
