//! Rebuilding state from operations (contract, section 10). Pure.
