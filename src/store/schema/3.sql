-- A list of more than two words is a table of its own to SQLite, which it made anew for each row that
-- it checked.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(
        sql,
        'CHECK (state IN (''pending'', ''delivered'', ''dead'', ''cancelled''))',
        'CHECK (state = ''pending'' OR state = ''delivered'' OR state = ''dead'' OR state = ''cancelled'')'
    ) WHERE type = 'table' AND name = 'deliveries';
UPDATE sqlite_schema SET sql = replace(
        sql,
        'CHECK (role IN (''definition'', ''published'', ''snapshot''))',
        'CHECK (role = ''definition'' OR role = ''published'' OR role = ''snapshot'')'
    ) WHERE type = 'table' AND name = 'files';
PRAGMA writable_schema = RESET;

-- The number of an event's deliveries is written with the event: counting them one by one changed the
-- event's row once for each.
DROP TRIGGER deliveries_inserted;
CREATE TRIGGER deliveries_inserted AFTER INSERT ON deliveries BEGIN
    UPDATE webhooks SET
        n_pending   = n_pending   + (NEW.state = 'pending'),
        n_delivered = n_delivered + (NEW.state = 'delivered'),
        n_dead      = n_dead      + (NEW.state = 'dead'),
        n_cancelled = n_cancelled + (NEW.state = 'cancelled')
        WHERE name = NEW.webhook;
END;
