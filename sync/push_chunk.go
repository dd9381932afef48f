package oversync

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/oversync/oversync/db"
)

// stagedRows is a chunk judged and ready for the database: arrays that go
// together, one element a row.
type stagedRows struct {
	tableIDs     []int32
	ops          []byte
	baseVersions []int64
	keys         [][]byte
	payloads     []string
}

// UploadPushChunkJSON is UploadPushChunk on a request body as it came over HTTP.
func (s *SyncService) UploadPushChunkJSON(ctx context.Context, actor Actor, pushID string, body []byte) (*PushSessionChunkResponse, error) {
	if !utf8.Valid(body) {
		return nil, &PushChunkInvalidError{Message: "the body is not UTF-8"}
	}
	var req PushSessionChunkRequest
	if err := DecodeRequest(body, &req); err != nil {
		return nil, &PushChunkInvalidError{Message: err.Error()}
	}
	return s.UploadPushChunk(ctx, actor, pushID, &req)
}

// UploadPushChunk stages the next rows of a push. Everything about them that can
// be judged without the database's rows is judged here, so that a commit fails
// only for what others did. It may be repeated until it succeeds; a chunk that
// was staged already is PushChunkOutOfOrderError, which names the next ordinal.
func (s *SyncService) UploadPushChunk(ctx context.Context, actor Actor, pushID string, req *PushSessionChunkRequest) (*PushSessionChunkResponse, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if actor, err = actor.validate(); err != nil {
		return nil, err
	}
	id, ok := parseSessionID(pushID)
	if !ok {
		return nil, &PushSessionNotFoundError{PushID: pushID}
	}
	if err := s.checkChunkShape(req); err != nil {
		return nil, err
	}
	known, err := s.currentCatalog(ctx)
	if err != nil {
		return nil, err
	}
	// Rows judged by an old catalog are judged again by the new one. Registrations
	// are rare, so more than a few rounds mean something else is wrong.
	for round := 1; ; round++ {
		clock := s.stages("push_chunk", round)
		staged, judged := known.judgeRows(req.Rows)
		clock.done(ctx, "judge", len(req.Rows), judged)
		if judged == nil {
			next, err := s.stageRows(ctx, actor, id, req.StartRowOrdinal, known.version, staged)
			clock.done(ctx, "stage", len(req.Rows), err)
			if err == nil {
				return &PushSessionChunkResponse{PushID: pushID, NextExpectedRowOrdinal: next}, nil
			}
			if round == maxAttempts || !hasSQLState(err, sqlCatalogChanged) {
				return nil, typedError(err, actor, pushID)
			}
		} else if version, err := s.queries.CatalogVersion(ctx, s.pool); err != nil || version == known.version || round == maxAttempts {
			if err != nil {
				return nil, err
			}
			return nil, judged
		}
		if known, err = s.reloadCatalog(ctx); err != nil {
			return nil, err
		}
	}
}

func (s *SyncService) stageRows(ctx context.Context, actor Actor, id uuid.UUID, start, catalogVersion int64, staged *stagedRows) (next int64, err error) {
	err = retry(ctx, func(int) error {
		next, err = s.queries.PushChunkStage(ctx, s.pool, db.PushChunkStageParams{
			PushID: id, UserID: actor.UserID, SourceID: actor.SourceID,
			StartRowOrdinal: start, CatalogVersion: catalogVersion,
			TableIds: staged.tableIDs, Ops: string(staged.ops), BaseRowVersions: staged.baseVersions, Keys: staged.keys, Payloads: staged.payloads,
			SessionTtl: s.config.PushSessionTTL, LeaseTtl: s.config.InitializationLeaseTTL,
		})
		return err
	})
	return next, err
}

// checkChunkShape judges what is not about a single row.
func (s *SyncService) checkChunkShape(req *PushSessionChunkRequest) error {
	switch {
	case req == nil || len(req.Rows) == 0:
		return &PushChunkInvalidError{Message: "the chunk has no rows: send at least one"}
	case req.StartRowOrdinal < 0:
		return &PushChunkInvalidError{Message: "start_row_ordinal is negative: the first row of a push is 0"}
	case len(req.Rows) > s.config.MaxRowsPerPushChunk:
		return &PushChunkInvalidError{Message: fmt.Sprintf("the chunk has %d rows: send at most %d at a time", len(req.Rows), s.config.MaxRowsPerPushChunk)}
	}
	return nil
}

// judgeRows judges the rows of a chunk one by one, and makes them ready for the
// database. An error is a *PushChunkInvalidError that names the row.
func (c *catalog) judgeRows(rows []PushRequestRow) (*stagedRows, error) {
	staged := &stagedRows{
		tableIDs: make([]int32, len(rows)), ops: make([]byte, len(rows)), baseVersions: make([]int64, len(rows)),
		keys: make([][]byte, len(rows)), payloads: make([]string, len(rows)),
	}
	type rowID struct {
		tableID int32
		key     string
	}
	seen := make(map[rowID]struct{}, len(rows))
	var judge rowJudge
	for i := range rows {
		if err := judge.row(c, &rows[i]); err != nil {
			return nil, &PushChunkInvalidError{Message: fmt.Sprintf("row %d of the chunk: %v", i, err)}
		}
		id := rowID{judge.table.id, string(judge.key)}
		if _, twice := seen[id]; twice {
			return nil, &PushChunkInvalidError{Message: fmt.Sprintf("row %d of the chunk: the same row is in the chunk twice: push each row once, in its final state", i)}
		}
		seen[id] = struct{}{}
		staged.tableIDs[i], staged.ops[i], staged.baseVersions[i] = judge.table.id, judge.op, rows[i].BaseRowVersion
		staged.keys[i], staged.payloads[i] = judge.key, string(judge.payload)
	}
	return staged, nil
}

// rowJudge judges one row after the other, with the scratch space that takes.
type rowJudge struct {
	table   *catalogTable
	op      byte
	key     []byte
	payload []byte // in the form that json_populate_record reads

	keyText string
	names   map[string]struct{}
}

func (j *rowJudge) row(c *catalog, row *PushRequestRow) error {
	name := Key(row.Schema, row.Table)
	if j.table = c.byName[name]; j.table == nil {
		return fmt.Errorf("table %s is not registered", name)
	}
	if err := j.judgeKey(row.Key); err != nil {
		return err
	}
	if row.BaseRowVersion < 0 {
		return fmt.Errorf("base_row_version is negative")
	}
	payload := row.Payload
	if bytes.Equal(payload, []byte("null")) {
		payload = nil
	}
	switch strings.ToUpper(row.Op) {
	case OpInsert:
		j.op = 'I'
	case OpUpdate:
		j.op = 'U'
	case OpDelete:
		j.op = 'D'
		j.payload = j.payload[:0]
		if payload != nil {
			return fmt.Errorf("a DELETE has no payload")
		}
		return nil
	default:
		return fmt.Errorf("op %q is not INSERT, UPDATE or DELETE", row.Op)
	}
	if payload == nil {
		return fmt.Errorf("the payload is missing")
	}
	return j.judgePayload(payload)
}

func (j *rowJudge) judgeKey(key SyncKey) error {
	value, ok := key[j.table.keyColumn]
	if !ok || len(key) != 1 {
		return fmt.Errorf("the key must have the one column %s", j.table.keyColumn)
	}
	j.keyText, ok = value.(string)
	if !ok {
		return fmt.Errorf("the key column %s must be a string", j.table.keyColumn)
	}
	if strings.ContainsRune(j.keyText, 0) {
		return fmt.Errorf("the key has a character U+0000 in it, which the database cannot store")
	}
	if j.key, ok = j.table.parseKey(j.keyText); !ok {
		return fmt.Errorf("the key %q is not a UUID", j.keyText)
	}
	return nil
}

// judgePayload checks the columns and writes the payload anew: names in lower
// case, key filled in, base64 as the database reads bytes.
func (j *rowJudge) judgePayload(payload json.RawMessage) error {
	if j.names == nil {
		j.names = make(map[string]struct{})
	}
	clear(j.names)
	j.payload = append(j.payload[:0], '{')
	err := scanPayload(payload, j.judgeColumn)
	if err != nil {
		return err
	}
	if _, named := j.names[j.table.keyColumn]; !named {
		j.startColumn(j.table.keyColumn)
		j.payload = j.table.appendKeyJSON(j.payload, j.key)
	}
	j.payload = append(j.payload, '}')
	return nil
}

func (j *rowJudge) startColumn(name string) {
	if len(j.payload) > 1 {
		j.payload = append(j.payload, ',')
	}
	j.payload = append(j.payload, '"')
	j.payload = append(j.payload, name...) // made of a-z 0-9 _ only
	j.payload = append(j.payload, '"', ':')
}

func (j *rowJudge) judgeColumn(rawName, value []byte) error {
	name := strings.ToLower(string(rawName))
	column, known := j.table.columns[name]
	if !known {
		return fmt.Errorf("table %s.%s has no column %q", j.table.schema, j.table.table, rawName)
	}
	if column.isScope {
		return fmt.Errorf("column %s is the server's and must not be sent", name)
	}
	if _, twice := j.names[name]; twice {
		return fmt.Errorf("column %s is in the payload twice", name)
	}
	j.names[name] = struct{}{}
	if bytes.Contains(value, []byte(`\u0000`)) && jsonStringContainsNUL(value) {
		return fmt.Errorf("column %s has a character U+0000 in it, which the database cannot store", name)
	}
	switch {
	case column.isKey:
		var text string
		if err := json.Unmarshal(value, &text); err != nil || !j.isKey(text) {
			return fmt.Errorf("column %s is not the same as in the key", name)
		}
		j.startColumn(name)
		j.payload = j.table.appendKeyJSON(j.payload, j.key)
	case column.isGenerated:
		// Sent to clients, and so sent back by them; the database makes its own.
	case column.isBytea && !bytes.Equal(value, []byte("null")):
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return fmt.Errorf("column %s must be a base64 string", name)
		}
		decoded, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return fmt.Errorf("column %s is not standard base64 with padding", name)
		}
		j.startColumn(name)
		j.payload = append(j.payload, `"\\x`...)
		j.payload = hex.AppendEncode(j.payload, decoded)
		j.payload = append(j.payload, '"')
	default:
		j.startColumn(name)
		j.payload = append(j.payload, value...)
	}
	return nil
}

// isKey says whether text names the row's own key.
func (j *rowJudge) isKey(text string) bool {
	other, ok := j.table.parseKey(text)
	return ok && bytes.Equal(other, j.key)
}
