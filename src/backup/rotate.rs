//! Which backups of a folder stay: the newest of each of the last days, weeks and months that have one.
//!
//! What is kept for a longer span is chosen before anything is deleted, and out of all files: a file that is no longer one
//! of the last days may be the one of its month.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;

use super::error::BackupError;

/// The names of backups in a folder; times are UTC.
const NAME: &str = "supersync-%Y%m%dT%H%M%SZ.ssb";

/// How many backups stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// For so many days that have one, the day's newest.
    pub daily: usize,
    /// For so many weeks.
    pub weekly: usize,
    /// For so many months.
    pub monthly: usize,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keep = Self::default();
        for part in text.split(',') {
            let wrong = || format!("`{part}` is not daily=N, weekly=N or monthly=N");
            let (name, number) = part.split_once('=').ok_or_else(wrong)?;
            let number: usize = number.trim().parse().map_err(|_| wrong())?;
            match name.trim() {
                "daily" => keep.daily = number,
                "weekly" => keep.weekly = number,
                "monthly" => keep.monthly = number,
                _ => return Err(wrong()),
            }
        }
        Ok(keep)
    }
}

/// Where a backup made at this time goes, Unix milliseconds.
#[must_use]
pub fn path_in(directory: &Path, now_ms: i64) -> PathBuf {
    let now = Timestamp::from_millisecond(now_ms).unwrap_or_default();
    directory.join(now.strftime(NAME).to_string())
}

/// The backups of a folder, oldest first. Other files are none of our business.
///
/// # Errors
/// When the folder can't be read.
pub fn backups_in(directory: &Path) -> Result<Vec<(DateTime, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(at) = name.to_str().and_then(|name| DateTime::strptime(NAME, name).ok()) {
            found.push((at, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Those of the backups, oldest first, that need not be kept after `made` has been made, which always stays. What has a later
/// name is from the future, by a clock that was wrong: it is left alone and stands for no other.
#[must_use]
pub fn superfluous(backups: &[(DateTime, PathBuf)], keep: Keep, made: &Path) -> Vec<PathBuf> {
    let Some(newest) = backups.iter().position(|(_, path)| path == made) else { return Vec::new() };
    let backups = &backups[..=newest];
    let mut kept = BTreeSet::from_iter(backups.last().map(|(_, path)| path));
    let mut newest_of = |spans: usize, span: fn(DateTime) -> (i16, i16)| {
        let mut seen = BTreeSet::new();
        for (at, path) in backups.iter().rev() {
            if seen.len() < spans && seen.insert(span(*at)) {
                kept.insert(path);
            }
        }
    };
    newest_of(keep.daily, |at| (at.year(), at.date().day_of_year()));
    newest_of(keep.weekly, |at| {
        let week = at.date().iso_week_date();
        (week.year(), week.week().into())
    });
    newest_of(keep.monthly, |at| (at.year(), at.month().into()));
    backups.iter().map(|(_, path)| path).filter(|path| !kept.contains(path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use jiff::civil::date;

    use super::*;

    fn keep(text: &str) -> Keep {
        text.parse().expect("right")
    }

    fn after_the_last(all: &[(DateTime, PathBuf)], keep: Keep) -> Vec<PathBuf> {
        superfluous(all, keep, &all.last().expect("there is one").1)
    }

    #[test]
    fn what_is_from_the_future_costs_no_other_its_place() {
        let mut all = twice_a_day(3);
        let made = all[5].1.clone();
        all.push((date(2027, 1, 1).at(0, 0, 0, 0), "wrong".into()));
        let goes = superfluous(&all, keep("daily=2"), &made);
        assert_eq!(goes, [0, 1, 2, 4].map(|at| all[at].1.clone()));
    }

    /// A backup at six and one at eighteen o'clock of so many days.
    fn twice_a_day(days: i64) -> Vec<(DateTime, PathBuf)> {
        let first = date(2026, 1, 1);
        let of_day = |day: i64| {
            let day = first.checked_add(day.days()).expect("a date");
            [6, 18].map(|hour| (day.at(hour, 0, 0, 0), PathBuf::from(format!("{day}-{hour:02}"))))
        };
        (0..days).flat_map(of_day).collect()
    }

    #[test]
    fn each_span_keeps_its_newest_and_the_rest_goes() {
        let all = twice_a_day(100);
        let goes = after_the_last(&all, keep("daily=7,weekly=4,monthly=12"));
        let stays: Vec<_> = all.iter().map(|(_, path)| path).filter(|path| !goes.contains(path)).collect();
        let names: Vec<_> = stays.iter().map(|path| path.to_str().expect("text")).collect();
        // The last day is Friday, 10 April.
        assert_eq!(
            names,
            [
                "2026-01-31-18",
                "2026-02-28-18",
                "2026-03-22-18",
                "2026-03-29-18",
                "2026-03-31-18",
                "2026-04-04-18",
                "2026-04-05-18",
                "2026-04-06-18",
                "2026-04-07-18",
                "2026-04-08-18",
                "2026-04-09-18",
                "2026-04-10-18",
            ]
        );
    }

    #[test]
    fn rotating_day_by_day_comes_to_the_same_as_rotating_once() {
        let keep = keep("daily=3,weekly=2,monthly=3");
        let all = twice_a_day(200);
        let mut left: Vec<(DateTime, PathBuf)> = Vec::new();
        for backup in &all {
            left.push(backup.clone());
            let goes = after_the_last(&left, keep);
            left.retain(|(_, path)| !goes.contains(path));
        }
        let goes = after_the_last(&all, keep);
        let once: Vec<_> = all.into_iter().filter(|(_, path)| !goes.contains(path)).collect();
        assert_eq!(left, once);
    }

    #[test]
    fn the_newest_stays_whatever_is_asked_for() {
        let all = twice_a_day(2);
        assert_eq!(after_the_last(&all, Keep::default()).len(), 3);
        assert!(superfluous(&[], Keep::default(), Path::new("none")).is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(keep("monthly=1"), Keep { monthly: 1, ..Keep::default() });
        for wrong in ["", "daily", "daily=", "daily=-1", "yearly=1", "daily=1,", "daily=1;weekly=2"] {
            assert!(wrong.parse::<Keep>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path_in(dir.path(), 1_700_000_000_000);
        assert!(path.ends_with("supersync-20231114T221320Z.ssb"), "{}", path.display());
        for name in ["supersync-20231114T221320Z.ssb.17.partial", "supersync.ssb", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        std::fs::write(&path, "").expect("written");
        let found = backups_in(dir.path()).expect("a folder");
        assert_eq!(found, [(date(2023, 11, 14).at(22, 13, 20, 0), path)]);
    }
}
