-- At most 200 devices of an account: a client may make up ids without end, with each poll one. Who was seen longest ago
-- gives way. A trigger, so that no statement can forget it; it runs for new devices only.

DELETE FROM sync_devices WHERE (user_id, client_id) IN (
    SELECT user_id, client_id FROM (
        SELECT user_id, client_id,
            row_number() OVER (PARTITION BY user_id ORDER BY last_seen_at DESC, client_id) AS place
        FROM sync_devices
    ) placed WHERE place > 200
);

CREATE FUNCTION recycle_sync_devices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM sync_devices WHERE user_id = NEW.user_id) > 200 THEN
        -- What another transaction has locked is left to the next one: nobody waits here.
        DELETE FROM sync_devices WHERE user_id = NEW.user_id AND client_id IN (
            SELECT client_id FROM sync_devices WHERE user_id = NEW.user_id
            ORDER BY last_seen_at DESC, client_id OFFSET 200 FOR UPDATE SKIP LOCKED
        );
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER sync_devices_recycle AFTER INSERT ON sync_devices
    FOR EACH ROW EXECUTE FUNCTION recycle_sync_devices();
