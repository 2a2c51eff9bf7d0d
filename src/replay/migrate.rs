//! Schema migrations 1 → 2 → 3 → 4 (contract, section 10.3). The log keeps operations as they came; migration exists
//! only for replay.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::CURRENT_SCHEMA_VERSION;
use super::object::{Members, Problem, is_truthy, members, spread};

/// What an old settings key became.
enum Target {
    /// The same value under another key.
    Renamed(&'static str),
    /// The opposite under another key.
    Negated(&'static str),
}

/// The settings that schema 2 moved from `misc` to `tasks`.
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

/// Takes the moved settings out of `misc` and returns them under their new names.
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

/// Migrates a state from `version` to [`CURRENT_SCHEMA_VERSION`]. A state that is migrated already does not change.
pub(super) fn state(state: &mut Members, version: u8) -> Result<(), Problem> {
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

/// The members of `holder[key]` if that is an object.
fn member_object(holder: &Members, key: &str) -> Result<Option<Members>, Problem> {
    holder.get(key).map_or(Ok(None), |value| members(value))
}

/// 1 → 2: what `tasks` has already is newer and stays.
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

/// 2 → 3: a setting that became required.
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

/// One effect of an operation after migration.
pub(super) struct Effect {
    /// The entity it is about.
    pub entity_id: Option<Arc<str>>,
    /// What it writes.
    pub payload: Box<RawValue>,
}

/// An operation's effects after migration from `version`; none when the operation can't be migrated and is left out.
pub(super) fn operation(
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
    /// There is nothing to move.
    Unaffected,
    /// The app's own migration fails.
    Failed,
    Parts(Vec<Effect>),
}

/// Where in a payload the settings stand.
enum Wrapper {
    /// `payload.actionPayload.sectionCfg`
    Action(Members),
    /// `payload.sectionCfg`
    Section,
    /// The payload itself.
    Bare,
}

/// 1 → 2 for an operation on `misc`: the rest stays with `misc`, the moved settings go to `tasks`, each in the same
/// wrapper.
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
