//! Mails as files, for development and tests: one `.eml` each, which every mail program opens.
//!
//! Files are written under another name and renamed, so that whoever watches the folder never sees half a mail. Nothing
//! deletes them. They hold one-time links: only the server's own user may read them.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use lettre::message::Mailbox;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use super::message::{build, sender};
use super::{MailConfigError, Rendered, SendError, Transport};

pub(super) struct Files {
    folder: PathBuf,
    from: Mailbox,
}

impl Files {
    pub(super) fn new(folder: &Path, from: &str) -> Result<Self, MailConfigError> {
        Ok(Self { folder: folder.to_owned(), from: sender(from)? })
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).await?;
        // Version 7 begins with the time, so names sort in the order of writing.
        let name = Uuid::now_v7();
        let unfinished = self.folder.join(format!("{name}.part"));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).await?;
        file.write_all(bytes).await?;
        file.sync_all().await?;
        fs::rename(unfinished, self.folder.join(format!("{name}.eml"))).await
    }
}

#[async_trait]
impl Transport for Files {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        let message = build(&self.from, to, mail)?;
        self.write(&message.formatted())
            .await
            .map_err(|error| SendError::Passing(format!("the folder of mails: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Rendered {
        Rendered { id: Uuid::nil(), subject: "Subject", text: "text".into(), html: "<p>html</p>".into() }
    }

    #[tokio::test]
    async fn every_mail_is_a_whole_private_file_in_order() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mails = folder.path().join("mails");
        let files = Files::new(&mails, "SuperSync <noreply@example.org>").unwrap();
        for to in ["a@b.co", "c@d.co"] {
            files.send(to, &mail()).await.unwrap();
        }
        let mut paths: Vec<_> = std::fs::read_dir(&mails).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let texts: Vec<_> = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].contains("To: a@b.co") && texts[1].contains("To: c@d.co"), "{texts:?}");
        assert!(paths.iter().all(|path| path.extension().is_some_and(|extension| extension == "eml")));
        assert_eq!(std::fs::metadata(&paths[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_folder_that_can_t_be_made_is_a_failure_to_try_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let files = Files::new(&file.path().join("below"), "SuperSync <noreply@example.org>").unwrap();
        assert!(matches!(files.send("a@b.co", &mail()).await, Err(SendError::Passing(_))));
    }
}
