package oversync

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// stoppedReader takes nothing until it is let go, and then takes everything.
type stoppedReader struct {
	letGo chan struct{}
	bytes.Buffer
}

func (r *stoppedReader) Write(p []byte) (int, error) {
	<-r.letGo
	return r.Buffer.Write(p)
}

// writerFunc is a reader as a function.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestSpoolPassesOnWhatIsWritten writes pieces of all sizes while the reader takes
// some now and then.
func TestSpoolPassesOnWhatIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(30_000, 90_000), rapid.IntRange(200_000, 600_000)), 0, 30).Draw(t, "sizes")
		waits := rapid.SliceOfN(rapid.Bool(), len(sizes), len(sizes)).Draw(t, "waits")
		var want, have bytes.Buffer
		takes := make(chan struct{}, len(sizes))
		over := make(chan struct{})
		s := newSpool(writerFunc(func(p []byte) (int, error) {
			select {
			case <-takes:
			case <-over:
			}
			return have.Write(p)
		}))
		for i, size := range sizes {
			piece := bytes.Repeat([]byte{byte(i)}, size)
			want.Write(piece)
			n, err := s.Write(piece)
			if n != size || err != nil {
				t.Fatalf("wrote %d of %d: %v", n, size, err)
			}
			if !waits[i] {
				takes <- struct{}{}
			}
		}
		close(over)
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Bytes(), have.Bytes()) {
			t.Fatalf("%d bytes became %d others", want.Len(), have.Len())
		}
	})
}

func TestSpoolDoesNotWaitForItsReader(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	reader := &stoppedReader{letGo: make(chan struct{})}
	s := newSpool(reader)
	want := bytes.Repeat([]byte("0123456789"), 1<<20)
	for piece := range slices.Chunk(want, 10<<10) {
		_, err := s.Write(piece) // would hang
		require.NoError(t, err)
	}
	s.mu.Lock() // the other side is at work
	memory, file := cap(s.memory), s.file
	s.mu.Unlock()
	require.LessOrEqual(t, memory, 2*spoolMemory)
	entries, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, entries, "a crash would leave it")
	require.NotNil(t, file)
	close(reader.letGo)
	require.NoError(t, s.close())
	require.True(t, bytes.Equal(want, reader.Bytes()))
}

// Where no file can be made, answers take as long as their readers.
func TestSpoolWithoutADisk(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	reader := &stoppedReader{letGo: make(chan struct{})}
	s := newSpool(reader)
	want := bytes.Repeat([]byte("0123456789"), 100<<10)
	written := make(chan error, 1)
	go func() {
		var err error
		for piece := range slices.Chunk(want, 10<<10) {
			_, writeErr := s.Write(piece)
			err = errors.Join(err, writeErr)
		}
		written <- err
	}()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.fileErr != nil
	}, time.Minute, time.Millisecond)
	require.Empty(t, written)
	close(reader.letGo)
	require.NoError(t, <-written)
	require.NoError(t, s.close())
	require.True(t, bytes.Equal(want, reader.Bytes()))
	require.ErrorContains(t, s.fileErr, "/nowhere")

	var whole bytes.Buffer
	s = newSpool(&whole)
	s.isSlow = true
	_, err := s.Write(make([]byte, 2*spoolMemory))
	require.NoError(t, err, "one piece that is larger than the memory")
	require.NoError(t, s.close())
	require.Equal(t, 2*spoolMemory, whole.Len())
}

func TestSpoolTellsWhatItsReaderSays(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for name, reader := range map[string]io.Writer{
		"gone":                  writerFunc(func([]byte) (int, error) { return 0, gone }),
		"panic while an answer": writerFunc(func([]byte) (int, error) { panic("oh") }),
	} {
		s := newSpool(reader)
		_, err := s.Write([]byte("first"))
		require.NoError(t, err)
		<-s.done
		_, err = s.Write([]byte("second"))
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, s.close(), name)
	}
	s := newSpool(&stoppedReader{letGo: make(chan struct{})})
	s.drop() // before anything was written; with the reader at work it waits
	_, err := s.Write([]byte("late"))
	require.ErrorIs(t, err, errSpoolDropped)
}

// TestSpoolEndsWhileItsRequestEnds ends requests at the moment their answers are over:
// it is the race detector that judges.
func TestSpoolEndsWhileItsRequestEnds(t *testing.T) {
	t.Parallel()
	for range 1000 {
		s := newSpool(io.Discard)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			<-s.done
			s.fail(context.Canceled)
		}()
		_ = s.close()
		<-ended
	}
}

// TestAnAnswerEndsWithItsRequest lets a request end while the reader still takes its
// answer, when nothing is read from the database any more.
func TestAnAnswerEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	reader := &stoppedReader{letGo: make(chan struct{})}
	out := (&SyncService{}).newAnswer(reader)
	defer out.release()
	out.text(strings.Repeat("x", 4*answerBufferBytes))
	s := out.spool
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 1)
	go func() { finished <- out.finish(ctx) }()
	cancel()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.err != nil
	}, time.Minute, time.Millisecond)
	close(reader.letGo)
	require.ErrorIs(t, <-finished, context.Canceled)
}

// TestAHeldConnectionIsTold cuts readers that held a connection to the database, since
// there was no file to keep their answers in.
func TestAHeldConnectionIsTold(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	var log bytes.Buffer
	service := &SyncService{logger: slog.New(slog.NewTextHandler(&log, nil))}
	for range 2 {
		cut := make(chan struct{})
		out := service.newAnswer(writerFunc(func([]byte) (int, error) {
			<-cut
			return 0, io.ErrClosedPipe
		}))
		out.text(strings.Repeat("x", 2*answerBufferBytes))
		s := out.spool
		s.mu.Lock()
		s.isSlow = true
		s.mu.Unlock()
		written := make(chan error, 1)
		go func() {
			_, err := out.WriteString(strings.Repeat("x", 2*spoolMemory))
			written <- err
		}()
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.fileErr != nil
		}, time.Minute, time.Millisecond)
		close(cut)
		require.ErrorIs(t, <-written, io.ErrClosedPipe)
		out.release()
	}
	require.Equal(t, 1, strings.Count(log.String(), "/nowhere"), "once in a while: %s", &log)
}
