//! Reads: pages of the log for devices. The view says what there is; what is not in its tail comes from the store,
//! bounded by the view's last sequence, so that no answer shows an operation beyond the `latestSeq` that it reports
//! (contract, sections 1, 6).

use tokio::sync::Semaphore;

use super::DownloadReply;
use super::view::UserView;
use crate::protocol::request::DownloadQuery;
use crate::protocol::response::OutgoingOp;
use crate::protocol::{Seq, UserId};
use crate::store::{LogRange, LogStore, StoreError};

/// Pages of one account that are read from the store at once; others wait. A page is in memory several times while it is
/// read, and the store's connections are for all accounts.
pub const READS_AT_ONCE: usize = 2;

/// Operations for a device, already encoded.
pub struct Page {
    /// Ascending.
    pub ops: Vec<OutgoingOp>,
    /// The first one's place.
    pub first_seq: Option<Seq>,
    /// Whether there are more.
    pub has_more: bool,
    /// Where reading started, after fast-forward: operations up to here are not in the page.
    pub after: Seq,
    /// Whether a full state superseded what the client asked for first.
    pub fast_forwarded: bool,
}

/// Reads what a device has not seen, beginning at the newest causal full state if the device has not seen that one.
///
/// # Errors
/// When the store can't be read.
pub async fn read_page(
    store: &(impl LogStore + ?Sized),
    reads: &Semaphore,
    user: UserId,
    view: &UserView,
    since_seq: Seq,
    exclude_client: Option<&str>,
    (limit, max_bytes): (usize, usize),
) -> Result<Page, StoreError> {
    let sync = view.sync();
    let latest_seq = sync.latest_seq();
    let full_state = sync.full_state.as_ref().filter(|mark| since_seq < mark.seq);
    let after = full_state.map_or(since_seq, |mark| mark.seq - 1);
    let fast_forwarded = full_state.is_some();
    // Below the data set's first operation there is nothing of it.
    let from = after.max(sync.pruned_seq);
    if from >= latest_seq || exclude_client.is_some_and(|client| view.tail.only_by(client, from)) {
        return Ok(Page { ops: Vec::new(), first_seq: None, has_more: false, after, fast_forwarded });
    }
    if from >= view.tail.after() {
        let mut page = Page { ops: Vec::new(), first_seq: None, has_more: false, after, fast_forwarded };
        let mut bytes = 0;
        for op in view.tail.since(from).filter(|op| exclude_client != Some(&*op.client_id)) {
            if page.ops.len() == limit || (bytes + op.json.len() > max_bytes && !page.ops.is_empty()) {
                page.has_more = true;
                break;
            }
            bytes += op.json.len();
            page.first_seq.get_or_insert(op.seq);
            page.ops.push(OutgoingOp::whole(op.seq, op.json.clone()));
        }
        return Ok(page);
    }
    let range = LogRange { user, after: from, up_to: latest_seq, exclude_client, limit, max_bytes };
    // Never closed, so never an error.
    let _turn = reads.acquire().await.ok();
    let read = store.read_outgoing(range).await?;
    let first_seq = read.ops.first().map(|op| op.seq);
    let mut has_more = read.has_more;
    // The counter of a log that was taken over may be ahead of its last operation, behind which nothing follows.
    if let Some(last) = read.ops.last().filter(|_| has_more && sync.may_lack(latest_seq)) {
        let rest = LogRange { after: last.seq, exclude_client: None, limit: 1, max_bytes: 1, ..range };
        has_more = !store.read_outgoing(rest).await?.ops.is_empty();
    }
    Ok(Page { first_seq, ops: read.ops, has_more, after, fast_forwarded })
}

/// `GET /api/sync/ops` (contract, section 6).
///
/// # Errors
/// When the store can't be read.
pub async fn download(
    store: &(impl LogStore + ?Sized),
    reads: &Semaphore,
    user: UserId,
    view: &UserView,
    query: &DownloadQuery,
    max_bytes: usize,
) -> Result<DownloadReply, StoreError> {
    let sync = view.sync();
    let latest_seq = sync.latest_seq();
    let exclude = query.exclude_client.as_deref();
    let limits = (query.limit, max_bytes);
    let page = read_page(store, reads, user, view, query.since_seq, exclude, limits).await?;
    let gap_detected = query.since_seq > 0
        && (query.since_seq > latest_seq
            || page.after < sync.pruned_seq
            || (exclude.is_none()
                && page.first_seq.is_some_and(|first| first > page.after + 1 && !sync.may_lack(first - 1))));
    let mark = sync.full_state.as_ref();
    let snapshot_vector_clock = mark.filter(|_| page.fast_forwarded).map(|mark| {
        let preserve = exclude.into_iter().chain(std::iter::once(mark.client_id.as_str()));
        mark.clock.pruned(preserve)
    });
    Ok(DownloadReply {
        ops: page.ops,
        has_more: page.has_more,
        latest_seq,
        gap_detected,
        snapshot_vector_clock,
        latest_snapshot_seq: mark.map(|mark| mark.seq),
    })
}
