//! The statements whose cost matters, in one place: tests ask the planner about each of them.
//!
//! Every one must be good under `plan_cache_mode = force_generic_plan`: a plan made once for all accounts, large and
//! small.

use crate::store::recount::CHARGES;
use crate::store::retention::RETENTION_ROWS;
use crate::store::row::{op_columns, state_columns, trace_columns, user_columns};
use crate::store::usage::KINDS;

/// A whole group in one round trip and one implicit transaction. `hit` moves on the state rows that are at the expected
/// revision; everything else is stored only for the accounts in `hit`. `(… IN …) IS TRUE` keeps the planner from
/// turning the test into a join, whose order it could only guess: this way it is a look-up in a hash table.
pub(super) const COMMIT: &str = "\
WITH planned AS (
    SELECT * FROM UNNEST($1::user_sync_state[])
), taken AS (
    SELECT a.user_id FROM UNNEST($5::int8[], $6::bytea[], $7::int8[]) AS a (user_id, entity_key, base_seq)
    CROSS JOIN LATERAL (
        SELECT FROM entity_heads h
        WHERE h.user_id = a.user_id AND h.entity_key = a.entity_key AND h.server_seq > a.base_seq OFFSET 0
    ) h
), hit AS (
    UPDATE user_sync_state s SET revision = p.revision, generation = p.generation, base_seq = p.base_seq,
        pruned_seq = p.pruned_seq, last_seq = p.last_seq, vector_clock = p.vector_clock,
        full_state_seq = p.full_state_seq, full_state_client_id = p.full_state_client_id,
        full_state_clock = p.full_state_clock, replacement_seq = p.replacement_seq,
        storage_used_bytes = p.storage_used_bytes, snapshot_seq = p.snapshot_seq, snapshot_at = p.snapshot_at,
        snapshot_bytes = p.snapshot_bytes, heads_seq = p.heads_seq, sealed_seq = p.sealed_seq,
        sealed_max_op_id = p.sealed_max_op_id, sparse_up_to = p.sparse_up_to
    FROM planned p
    WHERE s.user_id = p.user_id AND s.revision = p.revision - 1
        AND (p.user_id IN (SELECT user_id FROM taken)) IS NOT TRUE
    RETURNING s.user_id
), new_operations AS (
    INSERT INTO operations
    SELECT * FROM UNNEST($2::operations[]) AS o WHERE (o.user_id IN (SELECT user_id FROM hit)) IS TRUE
), new_heads AS (
    INSERT INTO entity_heads AS h
    SELECT * FROM UNNEST($3::entity_heads[]) AS n WHERE (n.user_id IN (SELECT user_id FROM hit)) IS TRUE
    ON CONFLICT (user_id, entity_key) DO UPDATE SET server_seq = excluded.server_seq,
        client_id = excluded.client_id, vector_clock = excluded.vector_clock, is_time_delta = excluded.is_time_delta
), new_devices AS (
    INSERT INTO sync_devices AS d
    SELECT * FROM UNNEST($4::sync_devices[]) AS n WHERE (n.user_id IN (SELECT user_id FROM hit)) IS TRUE
    ON CONFLICT (user_id, client_id) DO UPDATE SET last_seen_at = GREATEST(d.last_seen_at, excluded.last_seen_at)
)
SELECT user_id FROM hit";

pub(super) const CLEAR_DEVICES: &str = "DELETE FROM sync_devices WHERE user_id = ANY($1)";

pub(super) const UPSERT_DEVICES: &str = "\
INSERT INTO sync_devices AS d SELECT * FROM UNNEST($1::sync_devices[])
ON CONFLICT (user_id, client_id) DO UPDATE SET last_seen_at = GREATEST(d.last_seen_at, excluded.last_seen_at)";

/// Of one that is there already only that it is given up.
pub(super) const INSERT_ARCHIVES: &str = "\
INSERT INTO archived_ranges (user_id, from_seq, to_seq, generation, reason, bytes, archived_at)
SELECT * FROM UNNEST($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::text[], $6::int8[], $7::int8[])
ON CONFLICT (user_id, from_seq) DO UPDATE SET reason = excluded.reason, archived_at = excluded.archived_at
WHERE archived_ranges.reason IN ('clean_slate', 'wipe', 'superseded', 'bring_back')";

/// A staged range stops being one when it becomes the data set. None: it was given up, and must not become anything.
pub(super) const ADOPT_STAGED: &str =
    "DELETE FROM archived_ranges WHERE user_id = $1 AND from_seq = $2 AND reason = 'staged'";

/// What was brought back lives on in the data set; this copy is due at once.
pub(super) const MARK_BROUGHT_BACK: &str =
    "UPDATE archived_ranges SET reason = 'brought_back', archived_at = 0 WHERE user_id = $1 AND from_seq = $2";

/// Other processes have to hear of it: their pictures of the account are wrong from now on.
pub(super) const ANNOUNCE_REPLACED: &str = "SELECT record_account_event($1, 'data_replaced')";

pub(super) const SET_SNAPSHOT: &str = "\
INSERT INTO user_snapshots (user_id, schema_version, data) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET schema_version = excluded.schema_version, data = excluded.data";

pub(super) const CLEAR_SNAPSHOT: &str = "DELETE FROM user_snapshots WHERE user_id = $1";

/// Each account with its place among those that were asked for. `OFFSET 0` keeps a look-up a look-up: the planner can't
/// turn it into a join whose order it would have to guess.
pub(super) const LOAD_ACCOUNTS: &str = concat!(
    "SELECT u.storage_quota_bytes, s.user_id, ",
    state_columns!(),
    ", k.place FROM UNNEST($1::int8[]) WITH ORDINALITY AS k (id, place) ",
    "CROSS JOIN LATERAL (SELECT id, storage_quota_bytes FROM users WHERE id = k.id OFFSET 0) u ",
    "LEFT JOIN LATERAL (SELECT * FROM user_sync_state s WHERE s.user_id = u.id OFFSET 0) s ON TRUE"
);

pub(super) const USERS_BY_ID: &str = concat!(
    "SELECT u.*, k.place FROM UNNEST($1::int8[]) WITH ORDINALITY AS k (id, place) ",
    "CROSS JOIN LATERAL (SELECT ",
    user_columns!(),
    " FROM users WHERE id = k.id OFFSET 0) u"
);

/// What decides about each token, with its place among those that were asked for.
pub(super) const STANDINGS: &str = "\
SELECT u.is_verified, u.locked_at IS NOT NULL, u.token_version, u.older_tokens_revoked_at, u.older_tokens_seen_at,
    s.created_at, s.last_seen_at, k.place
FROM UNNEST($1::int8[], $2::bytea[]) WITH ORDINALITY AS k (user_id, session_id, place)
CROSS JOIN LATERAL (SELECT * FROM users WHERE id = k.user_id OFFSET 0) u
LEFT JOIN LATERAL (SELECT * FROM sessions WHERE id = k.session_id AND user_id = k.user_id OFFSET 0) s ON TRUE";

pub(super) const TOUCH_SESSIONS: &str = "\
UPDATE sessions s SET last_seen_at = GREATEST(s.last_seen_at, t.at), last_address = COALESCE(t.address, s.last_address)
FROM UNNEST($1::bytea[], $2::int8[], $3::text[]) AS t (id, at, address) WHERE s.id = t.id";

/// Nothing for tokens that are void: they may have been shown just before they were voided.
pub(super) const TOUCH_OLDER_TOKENS: &str = "\
UPDATE users SET older_tokens_seen_at = GREATEST(older_tokens_seen_at, $4),
    older_tokens_address = COALESCE($5, older_tokens_address)
WHERE id = $1 AND token_version = $2 AND (older_tokens_revoked_at IS NULL OR older_tokens_revoked_at <= $3)";

pub(super) const REVOKE_OLDER_TOKENS: &str = "\
UPDATE users SET older_tokens_revoked_at = $2, older_tokens_seen_at = NULL, older_tokens_address = NULL WHERE id = $1";

pub(super) const INSERT_SEGMENTS: &str = "\
INSERT INTO segments (user_id, first_seq, last_seq, generation, storage_bytes, max_received_at, op_count, min_op_id,
    max_op_id, op_id_hashes, data)
SELECT * FROM UNNEST($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int4[], $8::text[],
    $9::text[], $10::bytea[], $11::bytea[])";

/// What segments replace: rows and smaller segments. Says how many operations that were.
pub(super) const DELETE_SEALED: &str = "\
WITH s AS (
    SELECT * FROM UNNEST($1::int8[], $2::int8[], $3::int8[], $4::int8[]) AS s (user_id, first_seq, last_seq, generation)
), gone_rows AS (
    DELETE FROM operations o USING s
    WHERE o.user_id = s.user_id AND o.server_seq >= s.first_seq AND o.server_seq <= s.last_seq
        AND o.generation = s.generation
    RETURNING 1
), gone_segments AS (
    DELETE FROM segments g USING s
    WHERE g.user_id = s.user_id AND g.last_seq >= s.first_seq AND g.last_seq <= s.last_seq
        AND g.first_seq >= s.first_seq AND g.generation = s.generation
    RETURNING g.op_count
)
SELECT (SELECT COUNT(*) FROM gone_rows) + (SELECT COALESCE(SUM(op_count), 0)::int8 FROM gone_segments)";

/// The way back: rows in place of a segment.
pub(super) const INSERT_OPS: &str = "INSERT INTO operations SELECT * FROM UNNEST($1::operations[])";

/// The first segments of a range, and rows: up to the last of these segments, or to the range's end if there is none.
/// Rows up to the bounds, and one more without its payload to say that there is more; the first one fits whatever its
/// size. The size of a large payload is known without fetching it from its side table. A segment ends less than its
/// longest length behind its beginning, which bounds the search when the range ends in the middle of the log ($7).
pub(super) const READ_LOG: &str = "\
WITH s AS MATERIALIZED (
    SELECT first_seq, last_seq, data FROM segments
    WHERE user_id = $1 AND last_seq > $2 AND last_seq <= $7 AND first_seq <= $3 ORDER BY last_seq LIMIT $8
)
SELECT server_seq, op_id, client_id, action_type, op_type, entity_type, entity_id, entity_ids, storage_bytes,
    vector_clock, client_timestamp, schema_version, is_payload_encrypted, sync_import_reason, repair_base_server_seq,
    received_at, CASE WHEN fits AND octet_length(payload) < $9 THEN payload END, fits, NULL::int8 AS first_seq,
    CASE WHEN octet_length(payload) >= $9 THEN octet_length(payload) END
FROM (
    SELECT p.*, nth <= $5 AND (nth = 1 OR running <= $6) AS fits
    FROM (
        SELECT o.*, row_number() OVER w AS nth, sum(size) OVER w AS running
        FROM (
            SELECT *, octet_length(payload) + octet_length(vector_clock) + COALESCE(octet_length(entity_ids), 0) AS size
            FROM operations
            WHERE user_id = $1 AND server_seq > $2 AND server_seq <= COALESCE((SELECT LEAST(max(last_seq), $3) FROM s), $3)
                AND ($4::text IS NULL OR client_id <> $4)
            ORDER BY server_seq LIMIT $5 + 1
        ) o
        WINDOW w AS (ORDER BY server_seq ROWS UNBOUNDED PRECEDING)
    ) p
    WHERE nth <= 2 OR running - size <= $6
) q
UNION ALL
SELECT last_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, data, NULL,
    first_seq, NULL
FROM s";

/// A piece of a payload, from its first byte on, counted from 1.
pub(super) const READ_PAYLOAD: &str =
    "SELECT substr(payload, $3, $4) FROM operations WHERE user_id = $1 AND server_seq = $2";

/// Rows with these ids, and the segments that may hold them: last sequence, first sequence and hashes. New ids lie above
/// those of all segments, where the index ends.
pub(super) const FIND_OPS: &str = concat!(
    "SELECT ",
    op_columns!(),
    ", NULL::int8 FROM operations WHERE user_id = $1 AND generation = $2 AND op_id = ANY($3) ",
    "UNION ALL SELECT last_seq, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ",
    "NULL, op_id_hashes, first_seq FROM segments ",
    "WHERE user_id = $1 AND generation = $2 AND max_op_id >= $4 AND min_op_id <= $5"
);

/// Whole segments, by their last sequences.
pub(super) const LOAD_SEGMENTS: &str =
    "SELECT first_seq, last_seq, generation, data FROM segments WHERE user_id = $1 AND last_seq = ANY($2)";

/// The next segments of the log.
pub(super) const NEXT_SEGMENTS: &str = "\
SELECT first_seq, last_seq, data FROM segments WHERE user_id = $1 AND last_seq > $2 ORDER BY last_seq LIMIT $3";

/// The newest segments before one.
pub(super) const NEWEST_SEGMENTS: &str = "\
SELECT first_seq, last_seq, data FROM segments WHERE user_id = $1 AND last_seq > $2 AND last_seq < $3
ORDER BY last_seq DESC LIMIT $4";

/// Segments in a range, without their operations.
pub(super) const SEGMENT_SPANS: &str = "\
SELECT first_seq, last_seq, op_count FROM segments
WHERE user_id = $1 AND last_seq > $2 AND last_seq <= $4 AND first_seq <= $3 ORDER BY last_seq LIMIT $5";

pub(super) const DELETE_SEGMENTS: &str = "DELETE FROM segments WHERE user_id = $1 AND last_seq = ANY($2)";

/// Heads `h`, each with its own clock or the one that it shares.
macro_rules! select_heads {
    ($heads:literal) => {
        concat!(
            "SELECT h.entity_key, h.server_seq, COALESCE(c.client_id, h.client_id), ",
            "COALESCE(c.vector_clock, h.vector_clock), h.is_time_delta FROM ",
            $heads,
            " LEFT JOIN LATERAL (SELECT client_id, vector_clock FROM entity_heads c WHERE h.vector_clock = '' ",
            "AND c.user_id = $1 AND c.entity_key = decode(lpad(h.server_seq::text, 20, '0'), 'escape') OFFSET 0) c ON TRUE"
        )
    };
}

/// One index look-up per key.
pub(super) const LOAD_HEADS: &str = select_heads!(
    "UNNEST($3::bytea[]) AS k (entity_key) CROSS JOIN LATERAL (SELECT * FROM entity_heads h \
     WHERE h.user_id = $1 AND h.entity_key = k.entity_key AND h.server_seq > $2 OFFSET 0) h"
);

pub(super) const LOAD_ALL_HEADS: &str = select_heads!(
    "(SELECT * FROM entity_heads WHERE user_id = $1 AND server_seq > $2 AND octet_length(entity_key) = 16 LIMIT $3) h"
);

pub(super) const FULL_STATES: &str = "\
SELECT server_seq, op_id, op_type, client_id, client_timestamp, repair_base_server_seq, is_payload_encrypted,
    sync_import_reason
FROM operations WHERE user_id = $1 AND server_seq > $2 AND server_seq <= $3
    AND op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR') ORDER BY server_seq DESC LIMIT $4";

/// Rows and segments that lie in the range, summed up, and the segments that lie in it in part.
pub(super) const MEASURE: &str = "\
WITH s AS MATERIALIZED (
    SELECT first_seq, last_seq, storage_bytes, op_count,
        CASE WHEN first_seq <= $2 OR last_seq > $3 THEN data END AS data
    FROM segments WHERE user_id = $1 AND last_seq > $2 AND last_seq <= $4 AND first_seq <= $3
)
SELECT COALESCE(SUM(storage_bytes), 0)::int8, COUNT(*), NULL::int8 AS first_seq, NULL::int8 AS last_seq, NULL::bytea
FROM operations WHERE user_id = $1 AND server_seq > $2 AND server_seq <= $3
UNION ALL SELECT COALESCE(SUM(storage_bytes), 0)::int8, COALESCE(SUM(op_count), 0)::int8, NULL, NULL, NULL
FROM s WHERE data IS NULL
UNION ALL SELECT 0, 0, first_seq, last_seq, data FROM s WHERE data IS NOT NULL";

/// Newest first: if there is one, it is among the last. Of segments at most two lie in the range only in part.
pub(super) const RECEIVED_SINCE: &str = "\
(SELECT NULL::int8 AS first_seq, NULL::int8 AS last_seq, NULL::bytea AS data FROM operations
WHERE user_id = $1 AND server_seq > $2 AND server_seq <= $3 AND received_at >= $4 ORDER BY server_seq DESC LIMIT 1)
UNION ALL
(SELECT first_seq, last_seq, CASE WHEN first_seq <= $2 OR last_seq > $3 THEN data END FROM segments
WHERE user_id = $1 AND last_seq > $2 AND last_seq <= $5 AND first_seq <= $3 AND max_received_at >= $4
ORDER BY last_seq DESC LIMIT 3)";

pub(super) const LOAD_SNAPSHOT: &str = "\
SELECT s.snapshot_seq, s.snapshot_at, s.snapshot_bytes, b.schema_version, b.data
FROM user_sync_state s JOIN user_snapshots b ON b.user_id = s.user_id
WHERE s.user_id = $1 AND s.snapshot_seq IS NOT NULL";

pub(super) const TOUCH_DEVICES: &str = "\
INSERT INTO sync_devices AS d (user_id, client_id, last_seen_at, created_at)
SELECT u.id, t.client_id, t.at, t.at FROM UNNEST($1::int8[], $2::text[], $3::int8[]) AS t (user_id, client_id, at)
CROSS JOIN LATERAL (SELECT id FROM users WHERE id = t.user_id OFFSET 0) u
ON CONFLICT (user_id, client_id) DO UPDATE SET last_seen_at = GREATEST(d.last_seen_at, excluded.last_seen_at)";

pub(super) const DEVICES: &str = "\
SELECT client_id, last_seen_at FROM sync_devices WHERE user_id = $1 AND last_seen_at >= $2
ORDER BY last_seen_at DESC, client_id LIMIT $3";

pub(super) const ARCHIVED: &str = "\
SELECT generation, from_seq, to_seq, reason, bytes, archived_at FROM archived_ranges
WHERE user_id = $1 ORDER BY from_seq DESC";

pub(super) const DELETE_OPS: &str = "\
DELETE FROM operations WHERE user_id = $1 AND server_seq > $2 AND server_seq <= (
    SELECT MAX(server_seq) FROM (
        SELECT server_seq FROM operations WHERE user_id = $1 AND server_seq > $2 AND server_seq <= $3
        ORDER BY server_seq LIMIT $4
    ) step
)";

pub(super) const PRUNABLE_ACCOUNTS: &str = "\
SELECT user_id FROM user_sync_state WHERE user_id > $1 AND full_state_seq > pruned_seq + 1 ORDER BY user_id LIMIT $2";

/// Looks at the one operation that decides: sequences have no holes, and times grow with them.
pub(super) const SEALABLE_ACCOUNTS: &str = "\
SELECT s.user_id, s.generation, GREATEST(s.sealed_seq, s.pruned_seq), s.last_seq,
    COALESCE(s.full_state_seq - 1, s.pruned_seq), g.first_seq, g.op_count, g.storage_bytes, g.packed_bytes,
    s.sparse_up_to
FROM user_sync_state s
LEFT JOIN LATERAL (
    SELECT first_seq, op_count::int8, storage_bytes,
        (octet_length(data) + octet_length(op_id_hashes))::int8 AS packed_bytes
    FROM segments g
    WHERE g.user_id = s.user_id AND g.last_seq = s.sealed_seq AND g.generation = s.generation
        AND g.first_seq > s.pruned_seq OFFSET 0
) g ON TRUE
WHERE s.user_id > $1 AND ($2::int8 IS NULL OR s.user_id = $2)
    AND s.last_seq - GREATEST(s.sealed_seq, s.pruned_seq) >= $3
    AND (
        SELECT o.received_at FROM operations o
        WHERE o.user_id = s.user_id AND o.server_seq >= GREATEST(s.sealed_seq, s.pruned_seq) + $3
        ORDER BY o.server_seq LIMIT 1
    ) < $4
ORDER BY s.user_id LIMIT $5";

pub(super) const DROP_ARCHIVE: &str = "DELETE FROM archived_ranges WHERE user_id = $1 AND from_seq = $2";

/// Of the next heads after a key, those of older data sets. Gives the last one's key, if there may be more.
pub(super) const DROP_OLD_HEADS: &str = "\
WITH step AS MATERIALIZED (
    SELECT entity_key, server_seq FROM entity_heads WHERE user_id = $1 AND entity_key > $2 ORDER BY entity_key LIMIT $3
), gone AS (
    DELETE FROM entity_heads h USING step
    WHERE h.user_id = $1 AND h.entity_key = step.entity_key AND h.server_seq = step.server_seq
        AND step.server_seq <= (SELECT base_seq FROM user_sync_state WHERE user_id = $1)
)
SELECT entity_key FROM step ORDER BY entity_key OFFSET $3 - 1";

/// Clocks that no head shares any more. Nothing will share them again: an operation's heads are stored all at once. `NOT IN`
/// looks them up in a hash table, however many there are.
pub(super) const UNUSED_CLOCKS: &str = "\
SELECT entity_key FROM entity_heads WHERE user_id = $1 AND octet_length(entity_key) > 16
    AND server_seq NOT IN (SELECT server_seq FROM entity_heads WHERE user_id = $1 AND vector_clock = '')
LIMIT $2";

pub(super) const DROP_CLOCKS: &str = "DELETE FROM entity_heads WHERE user_id = $1 AND entity_key = ANY($2)";

pub(super) const NEWEST_OPS: &str = concat!(
    "SELECT ",
    op_columns!(),
    " FROM operations WHERE user_id = $1 AND server_seq > ",
    "COALESCE((SELECT pruned_seq FROM user_sync_state WHERE user_id = $1), 0) ",
    "AND ($2::text IS NULL OR op_type = $2) ORDER BY server_seq DESC LIMIT $3"
);

pub(super) const TRACES: &str =
    concat!("SELECT ", trace_columns!(), " FROM operations WHERE user_id = $1 AND server_seq > $2 ORDER BY server_seq");

/// A part of the log of each of several accounts.
pub(super) const RECENT_TRACES: &str = concat!(
    "SELECT o.*, k.place FROM UNNEST($1::int8[], $2::int8[], $3::int8[]) WITH ORDINALITY ",
    "AS k (user_id, after, up_to, place) CROSS JOIN LATERAL (SELECT ",
    trace_columns!(),
    " FROM operations o WHERE o.user_id = k.user_id AND o.server_seq > k.after AND o.server_seq <= k.up_to ",
    "ORDER BY o.server_seq OFFSET 0) o ORDER BY k.place, o.server_seq"
);

/// The statements of requests, of the sweep and of the operator's commands that touch a large table, by name.
pub(super) const HOT: &[(&str, &str)] = &[
    ("commit", COMMIT),
    ("clear_devices", CLEAR_DEVICES),
    ("upsert_devices", UPSERT_DEVICES),
    ("load_account", LOAD_ACCOUNTS),
    ("user_by_id", USERS_BY_ID),
    ("session", STANDINGS),
    ("touch_sessions", TOUCH_SESSIONS),
    ("read_log", READ_LOG),
    ("read_payload", READ_PAYLOAD),
    ("find_ops", FIND_OPS),
    ("delete_sealed", DELETE_SEALED),
    ("load_segments", LOAD_SEGMENTS),
    ("next_segments", NEXT_SEGMENTS),
    ("newest_segments", NEWEST_SEGMENTS),
    ("segment_spans", SEGMENT_SPANS),
    ("delete_segments", DELETE_SEGMENTS),
    ("sealable_accounts", SEALABLE_ACCOUNTS),
    ("load_heads", LOAD_HEADS),
    ("load_all_heads", LOAD_ALL_HEADS),
    ("full_states", FULL_STATES),
    ("heads_of_log", RECENT_TRACES),
    ("measure", MEASURE),
    ("received_since", RECEIVED_SINCE),
    ("load_snapshot", LOAD_SNAPSHOT),
    ("touch_devices", TOUCH_DEVICES),
    ("devices", DEVICES),
    ("archived", ARCHIVED),
    ("delete_ops", DELETE_OPS),
    ("prunable_accounts", PRUNABLE_ACCOUNTS),
    ("retention_rows", RETENTION_ROWS),
    ("charges", CHARGES),
    ("kinds", KINDS),
    ("drop_old_heads", DROP_OLD_HEADS),
    ("unused_clocks", UNUSED_CLOCKS),
    ("drop_clocks", DROP_CLOCKS),
    ("newest_ops", NEWEST_OPS),
];
