-- Logs that were taken over from an old server which gave numbers to operations that it then refused.

ALTER TABLE user_sync_state
    -- Numbers up to here may belong to no operation. 0: every number of the data set has one.
    ADD COLUMN sparse_up_to INTEGER NOT NULL DEFAULT 0;
