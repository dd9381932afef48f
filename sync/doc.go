// Package oversync is the server side of a sync engine that lives in PostgreSQL.
//
// Devices keep a database of their own, write to it offline, push their changes and
// pull everybody else's. Each row belongs to one scope, which is the authenticated
// user, and nothing crosses scopes. The unit of sync is the bundle: all that one
// committed transaction did to the rows of one scope. Bundles of a scope are
// numbered 1, 2, 3 … in the order of their commits, and a client applies each whole
// or not at all.
//
// The work is done by tables, triggers and functions in schema sync, which the
// package migrations installs. This package speaks for them in Go: SyncService has a
// method for each operation of the wire protocol, ScopeManager writes on the
// server's behalf, and package httpapi puts the methods behind HTTP.
//
// # From a push to a bundle, and to another device
//
//	device                SyncService                    PostgreSQL
//	  │ create session ──▶ CreatePushSession ───────────▶ sync.push_create    push_sessions
//	  │ chunk of rows ───▶ UploadPushChunk ─ judged ────▶ sync.push_stage     push_chunks,
//	  │ chunk of rows ───▶ UploadPushChunk ─ judged ────▶ sync.push_stage     or the session, if it is one row
//	  │ commit ──────────▶ CommitPushSession
//	  │                      one transaction a scope at a time; pushes that wait in memory share it
//	  │                      ├─ round trip 1 ───────────▶ sync.push_commit
//	  │                      │                              lock the scope's row
//	  │                      │                              conflicts: log against base versions
//	  │                      │                              apply to the business tables ─▶ bundle_rows
//	  │                      │                                └▶ triggers note the touched keys
//	  │                      │                              deferred constraints run now
//	  │                      │                              more touched than pushed? live rows ─▶ bundle_rows, anew
//	  │                      │◀─ rows, streamed ─────────
//	  │                      │   canonical JSON ─▶ SHA-256
//	  │                      └─ round trip 2 ───────────▶ sync.bundle_close   bundle_log
//	  │ ◀─ sequence, hash ──                              COMMIT
//	  │
//	other device
//	  │ pull ────────────▶ ProcessPull, WritePull ──────▶ how far is the scope? asked for all who wait to know
//	  │                                                   then one query, streamed from the cursor
//	  │ too far behind ──▶ CreateSnapshotSession ───────▶ remembers a sequence, copies nothing
//	  │ chunks ──────────▶ GetSnapshotChunk ────────────▶ newest version of each key up to it
//
// A chunk is judged before it is staged, so that a commit can fail only for what
// others did or for what the business tables refuse. The log is not made of what the
// client sent but of the rows as the transaction leaves them: defaults, triggers and
// cascades are in it, and several changes of one row are one effect.
//
// WithinSyncBundle and ScopeManager.ExecWrite take the second half of the same way,
// with the caller's function in the place of the staged rows.
//
// # What is authoritative
//
// The business tables hold the data. The log, sync.bundle_log and sync.bundle_rows,
// holds what became of it; the newest entry of a key is that row's state: its
// version, whether it is deleted, its content. There is no copy beside it: versions,
// pulls, snapshots and conflicts are queries over the log.
//
// A SyncService holds nothing that cannot be lost. It remembers the catalog of
// registered tables, and checks by its version that what it remembers is current
// when rows are staged. Any number of services, in any number of processes, may work
// on one database, and each request may reach another of them.
//
// Only the database's clock decides about leases and expiry. Values keep every digit
// and do not depend on settings of the server such as TimeZone or DateStyle.
//
// # Locks and round trips
//
// The row of a scope in sync.user_state is locked from the beginning of a bundle to
// its commit. That is all that puts bundles in order: scopes never wait for each
// other, readers never wait, and there are no advisory locks. Commits of the same
// scope queue in memory before they take a connection from the pool, so that a
// flood by one user leaves the connections to the others. The order between
// processes is made by the lock.
//
//	operation                round trips   waits for the disk
//	Connect                  1 or 2        if it changes the scope
//	CreatePushSession        1             no
//	UploadPushChunk          1             no
//	CommitPushSession        2             yes
//	ProcessPull              1 to 3        no
//	GetCommittedBundleRows   2             no
//	CreateSnapshotSession    1             if it replaces a source
//	GetSnapshotChunk         1 or 2        no
//
// A connect of a known scope takes one, and so does a pull that finds nothing new; a
// pull of bundles that plain SQL wrote takes the third to enter their hashes. The
// numbers do not depend on the number of rows. The methods that begin with
// Write stream an answer from the database's cursor to an io.Writer, so that memory
// does not grow with it; ProcessPull and its like hold it whole.
//
// # When something fails
//
// Every refusal that a caller can act on has an error type, found by errors.As, and
// its sentence ends in what to do next. HistoryPrunedError and
// UnsupportedSchemaError also match by errors.Is. Anything else, such as
// *pgconn.PgError, is a fault of the server, its resources or its network.
//
// Nothing is half done. A commit that fails leaves the session staged and the tables
// as they were. If its answer is lost, creating the session again tells: scope,
// source and source_bundle_id name a bundle, which is committed once. Staged rows are
// kept in unlogged tables: after a crash of the database a client finds its session
// gone and starts over, which costs time and no data.
//
// Transactions that fail by a serialization failure, a deadlock or a lock timeout
// are run again, a few times with jitter, except those of WithinSyncBundle and
// ExecWrite: what their callback did outside the database could not be undone. Their
// callback's error or panic rolls everything back and reaches the caller unchanged.
//
// Bootstrap also starts what runs beside the operations: pruning of history beyond
// RetainedBundlesPerUser, and removal of expired sessions. Close ends that, refuses
// new operations with ServiceClosedError and waits for those in flight. The pool
// stays the caller's.
package oversync
