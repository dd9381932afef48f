package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// expireLease sets the lease of a scope back, by the database's clock.
func (a *api) expireLease(user string) {
	a.t.Helper()
	a.exec(`update sync.user_state set lease_expires_at = clock_timestamp() - interval '1 microsecond' where user_id = $1`, user)
}

func (a *api) leaseExpiresAt(user string) time.Time {
	a.t.Helper()
	var at time.Time
	require.NoError(a.t, a.pool.QueryRow(a.t.Context(), `select lease_expires_at from sync.user_state where user_id = $1`, user).Scan(&at))
	return at
}

func requireLease(t *testing.T, a *api, user string, got answer) {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, got.text("lease_expires_at"))
	require.NoError(t, err)
	require.True(t, at.Equal(a.leaseExpiresAt(user)), got.body)
}

const remoteAuthoritative, initializeEmpty = `{"resolution":"remote_authoritative"}`, `{"resolution":"initialize_empty"}`

func TestConnectTable(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	requireRetryLater := func(t *testing.T, user string, got answer) {
		t.Helper()
		require.Equal(t, "retry_later", got.text("resolution"))
		require.InDelta(t, 900, got.number("retry_after_seconds"), 60)
		requireLease(t, a, user, got)
	}
	requireInitializeLocal := func(t *testing.T, user string, got answer) string {
		t.Helper()
		require.Equal(t, "initialize_local", got.text("resolution"))
		requireLease(t, a, user, got)
		return got.text("initialization_id")
	}

	t.Run("initialized", func(t *testing.T) {
		holder, other := a.device("u1", "holder"), a.device("u1", "other")
		holder.connect(false).is(200, initializeEmpty)
		for _, d := range []device{holder, other} {
			d.connect(true).is(200, remoteAuthoritative)
			d.connect(false).is(200, remoteAuthoritative)
			d.do("POST", "/sync/connect", `{}`).is(200, remoteAuthoritative)
		}
	})
	t.Run("lease holder with pending rows", func(t *testing.T) {
		holder := a.device("u2", "holder")
		first := requireInitializeLocal(t, "u2", holder.connect(true))
		before := a.leaseExpiresAt("u2")
		require.Equal(t, first, requireInitializeLocal(t, "u2", holder.connect(true)), "the id stays")
		require.True(t, a.leaseExpiresAt("u2").After(before), "the lease is renewed")
	})
	t.Run("lease holder without pending rows", func(t *testing.T) {
		holder := a.device("u3", "holder")
		requireInitializeLocal(t, "u3", holder.connect(true))
		holder.connect(false).is(200, initializeEmpty)
		holder.connect(true).is(200, remoteAuthoritative)
	})
	t.Run("another source", func(t *testing.T) {
		holder, other := a.device("u4", "holder"), a.device("u4", "other")
		initialization := requireInitializeLocal(t, "u4", holder.connect(true))
		before := a.leaseExpiresAt("u4")
		requireRetryLater(t, "u4", other.connect(true))
		requireRetryLater(t, "u4", other.connect(false))
		require.Equal(t, before, a.leaseExpiresAt("u4"), "the lease is not renewed by others")
		// The last moment of a lease still asks for a wait of a second.
		a.exec(`update sync.user_state set lease_expires_at = clock_timestamp() + interval '400 milliseconds' where user_id = 'u4'`)
		got := other.connect(true)
		if got.text("resolution") == "retry_later" {
			require.Equal(t, 1, got.number("retry_after_seconds"))
		}
		a.expireLease("u4")
		next := requireInitializeLocal(t, "u4", other.connect(true))
		require.NotEqual(t, initialization, next, "a new lease has a new id")
		requireRetryLater(t, "u4", holder.connect(true))
		a.expireLease("u4")
		holder.connect(false).is(200, initializeEmpty)
	})
	t.Run("the holder of an expired lease", func(t *testing.T) {
		holder := a.device("u5", "holder")
		initialization := requireInitializeLocal(t, "u5", holder.connect(true))
		a.expireLease("u5")
		require.NotEqual(t, initialization, requireInitializeLocal(t, "u5", holder.connect(true)))
	})
	t.Run("nothing said of pending rows", func(t *testing.T) {
		a.device("u8", "source").do("POST", "/sync/connect", `{}`).is(200, initializeEmpty)
	})
	t.Run("scopes are apart", func(t *testing.T) {
		a.device("u6", "source").connect(false).is(200, initializeEmpty)
		a.device("u7", "source").connect(false).is(200, initializeEmpty)
	})
}

// What only a caller in Go can leave out.
func TestRequestsThatAreNil(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	actor := oversync.Actor{UserID: "user", SourceID: "source"}
	_, err := a.service.Connect(t.Context(), actor, nil)
	require.ErrorAs(t, err, new(*oversync.ConnectInvalidError))
	_, err = a.service.CreatePushSession(t.Context(), actor, nil)
	require.ErrorAs(t, err, new(*oversync.PushSessionInvalidError))
	_, err = a.service.UploadPushChunk(t.Context(), actor, randomID(), nil)
	require.ErrorAs(t, err, new(*oversync.PushChunkInvalidError))
	a.device("user", "source").initialized() // by none of them
	_, err = a.service.CreateSnapshotSessionWithRequest(t.Context(), actor, nil)
	require.NoError(t, err)
}

// A push into a scope that is being initialized renews the lease at each step,
// and fails once it has run out.
func TestLeasesDuringAPush(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.InitializationLeaseTTL = time.Hour })
	begin := func(user string) (device, string, string) {
		d := a.device(user, "holder")
		initialization := d.connect(true).text("initialization_id")
		return d, initialization, d.create(1, 2, initialization).text("push_id")
	}
	shorten := func(user string) {
		a.exec(`update sync.user_state set lease_expires_at = clock_timestamp() + interval '1 minute' where user_id = $1`, user)
	}
	requireRenewed := func(user string) {
		t.Helper()
		var left float64
		require.NoError(t, a.pool.QueryRow(t.Context(),
			`select extract(epoch from lease_expires_at - clock_timestamp())::float8 from sync.user_state where user_id = $1`, user).Scan(&left))
		require.InDelta(t, 3600, left, 60)
	}
	a1, b1 := note("a", "INSERT", 0), note("b", "INSERT", 0)

	t.Run("renewed by each step", func(t *testing.T) {
		d, initialization, _ := begin("u1")
		requireRenewed("u1")
		shorten("u1")
		pushID := d.create(1, 2, initialization).text("push_id")
		requireRenewed("u1")
		shorten("u1")
		d.chunk(pushID, 0, a1, b1).ok()
		requireRenewed("u1")
		require.Equal(t, 1, d.commit(pushID).number("bundle_seq"))
		d.connect(true).is(200, remoteAuthoritative)
		// The answer of that commit may have been lost: the replay carries the old id.
		require.Equal(t, "already_committed", d.create(1, 2, initialization).text("status"))
	})
	t.Run("expired", func(t *testing.T) {
		d, initialization, pushID := begin("u2")
		a.expireLease("u2")
		d.create(1, 2, initialization).refused(410, "initialization_expired")
		d.chunk(pushID, 0, a1).refused(410, "initialization_expired")
		d.commit(pushID).refused(410, "initialization_expired")
		d.do("GET", "/sync/pull", "").refused(409, "scope_initializing")
	})
	t.Run("another holds the lease", func(t *testing.T) {
		d, initialization, pushID := begin("u3")
		a.expireLease("u3")
		a.device("u3", "other").connect(true).ok()
		d.create(1, 2, initialization).refused(409, "initialization_stale")
		d.chunk(pushID, 0, a1).refused(409, "initialization_stale")
		d.commit(pushID).refused(409, "initialization_stale")
	})
	t.Run("another has initialized the scope", func(t *testing.T) {
		d, initialization, pushID := begin("u4")
		a.expireLease("u4")
		a.device("u4", "other").initialized()
		d.create(1, 2, initialization).refused(400, "push_session_invalid")
		d.chunk(pushID, 0, a1).refused(409, "initialization_stale")
		d.commit(pushID).refused(409, "initialization_stale")
	})
	t.Run("the id in upper case", func(t *testing.T) {
		d, initialization, _ := begin("u5")
		d.create(1, 2, strings.ToUpper(initialization)).ok()
	})
	t.Run("a lease that is got anew", func(t *testing.T) {
		d, _, _ := begin("u6")
		a.expireLease("u6")
		pushID := d.create(1, 2, d.connect(true).text("initialization_id")).text("push_id")
		d.chunk(pushID, 0, a1, b1).ok()
		require.Equal(t, 1, d.commit(pushID).number("bundle_seq"), "the session is of the new lease, not of the one that it replaces")
	})
}
