//! Outgoing mail: a bounded queue in front of a transport.
//!
//! Promises that sending never delays or fails a request: [`Mailer::send`] returns at once, and what became of the mail
//! is a metric and a log line. At most [`MAX_OUTSTANDING`] mails wait or are under way, at most [`MAX_SENDING`] of them
//! talk to the mail server; a mail is tried [`RETRY_AFTER`]`.len() + 1` times. Mails are lost when the process ends
//! before they left ([`Mailer::drain`] waits for them); every one of them can be asked for again.
//!
//! Without a mail server, and outside production, the link is printed to the log for the operator instead. That is the
//! one place where a link may be logged. For development and tests mails can also become files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::config::{Config, MailDelivery, OPERATOR};
use crate::language::Language;
use crate::protocol::UserId;

mod file;
mod letter;
mod message;
mod smtp;
mod trouble;

pub use letter::{Asked, Letter, LetterKind, Rendered};
pub use smtp::{check_login, send_test};
pub use trouble::{Step, Trouble, with_causes};

/// How many mails wait or are under way at most; further ones are dropped.
pub const MAX_OUTSTANDING: usize = 500;
/// How many mails are handed to the mail server at once.
pub const MAX_SENDING: usize = 4;
/// How long after a passing failure the mail is tried again.
pub const RETRY_AFTER: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(3),
    Duration::from_mins(15),
    Duration::from_hours(1),
];

/// A mail to an account.
#[derive(Clone)]
pub struct Mail {
    /// The account, for the log.
    pub user: UserId,
    /// The account's address.
    pub to: String,
    /// The contents.
    pub letter: Letter,
    /// The words.
    pub language: Language,
}

/// Why a mail did not leave. The texts get into the log, so a transport must not put addresses in them; what the mail
/// server says in words can hold some.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Trying again may help.
    #[error("mail server unavailable: {0}")]
    Passing(String),
    /// A setting is wrong, here or at the mail server: the mail is kept as long as if trying again helped.
    #[error("mail can't be sent until a setting is mended: {0}")]
    Settings(String),
    /// It won't.
    #[error("mail refused: {0}")]
    Permanent(String),
}

/// Why mail can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum MailConfigError {
    /// `SMTP_FROM` is no sender.
    #[error("SMTP_FROM is not a valid sender: {0} (expected: Name <address@example.com>)")]
    From(String),
    /// TLS for the mail server can't be set up.
    #[error("SMTP_HOST can't be used with TLS: {0}")]
    Tls(String),
    /// The operator's own authorities are unusable.
    #[error("SMTP_CA_FILE can't be used: {0} (expected certificates in PEM)")]
    Authorities(String),
}

/// Hands a mail to where it goes next.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Hands the mail over. Must end within a minute or so by itself.
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError>;
}

/// Sends mails in the background. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    delivery: Delivery,
}

#[derive(Clone)]
enum Delivery {
    Queue(Arc<Queue>),
    Log,
    Unavailable,
}

struct Queue {
    transport: Arc<dyn Transport>,
    outstanding: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    retry_after: &'static [Duration],
    tasks: TaskTracker,
}

impl Mailer {
    /// Delivery as configured.
    ///
    /// # Errors
    /// When the sender or the mail server's name is unusable.
    pub fn from_config(config: &Config) -> Result<Self, MailConfigError> {
        metrics::gauge!("supersync_mails_waiting").set(0.0);
        Ok(match &config.mail {
            MailDelivery::Smtp(settings) => Self::with_transport(Arc::new(smtp::Smtp::new(settings)?)),
            MailDelivery::Files { folder, from } => Self::with_transport(Arc::new(file::Files::new(folder, from)?)),
            MailDelivery::Log => Self { delivery: Delivery::Log },
            MailDelivery::Off => Self::unavailable(),
        })
    }

    /// A queue in front of `transport`.
    #[must_use]
    pub fn with_transport(transport: Arc<dyn Transport>) -> Self {
        Self::with_retries(transport, &RETRY_AFTER)
    }

    fn with_retries(transport: Arc<dyn Transport>, retry_after: &'static [Duration]) -> Self {
        let queue = Queue {
            transport,
            outstanding: Arc::new(Semaphore::new(MAX_OUTSTANDING)),
            sending: Arc::new(Semaphore::new(MAX_SENDING)),
            retry_after,
            tasks: TaskTracker::new(),
        };
        Self { delivery: Delivery::Queue(Arc::new(queue)) }
    }

    /// No mail at all: what needs it must refuse.
    #[must_use]
    pub const fn unavailable() -> Self {
        Self { delivery: Delivery::Unavailable }
    }

    /// Whether links reach anybody.
    #[must_use]
    pub fn can_deliver(&self) -> bool {
        !matches!(self.delivery, Delivery::Unavailable)
    }

    /// Queues a mail and returns at once. Must be called within a tokio runtime.
    pub fn send(&self, mail: Mail) {
        match &self.delivery {
            Delivery::Queue(queue) => Queue::push(queue, mail),
            // Holds nothing that the operator could do with it.
            Delivery::Log if mail.letter.kind.is_notice() => count("logged"),
            Delivery::Log => {
                tracing::info!(
                    target: OPERATOR,
                    user_id = mail.user,
                    letter = mail.letter.kind.name(),
                    "OPERATOR: no SMTP is configured, so this link was not mailed. Instead of the account's owner, open {}",
                    mail.letter.link.expose_secret()
                );
                count("logged");
            }
            Delivery::Unavailable => {
                tracing::warn!(user_id = mail.user, "mail dropped: none is configured");
                count("dropped");
            }
        }
    }

    /// Waits until every queued mail has left or was given up.
    pub async fn drain(&self) {
        if let Delivery::Queue(queue) = &self.delivery {
            queue.tasks.close();
            queue.tasks.wait().await;
        }
    }
}

impl Queue {
    fn push(queue: &Arc<Self>, mail: Mail) {
        let Ok(place) = Arc::clone(&queue.outstanding).try_acquire_owned() else {
            tracing::warn!(user_id = mail.user, "mail dropped: too many are waiting");
            count("dropped");
            return;
        };
        let worker = Arc::clone(queue);
        queue.tasks.spawn(async move {
            metrics::gauge!("supersync_mails_waiting").increment(1.0);
            worker.deliver(&mail).await;
            metrics::gauge!("supersync_mails_waiting").decrement(1.0);
            drop(place);
        });
    }

    async fn deliver(&self, mail: &Mail) {
        let rendered = mail.letter.render(mail.language);
        let mut retries = self.retry_after.iter();
        loop {
            let result = {
                let _sending = self.sending.acquire().await.expect("the semaphore is never closed");
                let started = Instant::now();
                let result = self.transport.send(&mail.to, &rendered).await;
                metrics::histogram!("supersync_mail_seconds").record(started.elapsed().as_secs_f64());
                result
            };
            match (result, retries.next()) {
                (Ok(()), _) => return count("sent"),
                (Err(error @ SendError::Permanent(_)), _) => {
                    tracing::error!(user_id = mail.user, %error, "mail refused");
                    return count("failed");
                }
                (Err(error), None) => {
                    tracing::error!(user_id = mail.user, %error, "mail given up");
                    return count("failed");
                }
                (Err(error), Some(wait)) => {
                    if matches!(error, SendError::Settings(_)) {
                        tracing::error!(user_id = mail.user, %error, "mail not sent yet: `supersync mail test ADDRESS` says more");
                    } else {
                        tracing::warn!(user_id = mail.user, %error, "mail not sent yet");
                    }
                    count("retried");
                    tokio::time::sleep(*wait).await;
                }
            }
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("supersync_mails_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails as often as told, then succeeds.
    struct Flaky {
        tries: AtomicUsize,
        failures: usize,
        permanent: bool,
    }

    #[async_trait]
    impl Transport for Flaky {
        async fn send(&self, _to: &str, _mail: &Rendered) -> Result<(), SendError> {
            if self.tries.fetch_add(1, Ordering::SeqCst) >= self.failures {
                return Ok(());
            }
            Err(if self.permanent { SendError::Permanent("550".into()) } else { SendError::Passing("421".into()) })
        }
    }

    fn mail(user: UserId) -> Mail {
        let letter = Letter::new(LetterKind::VerifyAddress, "https://x".to_owned().into());
        Mail { user, to: "a@b.co".into(), letter, language: Language::English }
    }

    async fn tries(failures: usize, permanent: bool) -> usize {
        let transport = Arc::new(Flaky { tries: AtomicUsize::new(0), failures, permanent });
        let mailer = Mailer::with_retries(Arc::clone(&transport) as Arc<dyn Transport>, &[Duration::ZERO; 3]);
        mailer.send(mail(1));
        mailer.drain().await;
        transport.tries.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn passing_failures_are_retried_a_few_times_and_permanent_ones_are_not() {
        for (failures, permanent, tried) in [(0, false, 1), (2, false, 3), (99, false, 4), (99, true, 1)] {
            assert_eq!(tries(failures, permanent).await, tried);
        }
    }

    /// Never ends.
    struct Stuck;

    #[async_trait]
    impl Transport for Stuck {
        async fn send(&self, _to: &str, _mail: &Rendered) -> Result<(), SendError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_stuck_mail_server_fills_the_queue_and_no_more() {
        let mailer = Mailer::with_transport(Arc::new(Stuck));
        for user in 0..=500 {
            mailer.send(mail(user));
        }
        let Delivery::Queue(queue) = &mailer.delivery else { panic!("a queue was made") };
        assert_eq!(queue.tasks.len(), MAX_OUTSTANDING);
    }
}
