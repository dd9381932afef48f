package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// rowsPerChunk is how many rows a push chunk and a snapshot chunk hold: the
// server's default, and so what clients use.
const rowsPerChunk = 1000

// connections is shared by all devices. Connections stay open.
var connections = &http.Client{Transport: &http.Transport{
	MaxIdleConns: 0, MaxIdleConnsPerHost: 1 << 14, DisableCompression: true,
}}

// device is one client of the server. It is not safe for concurrent use.
type device struct {
	server     *url.URL
	user       string
	header     http.Header
	maker      *maker
	nextBundle int64 // the source_bundle_id of the next push
	body       []byte
	answer     bytes.Buffer
}

// newDevice returns a device that has connected. The user's first device
// initializes the scope and pushes the one list that all todos of the scope
// belong to.
func (s *site) newDevice(ctx context.Context, user string, number int) (*device, error) {
	token, err := mintToken(user)
	if err != nil {
		return nil, err
	}
	source := user + "/device-" + strconv.Itoa(number)
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(source)) // a hash never fails to write
	d := &device{
		user: user, nextBundle: 1,
		maker: newMaker(seed.Sum64(), uuid.NewSHA1(uuid.Nil, []byte(user))),
		header: http.Header{
			"Authorization":      {"Bearer " + token},
			"Oversync-Source-Id": {source},
			"Content-Type":       {"application/json"},
		},
	}
	if err := d.moveTo(s); err != nil {
		return nil, err
	}
	if err := d.call(ctx, http.MethodPost, "/sync/connect", []byte(`{"has_local_pending_rows":false}`)); err != nil {
		return nil, err
	}
	if number > 1 {
		return d, nil
	}
	chunk := fmt.Sprintf(`{"start_row_ordinal":0,"rows":[{"schema":"bench","table":"lists","key":{"id":%[1]q},`+
		`"op":"INSERT","base_row_version":0,"payload":{"id":%[1]q,"name":"Home"}}]}`, d.maker.listID)
	_, err = d.pushBodies(ctx, 1, [][]byte{[]byte(chunk)})
	return d, err
}

// moveTo has the device talk to the site's present server.
func (d *device) moveTo(s *site) (err error) {
	d.server, err = url.Parse(s.server.url)
	return err
}

// newDevices returns first devices of n new users.
func (s *site) newDevices(ctx context.Context, n int) ([]*device, error) {
	devices := make([]*device, n)
	for i := range devices {
		var err error
		if devices[i], err = s.newDevice(ctx, s.lab.newUser(), 1); err != nil {
			return nil, err
		}
	}
	return devices, nil
}

// newDevicesOfUser returns n devices of one new user.
func (s *site) newDevicesOfUser(ctx context.Context, n int) ([]*device, error) {
	user := s.lab.newUser()
	devices := make([]*device, n)
	for i := range devices {
		var err error
		if devices[i], err = s.newDevice(ctx, user, i+1); err != nil {
			return nil, err
		}
	}
	return devices, nil
}

// call makes a request and reads the whole answer into d.answer. Any status but
// 200 and 204 is an error.
func (d *device) call(ctx context.Context, method, path string, body []byte) error {
	target := *d.server
	target.Path, target.RawQuery, _ = strings.Cut(path, "?")
	request := (&http.Request{Method: method, URL: &target, Host: target.Host, Header: d.header}).WithContext(ctx)
	if len(body) > 0 {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	response, err := connections.Do(request)
	if err != nil {
		return err
	}
	d.answer.Reset()
	_, err = d.answer.ReadFrom(response.Body)
	_ = response.Body.Close() // it was read to its end, or the error is known
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, d.answer.Bytes())
	}
	return nil
}

// committed is the answer to a commit.
type committed struct {
	BundleSeq  int64  `json:"bundle_seq"`
	RowCount   int64  `json:"row_count"`
	BundleHash string `json:"bundle_hash"`
}

// push pushes changes as one bundle, in chunks, and checks the answer.
func (d *device) push(ctx context.Context, changes []change) (committed, error) {
	pushID, err := d.createPush(ctx, len(changes))
	if err != nil {
		return committed{}, err
	}
	for start := 0; start < len(changes); start += rowsPerChunk {
		d.body = appendChunk(d.body[:0], start, changes[start:min(start+rowsPerChunk, len(changes))])
		if err := d.call(ctx, http.MethodPost, "/sync/push-sessions/"+pushID+"/chunks", d.body); err != nil {
			return committed{}, err
		}
	}
	return d.commitPush(ctx, pushID, len(changes))
}

// pushBodies pushes chunks that were made before, so that a measurement has as
// little of the client's own work in it as can be.
func (d *device) pushBodies(ctx context.Context, rows int, chunks [][]byte) (committed, error) {
	pushID, err := d.createPush(ctx, rows)
	if err != nil {
		return committed{}, err
	}
	for _, chunk := range chunks {
		if err := d.call(ctx, http.MethodPost, "/sync/push-sessions/"+pushID+"/chunks", chunk); err != nil {
			return committed{}, err
		}
	}
	return d.commitPush(ctx, pushID, rows)
}

func (d *device) createPush(ctx context.Context, rows int) (pushID string, err error) {
	d.body = fmt.Appendf(d.body[:0], `{"source_bundle_id":%d,"planned_row_count":%d}`, d.nextBundle, rows)
	if err := d.call(ctx, http.MethodPost, "/sync/push-sessions", d.body); err != nil {
		return "", err
	}
	var session struct {
		PushID string `json:"push_id"`
	}
	err = json.Unmarshal(d.answer.Bytes(), &session)
	return session.PushID, err
}

func (d *device) commitPush(ctx context.Context, pushID string, rows int) (committed, error) {
	var done committed
	if err := d.call(ctx, http.MethodPost, "/sync/push-sessions/"+pushID+"/commit", nil); err != nil {
		return done, err
	}
	if err := json.Unmarshal(d.answer.Bytes(), &done); err != nil {
		return done, err
	}
	if done.RowCount != int64(rows) || done.BundleSeq == 0 || len(done.BundleHash) != 64 {
		return done, fmt.Errorf("a push of %d rows was answered with %+v", rows, done)
	}
	d.nextBundle++
	return done, nil
}
