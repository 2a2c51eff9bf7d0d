//! What replay is to come to, byte for byte: the same rules, written down without any care for memory and work.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::protocol::json::write_str;
use crate::protocol::limits::MAX_FULL_STATE_KEYS;
use crate::protocol::{OpType, StoredOp, op};
use crate::replay::CURRENT_SCHEMA_VERSION;

type Members = BTreeMap<String, Box<RawValue>>;

/// What was refused does not matter here.
#[derive(Debug)]
pub(super) struct Problem;

const RESERVED: [&str; 3] = ["__proto__", "constructor", "prototype"];

/// A state.
#[derive(Default)]
pub(super) struct Reference(Members);

impl Reference {
    pub(super) fn from_json(json: &[u8], version: u8) -> Result<Self, Problem> {
        let mut members: Members = serde_json::from_slice(json).map_err(|_| Problem)?;
        if version == 0 {
            return Err(Problem);
        }
        migrate_state(&mut members, version)?;
        Ok(Self(members))
    }

    pub(super) fn to_json(&self) -> String {
        raw(&self.0).get().to_owned()
    }

    pub(super) fn apply(&mut self, op: &StoredOp) -> Result<(), Problem> {
        let is_unreadable = op.is_payload_encrypted || op.schema_version > CURRENT_SCHEMA_VERSION;
        if is_unreadable || (op.op_type == OpType::Repair && !op.is_causal_full_state()) {
            return Err(Problem);
        }
        let payload: Box<RawValue> = serde_json::from_slice(&op.payload).map_err(|_| Problem)?;
        if op.op_type.is_full_state() {
            if op.schema_version > 0 {
                let mut outer = members(&payload)?.ok_or(Problem)?;
                let state = outer.remove("appDataComplete").unwrap_or(payload);
                self.0 = members(&state)?.ok_or(Problem)?;
                self.0.retain(|key, _| !RESERVED.contains(&&**key));
            }
            return Ok(());
        }
        let effects = if op.schema_version < CURRENT_SCHEMA_VERSION {
            operation(op.entity_type, op.entity_id.as_deref(), payload, op.schema_version)?
        } else {
            vec![Effect { entity_id: op.entity_id.clone(), payload }]
        };
        for effect in effects {
            if op::entity_type(op.entity_type).is_some() {
                change(&mut self.0, op.entity_type, open_container, |entities| write(entities, op, &effect))?;
            }
        }
        Ok(())
    }
}

fn write(entities: &mut Members, op: &StoredOp, effect: &Effect) -> Result<(), Problem> {
    let id = effect.entity_id.as_deref().filter(|id| !id.is_empty());
    if id.is_some_and(|id| RESERVED.contains(&id)) {
        return Ok(());
    }
    match (op.op_type, id) {
        (OpType::Create | OpType::Update, Some(id)) => merge(entities, id, &effect.payload),
        (OpType::Move, Some(id)) if is_truthy(&effect.payload) => merge(entities, id, &effect.payload),
        (OpType::Delete, id) => {
            let one = id.filter(|_| op.entity_ids.is_empty());
            for id in op.entity_ids.iter().map(|id| &**id).chain(one).filter(|id| !RESERVED.contains(id)) {
                entities.remove(id);
            }
            Ok(())
        }
        (OpType::Batch, id) => batch(entities, id, &effect.payload),
        _ => Ok(()),
    }
}

fn batch(entities: &mut Members, id: Option<&str>, payload: &RawValue) -> Result<(), Problem> {
    if !payload.get().starts_with(['{', '[']) {
        return Ok(());
    }
    let listed = members(payload)?.and_then(|mut members| members.remove("entities"));
    match (listed.filter(|list| list.get().starts_with(['{', '['])), id) {
        (Some(list), _) => {
            for (id, entity) in spread(&list)? {
                if !RESERVED.contains(&&*id) {
                    merge(entities, &id, &entity)?;
                }
            }
            Ok(())
        }
        (None, Some(id)) => merge(entities, id, payload),
        (None, None) => Ok(()),
    }
}

fn merge(entities: &mut Members, id: &str, payload: &RawValue) -> Result<(), Problem> {
    change(entities, id, spread, |entity| {
        entity.extend(spread(payload)?);
        Ok(())
    })
}

fn change(
    holder: &mut Members,
    key: &str,
    open: fn(&RawValue) -> Result<Members, Problem>,
    change: impl FnOnce(&mut Members) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut inner = holder.get(key).map_or(Ok(Members::new()), |value| open(value))?;
    change(&mut inner)?;
    holder.insert(key.to_owned(), raw(&inner));
    Ok(())
}

fn members(value: &RawValue) -> Result<Option<Members>, Problem> {
    if is_object(value) { serde_json::from_str(value.get()).map(Some).map_err(|_| Problem) } else { Ok(None) }
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

fn is_truthy(value: &RawValue) -> bool {
    match value.get() {
        "null" | "false" | "\"\"" => false,
        // A number too large to be read is infinite there, hence true.
        text if text.starts_with(['-', '0']) => text.parse() != Ok(0.0_f64),
        _ => true,
    }
}

fn open_container(value: &RawValue) -> Result<Members, Problem> {
    match members(value)? {
        Some(members) => Ok(members),
        None if is_truthy(value) => Err(Problem),
        None => Ok(Members::new()),
    }
}

fn spread(value: &RawValue) -> Result<Members, Problem> {
    let text = value.get();
    if text.starts_with('[') {
        let elements: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(|_| Problem)?;
        Ok(elements.into_iter().enumerate().map(|(i, element)| (i.to_string(), element)).collect())
    } else if text.starts_with('"') {
        let string: String = serde_json::from_str(text).map_err(|_| Problem)?;
        // Objects and arrays are bounded when they are uploaded, strings are not.
        if string.len() > MAX_FULL_STATE_KEYS {
            return Err(Problem);
        }
        Ok(string.encode_utf16().enumerate().map(|(i, unit)| (i.to_string(), unit_text(unit))).collect())
    } else {
        Ok(members(value)?.unwrap_or_default())
    }
}

fn unit_text(unit: u16) -> Box<RawValue> {
    let mut text = String::new();
    match char::from_u32(u32::from(unit)) {
        Some(c) => write_str(&mut text, c.encode_utf8(&mut [0; 4])),
        None => text = format!("\"\\u{unit:04x}\""),
    }
    RawValue::from_string(text).expect("a JSON string of one unit")
}
/// What an old settings key became.
enum Target {
    Renamed(&'static str),
    Negated(&'static str),
}

const MOVED: [(&str, Target); 7] = [
    ("isConfirmBeforeTaskDelete", Target::Renamed("isConfirmBeforeDelete")),
    ("isAutoAddWorkedOnToToday", Target::Renamed("isAutoAddWorkedOnToToday")),
    ("isAutMarkParentAsDone", Target::Renamed("isAutoMarkParentAsDone")),
    ("isTrayShowCurrentTask", Target::Renamed("isTrayShowCurrent")),
    ("isTurnOffMarkdown", Target::Negated("isMarkdownFormattingInNotesEnabled")),
    ("defaultProjectId", Target::Renamed("defaultProjectId")),
    ("taskNotesTpl", Target::Renamed("notesTemplate")),
];

fn has_moved(config: &Members) -> bool {
    MOVED.iter().any(|(key, _)| config.contains_key(*key))
}

fn take_moved(misc: &mut Members) -> Members {
    let mut tasks = Members::new();
    for (key, target) in &MOVED {
        let Some(value) = misc.remove(*key) else { continue };
        match target {
            Target::Renamed(name) => tasks.insert((*name).to_owned(), value),
            Target::Negated(name) => {
                tasks.insert((*name).to_owned(), constant(if is_truthy(&value) { "false" } else { "true" }))
            }
        };
    }
    tasks
}

fn constant(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("constants here are JSON")
}

fn raw(members: &Members) -> Box<RawValue> {
    serde_json::value::to_raw_value(members).expect("a map of strings to JSON text can be written")
}

fn migrate_state(state: &mut Members, version: u8) -> Result<(), Problem> {
    if version >= CURRENT_SCHEMA_VERSION {
        return Ok(());
    }
    let Some(mut config) = member_object(state, "globalConfig")? else { return Ok(()) };
    let mut changed = false;
    if version < 2 {
        changed |= settings_to_tasks(&mut config)?;
    }
    if version < 3 {
        changed |= default_idle(&mut config)?;
    }
    if changed {
        state.insert("globalConfig".to_owned(), raw(&config));
    }
    Ok(())
}

fn member_object(holder: &Members, key: &str) -> Result<Option<Members>, Problem> {
    holder.get(key).map_or(Ok(None), |value| members(value))
}

fn settings_to_tasks(config: &mut Members) -> Result<bool, Problem> {
    let Some(mut misc) = member_object(config, "misc")?.filter(has_moved) else { return Ok(false) };
    let mut tasks = take_moved(&mut misc);
    if let Some(present) = config.get("tasks") {
        tasks.extend(spread(present)?);
    }
    config.insert("misc".to_owned(), raw(&misc));
    config.insert("tasks".to_owned(), raw(&tasks));
    Ok(true)
}

fn default_idle(config: &mut Members) -> Result<bool, Problem> {
    const KEY: &str = "isSuppressIdleDuringFocusMode";
    let Some(mut idle) = member_object(config, "idle")? else { return Ok(false) };
    if idle.get(KEY).is_some_and(|value| matches!(value.get(), "true" | "false")) {
        return Ok(false);
    }
    idle.insert(KEY.to_owned(), constant("false"));
    config.insert("idle".to_owned(), raw(&idle));
    Ok(true)
}

struct Effect {
    entity_id: Option<Arc<str>>,
    payload: Box<RawValue>,
}

fn operation(
    entity_type: &str,
    entity_id: Option<&str>,
    payload: Box<RawValue>,
    version: u8,
) -> Result<Vec<Effect>, Problem> {
    if version == 0 {
        return Ok(Vec::new());
    }
    if version == 1 && entity_type == "GLOBAL_CONFIG" && entity_id == Some("misc") {
        match split(&payload)? {
            Split::Unaffected => {}
            Split::Failed => return Ok(Vec::new()),
            Split::Parts(parts) => return Ok(parts),
        }
    }
    Ok(vec![Effect { entity_id: entity_id.map(Into::into), payload }])
}

enum Split {
    Unaffected,
    Failed,
    Parts(Vec<Effect>),
}

enum Wrapper {
    Action(Members),
    Section,
    Bare,
}

fn split(payload: &RawValue) -> Result<Split, Problem> {
    let Some(outer) = members(payload)? else { return Ok(Split::Unaffected) };
    let action_text = outer.get("actionPayload").map_or("", |value| value.get());
    let (wrapper, config) = if action_text == "null" {
        return Ok(Split::Failed);
    } else if action_text.starts_with('[') {
        return Ok(Split::Unaffected);
    } else if let Some(action) = member_object(&outer, "actionPayload")? {
        let config = member_object(&action, "sectionCfg")?;
        (Wrapper::Action(action), config)
    } else if outer.contains_key("sectionCfg") {
        (Wrapper::Section, member_object(&outer, "sectionCfg")?)
    } else {
        (Wrapper::Bare, Some(outer.clone()))
    };
    let Some(mut misc) = config.filter(has_moved) else { return Ok(Split::Unaffected) };
    let tasks = take_moved(&mut misc);
    let wrap = |config: &Members, section: &str| {
        let in_section = |mut holder: Members| {
            holder.insert("sectionKey".to_owned(), constant(&format!("\"{section}\"")));
            holder.insert("sectionCfg".to_owned(), raw(config));
            raw(&holder)
        };
        match &wrapper {
            Wrapper::Action(action) => {
                let mut outer = outer.clone();
                outer.insert("actionPayload".to_owned(), in_section(action.clone()));
                raw(&outer)
            }
            Wrapper::Section => in_section(outer.clone()),
            Wrapper::Bare => raw(config),
        }
    };
    let mut parts = Vec::with_capacity(2);
    for (config, section) in [(&misc, "misc"), (&tasks, "tasks")] {
        if !config.is_empty() {
            parts.push(Effect { entity_id: Some(section.into()), payload: wrap(config, section) });
        }
    }
    Ok(Split::Parts(parts))
}
