// Package device is a small SQLite client of the sync protocol. It is written to be read: somebody who writes
// a client in another language should find every rule that a client has to follow here, one file for each part.
//
//   - schema.go: the tables this package keeps beside the application's, and the triggers that note changes
//   - values.go: how a SQLite value is written on the wire, and how it is read back
//   - canonical.go: the canonical JSON and the hash that proves a bundle arrived whole
//   - http.go: requests, typed errors and retries
//   - push.go: sending local changes, exactly once whatever crashes
//   - conflict.go: what happens when somebody else was faster
//   - pull.go, apply.go: receiving bundles
//   - snapshot.go: starting over from a snapshot, and moving to a fresh source
//   - sync.go: the order of all that
//
// The application reads and writes its own tables with plain SQL through [Device.DB], online or not. Triggers
// note which rows it touched. [Device.Sync] does the rest.
//
// # The three facts a client keeps
//
// For each row the server has told us of: the version it had (_sync_rows). For each row changed here: the
// version the change was made on (_sync_dirty). For the push that is under way: its rows, frozen, under a number
// that does not change until the server says that it is committed (_sync_outbox). Everything else follows.
package device
