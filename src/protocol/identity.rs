//! shim
use super::*;
pub fn same_operation(_a: &StoredOp, _b: &ValidOp) -> bool {
    todo!()
}
pub fn same_full_state(_a: &StoredOp, _b: &ValidOp) -> bool {
    todo!()
}
