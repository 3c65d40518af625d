BEGIN TRANSACTION;
CREATE TABLE days (day INTEGER PRIMARY KEY, made INTEGER NOT NULL);
INSERT INTO "days" VALUES(7,2);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "facts" VALUES('service','an emulator');
INSERT INTO "facts" VALUES('promised','30db540c947bc1c5');
INSERT INTO "facts" VALUES('kept','30db540c947bc1c5');
CREATE TABLE items (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    idempotency_key TEXT,
    intended_at REAL,
    reserved REAL,
    job_id TEXT,
    accepted_at REAL,
    status TEXT,
    url TEXT,
    cost REAL,
    earlier_cost REAL NOT NULL,
    reason TEXT,
    file TEXT,
    length INTEGER,
    sha256 TEXT,
    ended_at REAL,
    body TEXT
);
INSERT INTO "items" VALUES(1,'done','d-done','{"prompt":"a fox"}','done',1,'i-done',1.0,20.0,'j-done',2.0,'completed','u',17.0,0.0,NULL,'done.jpg',3,'s',8.0,NULL);
INSERT INTO "items" VALUES(2,'missing','d-missing','{"prompt":"a fox"}','submitted',1,'i-missing',1.0,20.0,'j-missing',2.0,'processing',NULL,15.0,0.0,'JobNotFoundError: The service does not know the job.','missing',NULL,NULL,NULL,NULL);
INSERT INTO "items" VALUES(3,'intent','d-intent','{"prompt":"a fox"}','intent',1,'i-intent',1.0,20.0,NULL,NULL,NULL,NULL,NULL,0.0,NULL,'intent',NULL,NULL,NULL,'{"query": "q"}');
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, idempotency_key TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "jobs" VALUES('j-done','i-done');
INSERT INTO "jobs" VALUES('j-missing','i-missing');
CREATE TABLE statuses (
    item INTEGER NOT NULL, attempt INTEGER NOT NULL, status TEXT NOT NULL, at REAL NOT NULL
);
INSERT INTO "statuses" VALUES(1,1,'processing',2.0);
INSERT INTO "statuses" VALUES(2,1,'processing',2.0);
INSERT INTO "statuses" VALUES(1,1,'completed',7.5);
CREATE INDEX unsettled ON items (state) WHERE state IN ('intent', 'submitted');
COMMIT;
