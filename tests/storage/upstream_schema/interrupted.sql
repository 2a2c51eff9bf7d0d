-- Two index builds that were broken off: as CREATE INDEX CONCURRENTLY leaves them. Needs a superuser.

UPDATE pg_index SET indisvalid = FALSE
WHERE indexrelid IN ('operations_entity_ids_gin'::regclass,
                     'operations_user_id_entity_type_entity_id_server_seq_idx'::regclass);
