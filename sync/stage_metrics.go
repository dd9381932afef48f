package oversync

import (
	"context"
	"log/slog"
	"time"
)

// stageClock measures the stages of one attempt of an operation. A clock that
// nobody listens to costs a nil check a stage.
type stageClock struct {
	service   *SyncService
	operation string
	attempt   int
	started   time.Time
}

// stages returns a clock for an operation, started now.
func (s *SyncService) stages(operation string, attempt int) *stageClock {
	if s.config.StageMetrics == nil && !s.config.LogStageTimings {
		return nil
	}
	return &stageClock{service: s, operation: operation, attempt: attempt, started: time.Now()}
}

// done ends a stage, which began when the one before ended.
func (c *stageClock) done(ctx context.Context, stage string, count int, err error) {
	if c == nil {
		return
	}
	now := time.Now()
	timing := StageTiming{Operation: c.operation, Stage: stage, Duration: now.Sub(c.started), Count: count, Attempt: c.attempt, Error: err != nil}
	c.started = now
	if recorder := c.service.config.StageMetrics; recorder != nil {
		recorder.ObserveStage(ctx, timing)
	}
	if c.service.config.LogStageTimings {
		c.service.logger.LogAttrs(ctx, slog.LevelDebug, "stage",
			slog.String("operation", timing.Operation), slog.String("stage", timing.Stage), slog.String("duration", timing.Duration.String()),
			slog.Int("count", timing.Count), slog.Int("attempt", timing.Attempt), slog.Bool("error", timing.Error))
	}
}
