package oversync

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestScopeQueueGivesTurnsInOrder lets many come and leave, before or in their turn,
// and holds the queue to a list.
func TestScopeQueueGivesTurnsInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var queue scopeQueue
		var model []*scopePlace
		hasTurn := func(place *scopePlace) bool {
			select {
			case <-place.turn:
				return true
			default:
				return false
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				var push *pushCommit
				if rapid.Bool().Draw(t, "to commit") {
					push = &pushCommit{}
				}
				model = append(model, queue.join("anna", push))
			},
			"leave": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("nobody is there")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "place")
				queue.leave("anna", model[i])
				model = append(model[:i:i], model[i+1:]...)
			},
			"take": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("nobody has the turn")
				}
				var want []*pushCommit
				atMost := rapid.IntRange(0, 3).Draw(t, "at most")
				for _, place := range model[1:] {
					if place.commit != nil && !place.commit.isTaken && len(want) < atMost {
						want = append(want, place.commit)
					}
				}
				require.Equal(t, want, queue.takeCommits("anna", atMost))
				for _, push := range want {
					require.True(t, push.isTaken)
				}
				queue.returnCommits(want[rapid.IntRange(0, len(want)).Draw(t, "kept"):])
			},
			"": func(t *rapid.T) {
				for i, place := range model {
					require.Equal(t, i == 0, hasTurn(place), "place %d", i)
				}
				require.Len(t, queue.scopes, min(len(model), 1), "what nobody waits for is forgotten")
			},
		})
	})
}

// TestAUserIsAloneUntilAnotherComes checks whom a group of pushes has beside it: who
// came lately, whether or not a turn is wanted at the moment.
func TestAUserIsAloneUntilAnotherComes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var queue scopeQueue
		come := func(actor Actor) {
			leave, err := queue.enterSource(t.Context(), actor)
			require.NoError(t, err)
			leave()
		}
		anna, ben := Actor{"anna", "phone"}, Actor{"ben", "phone"}
		for range 3 {
			come(anna)
			come(Actor{"anna", "tablet"})
		}
		require.True(t, queue.isAlone("anna"))
		require.False(t, queue.isAlone("ben"), "anna was there")
		come(ben)
		come(anna)
		come(anna)
		require.False(t, queue.isAlone("anna"))
		<-time.After(aloneAfter)
		come(anna)
		require.False(t, queue.isAlone("anna"))
		<-time.After(1)
		require.True(t, queue.isAlone("anna"), "ben has gone")
		require.False(t, queue.isAlone("ben"))
	})
}
