-- What the import from an old server's database has taken over. What is new is described in src/store/adopt.rs.

-- Not tied to users: that an account was taken over stays true when it is deleted.
CREATE TABLE adoptions (
    user_id        INTEGER NOT NULL PRIMARY KEY,
    source         TEXT   NOT NULL,
    -- Of the source's account as it was taken.
    account_digest TEXT   NOT NULL,
    first_seq      INTEGER NOT NULL,
    last_seq       INTEGER NOT NULL,
    op_count       INTEGER NOT NULL,
    -- Of the operations as they were taken.
    digest         TEXT   NOT NULL,
    -- Of the account as it was written here.
    mark           TEXT   NOT NULL,
    -- NULL: under way, or broken off.
    finished_at    INTEGER
) STRICT;
