-- Requests that several processes count together (src/http/limits.rs). Not logged: after a crash counting begins anew.
CREATE UNLOGGED TABLE request_counts (
    -- The limit and whose requests are counted.
    key     TEXT   PRIMARY KEY,
    count   BIGINT NOT NULL,
    -- When the window ends, by this server's clock, Unix milliseconds.
    ends_at BIGINT NOT NULL
);

CREATE INDEX request_counts_ends_at ON request_counts (ends_at);
