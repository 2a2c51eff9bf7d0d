//! The sync engine: one supervised actor per active account.
