-- At most 200 devices of an account: a client may make up ids without end, with each poll one. Who was seen longest ago
-- gives way. A trigger, so that no statement can forget it; it runs for new devices only.

DELETE FROM sync_devices WHERE (user_id, client_id) IN (
    SELECT user_id, client_id FROM (
        SELECT user_id, client_id,
            row_number() OVER (PARTITION BY user_id ORDER BY last_seen_at DESC, client_id) AS place
        FROM sync_devices
    ) WHERE place > 200
);

CREATE TRIGGER sync_devices_recycle AFTER INSERT ON sync_devices
WHEN (SELECT count(*) FROM sync_devices WHERE user_id = NEW.user_id) > 200 BEGIN
    DELETE FROM sync_devices WHERE user_id = NEW.user_id AND client_id IN (
        SELECT client_id FROM sync_devices WHERE user_id = NEW.user_id
        ORDER BY last_seen_at DESC, client_id LIMIT -1 OFFSET 200
    );
END;
