-- Batches that are recorded and not yet written out into the tables: what was happening when the
-- program ended, as a rule nothing. The id is the number of the batch's first delivery; the body is
-- JSON (`journal` in the store), the contents are its payloads one after another, compressed.
CREATE TABLE journal (
    id       INTEGER PRIMARY KEY,
    body     TEXT NOT NULL,
    contents BLOB NOT NULL
) STRICT;
