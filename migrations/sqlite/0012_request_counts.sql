-- PostgreSQL counts requests here that several processes count together; this database is served by one, which counts in
-- its memory.
SELECT 1;
