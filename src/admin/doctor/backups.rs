//! Backups: whether the newest one is fresh, and whole.

use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::admin::backup_file;
use crate::backup::rotate;
use crate::diagnosis::Finding;

const ID: &str = "backups";
/// One a day, and some time to make it.
const FRESH: Duration = Duration::from_hours(26);
const ADVICE: &str = "Make one: `supersync backup --directory DIR`, every day (docs/backup.md).";

/// Looks at the newest backup of a folder.
pub(super) async fn check(folder: &Path, now_ms: i64) -> Vec<Finding> {
    let newest = match rotate::backups_in(folder) {
        Ok(mut all) => all.pop(),
        Err(error) => {
            let found = format!("the folder of the backups can't be read: {error}");
            return vec![Finding::fault(ID, found, "Check --backups or BACKUP_DIR, and the folder's rights.")];
        }
    };
    let Some((at, path)) = newest else {
        return vec![Finding::fault(ID, "there is no backup made by `supersync backup --directory`", ADVICE)];
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A time of a calendar without gaps or repeats.
    let at_ms = at.to_zoned(TimeZone::UTC).map_or(0, |at| at.timestamp().as_millisecond());
    let age = Duration::from_millis(u64::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(0));
    let hours = age.as_secs() / 3600;
    let is_from_the_future = at_ms.saturating_sub(now_ms) > 3_600_000;
    let mut all = vec![if is_from_the_future {
        let advice = "A clock was wrong when it was made: rename it, then ask again.";
        Finding::warning(ID, format!("the newest backup, {name}, is from the future"), advice)
    } else if age > FRESH {
        Finding::warning(ID, format!("the newest backup, {name}, is {hours} hours old"), ADVICE)
    } else {
        Finding::ok(ID, format!("the newest backup, {name}, is {hours} hours old"))
    }];
    all.push(match backup_file::check(&path).await {
        Ok(checked) if checked.fault_count == 0 => {
            let accounts = checked.rows_of("users");
            Finding::ok(ID, format!("it is whole: {accounts} accounts, {} operations", checked.operations))
        }
        Ok(checked) => Finding::fault(
            ID,
            format!("what the newest backup holds is not in order: {} fault(s)", checked.fault_count),
            "`supersync verify FILE` lists them. Mend the database, then make another backup.",
        ),
        Err(error) => Finding::fault(ID, format!("the newest backup can't be relied on: {error}"), ADVICE),
    });
    all
}
