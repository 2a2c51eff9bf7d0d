-- One account for each thing that is odd in the old server's databases. $HASH$ is a bcrypt hash.
--
-- Written for the newest schema: columns and tables that an older one lacks are left out.

CREATE FUNCTION pg_temp.put(place TEXT, given JSONB) RETURNS VOID LANGUAGE plpgsql AS $put$
DECLARE
    names TEXT;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ') INTO names FROM pg_attribute
    WHERE attrelid = to_regclass(place) AND attnum > 0 AND NOT attisdropped AND given ? attname;
    IF names IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('INSERT INTO %1$I (%2$s) SELECT %2$s FROM jsonb_populate_record(NULL::%1$I, $1)', place, names)
    USING given;
END
$put$;

CREATE FUNCTION pg_temp.account(number INT, name TEXT, more JSONB DEFAULT '{}') RETURNS VOID LANGUAGE sql AS $account$
    SELECT pg_temp.put('users', jsonb_build_object(
        'id', number, 'email', name || '@example.org', 'password_hash', '$HASH$', 'is_verified', 1,
        'token_version', 0, 'terms_accepted_at', 1764547200000, 'created_at', '2025-12-01 08:30:00.123') || more)
$account$;

-- Operation `seq`, by the devices B_one and E_two alternately, each having seen all before it.
CREATE FUNCTION pg_temp.op(number INT, seq INT, more JSONB DEFAULT '{}') RETURNS VOID LANGUAGE sql AS $op$
    SELECT pg_temp.put('operations', jsonb_build_object(
        'id', '01940000-0000-7000-8000-' || lpad(to_hex(number % 65536), 4, '0') || lpad(to_hex(seq), 8, '0'),
        'user_id', number, 'client_id', CASE seq % 2 WHEN 0 THEN 'E_two' ELSE 'B_one' END, 'server_seq', seq,
        'action_type', '[Task Shared] updateTask', 'op_type', 'UPD', 'entity_type', 'TASK',
        'entity_id', 'task-' || seq % 7,
        'payload', jsonb_build_object('actionPayload', jsonb_build_object('task', jsonb_build_object(
            'id', 'task-' || seq % 7, 'changes', jsonb_build_object('title', 'Größe ' || seq, 'timeSpent', seq * 0.5)))),
        'payload_bytes', 100 + seq % 100, 'entity_ids', '[]'::jsonb, 'is_payload_encrypted', FALSE,
        'vector_clock', jsonb_build_object('B_one', (seq::bigint % 1000000 + 1) / 2, 'E_two', seq % 1000000 / 2),
        'schema_version', 2, 'client_timestamp', 1764547200000 + seq::bigint % 1000000,
        'received_at', 1764547200500 + seq::bigint % 1000000) || more)
$op$;

CREATE FUNCTION pg_temp.ops(number INT, from_seq INT, to_seq INT, more JSONB DEFAULT '{}') RETURNS VOID
LANGUAGE sql AS $ops$
    SELECT pg_temp.op(number, seq::int, more) FROM generate_series(from_seq::bigint, to_seq::bigint) AS seq
$ops$;

CREATE FUNCTION pg_temp.state(number INT, last INT, more JSONB DEFAULT '{}') RETURNS VOID LANGUAGE sql AS $state$
    SELECT pg_temp.put('user_sync_state', jsonb_build_object('user_id', number, 'last_seq', last) || more)
$state$;

CREATE FUNCTION pg_temp.device(number INT, client TEXT, seen BIGINT) RETURNS VOID LANGUAGE sql AS $device$
    SELECT pg_temp.put('sync_devices', jsonb_build_object(
        'user_id', number, 'client_id', client, 'last_seen_at', seen, 'last_acked_seq', 0, 'created_at', 1764547200000))
$device$;

CREATE FUNCTION pg_temp.full_state() RETURNS JSONB LANGUAGE sql AS $full$
    SELECT '{"op_type": "SYNC_IMPORT", "entity_type": "ALL", "entity_id": null,
             "action_type": "[SP_ALL] Load(import) all data",
             "payload": {"task": {"ids": ["task-1"], "entities": {"task-1": {"id": "task-1", "title": "\"a\\b\""}}}}}'::jsonb
$full$;

-- 101: plain, with creates, updates, moves, deletes, of several entities too; texts that need escaping wherever they go.
SELECT pg_temp.account(101, 'plain', '{"token_version": 3, "storage_used_bytes": 4242}');
SELECT pg_temp.op(101, 1, pg_temp.full_state() || '{"sync_import_reason": "SERVER_MIGRATION"}');
SELECT pg_temp.ops(101, 2, 9, '{"op_type": "CRT", "action_type": "[Task Shared] addTask"}');
SELECT pg_temp.ops(101, 10, 30);
SELECT pg_temp.op(101, 31, '{"op_type": "BATCH", "entity_id": null,
    "entity_ids": ["task-1", "we\"ird", "back\\slash", "a,b", "{c}", "NULL", "", " ", "ü\t"]}');
SELECT pg_temp.op(101, 32, '{"op_type": "MOV", "entity_id": "task-2", "entity_ids": ["task-2", "task-3"]}');
SELECT pg_temp.op(101, 33, '{"entity_id": "tab\tline\nreturn\r\\N \\. \b\f\u000b\u0001\u007f ü 🦀"}');
SELECT pg_temp.op(101, 34, '{"entity_id": "\\N", "payload": {"a\tb": "\\N \\n\n\u0001", "c": [1, 2.50, -0.0, 1e30, null, true, {}]}}');
SELECT pg_temp.op(101, 35, '{"entity_id": "\\.", "payload": [], "client_timestamp": 0}');
SELECT pg_temp.op(101, 36, '{"op_type": "DEL", "entity_id": "", "payload": {}, "client_timestamp": 4102444800000}');
SELECT pg_temp.ops(101, 37, 40, '{"op_type": "DEL", "action_type": "[Task Shared] deleteTask"}');
SELECT pg_temp.state(101, 40, '{"last_snapshot_seq": 38, "snapshot_at": 1764547300000, "snapshot_schema_version": 2,
    "latest_full_state_seq": 1, "latest_full_state_vector_clock": {"B_one": 1}, "latest_state_replacement_seq": 1}');
SELECT pg_temp.device(101, 'B_one', 1767225600000), pg_temp.device(101, 'E_two', 1767225600001);

-- 102: end-to-end encrypted, but for its first half.
SELECT pg_temp.account(102, 'encrypted');
SELECT pg_temp.ops(102, 1, 5);
SELECT pg_temp.op(102, 6, pg_temp.full_state() || jsonb_build_object('sync_import_reason', 'PASSWORD_CHANGED',
    'is_payload_encrypted', TRUE, 'payload', encode(sha256('state'), 'base64')));
SELECT pg_temp.op(102, seq, jsonb_build_object('is_payload_encrypted', TRUE,
    'payload', encode(sha256(seq::text::bytea), 'base64'))) FROM generate_series(7, 20) AS seq;
SELECT pg_temp.state(102, 20);
SELECT pg_temp.device(102, 'B_one', 1767225600000);

-- 103: every kind of full state; a repair that says what it is based on, and one of before that was said. Stale markers.
SELECT pg_temp.account(103, 'full-states');
SELECT pg_temp.op(103, 1, pg_temp.full_state() || '{"sync_import_reason": "FILE_IMPORT"}');
SELECT pg_temp.ops(103, 2, 5);
SELECT pg_temp.op(103, 6, pg_temp.full_state() || '{"op_type": "BACKUP_IMPORT", "sync_import_reason": "BACKUP_RESTORE"}');
SELECT pg_temp.ops(103, 7, 9);
SELECT pg_temp.op(103, 10, pg_temp.full_state() || '{"op_type": "REPAIR", "sync_import_reason": "REPAIR"}');
SELECT pg_temp.ops(103, 11, 13);
SELECT pg_temp.op(103, 14, pg_temp.full_state()
    || '{"op_type": "REPAIR", "sync_import_reason": "REPAIR", "repair_base_server_seq": 13}');
SELECT pg_temp.ops(103, 15, 16);
SELECT pg_temp.state(103, 16, '{"latest_full_state_seq": 1, "latest_full_state_vector_clock": {"B_one": 1},
    "latest_state_replacement_seq": 0}');

-- 104: what was before the latest full state is pruned.
SELECT pg_temp.account(104, 'pruned');
SELECT pg_temp.op(104, 41, pg_temp.full_state());
SELECT pg_temp.ops(104, 42, 60);
SELECT pg_temp.state(104, 60);

-- 105 to 108: without operations: a counter at 0; no counter; a counter that has counted; wiped.
SELECT pg_temp.account(105, 'never-synced'), pg_temp.state(105, 0);
SELECT pg_temp.account(106, 'never-connected', '{"terms_accepted_at": null}');
SELECT pg_temp.account(107, 'counter-only'), pg_temp.state(107, 500);
SELECT pg_temp.account(108, 'wiped', '{"token_version": 1, "storage_used_bytes": 0}');

-- 109 to 112: damaged: a hole; a hole before a full state; a counter below the log; the end is gone.
SELECT pg_temp.account(109, 'hole'), pg_temp.ops(109, 1, 9), pg_temp.ops(109, 13, 20), pg_temp.state(109, 20);
SELECT pg_temp.account(110, 'hole-before-full-state'), pg_temp.ops(110, 1, 4), pg_temp.ops(110, 6, 9);
SELECT pg_temp.op(110, 10, pg_temp.full_state()), pg_temp.ops(110, 11, 15), pg_temp.state(110, 15);
SELECT pg_temp.account(111, 'counter-too-low'), pg_temp.ops(111, 1, 12), pg_temp.state(111, 8);
SELECT pg_temp.account(112, 'end-missing'), pg_temp.ops(112, 1, 12), pg_temp.state(112, 15);

-- 113: not measured, wrongly counted.
SELECT pg_temp.account(113, 'not-measured', '{"storage_used_bytes": 99999999}');
SELECT pg_temp.ops(113, 1, 10, '{"payload_bytes": 0}'), pg_temp.state(113, 10);

-- 114: passkeys: one as it is, one whose id was stored as text, one of which there is both.
SELECT pg_temp.account(114, 'passkeys', '{"password_hash": null}');
SELECT pg_temp.put('passkeys', '{"id": "cmk0000000000000000000001", "user_id": 114, "counter": 7,
    "credential_id": "\\x000102030405060708090a0b0c0d0e0f", "public_key": "\\xa5010203262001",
    "transports": "[\"internal\",\"hybrid\"]", "created_at": "2026-01-03 10:00:00", "last_used_at": "2026-07-01 12:00:00.5"}');
SELECT pg_temp.put('passkeys', jsonb_build_object('id', 'cmk0000000000000000000002', 'user_id', 114, 'counter', 4294967295,
    'credential_id', '\x' || encode('__79_Pv6-fj39vX08_Lx8A', 'hex'), 'public_key', '\xa5010203262002',
    'created_at', '2026-01-04 10:00:00'));
SELECT pg_temp.put('passkeys', jsonb_build_object('id', 'cmk0000000000000000000003', 'user_id', 114, 'counter', 0,
    'credential_id', '\x' || encode('AAECAwQFBgcICQoLDA0ODw', 'hex'), 'public_key', '\xa5010203262001',
    'transports', '["usb"]', 'created_at', '2026-01-02 10:00:00'));

-- 115 to 117: not verified: with a passkey that waits, with a link that still works, with one that does not.
SELECT pg_temp.account(115, 'pending-passkey', '{"password_hash": null, "is_verified": 0,
    "verification_token": "verify-115", "verification_token_expires_at": 4102444800000}');
SELECT pg_temp.put('pending_passkey_registrations', '{"id": "legacy-cmk0000000000000000000004", "user_id": 115, "counter": 0,
    "credential_id": "\\xfffefdfcfbfaf9f8f7f6f5f4f3f2f1f1", "public_key": "\\xa5010203262003",
    "verification_token": "verify-115", "verification_token_expires_at": 4102444800000, "created_at": "2026-07-13 00:00:00"}');
SELECT pg_temp.account(116, 'unverified', '{"is_verified": 0, "verification_resend_count": 2,
    "verification_token": "verify-116", "verification_token_expires_at": 4102444800000}');
SELECT pg_temp.account(117, 'unverified-expired', '{"is_verified": 0,
    "verification_token": "verify-117", "verification_token_expires_at": 1764633600000}');

-- 118 to 120: links that were mailed.
SELECT pg_temp.account(118, 'login-link', '{"login_token": "login-118", "login_token_expires_at": 4102444800000}');
SELECT pg_temp.account(119, 'recovery-link',
    '{"passkey_recovery_token": "recover-119", "passkey_recovery_token_expires_at": 4102444800000}');
SELECT pg_temp.account(120, 'reset-link',
    '{"reset_password_token": "reset-120", "reset_password_token_expires_at": 4102444800000,
      "failed_login_attempts": 4, "locked_until": 4102444800000}');

-- 121 and 122: one address but for case; the older one has the operations. 123: upper case alone.
SELECT pg_temp.account(121, 'twice'), pg_temp.ops(121, 1, 3), pg_temp.state(121, 3);
SELECT pg_temp.account(122, 'Twice', '{"created_at": "2026-01-31 00:00:00"}');
SELECT pg_temp.account(123, 'UPPER', '{"email": "UPPER@EXAMPLE.ORG"}'), pg_temp.ops(123, 1, 2), pg_temp.state(123, 2);

-- 124: another quota. 2147483000: numbers near the end of what an integer holds.
SELECT pg_temp.account(124, 'quota', '{"storage_quota_bytes": 9007199254740991, "storage_used_bytes": -5}');
SELECT pg_temp.account(2147483000, 'highest', '{"token_version": 2147483647}');
SELECT pg_temp.op(2147483000, 2147483630, pg_temp.full_state());
SELECT pg_temp.ops(2147483000, 2147483631, 2147483647), pg_temp.state(2147483000, 2147483647);
SELECT setval('users_id_seq', 2147483001);
