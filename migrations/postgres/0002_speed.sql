-- Heads by a hash of the entity's name, brought up to date every few hundred operations instead of with each of them; old
-- operations packed into segments. What is new is described in src/store/mod.rs.

ALTER TABLE user_sync_state
    DROP COLUMN last_encrypted_seq,
    -- Up to here the operations are in entity_heads; what came later is read from the log.
    ADD COLUMN heads_seq  BIGINT NOT NULL DEFAULT 0,
    -- Up to here the operations are in segments, but for full states.
    ADD COLUMN sealed_seq BIGINT NOT NULL DEFAULT 0,
    -- No sealed operation of this generation has a greater op id.
    ADD COLUMN sealed_max_op_id TEXT COLLATE "C";

-- The new heads are made from the log when an account next uploads.
UPDATE user_sync_state SET heads_seq = base_seq, sealed_seq = base_seq;

DROP TABLE entity_heads;

-- Free space on each page lets an update stay on its page and leave the index alone.
CREATE TABLE entity_heads (
    user_id       BIGINT  NOT NULL,
    server_seq    BIGINT  NOT NULL,
    is_time_delta BOOLEAN NOT NULL,
    entity_key    BYTEA   NOT NULL,
    client_id     TEXT    NOT NULL,
    vector_clock  TEXT    NOT NULL,
    PRIMARY KEY (user_id, entity_key)
) WITH (fillfactor = 80);

-- Operations of one generation with successive sequences, full states left out. Written once, never changed.
CREATE TABLE segments (
    user_id         BIGINT  NOT NULL,
    first_seq       BIGINT  NOT NULL,
    last_seq        BIGINT  NOT NULL,
    generation      BIGINT  NOT NULL,
    -- Bytes that the operations are charged.
    storage_bytes   BIGINT  NOT NULL,
    max_received_at BIGINT  NOT NULL,
    op_count        INTEGER NOT NULL,
    min_op_id       TEXT    COLLATE "C" NOT NULL,
    max_op_id       TEXT    COLLATE "C" NOT NULL,
    -- Sorted hashes of the op ids, so that most look-ups need not unpack the operations.
    op_id_hashes    BYTEA   NOT NULL,
    -- zstd; the format is described in src/store/segment.rs.
    data            BYTEA   NOT NULL,
    PRIMARY KEY (user_id, last_seq)
);

-- Compressed already.
ALTER TABLE segments ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE segments ALTER COLUMN op_id_hashes SET STORAGE EXTERNAL;

CREATE OR REPLACE FUNCTION delete_account_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM user_sync_state WHERE user_id = OLD.id;
    DELETE FROM operations WHERE user_id = OLD.id;
    DELETE FROM segments WHERE user_id = OLD.id;
    DELETE FROM entity_heads WHERE user_id = OLD.id;
    RETURN OLD;
END;
$$;
