//! When an account's devices were last seen: exactly in memory, about every minute in the database. A row per upload
//! would double the writes of a small one, and nothing needs it finer than that after a restart.

use crate::store::Device;

/// Devices remembered per account; beyond it the one seen longest ago is forgotten (its row stays).
const CAPACITY: usize = 64;
/// An upload writes its device's row at most this often.
const UPLOAD_WRITE_MS: i64 = 60_000;
/// A poll counts as a sign of life only so long after the last one (contract, section 11.5).
const POLL_EVERY_MS: i64 = 120_000;

#[derive(Debug)]
struct Seen {
    client_id: Box<str>,
    last_seen_at: i64,
    written_at: Option<i64>,
}

/// Devices seen since the account became live, the latest one last.
#[derive(Debug, Default)]
pub struct SeenDevices(Vec<Seen>);

impl SeenDevices {
    /// Takes note of an upload. Whether the device's row is due to be written.
    pub fn uploaded(&mut self, client_id: &str, now_ms: i64) -> bool {
        let written_at = self.see(client_id, now_ms);
        written_at.is_none_or(|at| !(0..UPLOAD_WRITE_MS).contains(&(now_ms - at)))
    }

    /// Takes note of a poll, unless the device was seen lately. Whether the device's row is due to be written.
    pub fn polled(&mut self, client_id: &str, now_ms: i64) -> bool {
        let known = self.0.iter().find(|seen| *seen.client_id == *client_id);
        if known.is_some_and(|seen| (0..POLL_EVERY_MS).contains(&(now_ms - seen.last_seen_at))) {
            return false;
        }
        self.see(client_id, now_ms);
        true
    }

    /// Takes note that a device's row was written.
    pub fn written(&mut self, client_id: &str, now_ms: i64) {
        if let Some(seen) = self.0.iter_mut().find(|seen| *seen.client_id == *client_id) {
            seen.written_at = Some(now_ms);
        }
    }

    /// Bytes that this takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.iter().map(|seen| size_of::<Seen>() + seen.client_id.len()).sum()
    }

    /// Forgets all: their rows are gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Moves a device to the end; returns when its row was last written.
    fn see(&mut self, client_id: &str, now_ms: i64) -> Option<i64> {
        let known = self.0.iter().position(|seen| *seen.client_id == *client_id).map(|at| self.0.remove(at));
        let written_at = known.and_then(|seen| seen.written_at);
        if self.0.len() == CAPACITY {
            self.0.remove(0);
        }
        self.0.push(Seen { client_id: client_id.into(), last_seen_at: now_ms, written_at });
        written_at
    }

    /// The rows with what is known better, latest first.
    #[must_use]
    pub fn merged(&self, rows: Vec<Device>, since_ms: i64, limit: usize) -> Vec<Device> {
        let recent = self.0.iter().rev().filter(|seen| seen.last_seen_at >= since_ms);
        let mut devices: Vec<Device> = recent
            .map(|seen| Device { client_id: seen.client_id.to_string(), last_seen_at: seen.last_seen_at })
            .collect();
        let known = |row: &Device| self.0.iter().any(|seen| *seen.client_id == *row.client_id);
        devices.extend(rows.into_iter().filter(|row| !known(row)));
        // Stable: devices seen in the same millisecond stay in the order in which they were seen.
        devices.sort_by_key(|device| std::cmp::Reverse(device.last_seen_at));
        devices.truncate(limit);
        devices
    }
}
