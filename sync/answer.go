package oversync

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// answerBufferBytes is how much of a streamed answer is held back. An error before
// this many bytes were written can still be answered with a status of its own.
const answerBufferBytes = 32 << 10

// answer writes JSON piece by piece. A failed write is remembered by the buffer
// and comes back from finish.
type answer struct {
	*bufio.Writer
	to      io.Writer
	spool   *spool // nil while the buffer holds the whole answer
	isWhole bool   // the rest is in the buffer
	service *SyncService
	known   *catalog
	table   *catalogTable
	scratch []byte

	// A bundle that plain SQL wrote has no hash yet. It is made while the bundle
	// is streamed, and told after the rows.
	hasher *bundleHasher
	sealed []sealedBundle
}

// sealedBundle is a hash that was made while streaming, to be kept.
type sealedBundle struct {
	bundleSeq, byteCount int64
	hash                 [sha256.Size]byte
}

// endBundle ends the rows of a bundle, and tells its hash if that was not known
// before.
func (a *answer) endBundle(bundleSeq int64) *answer {
	a.text("]")
	if a.hasher != nil {
		hash, byteCount, _ := a.hasher.sum()
		a.hasher = nil
		a.sealed = append(a.sealed, sealedBundle{bundleSeq, byteCount, hash})
		a.text(`,"bundle_hash":"`).hex(hash[:]).text(`"`)
	}
	return a.text("}")
}

// answerBuffers keeps the buffers of answers that are over. Most answers are
// short, and a buffer of its own would be most of what one costs.
var answerBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, answerBufferBytes) }}

// newAnswer returns an answer to w. The caller must call release when done.
func (s *SyncService) newAnswer(w io.Writer) *answer {
	buffer := answerBuffers.Get().(*bufio.Writer)
	out := &answer{Writer: buffer, to: w, service: s}
	buffer.Reset(answerTail{out})
	return out
}

// answerTail is an answer as its buffer sees it. Who fills the buffer holds a
// connection to the database, until the rest of the answer is in it. The field has
// a name, since with the methods of the buffer it would write to itself.
type answerTail struct{ answer *answer }

func (t answerTail) Write(p []byte) (int, error) {
	a := t.answer
	switch {
	case a.spool != nil:
	case a.isWhole:
		return a.to.Write(p)
	default:
		a.spool = newSpool(a.to)
	}
	return a.spool.Write(p)
}

// finish waits until the reader has the whole answer, or ctx ends. The caller must
// have given its connection to the database back.
func (a *answer) finish(ctx context.Context) error {
	a.isWhole = true
	err := a.Flush()
	if err != nil || a.spool == nil {
		return err
	}
	spool := a.spool
	a.spool = nil
	defer context.AfterFunc(ctx, func() { spool.fail(ctx.Err()) })()
	err = spool.close()
	a.service.warnOfHeldConnection(spool)
	return err
}

// heldConnectionWarnInterval is how often a warning says that clients hold connections:
// where one does, many do.
const heldConnectionWarnInterval = time.Minute

// warnOfHeldConnection says that a spool that is over had to wait for its reader.
func (s *SyncService) warnOfHeldConnection(spool *spool) {
	if spool.fileErr == nil {
		return
	}
	last, now := s.warnedOfHeld.Load(), time.Now()
	if (last == nil || now.Sub(*last) >= heldConnectionWarnInterval) && s.warnedOfHeld.CompareAndSwap(last, &now) {
		s.logger.Warn("a slow client held a connection to the database", slog.Any("error", spool.fileErr))
	}
}

// release gives the buffer back. Without finish, what the reader does not have yet
// is dropped.
func (a *answer) release() {
	if a.spool != nil {
		a.spool.drop()
		a.service.warnOfHeldConnection(a.spool)
		a.spool = nil
	}
	a.Reset(nil)
	answerBuffers.Put(a.Writer)
	a.Writer = nil
}

func (a *answer) text(text string) *answer {
	_, _ = a.WriteString(text)
	return a
}

func (a *answer) int(n int64) *answer {
	a.scratch = strconv.AppendInt(a.scratch[:0], n, 10)
	_, _ = a.Write(a.scratch)
	return a
}

func (a *answer) bool(b bool) *answer {
	a.scratch = strconv.AppendBool(a.scratch[:0], b)
	_, _ = a.Write(a.scratch)
	return a
}

func (a *answer) string(text string) *answer {
	a.scratch = appendQuoted(a.scratch[:0], text)
	_, _ = a.Write(a.scratch)
	return a
}

func (a *answer) hex(data []byte) *answer {
	a.scratch = hex.AppendEncode(a.scratch[:0], data)
	_, _ = a.Write(a.scratch)
	return a
}

// rowStart writes what each row on the wire starts with: its table and key.
func (a *answer) rowStart(ctx context.Context, tableID int32, key []byte) error {
	if a.table == nil || a.table.id != tableID {
		var err error
		if a.known == nil {
			if a.known, err = a.service.currentCatalog(ctx); err != nil {
				return err
			}
		}
		if a.known, err = a.service.catalogWith(ctx, a.known, tableID); err != nil {
			return err
		}
		a.table = a.known.byID[tableID]
	}
	a.scratch = append(a.scratch[:0], a.table.wirePrefix...)
	a.scratch = append(a.table.appendKeyJSON(a.scratch, key), '}')
	_, err := a.Write(a.scratch)
	return err
}

// bundleRow writes one row of a bundle.
func (a *answer) bundleRow(ctx context.Context, bundleSeq int64, tableID int32, op, key, payload []byte) error {
	if err := a.rowStart(ctx, tableID, key); err != nil {
		return err
	}
	if a.hasher != nil {
		a.scratch = a.table.appendKeyJSON(a.scratch[:0], key)
		if err := a.hasher.addRow(a.table.schema, a.table.table, a.table.keyColumn, a.scratch, wireOp(op), bundleSeq, payload); err != nil {
			return err
		}
	}
	a.text(`,"op":"`).text(wireOp(op)).text(`","row_version":`).int(bundleSeq)
	if payload != nil {
		a.text(`,"payload":`)
		_, _ = a.Write(payload)
	}
	return a.WriteByte('}')
}

// snapshotRow writes one row of a snapshot.
func (a *answer) snapshotRow(ctx context.Context, rowVersion int64, tableID int32, key, payload []byte) error {
	if err := a.rowStart(ctx, tableID, key); err != nil {
		return err
	}
	a.text(`,"row_version":`).int(rowVersion).text(`,"payload":`)
	_, _ = a.Write(payload)
	return a.WriteByte('}')
}
