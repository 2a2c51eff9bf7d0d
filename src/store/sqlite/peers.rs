//! The embedded database is served by one process, which has nobody to tell.

use async_trait::async_trait;

use super::SqliteStore;
use crate::store::Result;
use crate::store::peers::{PeerId, PeerLine, PeerStore};

#[async_trait]
impl PeerStore for SqliteStore {
    async fn join_peers(&self, _me: PeerId) -> Result<Option<Box<dyn PeerLine>>> {
        Ok(None)
    }

    async fn tell_peers(&self, _said: &[String]) -> Result<()> {
        Ok(())
    }

    async fn present_peers(&self) -> Result<Vec<PeerId>> {
        Ok(Vec::new())
    }
}
