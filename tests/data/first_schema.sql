-- A database from before the schema had versions, as Potluck made it then in SQLite. PostgreSQL says DOUBLE PRECISION.
CREATE TABLE accounts (
    name VARCHAR NOT NULL,
    earned BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE api_keys (
    id VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    account VARCHAR NOT NULL,
    admin BOOLEAN NOT NULL,
    per_minute BIGINT,
    created DOUBLE NOT NULL,
    revoked BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (digest)
);
CREATE TABLE invites (
    id VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    account VARCHAR,
    uses_left BIGINT,
    expires DOUBLE,
    created DOUBLE NOT NULL,
    revoked BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (digest)
);
CREATE TABLE nodes (
    "key" VARCHAR NOT NULL,
    account VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    invite VARCHAR,
    first_seen DOUBLE NOT NULL,
    last_seen DOUBLE NOT NULL,
    trusted BOOLEAN NOT NULL,
    revoked BOOLEAN NOT NULL,
    pending BIGINT NOT NULL,
    audits_passed BIGINT NOT NULL,
    audits_failed BIGINT NOT NULL,
    quarantine VARCHAR NOT NULL,
    quarantined_until DOUBLE NOT NULL,
    PRIMARY KEY ("key"),
    FOREIGN KEY(invite) REFERENCES invites (id)
);
INSERT INTO accounts VALUES ('anna', 1200, 300);
INSERT INTO api_keys VALUES ('41d07be3', 'aa', 'anna', false, 600, 1750000000.0, false);
INSERT INTO invites VALUES ('5a1e0c3f', 'bb', NULL, 2, NULL, 1750000000.0, false);
INSERT INTO nodes VALUES
    ('cc', 'anna', 'laptop', '5a1e0c3f', 1750000000.0, 1750000600.0, false, false, 0, 3, 0, '', 0.0);
