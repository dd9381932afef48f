package oversync

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNotifyPayloadsFitAndLoseNothing(t *testing.T) {
	t.Parallel()
	require.Empty(t, notifyPayloads(nil))
	changes := make(map[string]BundleChange)
	for n := range 1000 {
		// Every < takes six bytes in JSON.
		user := fmt.Sprint(n, strings.Repeat("<", n%251))
		changes[user] = BundleChange{BundleSeq: int64(n) + 1, SourceID: strings.Repeat("<", n%255+1), SourceBundleID: 1 << 62}
	}
	got := make(map[string]BundleChange)
	for _, payload := range notifyPayloads(changes) {
		require.LessOrEqual(t, len(payload), maxNotifyBytes)
		var told []toldChange
		require.NoError(t, json.Unmarshal([]byte(payload), &told))
		for _, c := range told {
			got[c.UserID] = BundleChange{BundleSeq: c.BundleSeq, SourceID: c.SourceID, SourceBundleID: c.SourceBundleID}
		}
	}
	require.Equal(t, changes, got)
}

// Every watched scope has its turn within as many polls as turns says.
func TestPollsReachEveryScope(t *testing.T) {
	t.Parallel()
	hub := newWatchHub()
	defer hub.close()
	for n := range scopesPerPoll*2 + 1 {
		_, err := hub.add(fmt.Sprint(n), 0)
		require.NoError(t, err)
	}
	require.Equal(t, 3, hub.turns())
	seen := make(map[string]bool)
	for poll := range hub.turns() {
		users, seqs := hub.watched(poll + 17)
		require.LessOrEqual(t, len(users), scopesPerPoll)
		require.Len(t, seqs, len(users))
		for _, user := range users {
			seen[user] = true
		}
	}
	require.Len(t, seen, scopesPerPoll*2+1)
}

func TestTheHubForgetsWhatNobodyWatches(t *testing.T) {
	t.Parallel()
	hub := newWatchHub()
	var all []*BundleChangeSubscription
	for range 3 {
		w, err := hub.add("ann", 0)
		require.NoError(t, err)
		all = append(all, w)
	}
	all[0].Close()
	hub.heard("ann", BundleChange{BundleSeq: 4})
	hub.heard("ann", BundleChange{BundleSeq: 3}) // late, and older
	for _, w := range all[1:] {
		require.Equal(t, BundleChange{BundleSeq: 4}, <-w.Changes())
		w.Close()
	}
	require.Empty(t, hub.scopes)
	hub.heard("ann", BundleChange{BundleSeq: 5})
	hub.committed("ann", BundleChange{BundleSeq: 6})
	hub.committed("ann", BundleChange{BundleSeq: 5})
	require.Equal(t, map[string]BundleChange{"ann": {BundleSeq: 6}}, hub.takePending())
	require.Empty(t, hub.takePending())
	hub.close()
	_, err := hub.add("ann", 0)
	var closed *ServiceClosedError
	require.ErrorAs(t, err, &closed)
}
