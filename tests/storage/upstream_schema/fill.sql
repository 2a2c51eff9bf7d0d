-- $ACCOUNTS$ accounts from number $FIRST$ on with $OPERATIONS$ operations each. Indexes that aren't constraints are built
-- afterwards, which is several times as fast.

SET synchronous_commit = off;
CREATE TEMPORARY TABLE later ON COMMIT PRESERVE ROWS AS
SELECT pg_get_indexdef(indexrelid) AS definition, indexrelid::regclass::text AS name FROM pg_index
WHERE indrelid = 'operations'::regclass AND NOT indisprimary AND indisvalid;
DO $$ DECLARE one RECORD; BEGIN
    FOR one IN SELECT * FROM later LOOP EXECUTE 'DROP INDEX ' || one.name; END LOOP;
END $$;

INSERT INTO users (id, email, password_hash, is_verified, token_version, created_at)
SELECT n, 'user-' || n || '@example.org', '$HASH$', 1, n % 3, '2025-12-01'::timestamp + n * interval '1 second'
FROM generate_series($FIRST$, $FIRST$ + $ACCOUNTS$ - 1) AS n;

INSERT INTO operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, payload,
    vector_clock, schema_version, client_timestamp, received_at)
SELECT '01950000-0000-7000-' || lpad(to_hex(account / 65536), 4, '0') || '-' || lpad(to_hex(account % 65536), 4, '0')
        || lpad(to_hex(seq), 8, '0'),
    account, CASE seq % 2 WHEN 0 THEN 'E_two' ELSE 'B_one' END, seq,
    '[Task Shared] updateTask', CASE seq % 10 WHEN 1 THEN 'CRT' WHEN 9 THEN 'DEL' ELSE 'UPD' END, 'TASK',
    'task-' || seq / 10,
    ('{"actionPayload": {"task": {"id": "task-' || seq / 10 || '", "changes": {"title": "Title \"' || seq
        || '\" with ü", "timeSpentOnDay": {"2026-01-01": ' || seq::bigint * 60000 || '}, "notes": "' || repeat('note ', seq % 40)
        || '"}}}, "entityChanges": []}')::jsonb,
    ('{"B_one": ' || (seq + 1) / 2 || ', "E_two": ' || seq / 2 || '}')::jsonb, 2,
    1764547200000 + seq, 1764547200500 + seq
FROM generate_series($FIRST$, $FIRST$ + $ACCOUNTS$ - 1) AS account, generate_series(1, $OPERATIONS$) AS seq;

INSERT INTO user_sync_state (user_id, last_seq)
SELECT n, $OPERATIONS$ FROM generate_series($FIRST$, $FIRST$ + $ACCOUNTS$ - 1) AS n;
INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at)
SELECT n, client, 1767225600000, 1764547200000
FROM generate_series($FIRST$, $FIRST$ + $ACCOUNTS$ - 1) AS n, unnest(ARRAY['B_one', 'E_two']) AS client;
SELECT setval('users_id_seq', GREATEST($FIRST$ + $ACCOUNTS$ - 1, (SELECT last_value FROM users_id_seq)));

DO $$ DECLARE one RECORD; BEGIN
    FOR one IN SELECT * FROM later LOOP EXECUTE one.definition; END LOOP;
END $$;
DROP TABLE later;
