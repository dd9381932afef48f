package oversync

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// spoolMemory is how much of an answer waits in memory for its reader, beside
	// what the reader is taking.
	spoolMemory = 128 << 10
	// spoolPatience is how long a whole answer may take before its reader is slow.
	spoolPatience = 100 * time.Millisecond
)

// spool passes on what is written to it, and does not wait for a reader that is
// slower: who writes has a connection to the database, and those are few. What the
// reader has not taken is kept in memory, and after spoolPatience what is beyond
// spoolMemory in a temporary file. Only where no file can be written it waits for
// the reader.
//
// An error of the reader comes back from the next Write or from close; fileErr, after
// close, says that the reader was waited for.
type spool struct {
	to       io.Writer
	patience *time.Timer
	done     chan struct{} // closed when nothing is passed on any more

	mu      sync.Mutex
	changed sync.Cond
	memory  []byte   // older than what is in the file
	other   []byte   // what the reader is taking, or room for it
	file    *os.File // nil until it is needed
	written int64    // end of what is in the file
	taken   int64    // start of what is in the file and not passed on
	isSlow  bool     // the reader had its time
	ended   bool     // nothing more will be written
	err     error    // nothing more will be passed on
	fileErr error    // why there is no file
}

var errSpoolDropped = errors.New("the answer was given up")

// spoolBuffers keeps the memory of spools that are over.
var spoolBuffers = sync.Pool{New: func() any { return &[2][]byte{make([]byte, 0, spoolMemory), make([]byte, 0, spoolMemory)} }}

// newSpool returns a spool that passes on to a writer. The caller must call close
// or drop when done; the writer is not used after that.
func newSpool(to io.Writer) *spool {
	buffers := spoolBuffers.Get().(*[2][]byte)
	s := &spool{to: to, done: make(chan struct{}), memory: buffers[0][:0], other: buffers[1][:0]}
	s.changed.L = &s.mu
	s.patience = time.AfterFunc(spoolPatience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.isSlow = true
		s.changed.Broadcast()
	})
	go s.passOn()
	return s
}

// Write takes in p. Only one goroutine may write.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	for s.err == nil {
		if s.inFile() == 0 && len(s.memory)+len(p) <= spoolMemory {
			s.memory = append(s.memory, p...)
			return len(p), nil
		}
		if s.isSlow {
			err := s.writeToFile(p)
			if err == nil {
				return len(p), nil
			}
			s.fileErr = err
		}
		if len(s.memory) == 0 && s.inFile() == 0 { // more than fits, and nothing to wait for
			s.memory = append(s.memory, p...)
			return len(p), nil
		}
		s.changed.Wait()
	}
	return 0, s.err
}

func (s *spool) inFile() int64 { return s.written - s.taken }

func (s *spool) writeToFile(p []byte) error {
	if s.file == nil {
		file, err := os.CreateTemp("", "oversync-answer-*")
		if err != nil {
			return fmt.Errorf("make a file for a slow reader: %w", err)
		}
		_ = os.Remove(file.Name()) // it lives until it is closed, or this process ends
		s.file = file
	}
	if _, err := s.file.WriteAt(p, s.written); err != nil {
		return fmt.Errorf("keep an answer for a slow reader: %w", err)
	}
	s.written += int64(len(p))
	return nil
}

// passOn gives the reader piece after piece until there are no more.
func (s *spool) passOn() {
	defer close(s.done)
	for {
		piece, err := s.next()
		if err == nil && len(piece) > 0 {
			err = writeTo(s.to, piece)
		}
		if err != nil {
			s.fail(err)
		}
		if err != nil || len(piece) == 0 {
			return
		}
	}
}

// next waits for the next piece and returns it, valid until the next call. An empty
// one means that there are no more.
func (s *spool) next() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.memory) == 0 && s.inFile() == 0 && !s.ended && s.err == nil {
		s.changed.Wait()
	}
	defer s.changed.Broadcast()
	if len(s.memory) > 0 || s.inFile() == 0 {
		s.memory, s.other = s.other[:0], s.memory
		return s.other, s.err
	}
	s.other = s.other[:min(s.inFile(), spoolMemory)]
	if _, err := s.file.ReadAt(s.other, s.taken); err != nil {
		return nil, fmt.Errorf("read an answer that waited for its reader: %w", err)
	}
	if s.taken += int64(len(s.other)); s.inFile() == 0 {
		s.written, s.taken = 0, 0
	}
	return s.other, s.err
}

// writeTo writes a piece in parts no larger than those of other answers, since a
// reader has a bounded time for each. A panic of the writer would end the process
// here, where nobody else can catch it.
func writeTo(w io.Writer, piece []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while an answer was written: %v", p)
		}
	}()
	for part := range slices.Chunk(piece, answerBufferBytes) {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (s *spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}

// close waits until the reader has everything.
func (s *spool) close() error {
	s.mu.Lock()
	s.ended = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.done
	s.patience.Stop()
	s.mu.Lock() // a request that ends says so at any time
	defer s.mu.Unlock()
	if cap(s.memory)+cap(s.other) == 2*spoolMemory { // and have not grown by a large row
		spoolBuffers.Put(&[2][]byte{s.memory, s.other})
	}
	s.memory, s.other = nil, nil
	if s.file != nil {
		_ = s.file.Close() // nothing in it is wanted any more
	}
	return s.err
}

// drop gives up what the reader does not have. It waits for the piece that the
// reader is taking.
func (s *spool) drop() {
	s.fail(errSpoolDropped)
	_ = s.close()
}
