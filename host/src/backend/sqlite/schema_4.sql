-- Version 4: how often a consumer was divided anew before it had this row. See topology.rs.
ALTER TABLE position ADD COLUMN topology INTEGER NOT NULL DEFAULT 0;
