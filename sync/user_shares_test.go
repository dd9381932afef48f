package oversync

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAUserHasItsShareAndNoMore(t *testing.T) {
	t.Parallel()
	shares := newUserShares(8)
	var leaves []func()
	for range 2 {
		leave, err := shares.enter(t.Context(), "anna")
		require.NoError(t, err)
		leaves = append(leaves, leave)
	}
	impatient, stop := context.WithCancel(t.Context())
	stop()
	_, err := shares.enter(impatient, "anna")
	require.ErrorIs(t, err, context.Canceled)
	other, err := shares.enter(t.Context(), "ben")
	require.NoError(t, err, "another user has a share of its own")
	other()

	entered := make(chan func())
	go func() {
		leave, err := shares.enter(context.Background(), "anna")
		if err != nil {
			close(entered)
			return
		}
		entered <- leave
	}()
	leaves[0]()
	leave := <-entered
	require.NotNil(t, leave, "whoever leaves makes room")
	leave()
	leaves[1]()
	require.Empty(t, shares.users, "what nobody wants is forgotten")
	require.Equal(t, 1, newUserShares(2).limit)
}

func BenchmarkUserShare(b *testing.B) {
	shares := newUserShares(16)
	for b.Loop() {
		leave, err := shares.enter(b.Context(), "anna")
		if err != nil {
			b.Fatal(err)
		}
		leave()
	}
}
