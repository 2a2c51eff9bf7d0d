-- Heads by a hash of the entity's name, brought up to date every few hundred operations instead of with each of them; old
-- operations packed into segments. What is new is described in src/store/mod.rs.

ALTER TABLE user_sync_state DROP COLUMN last_encrypted_seq;
-- Up to here the operations are in entity_heads; what came later is read from the log.
ALTER TABLE user_sync_state ADD COLUMN heads_seq INTEGER NOT NULL DEFAULT 0;
-- Up to here the operations are in segments, but for those that are never packed.
ALTER TABLE user_sync_state ADD COLUMN sealed_seq INTEGER NOT NULL DEFAULT 0;
-- No sealed operation of this generation has a greater op id.
ALTER TABLE user_sync_state ADD COLUMN sealed_max_op_id TEXT;

-- The new heads are made from the log when an account next uploads.
UPDATE user_sync_state SET heads_seq = base_seq, sealed_seq = base_seq;

DROP TABLE entity_heads;

CREATE TABLE entity_heads (
    user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    entity_key    BLOB    NOT NULL,
    server_seq    INTEGER NOT NULL,
    client_id     TEXT    NOT NULL,
    vector_clock  TEXT    NOT NULL,
    is_time_delta INTEGER NOT NULL,
    PRIMARY KEY (user_id, entity_key)
) STRICT, WITHOUT ROWID;

-- Operations of one generation with successive sequences. Written once, never changed. Full states and what is too large
-- stay in operations. What else is in here is described in src/store/segment.rs.
CREATE TABLE segments (
    user_id         INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    first_seq       INTEGER NOT NULL,
    last_seq        INTEGER NOT NULL,
    generation      INTEGER NOT NULL,
    -- Bytes that the operations are charged.
    storage_bytes   INTEGER NOT NULL,
    max_received_at INTEGER NOT NULL,
    op_count        INTEGER NOT NULL,
    min_op_id       TEXT    NOT NULL,
    max_op_id       TEXT    NOT NULL,
    -- Sorted hashes of the op ids, so that most look-ups need not unpack the operations.
    op_id_hashes    BLOB    NOT NULL,
    data            BLOB    NOT NULL,
    PRIMARY KEY (user_id, last_seq)
) STRICT;

-- A new operation's id is above nearly all of these, so that looking for it ends at once.
CREATE INDEX segments_op_ids ON segments (user_id, generation, max_op_id);

-- Payloads that are too large to be written at once while others wait: staged in parts, a short transaction each, before the
-- operation that names them is stored. What no operation names was left by a crash.
CREATE TABLE payload_parts (
    payload_id INTEGER NOT NULL,
    part       INTEGER NOT NULL,
    data       BLOB    NOT NULL,
    PRIMARY KEY (payload_id, part)
) STRICT;

-- Where the payload is, if not in the row itself.
ALTER TABLE operations ADD COLUMN payload_id INTEGER;
CREATE INDEX operations_payload_id ON operations (payload_id) WHERE payload_id IS NOT NULL;

CREATE TRIGGER operations_payload_parts AFTER DELETE ON operations WHEN OLD.payload_id IS NOT NULL BEGIN
    DELETE FROM payload_parts WHERE payload_id = OLD.payload_id;
END;
