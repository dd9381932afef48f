package oversync

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// background owns the goroutines that a service runs beside its operations.
//
// Its zero value is ready for use.
type background struct {
	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of the goroutines, which outlive the call that starts them
	cancel  context.CancelFunc
	stopped bool
	tasks   sync.WaitGroup
}

// start runs the tasks, each in a goroutine of its own, until stop. Only the
// first call does anything, and none after stop.
func (b *background) start(tasks ...func(ctx context.Context)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.ctx != nil {
		return
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for _, task := range tasks {
		b.tasks.Go(func() { task(b.ctx) })
	}
}

// finish runs a task in a goroutine of its own, which stop waits for and does not
// end: it has an end of its own that is near. After stop it runs before finish returns.
func (b *background) finish(task func()) {
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		task()
		return
	}
	b.tasks.Go(task)
	b.mu.Unlock()
}

// stop ends the goroutines and waits for them, or until ctx ends.
func (b *background) stop(ctx context.Context) error {
	b.mu.Lock()
	b.stopped = true
	if b.cancel != nil {
		b.cancel()
	}
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		b.tasks.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("background work has not ended yet: %w", ctx.Err())
	}
}

// every runs work again and again until ctx ends, with about interval between the
// end of one run and the start of the next. The pause varies by a fifth, so that
// many instances do not work in step.
//
// The first of several failures in a row is logged, and when work succeeds again.
func every(ctx context.Context, logger *slog.Logger, interval time.Duration, name string, work func(ctx context.Context) error) {
	log := failureLog{logger: logger, name: name}
	for pause(ctx, interval*4/5+rand.N(interval*2/5+1)) { //nolint:gosec // jitter is no secret
		log.report(ctx, work(ctx))
	}
}

// pause waits. It returns false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// failureLog logs the first failure of a run of them, and that it is over.
type failureLog struct {
	logger  *slog.Logger
	name    string
	failing bool
}

func (l *failureLog) report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil: // the service is closing, and that is all that failed
	case err != nil && !l.failing:
		l.failing = true
		l.logger.LogAttrs(ctx, slog.LevelWarn, "background work fails; it goes on trying", slog.String("work", l.name), slog.Any("error", err))
	case err == nil && l.failing:
		l.failing = false
		l.logger.LogAttrs(ctx, slog.LevelInfo, "background work succeeds again", slog.String("work", l.name))
	}
}
