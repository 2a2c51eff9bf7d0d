//! A state and what operations do to it (contract, section 10.2).

use serde_json::value::RawValue;

use super::object::{self, Members, Object, Problem, is_truthy, spread};
use super::{CURRENT_SCHEMA_VERSION, ReplayError, migrate};
use crate::protocol::{OpType, Seq, StoredOp, op};

/// Names that are never written: an app that assigns them would change its own object model.
const RESERVED: [&str; 3] = ["__proto__", "constructor", "prototype"];

fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
}

/// An app state: entity type (or app model) → id → object.
#[derive(Clone, Debug, Default)]
pub struct State {
    root: Object,
}

/// The app state that a full state's payload carries: its `appDataComplete` member if it has one, else the payload.
///
/// `None` when that is no JSON object.
#[must_use]
pub fn full_state_of(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    let value: &RawValue = serde_json::from_str(text).ok()?;
    if !object::is_object(value) {
        return None;
    }
    let members: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).ok()?;
    let state = members.get("appDataComplete").copied().unwrap_or(value);
    object::is_object(state).then(|| state.get())
}

impl State {
    /// A state without anything in it.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads a state as [`State::to_json`] wrote it, and migrates it from `schema_version`.
    ///
    /// # Errors
    /// [`ReplayError::InvalidState`] when the text is no JSON object, or the version is below 1.
    pub fn from_json(json: &[u8], schema_version: u8) -> Result<Self, ReplayError> {
        let mut members: Members = serde_json::from_slice(json).map_err(|_| ReplayError::InvalidState)?;
        if schema_version == 0 {
            return Err(ReplayError::InvalidState);
        }
        migrate::state(&mut members, schema_version).map_err(|_| ReplayError::InvalidState)?;
        Ok(Self { root: Object::from(members) })
    }

    /// The state as compact JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = String::with_capacity(self.json_len());
        self.root.write_json(&mut out);
        out.into_bytes()
    }

    /// The size of [`State::to_json`] in bytes, without writing it.
    #[must_use]
    pub fn json_len(&self) -> usize {
        self.root.json_len()
    }

    /// Applies an operation. Full states are taken as uploaded, without migration: a restore gives back exactly what
    /// the device sent, and the app migrates what it loads. The size is bounded by the caller ([`super::Replayer`]).
    ///
    /// # Errors
    /// [`ReplayError::Encrypted`], [`ReplayError::LegacyRepair`], [`ReplayError::InvalidFullState`],
    /// [`ReplayError::InvalidPayload`], [`ReplayError::Misplaced`], [`ReplayError::TooManyMembers`]. The state is of no
    /// use after an error.
    pub fn apply(&mut self, op: &StoredOp) -> Result<(), ReplayError> {
        let seq = op.server_seq;
        if op.is_payload_encrypted {
            return Err(ReplayError::Encrypted { seq });
        }
        if op.op_type == OpType::Repair && !op.is_causal_full_state() {
            return Err(ReplayError::LegacyRepair { seq });
        }
        let payload: Box<RawValue> =
            serde_json::from_slice(&op.payload).map_err(|_| ReplayError::InvalidPayload { seq })?;
        let effects = if op.schema_version < CURRENT_SCHEMA_VERSION {
            migrate::operation(op.entity_type, op.entity_id.as_deref(), payload, op.schema_version)
                .map_err(|problem| at(problem, seq))?
        } else {
            vec![migrate::Effect { entity_id: op.entity_id.clone(), payload }]
        };
        for effect in effects {
            if op.op_type.is_full_state() {
                self.replace(&effect.payload, seq)?;
            } else if op::entity_type(op.entity_type).is_some() {
                self.change_type(op, &effect)?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, payload: &RawValue, seq: Seq) -> Result<(), ReplayError> {
        let text = full_state_of(payload.get().as_bytes()).ok_or(ReplayError::InvalidFullState { seq })?;
        let mut members: Members = serde_json::from_str(text).map_err(|_| ReplayError::InvalidFullState { seq })?;
        members.retain(|key, _| !is_reserved(key));
        self.root = Object::from(members);
        Ok(())
    }

    /// The entity type's object is created even when nothing is written into it.
    fn change_type(&mut self, op: &StoredOp, effect: &migrate::Effect) -> Result<(), ReplayError> {
        let entity_id = effect.entity_id.as_deref().filter(|id| !id.is_empty());
        self.root
            .change(op.entity_type, object::open_container, |entities| {
                if entity_id.is_some_and(is_reserved) {
                    return Ok(());
                }
                match (op.op_type, entity_id) {
                    (OpType::Create | OpType::Update, Some(id)) => merge(entities, id, &effect.payload),
                    (OpType::Move, Some(id)) if is_truthy(&effect.payload) => merge(entities, id, &effect.payload),
                    (OpType::Delete, id) => {
                        let several = op.entity_ids.iter().map(|id| &**id);
                        let one = id.filter(|_| op.entity_ids.is_empty());
                        several.chain(one).filter(|id| !is_reserved(id)).for_each(|id| entities.remove(id));
                        Ok(())
                    }
                    (OpType::Batch, id) => batch(entities, id, &effect.payload),
                    _ => Ok(()),
                }
            })
            .map_err(|problem| at(problem, op.server_seq))
    }
}

fn at(problem: Problem, seq: Seq) -> ReplayError {
    match problem {
        Problem::NotAnObject => ReplayError::Misplaced { seq },
        Problem::Unreadable => ReplayError::InvalidPayload { seq },
        Problem::TooManyMembers => ReplayError::TooManyMembers { seq },
    }
}

/// Merges `payload` into the entity, member by member; creates it when missing.
fn merge(entities: &mut Object, id: &str, payload: &RawValue) -> Result<(), Problem> {
    entities.change(id, spread, |entity| {
        for (key, value) in spread(payload)? {
            entity.set(key, value);
        }
        Ok(())
    })
}

/// Several entities at once, or one without naming it twice.
fn batch(entities: &mut Object, id: Option<&str>, payload: &RawValue) -> Result<(), Problem> {
    if !payload.get().starts_with(['{', '[']) {
        return Ok(());
    }
    let listed = object::members(payload)?.and_then(|mut members| members.remove("entities"));
    match (listed.filter(|list| list.get().starts_with(['{', '['])), id) {
        (Some(list), _) => {
            for (id, entity) in spread(&list)? {
                if !is_reserved(&id) {
                    merge(entities, &id, &entity)?;
                }
            }
            Ok(())
        }
        (None, Some(id)) => merge(entities, id, payload),
        (None, None) => Ok(()),
    }
}
