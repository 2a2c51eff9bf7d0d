-- Mails follow the language of the request that leads to them, so accounts need none.
ALTER TABLE users DROP COLUMN language;
