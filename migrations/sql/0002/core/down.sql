-- Takes the core back to 0.1.0.

DROP TABLE relay.releases;
