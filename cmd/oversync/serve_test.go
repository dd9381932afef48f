package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAConnectionTellsSoonThatItsReaderTakesSomething reads slowly, after a fast start
// that lets the send buffer grow as far as it does. A large buffer has room for more
// only once a large part of it is gone, which looks like a reader that takes nothing.
func TestAConnectionTellsSoonThatItsReaderTakesSomething(t *testing.T) {
	t.Parallel()
	const stall = time.Second
	failed := make(chan error, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		control, block := http.NewResponseController(w), make([]byte, 32<<10)
		for {
			_ = control.SetWriteDeadline(time.Now().Add(stall))
			if _, err := w.Write(block); err != nil {
				failed <- err
				return
			}
		}
	}))
	server.Config.ConnContext = boundSendBuffer
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(64<<10))
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	_, err = io.CopyN(io.Discard, reader, 32<<20)
	require.NoError(t, err)

	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for start := time.Now(); time.Since(start) < 5*stall/2; <-ticker.C { // 640 KB/s
		_, err := io.CopyN(io.Discard, reader, 16<<10)
		require.NoError(t, err)
	}
	require.Empty(t, failed, "cut, though the client was reading")
}
