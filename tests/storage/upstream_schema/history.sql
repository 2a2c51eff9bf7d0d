-- What the old server's migration tool remembers of a database that was migrated to the newest schema.

CREATE TABLE _prisma_migrations (
    id VARCHAR(36) PRIMARY KEY,
    checksum VARCHAR(64) NOT NULL,
    finished_at TIMESTAMPTZ,
    migration_name VARCHAR(255) NOT NULL,
    logs TEXT,
    rolled_back_at TIMESTAMPTZ,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
);

INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name, started_at, applied_steps_count)
SELECT gen_random_uuid()::text, encode(sha256(convert_to(name, 'UTF8')), 'hex'), now(), name, now(), 1
FROM unnest(ARRAY[
    '0_init',
    '20251212000000', '20251218000000', '20251228000000', '20251228000001', '20251231000000',
    '20260102000000', '20260103000000', '20260329000000',
    '20260511000000', '20260512000000', '20260513000000',
    '20260514000000', '20260514000001', '20260514000002', '20260601000000',
    '20260613000000', '20260613000001',
    '20260713000000_pending_passkeys', '20260713000000_repair_base',
    '20260720000000', '20260720000001', '20260727000000'
]) AS name;
-- One that failed, was given up and was applied again: only the other row of that name counts.
INSERT INTO _prisma_migrations (id, checksum, migration_name, rolled_back_at, logs)
VALUES (gen_random_uuid()::text, repeat('0', 64), '20260720000000', now(), 'canceling statement due to lock timeout');
