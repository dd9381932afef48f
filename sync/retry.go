package oversync

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	maxAttempts    = 6
	firstRetryWait = 5 * time.Millisecond
)

// retry runs a transaction again while it fails in a way that another try can
// mend, a few times, waiting longer each time with full jitter. attempt counts
// from 1.
func retry(ctx context.Context, run func(attempt int) error) error {
	wait := firstRetryWait
	for attempt := 1; ; attempt++ {
		err := run(attempt)
		if err == nil || attempt == maxAttempts || !isRetryable(err) {
			return err
		}
		select {
		case <-time.After(rand.N(wait) + time.Millisecond): //nolint:gosec // jitter is no secret
			wait *= 2
		case <-ctx.Done():
			return err
		}
	}
}
