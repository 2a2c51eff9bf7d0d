//! Schema migrations 1 → 2 → 3 → 4 (contract, section 10.3). The log keeps operations as they came; migration exists
//! only for replay.

use std::borrow::Cow;

use super::CURRENT_SCHEMA_VERSION;
use super::object::Object;
use super::room::{Problem, Room, heap};
use super::spread::spread;
use super::text::{Fields, Value, is_truthy, json_of};

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

/// The moved settings under their new names, taken out of `misc`; empty if it has none.
fn take_moved<'a>(misc: &mut Fields<'a>) -> Vec<(&'static str, &'a str)> {
    let mut moved = Vec::new();
    for (key, target) in &MOVED {
        let Some(value) = misc.remove(key) else { continue };
        moved.push(match target {
            Target::Renamed(name) => (*name, value),
            Target::Negated(name) => (*name, if is_truthy(value) { "false" } else { "true" }),
        });
    }
    moved
}

/// What `globalConfig` becomes when it is migrated from `version` to [`CURRENT_SCHEMA_VERSION`]; `None`: it stays as it
/// is. One that is migrated already does not change.
pub(super) fn global_config(text: &str, version: u8, room: &mut Room) -> Result<Option<String>, Problem> {
    if version >= CURRENT_SCHEMA_VERSION {
        return Ok(None);
    }
    let mut migrated: Option<String> = None;
    for (below, step) in [(2, settings_to_tasks as Step), (3, default_idle)] {
        if version < below {
            let Some(config) = Fields::read(migrated.as_deref().unwrap_or(text), room)? else { return Ok(None) };
            let changed = step(&config, room)?;
            config.give(room);
            if let Some(changed) = changed {
                room.give(migrated.map_or(0, |old| heap(old.capacity())));
                migrated = Some(changed);
            }
        }
    }
    Ok(migrated)
}

/// What `globalConfig` becomes; `None`: nothing is to be changed.
type Step = fn(&Fields<'_>, &mut Room) -> Result<Option<String>, Problem>;

/// 1 → 2: what `tasks` has already is newer and stays.
fn settings_to_tasks(config: &Fields<'_>, room: &mut Room) -> Result<Option<String>, Problem> {
    let Some(mut misc) = config.object("misc", room)? else { return Ok(None) };
    let moved = take_moved(&mut misc);
    if moved.is_empty() {
        misc.give(room);
        return Ok(None);
    }
    let mut tasks = Object::default();
    for (name, value) in moved {
        tasks.set(name, &Value::Text(value), room)?;
    }
    if let Some(present) = config.get("tasks") {
        spread(present, None, &mut tasks, room)?;
    }
    let tasks = tasks.into_text(room)?;
    let misc_json = misc.json_with(&[], room)?;
    misc.give(room);
    let json = config.json_with(&[("misc", &misc_json), ("tasks", &tasks)], room)?;
    room.give(heap(tasks.capacity()) + heap(misc_json.capacity()));
    Ok(Some(json))
}

/// 2 → 3: a setting that became required.
fn default_idle(config: &Fields<'_>, room: &mut Room) -> Result<Option<String>, Problem> {
    const KEY: &str = "isSuppressIdleDuringFocusMode";
    let Some(idle) = config.object("idle", room)? else { return Ok(None) };
    if idle.get(KEY).is_some_and(|value| matches!(value, "true" | "false")) {
        idle.give(room);
        return Ok(None);
    }
    let idle_json = idle.json_with(&[(KEY, "false")], room)?;
    idle.give(room);
    let json = config.json_with(&[("idle", &idle_json)], room)?;
    room.give(heap(idle_json.capacity()));
    Ok(Some(json))
}

/// One effect of an operation after migration.
pub(super) struct Effect<'a> {
    /// The entity it is about.
    pub entity_id: Option<&'a str>,
    /// What it writes.
    pub payload: Cow<'a, str>,
}

/// An operation's effects after migration from `version`; none when the operation can't be migrated and is left out.
pub(super) fn operation<'a>(
    entity_type: &str,
    entity_id: Option<&'a str>,
    payload: &'a str,
    version: u8,
    room: &mut Room,
) -> Result<Vec<Effect<'a>>, Problem> {
    if version == 0 {
        return Ok(Vec::new());
    }
    if version == 1 && entity_type == "GLOBAL_CONFIG" && entity_id == Some("misc") {
        match split(payload, room)? {
            Split::Unaffected => {}
            Split::Failed => return Ok(Vec::new()),
            Split::Parts(parts) => return Ok(parts),
        }
    }
    Ok(vec![Effect { entity_id, payload: Cow::Borrowed(payload) }])
}

enum Split<'a> {
    /// There is nothing to move.
    Unaffected,
    /// The app's own migration fails.
    Failed,
    Parts(Vec<Effect<'a>>),
}

/// Where in a payload the settings stand.
enum Wrapper<'a> {
    /// `payload.actionPayload.sectionCfg`
    Action(Fields<'a>),
    /// `payload.sectionCfg`
    Section,
    /// The payload itself.
    Bare,
}

/// 1 → 2 for an operation on `misc`: the rest stays with `misc`, the moved settings go to `tasks`, each in the same
/// wrapper.
fn split<'a>(payload: &'a str, room: &mut Room) -> Result<Split<'a>, Problem> {
    let Some(outer) = Fields::read(payload, room)? else { return Ok(Split::Unaffected) };
    let action_text = outer.get("actionPayload").unwrap_or_default();
    let (wrapper, config) = if action_text == "null" {
        outer.give(room);
        return Ok(Split::Failed);
    } else if action_text.starts_with('[') {
        outer.give(room);
        return Ok(Split::Unaffected);
    } else if let Some(action) = outer.object("actionPayload", room)? {
        let config = action.object("sectionCfg", room)?;
        (Wrapper::Action(action), config)
    } else if outer.get("sectionCfg").is_some() {
        (Wrapper::Section, outer.object("sectionCfg", room)?)
    } else {
        (Wrapper::Bare, Fields::read(payload, room)?)
    };
    let mut config = config;
    let moved = config.as_mut().map(take_moved).unwrap_or_default();
    let mut parts = Vec::with_capacity(2);
    if let Some(misc) = config.take_if(|_| !moved.is_empty()) {
        if !misc.is_empty() {
            let rest = misc.json_with(&[], room)?;
            parts.push(wrap(&outer, &wrapper, "misc", rest, room)?);
        }
        misc.give(room);
        let moved = json_of(moved.iter().copied(), room)?;
        parts.push(wrap(&outer, &wrapper, "tasks", moved, room)?);
    }
    let action = if let Wrapper::Action(action) = wrapper { Some(action) } else { None };
    for fields in config.into_iter().chain(action) {
        fields.give(room);
    }
    outer.give(room);
    Ok(if parts.is_empty() { Split::Unaffected } else { Split::Parts(parts) })
}

/// The effect of settings in the wrapper that they came in.
fn wrap<'a>(
    outer: &Fields<'_>,
    wrapper: &Wrapper<'_>,
    section: &'static str,
    config: String,
    room: &mut Room,
) -> Result<Effect<'a>, Problem> {
    let key = format!("\"{section}\"");
    let inside = [("sectionKey", &*key), ("sectionCfg", &*config)];
    let payload = match wrapper {
        Wrapper::Bare => None,
        Wrapper::Section => Some(outer.json_with(&inside, room)?),
        Wrapper::Action(action) => {
            let action = action.json_with(&inside, room)?;
            let payload = outer.json_with(&[("actionPayload", &action)], room)?;
            room.give(heap(action.capacity()));
            Some(payload)
        }
    };
    let payload = match payload {
        None => config,
        Some(payload) => {
            room.give(heap(config.capacity()));
            payload
        }
    };
    Ok(Effect { entity_id: Some(section), payload: Cow::Owned(payload) })
}
