//! How far a long command is: drawn on standard error, and only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a figure that changes by itself is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A bar for so many steps.
pub(super) fn bar(steps: usize, unit: &str) -> ProgressBar {
    let template = format!("{{bar:40}} {{pos}} of {{len}} {unit}, {{eta}} left");
    let style = ProgressStyle::with_template(&template).expect("the template is a constant");
    ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX)).with_style(style)
}

/// A sign of life for work whose end is not known before.
pub(super) fn spinner() -> ProgressBar {
    ProgressBar::new_spinner()
}

/// Does `work` and shows `bar` meanwhile, which `look` brings up to date now and then.
pub(super) async fn watch<T>(bar: ProgressBar, work: impl Future<Output = T>, look: impl Fn(&ProgressBar)) -> T {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => look(&bar),
        }
    }
}
