//! A state and what operations do to it (contract, section 10.2).

use std::borrow::Cow;

use bytes::Bytes;

use super::object::Object;
use super::room::{Problem, Room, heap};
use super::spread::{open_container, spread};
use super::text::{self, Fields, Value, is_object, is_truthy};
use super::{CURRENT_SCHEMA_VERSION, ReplayError, migrate};
use crate::protocol::{OpType, Seq, StoredOp, op};

/// Names that are never written: an app that assigns them would change its own object model.
const RESERVED: [&str; 3] = ["__proto__", "constructor", "prototype"];

fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
}

/// An app state: entity type (or app model) → id → object. It is of no use after an error.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct State {
    /// The text that the state began with; what was not changed since lies in it.
    base: Bytes,
    root: Object,
}

impl State {
    /// Reads a state as [`State::into_json`] wrote it, and migrates it from `schema_version`. The text's memory has been
    /// taken.
    pub(super) fn from_json(json: Bytes, schema_version: u8, room: &mut Room) -> Result<Self, Problem> {
        let range = text::only_value(&json, room)?;
        let mut state = Self { base: json, root: Object::default() };
        state.fill(range, |_| true, room)?;
        if !(1..=CURRENT_SCHEMA_VERSION).contains(&schema_version) {
            return Err(Problem::Unreadable);
        }
        let config = state.root.text("globalConfig", &state.base)?;
        let migrated = config.map_or(Ok(None), |text| migrate::global_config(text, schema_version, room))?;
        if let Some(migrated) = migrated {
            state.root.set("globalConfig", &Value::Text(&migrated), room)?;
            room.give(heap(migrated.capacity()));
        }
        Ok(state)
    }

    /// Takes the members of the object that lies there in the base.
    fn fill(
        &mut self,
        range: std::ops::Range<usize>,
        wanted: fn(&str) -> bool,
        room: &mut Room,
    ) -> Result<(), Problem> {
        let text = text::piece(&self.base, range.start, range.len())?;
        if !is_object(text) {
            return Err(Problem::NotAnObject);
        }
        let (members, at) = (&mut self.root, range.start);
        text::members(text, room, |key, value, room| {
            if wanted(key) {
                members.set(key, &Value::Piece(at + value.start..at + value.end), room)?;
            }
            Ok(())
        })
    }

    /// The state as compact JSON, in pieces that follow each other.
    pub(super) fn into_json(self, room: &mut Room) -> Result<Vec<Bytes>, Problem> {
        self.root.into_json(&self.base, room)
    }

    /// The size of [`State::into_json`] in bytes, without writing it.
    pub(super) fn json_len(&self) -> usize {
        self.root.json_len()
    }

    /// Applies an operation. Full states are taken as uploaded, without migration: a restore gives back exactly what
    /// the device sent, and the app migrates what it loads. The memory of its payload has been taken, and stays taken
    /// if `true` is returned: the payload is a part of the state then.
    pub(super) fn apply(&mut self, op: StoredOp, room: &mut Room) -> Result<bool, ReplayError> {
        let seq = op.server_seq;
        if op.is_payload_encrypted {
            return Err(ReplayError::Encrypted { seq });
        }
        if op.schema_version > CURRENT_SCHEMA_VERSION {
            return Err(ReplayError::NewerSchema { seq, version: op.schema_version });
        }
        if op.op_type == OpType::Repair && !op.is_causal_full_state() {
            return Err(ReplayError::LegacyRepair { seq });
        }
        let range = text::only_value(&op.payload, room).map_err(|problem| at(problem, seq))?;
        if op.op_type.is_full_state() {
            // A migration changes nothing but the settings of one entity; it fails for what claims to be older than all.
            if op.schema_version == 0 {
                return Ok(false);
            }
            return self.replace(op.payload, range, room).map(|()| true).map_err(|problem| match problem {
                Problem::NotAnObject | Problem::Unreadable => ReplayError::InvalidFullState { seq },
                other => at(other, seq),
            });
        }
        self.change(&op, range, room).map(|()| false).map_err(|problem| at(problem, seq))
    }

    fn change(&mut self, op: &StoredOp, range: std::ops::Range<usize>, room: &mut Room) -> Result<(), Problem> {
        let payload = text::piece(&op.payload, range.start, range.len())?;
        let effects = migrate::operation(op.entity_type, op.entity_id.as_deref(), payload, op.schema_version, room)?;
        for effect in effects {
            if op::entity_type(op.entity_type).is_some() {
                if room.should_close() {
                    self.root.close_within(&self.base, room)?;
                }
                self.change_type(op, &effect, room)?;
            }
            if let Cow::Owned(payload) = effect.payload {
                room.give(heap(payload.capacity()));
            }
        }
        Ok(())
    }

    /// What was there before is freed first.
    fn replace(&mut self, payload: Bytes, range: std::ops::Range<usize>, room: &mut Room) -> Result<(), Problem> {
        room.give(self.root.heap() + heap(self.base.len()));
        *self = Self::default();
        let text = text::piece(&payload, range.start, range.len())?;
        if !is_object(text) {
            return Err(Problem::NotAnObject);
        }
        let mut state = range.clone();
        text::members(text, room, |key, value, _| {
            if key == "appDataComplete" {
                state = range.start + value.start..range.start + value.end;
            }
            Ok(())
        })?;
        // What else the memory holds that the payload lies in is not known here.
        if payload.is_unique() {
            self.base = payload;
        } else {
            room.take(heap(payload.len()))?;
            self.base = Bytes::copy_from_slice(&payload);
            room.give(heap(payload.len()));
        }
        self.fill(state, |key| !is_reserved(key), room)
    }

    /// The entity type's object is created even when nothing is written into it.
    fn change_type(&mut self, op: &StoredOp, effect: &migrate::Effect<'_>, room: &mut Room) -> Result<(), Problem> {
        let entity_id = effect.entity_id.filter(|id| !id.is_empty());
        let (base, payload) = (&*self.base, &*effect.payload);
        self.root.change(op.entity_type, base, room, open_container, |entities, room| {
            if entity_id.is_some_and(is_reserved) {
                return Ok(());
            }
            match (op.op_type, entity_id) {
                (OpType::Create | OpType::Update, Some(id)) => merge(entities, id, payload, base, room),
                (OpType::Move, Some(id)) if is_truthy(payload) => merge(entities, id, payload, base, room),
                (OpType::Delete, id) => {
                    let several = op.entity_ids.iter().map(|id| &**id);
                    let one = id.filter(|_| op.entity_ids.is_empty());
                    several.chain(one).filter(|id| !is_reserved(id)).try_for_each(|id| entities.remove(id, room))
                }
                (OpType::Batch, id) => batch(entities, id, payload, base, room),
                _ => Ok(()),
            }
        })
    }
}

fn at(problem: Problem, seq: Seq) -> ReplayError {
    match problem {
        Problem::NotAnObject => ReplayError::Misplaced { seq },
        Problem::Unreadable => ReplayError::InvalidPayload { seq },
        Problem::TooManyMembers => ReplayError::TooManyMembers { seq },
        Problem::TooLarge(_) | Problem::Full | Problem::Exhausted | Problem::Stopped => problem.into(),
    }
}

/// Merges `payload` into the entity, member by member; creates it when missing.
fn merge(entities: &mut Object, id: &str, payload: &str, base: &[u8], room: &mut Room) -> Result<(), Problem> {
    if room.should_close() {
        entities.close(base, room)?;
    }
    entities.change(id, base, room, spread, |entity, room| spread(payload, None, entity, room))
}

/// Several entities at once, or one without naming it twice.
fn batch(entities: &mut Object, id: Option<&str>, payload: &str, base: &[u8], room: &mut Room) -> Result<(), Problem> {
    if !payload.starts_with(['{', '[']) {
        return Ok(());
    }
    let listed = if is_object(payload) { text::member(payload, "entities", room)? } else { None };
    match (listed, id) {
        (Some(list), _) if is_object(list) => {
            let Some(list) = Fields::read(list, room)? else { return Ok(()) };
            let growth = list.iter().map(|(_, entity)| text::least_growth(entity)).sum::<usize>();
            room.json_grows(growth)?;
            for (id, entity) in list.iter().filter(|(id, _)| !is_reserved(id)) {
                merge(entities, id, entity, base, room)?;
            }
            list.give(room);
            Ok(())
        }
        (Some(list), _) if list.starts_with('[') => text::elements(list, room, |i, range, room| {
            merge(entities, itoa::Buffer::new().format(i), &list[range], base, room)
        }),
        (_, Some(id)) => merge(entities, id, payload, base, room),
        (_, None) => Ok(()),
    }
}
