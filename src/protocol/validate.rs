//! Semantic validation of operations, one by one, first failure wins (contract, section 5.4).
