-- Which processes the schema can serve. A process that meets a revision that it does not know asks
-- here. It starts if that revision has a row and if it knows every revision named in serves_from.
-- So a process of an older release can still start after a newer one has migrated the database, if
-- what is new are additions.
CREATE TABLE relay.releases (
    revision text PRIMARY KEY,
    release text NOT NULL,
    serves_from text NOT NULL
);
-- So that a server's role needs no more rights than it was granted before.
GRANT SELECT ON relay.releases TO PUBLIC;
