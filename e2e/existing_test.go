package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/e2e/device"
	"github.com/oversync/oversync/httpapi/openapitest"
)

// northwindTables are the synced tables of e2e/testdata/northwind.sql, and how a device of an employee reads each from
// the database, written by hand rather than by what is tested. $1 is the employee.
var northwindTables = []struct{ name, key, from, columns string }{
	{
		"customers", "customer_id", `customers t WHERE t.employee_id = $1`,
		`'customer_id', t.customer_id, 'company_name', company_name, 'contact_name', contact_name, 'city', city, 'phone', phone`,
	},
	{
		"orders", "order_id", `orders t JOIN customers c USING (customer_id) WHERE c.employee_id = $1`,
		`'order_id', t.order_id, 'customer_id', t.customer_id, 'employee_id', t.employee_id, 'order_date', order_date, 'shipped_date', shipped_date,
		 'freight', freight, 'ship_via', ship_via`,
	},
	{
		"order_details", "order_detail_id", `order_details t JOIN orders o USING (order_id) JOIN customers c USING (customer_id) WHERE c.employee_id = $1`,
		`'order_detail_id', t.order_detail_id, 'order_id', t.order_id, 'product_id', t.product_id, 'unit_price', t.unit_price, 'quantity', t.quantity, 'discount', t.discount`,
	},
	{
		"visits", "visit_id", `visits t JOIN customers c USING (customer_id) WHERE c.employee_id = $1`,
		`'visit_id', t.visit_id, 'customer_id', t.customer_id, 'planned_for', planned_for, 'done', done, 'notes', notes,
		 'photo', replace(encode(photo, 'base64'), E'\n', ''), 'answers', answers`,
	},
}

// northwindDevice describes the tables to a device. withPriority is the schema after the ALTER TABLE.
func northwindDevice(withPriority bool) []device.Table {
	column := func(name string, typ device.Type) device.Column { return device.Column{Name: name, Type: typ} }
	ref := func(name, to string) device.Column {
		return device.Column{Name: name, Type: device.Text, References: to}
	}
	onServer := func(name string, typ device.Type) device.Column {
		return device.Column{Name: name, Type: typ, ServerDefault: true}
	}
	orders := []device.Column{
		ref("customer_id", "customers(customer_id)"), column("employee_id", device.Integer), onServer("order_date", device.Text),
		column("shipped_date", device.Text), onServer("freight", device.Numeric), column("ship_via", device.Integer),
	}
	if withPriority {
		orders = append(orders, onServer("priority", device.Text))
	}
	return []device.Table{
		{Name: "customers", Key: "customer_id", KeyType: device.TextKey, Columns: []device.Column{
			column("company_name", device.Text), column("contact_name", device.Text), column("city", device.Text), column("phone", device.Text),
		}},
		{Name: "orders", Key: "order_id", KeyType: device.TextKey, Columns: orders},
		{Name: "order_details", Key: "order_detail_id", Columns: []device.Column{
			ref("order_id", "orders(order_id) ON DELETE CASCADE"), column("product_id", device.Integer),
			column("unit_price", device.Numeric), column("quantity", device.Integer), onServer("discount", device.Real),
		}},
		{Name: "visits", Key: "visit_id", Columns: []device.Column{
			ref("customer_id", "customers(customer_id) ON DELETE CASCADE"), column("planned_for", device.Timestamp), onServer("done", device.Bool),
			column("notes", device.Text), column("photo", device.Bytes), column("answers", device.JSON),
		}},
	}
}

// northwind is a server on a database that was there before it, with devices of its employees.
type northwind struct {
	*server
	conn         *pgx.Conn // an application that knows nothing of sync
	withPriority bool
}

// psql runs statements as an application does, outside of any bundle.
func (n *northwind) psql(t *testing.T, statements string) {
	t.Helper()
	_, err := n.conn.Exec(t.Context(), statements)
	require.NoError(t, err)
}

// tablet opens a device of an employee.
func (n *northwind) tablet(t *testing.T, employee string) *phone {
	t.Helper()
	return n.phone(t, employee, func(cfg *device.Config) { cfg.Tables = northwindDevice(n.withPriority) })
}

// requireEqual checks that each device has every row as the database has it, and nothing else.
func (n *northwind) requireEqual(t *testing.T, tablets ...*phone) {
	t.Helper()
	for i, p := range tablets {
		for _, table := range northwindTables {
			columns := table.columns
			if table.name == "orders" && n.withPriority {
				columns += `, 'priority', priority`
			}
			want := n.lines(t, fmt.Sprintf(`SELECT json_build_object(%s)::text FROM %s ORDER BY t.%s::text COLLATE "C"`, columns, table.from, table.key), p.user)
			got, err := p.Dump(t.Context(), table.name)
			require.NoError(t, err)
			require.Len(t, got, len(want), "%s of device %d", table.name, i)
			for row := range want {
				require.Equal(t, want[row], canonicalLine(t, got[row]), "%s of device %d", table.name, i)
			}
		}
		st, err := p.State(t.Context())
		require.NoError(t, err)
		require.Zero(t, st.DirtyRows+st.OutboxRows, "device %d still has something to push", i)
	}
}

func (n *northwind) lines(t *testing.T, query, employee string) []string {
	t.Helper()
	rows, err := n.conn.Query(t.Context(), query, employee)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, lines)
	for i := range lines {
		lines[i] = canonicalLine(t, lines[i])
	}
	return lines
}

// waitForAdoption returns once the running server has entered all rows into the log.
func (n *northwind) waitForAdoption(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return n.number(t, `SELECT count(*) FROM sync.adoptions`) == 0
	}, 10*time.Minute, 200*time.Millisecond)
}

// TestADatabaseThatWasThere takes a populated database through all that docs/existing-database.md tells: registered as
// it is, adopted while devices arrive, written by devices, by plain SQL and by COPY, and altered in the middle.
func TestADatabaseThatWasThere(t *testing.T) {
	t.Parallel()
	orders, rows := 50_000, int64(200_000)
	if testing.Short() || underRace {
		orders, rows = 5_000, 20_000
	}
	n := &northwind{server: &server{database: pgtest.NewEmptyDatabase(t), transport: newTransport()}}
	n.checked = openapitest.Wrap(t, n.transport)
	n.conn = n.connect(t)
	n.psql(t, fmt.Sprintf(`SET northwind.orders = %d; SET TimeZone = 'UTC'`, orders))
	n.psql(t, readFile(t, "testdata/northwind.sql"))

	// What cannot be registered says why, and how to mend it.
	n.run(t, "migrate", "up")
	_, err := n.conn.Exec(t.Context(), readFile(t, "testdata/northwind_register.sql"))
	require.ErrorContains(t, err, "key column customer_id of public.customers has type character varying")
	n.psql(t, readFile(t, "testdata/northwind_changes.sql"))
	n.psql(t, readFile(t, "testdata/northwind_register.sql"))

	require.NoError(t, n.start())
	t.Cleanup(func() {
		n.transport.CloseIdleConnections()
		if err := n.stop(); err != nil {
			t.Errorf("the server did not stop as asked: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", n.logs.tail(8000))
		}
	})

	// The first device arrives while rows still enter the log, and the application goes on writing.
	first := n.tablet(t, "1")
	syncAll(t, first)
	n.psql(t, `UPDATE customers SET contact_name = 'meanwhile' WHERE customer_id < 'C0100'; DELETE FROM order_details WHERE order_id = '3'`)
	n.waitForAdoption(t)
	second, other := n.tablet(t, "1"), n.tablet(t, "2")
	syncAll(t, first, second, other)
	n.requireEqual(t, first, second, other)
	require.GreaterOrEqual(t, n.number(t, `SELECT sum(live_rows) FROM sync.scopes`), rows-10)
	require.EqualValues(t, 9, n.number(t, `SELECT count(*) FROM sync.scopes`))

	n.devicesWrite(t, first, second, other)
	n.applicationWrites(t, first, second, other)
	n.copyIn(t, first, second, other)
	n.alter(t, first, second, other)

	late := n.tablet(t, "2")
	syncAll(t, late, first, second, other)
	n.requireEqual(t, first, second, other, late)
	require.Equal(t, "[]\n", n.run(t, "verify", "--all", "--json"))
	require.Equal(t, "[]\n", n.run(t, "check", "--json"))
}

// devicesWrite has devices of two employees write offline, and two of one employee edit the same rows.
func (n *northwind) devicesWrite(t *testing.T, first, second, other *phone) {
	order := newID()
	first.write(t, `INSERT INTO customers (customer_id, company_name, city) VALUES ('NEW01', 'A new company', 'Oslo')`)
	first.write(t, `INSERT INTO orders (order_id, customer_id, employee_id, ship_via, freight) VALUES (?, 'NEW01', 1, 11, '12.50')`, order)
	for product := range 3 {
		first.write(t, `INSERT INTO order_details (order_detail_id, order_id, product_id, unit_price, quantity) VALUES (?, ?, ?, '9.90', 2)`, newID(), order, product+1)
	}
	first.write(t, `INSERT INTO visits (visit_id, customer_id, planned_for, photo, answers) VALUES (?, 'NEW01', '2026-03-01T08:00:00Z', x'00ff10', '{"score": 1.50}')`, newID())
	first.write(t, `UPDATE orders SET shipped_date = '2026-02-02' WHERE order_id IN (SELECT order_id FROM orders WHERE shipped_date IS NULL AND freight IS NOT NULL LIMIT 20)`)
	second.write(t, `UPDATE customers SET phone = '555' WHERE rowid <= 30`)
	second.write(t, `DELETE FROM orders WHERE order_id IN (SELECT order_id FROM orders WHERE shipped_date IS NOT NULL ORDER BY order_id LIMIT 5)`)
	other.write(t, `UPDATE visits SET done = 1, notes = 'seen' WHERE NOT done`)
	syncAll(t, first, second, other, first)
	first.write(t, `UPDATE customers SET city = 'Bergen' WHERE customer_id = 'NEW01'`)
	second.write(t, `UPDATE customers SET city = 'Trondheim' WHERE customer_id = 'NEW01'`)
	syncAll(t, first, second, first)
	n.requireEqual(t, first, second, other)
}

// applicationWrites runs the statements of an application, over scopes and tables.
func (n *northwind) applicationWrites(t *testing.T, first, second, other *phone) {
	n.psql(t, `SET sync.writer_id = 'nightly job'`)
	n.psql(t, `UPDATE orders SET freight = freight + 1 WHERE order_date = '2020-02-02'`)
	var scopes, changed int
	require.NoError(t, n.conn.QueryRow(t.Context(), `SELECT count(*), sum(row_count) FROM sync.last_bundle() WHERE source_id = 'nightly job'`).Scan(&scopes, &changed))
	require.Positive(t, scopes)
	require.Positive(t, changed)
	n.psql(t, `RESET sync.writer_id`)

	n.psql(t, `
		BEGIN;
		INSERT INTO customers (customer_id, employee_id, company_name) VALUES ('SQL01', 1, 'From psql'), ('SQL02', 2, 'From psql too');
		SAVEPOINT s;
		DELETE FROM visits;
		ROLLBACK TO s;
		WITH o AS (INSERT INTO orders (customer_id) VALUES ('SQL01'), ('SQL02') RETURNING order_id)
		INSERT INTO order_details (order_id, product_id, unit_price, quantity) SELECT order_id, 7, 1.10, 3 FROM o;
		DELETE FROM order_details WHERE product_id = 11;
		COMMIT;`)
	// A customer changes hands, and all that hangs on it goes along.
	n.psql(t, `UPDATE customers SET employee_id = 3 - employee_id 
		WHERE customer_id IN (SELECT customer_id FROM customers WHERE employee_id IN (1, 2) AND company_name <> 'A new company' ORDER BY company_name LIMIT 12)
		   OR customer_id = 'SQL01'`)
	syncAll(t, first, second, other)
	n.requireEqual(t, first, second, other)
	var moved int
	require.NoError(t, other.DB().QueryRow(`SELECT count(*) FROM customers WHERE customer_id = 'SQL01'`).Scan(&moved))
	require.Equal(t, 1, moved)
}

// copyIn loads rows of all employees with COPY.
func (n *northwind) copyIn(t *testing.T, first, second, other *phone) {
	var lines bytes.Buffer
	customers, err := n.conn.Query(t.Context(), `SELECT customer_id FROM customers ORDER BY 1 LIMIT 400`)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(customers, pgx.RowTo[string])
	require.NoError(t, err)
	for i, id := range ids {
		_, err := fmt.Fprintf(&lines, "%s\t2026-04-01 10:00:00+02\tt\tcopied %d\n", id, i)
		require.NoError(t, err)
	}
	tag, err := n.conn.PgConn().CopyFrom(t.Context(), &lines, `COPY visits (customer_id, planned_for, done, notes) FROM STDIN`)
	require.NoError(t, err)
	require.EqualValues(t, 400, tag.RowsAffected())
	syncAll(t, first, second, other)
	n.requireEqual(t, first, second, other)
}

// alter adds a column while everybody goes on, and gives the devices their new version.
func (n *northwind) alter(t *testing.T, first, second, other *phone) {
	n.psql(t, `ALTER TABLE orders ADD COLUMN priority text NOT NULL DEFAULT 'normal'`)
	var findings []struct{ Severity, Object, Remedy string }
	require.NoError(t, json.Unmarshal([]byte(n.run(t, "check", "--json")), &findings))
	require.Len(t, findings, 1)
	require.Equal(t, "warning", findings[0].Severity)
	require.Equal(t, "SELECT sync.refresh_table('public.orders');", findings[0].Remedy)
	// Written before the refresh, by a session that knows the column and by devices that do not.
	n.psql(t, `UPDATE orders SET priority = 'high' WHERE order_date = '2020-03-03'`)
	first.write(t, `UPDATE orders SET freight = '99.99' WHERE customer_id = 'NEW01'`)
	first.write(t, `INSERT INTO orders (order_id, customer_id) VALUES ('by an old version', 'NEW01')`)
	syncAll(t, first, second)
	n.psql(t, findings[0].Remedy)
	n.waitForAdoption(t)
	n.psql(t, `UPDATE orders SET priority = 'low' WHERE order_date = '2020-04-04'`)
	syncAll(t, first, second, other)
	n.requireEqual(t, first, second, other)

	n.withPriority = true
	for _, p := range []*phone{first, second, other} {
		p.cfg.Tables = northwindDevice(true)
		p.reopen(t)
	}
	first.write(t, `UPDATE orders SET priority = 'urgent' WHERE order_id = 'by an old version'`)
	syncAll(t, first, second, other)
	n.requireEqual(t, first, second, other)
	var priority string
	require.NoError(t, second.DB().QueryRow(`SELECT priority FROM orders WHERE order_id = 'by an old version'`).Scan(&priority))
	require.Equal(t, "urgent", priority)
}
