package main

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"

	"github.com/google/uuid"
)

// todo is a row of bench.todos, without the scope.
type todo struct {
	id, listID uuid.UUID
	title      string
	note       string
	done       bool
	priority   int
	updatedAt  string
}

// maker makes rows that differ from each other. The client's own work must stay
// small beside the server's, so it spares formatting where it can. It is not
// safe for concurrent use.
type maker struct {
	random *rand.Rand
	listID uuid.UUID
	count  int
}

func newMaker(seed uint64, listID uuid.UUID) *maker {
	return &maker{random: rand.New(rand.NewPCG(seed, 1)), listID: listID} //nolint:gosec // rows of a benchmark are no secrets
}

// id returns a random UUID, as clients make them.
func (m *maker) id() uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], m.random.Uint64())
	binary.BigEndian.PutUint64(id[8:], m.random.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

func (m *maker) todo() todo {
	m.count++
	n := strconv.Itoa(m.count)
	return todo{
		id: m.id(), listID: m.listID,
		title:     "Water the plants, part " + n,
		note:      "The ones at the window need more than the others; see \"care\" № " + n,
		done:      m.count%3 == 0,
		priority:  m.count % 7,
		updatedAt: "2026-11-01T08:15:30.123456+00:00",
	}
}

// appendJSON appends the row as the payload that a client pushes, which is also
// what json_to_recordset reads.
func (t *todo) appendJSON(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = appendUUID(b, t.id)
	b = append(b, `","list_id":"`...)
	b = appendUUID(b, t.listID)
	b = append(b, `","title":`...)
	b = strconv.AppendQuote(b, t.title)
	b = append(b, `,"note":`...)
	b = strconv.AppendQuote(b, t.note)
	b = append(b, `,"done":`...)
	b = strconv.AppendBool(b, t.done)
	b = append(b, `,"priority":`...)
	b = strconv.AppendInt(b, int64(t.priority), 10)
	b = append(b, `,"updated_at":"`...)
	b = append(b, t.updatedAt...)
	return append(b, `"}`...)
}

func appendUUID(b []byte, id uuid.UUID) []byte {
	text, _ := id.MarshalText() // cannot fail
	return append(b, text...)
}

// change is a row as it is pushed.
type change struct {
	op          string
	baseVersion int64
	todo
}

// inserts returns changes that insert n new rows.
func (m *maker) inserts(n int) []change {
	changes := make([]change, n)
	for i := range changes {
		changes[i] = change{op: "INSERT", todo: m.todo()}
	}
	return changes
}

// appendChunk appends the body that pushes the changes as one chunk.
func appendChunk(b []byte, start int, changes []change) []byte {
	b = append(b, `{"start_row_ordinal":`...)
	b = strconv.AppendInt(b, int64(start), 10)
	b = append(b, `,"rows":[`...)
	for i := range changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"schema":"bench","table":"todos","key":{"id":"`...)
		b = appendUUID(b, changes[i].id)
		b = append(b, `"},"op":"`...)
		b = append(b, changes[i].op...)
		b = append(b, `","base_row_version":`...)
		b = strconv.AppendInt(b, changes[i].baseVersion, 10)
		b = append(b, `,"payload":`...)
		b = changes[i].appendJSON(b)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

// jsonArray returns the rows as the array that json_to_recordset reads.
func (m *maker) jsonArray(n int) string {
	b := []byte{'['}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		row := m.todo()
		b = row.appendJSON(b)
	}
	return string(append(b, ']'))
}
