package migrations_test

import (
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// TestRowsWithoutACanonicalForm: they are refused when they are written, by any means.
func TestRowsWithoutACanonicalForm(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	digits := strings.Repeat("9", 400)
	for _, values := range []string{
		"weight) VALUES (1, 1e400)", "weight) VALUES (1, -1e400)", "weight) VALUES (1, " + digits + ")",
		"weight) VALUES (1, 179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792)",
	} {
		require.Equal(t, pgerrcode.NumericValueOutOfRange, refused(t, conn, "INSERT INTO office.list (owner_id, "+values).Code, values)
	}
	for _, values := range []string{"facts) VALUES ('j', '1', '{\"a\": [1, {\"b\": 1e400}]}')", "facts) VALUES ('j', '1', '" + digits + "')", "raw) VALUES ('j', '1', '{\"a\":-1E+400}')"} {
		require.Equal(t, pgerrcode.NumericValueOutOfRange, refused(t, conn, "INSERT INTO office.label (id, owner_id, "+values).Code, values)
	}
	// Nobody could read what is nested deeper than encoding/json goes, within an answer. Brackets in strings are none.
	deep := func(levels int) string {
		return "INSERT INTO office.label (id, owner_id, raw) VALUES ('d' || " + strconv.Itoa(levels) + ", '1', (repeat('[{\"a\":', " + strconv.Itoa(levels/2) + ") || '\"[[\"' || repeat('}]', " + strconv.Itoa(levels/2) + "))::json)"
	}
	refusal := refused(t, conn, deep(9_990))
	require.Equal(t, pgerrcode.ProgramLimitExceeded, refusal.Code)
	require.Contains(t, refusal.Message, "row 'd9990' of office.label, in the scope '1', is nested deeper")
	require.Contains(t, refusal.Hint, "SELECT * FROM office.label WHERE id = 'd9990'; shows it.")
	require.Empty(t, bundleCounts(t, conn))
	exec(t, conn, deep(9_988))
	exec(t, conn, `INSERT INTO office.label (id, owner_id, raw) VALUES ('u', '1', '{"a":["\u0000","\ud800","1e400",1e100,{"b\"1e400":-0}]}'), ('s', '1', to_json(repeat('[', 20000)))`)
	exec(t, conn, "INSERT INTO office.list (owner_id, name, weight) VALUES (1, $1, 1.7976931348623157e308), (1, '1e999', 1e-400), (1, 'greatest', 179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497791), (1, 'NaN', 'NaN'), (1, 'endless', 'Infinity')", digits)
	exec(t, conn, `INSERT INTO office.label (id, owner_id, facts, raw) VALUES ('j', '1', to_jsonb($1::text), '{"a":1e308,"n":null}')`, digits)
	requireSound(t, conn)
}

func TestARowWithoutACanonicalFormIsNamed(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE public.note (id text PRIMARY KEY, owner text NOT NULL, fine jsonb, facts jsonb);
		INSERT INTO public.note VALUES ('a', '1', '1', '1'), ('b', '2', '"1e400"', '{"x":[1e400]}'), ('c', '3', '1', '1');
		SELECT sync.register_table('public.note', scope => 'owner', adopt => 'later')`)
	named := func(refusal *pgconn.PgError) {
		require.Equal(t, "row 'b' of public.note, in the scope '2', holds a number too large for a double in column facts, which clients cannot read", refusal.Message)
		require.Contains(t, refusal.Hint, "SELECT * FROM public.note WHERE id = 'b'; shows it.")
	}
	named(refused(t, conn, "CALL sync.adopt_table('public.note')"))
	named(refused(t, conn, "SELECT sync.repair('2')"))
	require.EqualValues(t, 1, value[int64](t, conn, "SELECT sync.repair('1')"))
}

func TestScopesThatNoUserCanHave(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "refuse")
	refusal := refused(t, conn, "INSERT INTO office.label (id, owner_id) VALUES ('red', '')")
	require.Equal(t, pgerrcode.CheckViolation, refusal.Code)
	require.Contains(t, refusal.Message, "which no user can have")
	exec(t, conn, "CREATE TABLE public.note (id text PRIMARY KEY, owner_id text NOT NULL); INSERT INTO public.note VALUES ('a', repeat('x', 256)), ('b', 'u')")
	require.Contains(t, refused(t, conn, "SELECT sync.register_table('public.note', scope => 'owner_id')").Message, "which no user can have")
}

func TestIdsAreThoseOfTheServer(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "refuse")
	candidates := []string{"", "u", "user 1", "Zoë", strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("ë", 128)}
	for r := rune(1); r <= 0x3001; r++ {
		candidates = append(candidates, string(r), string(r)+"u", "u"+string(r), "u"+string(r)+"u")
	}
	var want []string
	for _, id := range candidates {
		if id != "" && len(id) <= 255 && id == strings.TrimSpace(id) && !strings.ContainsFunc(id, unicode.IsControl) {
			want = append(want, id)
		}
	}
	require.Equal(t, want, column[string](t, conn, "SELECT c.id FROM unnest($1::text[]) WITH ORDINALITY AS c(id, place) WHERE sync.is_scope_id(c.id) ORDER BY c.place", candidates))
	for _, id := range []string{" u", "u ", "u\n", "u\tv", "\u00a0u"} {
		refusal := refused(t, conn, "INSERT INTO office.label (id, owner_id) VALUES ('red', $1)", id)
		require.Equal(t, pgerrcode.CheckViolation, refusal.Code, "%q", id)
		require.Contains(t, refusal.Hint, "white space")
	}
	exec(t, conn, "CREATE TABLE public.note (id text PRIMARY KEY, owner_id text NOT NULL); INSERT INTO public.note VALUES ('a', 'u '), ('b', 'u')")
	require.Contains(t, refused(t, conn, "SELECT sync.register_table('public.note', scope => 'owner_id')").Message, "row 'a' of public.note belongs to the scope 'u '")
	refusal := refused(t, conn, "BEGIN; SET LOCAL sync.writer_id = E'nightly\tjob'; INSERT INTO office.label (id, owner_id) VALUES ('red', 'u'); COMMIT")
	exec(t, conn, "ROLLBACK")
	require.Equal(t, pgerrcode.InvalidParameterValue, refusal.Code)
	refusal = refused(t, conn, "SELECT sync.connect('', 'phone', true, '15min')")
	require.Equal(t, []string{pgerrcode.InvalidParameterValue, "user id '' is one that no user can have"}, []string{refusal.Code, refusal.Message})
}

func TestRowsThatWouldBeNobodys(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"owner", "id", "par_id"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, `CREATE TABLE public.par (owner text NOT NULL, id text NOT NULL UNIQUE); CREATE TABLE public.chi (id text PRIMARY KEY, par_id text NOT NULL REFERENCES public.par (id));
				SELECT sync.register_table('public.par', 'id', scope => 'owner', policy => 'capture'), sync.register_table('public.chi', scope_via => 'par_id', policy => 'capture');
				INSERT INTO public.par VALUES ('a', 'x')`)
			table, write := "public.par", "INSERT INTO public.par VALUES ('a', 'y'), (NULL, 'z')"
			switch name {
			case "id":
				write = "INSERT INTO public.par VALUES ('a', NULL)"
			case "par_id":
				table, write = "public.chi", "INSERT INTO public.chi VALUES ('k', 'x'), ('l', NULL)"
			}
			exec(t, conn, "ALTER TABLE "+table+" ALTER "+name+" DROP NOT NULL")
			refusal := refused(t, conn, write)
			require.Equal(t, "OV030", refusal.Code, refusal.Message)
			require.Contains(t, refusal.Message, name+" may be null")
			require.Equal(t, []string{"error " + refusal.Hint}, column[string](t, conn, "SELECT severity || ' ' || remedy FROM sync.check() WHERE severity = 'error'"))
			exec(t, conn, refusal.Hint)
			exec(t, conn, "INSERT INTO public.par VALUES ('a', 'y'); INSERT INTO public.chi VALUES ('k', 'y')")
			requireSound(t, conn)
			require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
		})
	}
}

func TestRowsThatWouldBeNobodysInANewPartition(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE public.part (owner text NOT NULL, id text NOT NULL, UNIQUE (owner, id)) PARTITION BY LIST (id);
		SELECT sync.register_table('public.part', 'id', scope => 'owner', policy => 'capture');
		CREATE TABLE public.part_x PARTITION OF public.part FOR VALUES IN ('x', 'y')`)
	exec(t, conn, "ALTER TABLE public.part ALTER owner DROP NOT NULL")
	refusal := refused(t, conn, "INSERT INTO public.part_x VALUES (NULL, 'x')")
	require.Equal(t, "OV030", refusal.Code, refusal.Message)
	exec(t, conn, refusal.Hint)
	exec(t, conn, "INSERT INTO public.part_x VALUES ('a', 'x')")
	requireSound(t, conn)
}
