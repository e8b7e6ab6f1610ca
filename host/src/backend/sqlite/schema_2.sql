-- Version 2: what was written to the state and is not in its table yet. What a row holds is in recent.rs.
CREATE TABLE state_log (
    id     INTEGER PRIMARY KEY,
    writes BLOB NOT NULL
) STRICT;
