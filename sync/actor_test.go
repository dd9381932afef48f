package oversync

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestActorFromContext(t *testing.T) {
	t.Parallel()

	_, ok := ActorFromContext(t.Context())
	require.False(t, ok)

	outer := ContextWithActor(t.Context(), Actor{UserID: "u", SourceID: "phone"})
	inner, cancel := context.WithCancel(ContextWithActor(outer, Actor{UserID: "v"}))
	defer cancel()

	actor, ok := ActorFromContext(outer)
	require.True(t, ok)
	require.Equal(t, Actor{UserID: "u", SourceID: "phone"}, actor)
	actor, ok = ActorFromContext(inner)
	require.True(t, ok)
	require.Equal(t, Actor{UserID: "v"}, actor)
}
