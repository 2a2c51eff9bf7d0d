//! Sees every database statement: the store times each one under its name.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard, Metadata, Recorder, SharedString, Unit,
};

/// The statements of this thread's servers, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct Statements(Arc<Mutex<Vec<String>>>);

/// Writes a statement's name down when its time is recorded.
struct Named {
    name: String,
    statements: Statements,
}

impl HistogramFn for Named {
    fn record(&self, _seconds: f64) {
        // What processes say to each other is no request's doing.
        if !self.name.ends_with("_peers") {
            self.statements.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.name.clone());
        }
    }
}

impl Statements {
    /// Watches this thread while the guard lives. The test's runtime must have no other thread.
    pub fn watch(&self) -> LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(self)
    }

    /// The statements since the last call, by name, in alphabetical order.
    pub fn take(&self) -> Vec<String> {
        let mut names = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        names.sort_unstable();
        names
    }
}

impl Recorder for Statements {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}
    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}
    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn register_counter(&self, _key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        if key.name() != "supersync_store_statement_seconds" {
            return Histogram::noop();
        }
        let name = key.labels().find(|label| label.key() == "statement").expect("statements have names");
        Histogram::from_arc(Arc::new(Named { name: name.value().to_owned(), statements: self.clone() }))
    }
}
