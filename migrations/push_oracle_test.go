package migrations_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// meddled are three tables that refer to each other, one of them partitioned, one that refers to itself, and one that has its scope through a parent.
const meddled = `
CREATE SCHEMA app;
CREATE TABLE app.a (_sync_scope_id text NOT NULL, id text NOT NULL, v int, note text, place int, PRIMARY KEY (_sync_scope_id, id), UNIQUE (_sync_scope_id, place) DEFERRABLE);
CREATE TABLE app.b (_sync_scope_id text NOT NULL, id text NOT NULL, v int, note text, a text, PRIMARY KEY (_sync_scope_id, id),
    FOREIGN KEY (_sync_scope_id, a) REFERENCES app.a ON DELETE CASCADE DEFERRABLE);
CREATE TABLE app.c (_sync_scope_id text NOT NULL, id text NOT NULL, v int, note text, a text, PRIMARY KEY (_sync_scope_id, id),
    FOREIGN KEY (_sync_scope_id, a) REFERENCES app.a ON DELETE SET NULL (a) DEFERRABLE) PARTITION BY HASH (id);
CREATE TABLE app.c_even PARTITION OF app.c FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.c_odd PARTITION OF app.c FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE app.e (_sync_scope_id text NOT NULL, id text NOT NULL, v int, note text, a text, PRIMARY KEY (_sync_scope_id, id),
    FOREIGN KEY (_sync_scope_id, a) REFERENCES app.e ON DELETE CASCADE DEFERRABLE);
CREATE TABLE app.top (id text PRIMARY KEY, owner text NOT NULL);
CREATE TABLE app.d (id text PRIMARY KEY, v int, note text, a text NOT NULL REFERENCES app.top ON DELETE CASCADE DEFERRABLE);
BEGIN;
SELECT sync.register_table('app.a'), sync.register_table('app.b'), sync.register_table('app.c'), sync.register_table('app.e');
SELECT sync.register_table('app.top', scope => 'owner'), sync.register_table('app.d', scope_via => 'a');
COMMIT;`

// meddlers are triggers that change what a push does: when, and the body of their function.
var meddlers = [][2]string{
	{"BEFORE INSERT ON app.a FOR EACH ROW", "IF NEW.v % 5 = 0 THEN NEW.id := NEW.id || 'x'; END IF; RETURN NEW;"},
	{"BEFORE INSERT OR UPDATE ON app.a FOR EACH ROW", "IF NEW.v % 7 = 0 THEN RETURN NULL; END IF; RETURN NEW;"},
	{"AFTER INSERT ON app.a FOR EACH ROW", "IF NEW.v % 3 = 0 THEN UPDATE app.a SET note = 'touched' WHERE id = NEW.id; END IF; RETURN NULL;"},
	{"AFTER INSERT OR UPDATE ON app.a FOR EACH ROW", "IF NEW.v % 4 = 0 THEN INSERT INTO app.c (id, v) VALUES (NEW.id || NEW.v, 1) ON CONFLICT DO NOTHING; END IF; RETURN NULL;"},
	{"AFTER INSERT ON app.a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW", "IF NEW.v % 6 = 0 THEN DELETE FROM app.a WHERE id = NEW.id; ELSE UPDATE app.a SET note = 'late' WHERE id = NEW.id AND v % 6 = 1; END IF; RETURN NULL;"},
	{"BEFORE INSERT OR UPDATE ON app.b FOR EACH ROW", "IF NEW.v % 9 = 0 THEN RAISE EXCEPTION 'no'; END IF; NEW.note := concat(NEW.note, 'n'); RETURN NEW;"},
	{"AFTER INSERT OR DELETE ON app.b FOR EACH STATEMENT", "UPDATE app.a SET note = concat(note, 's') WHERE id = 'k1'; RETURN NULL;"},
	{"BEFORE UPDATE ON app.c FOR EACH ROW", "IF NEW.v % 5 = 0 THEN NEW.id := NEW.id || 'y'; END IF; RETURN NEW;"},
	{"BEFORE DELETE ON app.c FOR EACH ROW", "IF OLD.v % 3 = 0 THEN RETURN NULL; END IF; RETURN OLD;"},
	{"BEFORE INSERT ON app.c_odd FOR EACH ROW", "IF NEW.v % 4 = 1 THEN DELETE FROM app.c WHERE id = 'k' || NEW.v % 8; END IF; RETURN NEW;"},
	{"AFTER DELETE ON app.c FOR EACH ROW", "IF OLD.v % 2 = 0 AND OLD.note IS NULL THEN INSERT INTO app.c (id, v, note) VALUES (OLD.id, OLD.v, 'back'); END IF; RETURN NULL;"},
	{"AFTER DELETE ON app.a FOR EACH ROW", "DELETE FROM app.d WHERE a = OLD.id; RETURN NULL;"},
}

// TestPushesAmongTriggers: whatever triggers and foreign keys do to the rows of a push, the log holds what the tables hold, is counted right,
// and has what the push named first, in its order.
func TestPushesAmongTriggers(t *testing.T) {
	t.Parallel()
	for run := range meddlers {
		t.Run(fmt.Sprint("seed ", run), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(run), 0))
			conn := initialized(t, registered(t, meddled), "u")
			writeBundle(t, conn, "u", "INSERT INTO app.top VALUES ('k1', 'u'), ('k2', 'u'), ('k3', 'u'), ('k4', 'u')")
			for i, m := range meddlers {
				if i == run || r.IntN(4) == 0 {
					kind := "TRIGGER"
					if strings.Contains(m[0], "DEFERRED") {
						kind = "CONSTRAINT TRIGGER"
					}
					exec(t, conn, fmt.Sprintf(`CREATE FUNCTION app.meddle%[1]d() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN %[2]s END$$;
						CREATE %[3]s meddle%[1]d %[4]s EXECUTE FUNCTION app.meddle%[1]d()`, i, m[1], kind, m[0]))
				}
			}
			committed := 0
			for range 30 {
				rows := randomPush(t, conn, r)
				if refusal := push(t, conn, "u", "phone", rows...); refusal != nil {
					require.Regexp(t, "^(23|P0|OV012)", refusal.Code, refusal.Message)
				} else {
					committed++
					var named, got []string
					for _, e := range newestEffects(t, conn, "u", value[int64](t, conn, "SELECT next_bundle_seq - 1 FROM sync.user_state")) {
						got = append(got, "app."+e.table+" "+e.key)
					}
					for _, row := range rows {
						if name := row.table + " " + row.key; slices.Contains(got, name) {
							named = append(named, name)
						}
					}
					require.True(t, slices.Equal(named, got[:len(named)]), "%v became %v", rows, got)
				}
				requireSound(t, conn)
			}
			require.Greater(t, committed, 10)
		})
	}
}

// randomPush makes a push of some rows that does not conflict with the log.
func randomPush(t *testing.T, conn *pgx.Conn, r *rand.Rand) (rows []stagedRow) {
	t.Helper()
	seen := make(map[string]bool)
	for range 1 + r.IntN(5)*r.IntN(2) {
		row := stagedRow{table: "app." + string("aabcde"[r.IntN(6)]), op: "I", key: fmt.Sprint("k", r.IntN(8)) + []string{"", "", "", "x", "y"}[r.IntN(5)]}
		if seen[row.table+row.key] {
			continue
		}
		seen[row.table+row.key] = true
		row.version = version(t, conn, "u", row.table, row.key)
		if value[bool](t, conn, `SELECT EXISTS (SELECT FROM sync.bundle_rows r JOIN sync.table_catalog c ON c.table_id = r.table_id
			WHERE c.relation = $1::text::regclass AND r.bundle_seq = $2 AND r.key_bytes = convert_to($3, 'UTF8') AND r.op <> 'D')`, row.table, row.version, row.key) {
			row.op = []string{"U", "U", "D"}[r.IntN(3)]
		}
		payload := map[string]any{"v": r.IntN(30)}
		if row.op == "I" {
			payload["id"] = row.key
		}
		if row.table == "app.a" && r.IntN(2) == 0 {
			payload["place"] = r.IntN(12)
		} else if row.table != "app.a" && (r.IntN(2) == 0 || row.table == "app.d") {
			payload["a"] = fmt.Sprint("k", 1+r.IntN(4))
		}
		if row.op != "D" {
			text, err := json.Marshal(payload)
			require.NoError(t, err)
			row.payload = string(text)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestForeignKeysWithinATable: what a foreign key does to other rows of the table that a statement wrote is part of that statement for
// triggers, which may see a row twice in it.
func TestForeignKeysWithinATable(t *testing.T) {
	t.Parallel()
	const tree = `CREATE TABLE public.tree (id text PRIMARY KEY, owner text NOT NULL, slug text, parent text, UNIQUE (owner, slug), UNIQUE (owner, id),
		FOREIGN KEY (owner, parent) REFERENCES public.tree (owner, slug) ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE)`
	for name, write := range map[string]func(t *testing.T, conn *pgx.Conn){
		"plain SQL": func(t *testing.T, conn *pgx.Conn) { exec(t, conn, "UPDATE public.tree SET slug = slug || 'x'") },
		"a bundle": func(t *testing.T, conn *pgx.Conn) {
			writeBundle(t, conn, "1", "UPDATE public.tree SET slug = slug || 'x'")
		},
		"a push of the parent": func(t *testing.T, conn *pgx.Conn) {
			require.Nil(t, push(t, conn, "1", "phone", stagedRow{"public.tree", "U", 1, "p", `{"slug":"new"}`}))
		},
		"a push of both": func(t *testing.T, conn *pgx.Conn) {
			require.Nil(t, push(t, conn, "1", "phone", stagedRow{"public.tree", "U", 1, "p", `{"slug":"new"}`}, stagedRow{"public.tree", "U", 2, "c", `{"slug":"newer"}`}))
		},
		"a push that deletes the parent": func(t *testing.T, conn *pgx.Conn) {
			require.Nil(t, push(t, conn, "1", "phone", stagedRow{"public.tree", "D", 1, "p", ""}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, tree)
			exec(t, conn, "SELECT sync.register_table('tree', scope => 'owner', policy => 'capture')")
			exec(t, conn, "INSERT INTO public.tree VALUES ('p', '1', 'top', NULL)")
			exec(t, conn, "INSERT INTO public.tree VALUES ('c', '1', 'low', 'top')")
			write(t, conn)
			requireSound(t, conn)
			require.Len(t, column[int](t, conn, "SELECT row_ordinal FROM sync.bundle_rows WHERE bundle_seq = 3"), 2, "the bundle has both rows, once each")
		})
	}
}

// TestDomainsOfAPush: a domain's default stands in for what a payload leaves out, and one that takes no null is not given one.
func TestDomainsOfAPush(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE DOMAIN must AS text NOT NULL; CREATE DOMAIN usual AS text DEFAULT 'zz' NOT NULL;
		CREATE TABLE d (_sync_scope_id text NOT NULL, id text NOT NULL, m must, u usual, PRIMARY KEY (_sync_scope_id, id))`)
	exec(t, conn, "SELECT sync.register_table('d')")
	initialized(t, conn, "u")
	require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.d", "I", 0, "a", `{"id":"a","m":"x"}`}))
	require.Equal(t, "x zz", value[string](t, conn, "SELECT m || ' ' || u FROM d"))
	require.Equal(t, pgerrcode.NotNullViolation, push(t, conn, "u", "phone", stagedRow{"public.d", "I", 0, "b", `{"id":"b"}`}).Code)
}
