//! Accounts that can't be written: they are left as they were, the others are not.
