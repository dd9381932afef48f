package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// bench is what scenarios work with.
type bench struct {
	lab   *lab
	site  *site  // shared by the scenarios that need no database of their own
	crowd *crowd // of watchers; made by the first scenario that needs it
	size  size

	endings []func() // what scenarios started, to be stopped at the end
}

// atEnd has something stopped when the benchmark ends.
func (b *bench) atEnd(stop func()) { b.endings = append(b.endings, stop) }

func (b *bench) end() {
	for _, stop := range slices.Backward(b.endings) {
		stop()
	}
}

// newSite returns a database and a server for one scenario alone.
func (b *bench) newSite(ctx context.Context) (*site, error) {
	s, err := b.lab.newSite(ctx)
	if err == nil {
		b.atEnd(s.close)
	}
	return s, err
}

// size says how much is measured.
type size struct {
	rounds   int
	window   time.Duration // how long a rate is measured in a round
	bulk     int           // rows of a large push, where the names say 100,000
	bundles  int           // bundles of a catch-up pull, where they say 1,000
	million  int           // rows where memory is measured, where they say 1,000,000
	watchers int           // sockets that watch, where they say 10,000
}

var (
	fullSize  = size{rounds: 5, window: 2 * time.Second, bulk: 100_000, bundles: 1000, million: 1_000_000, watchers: 10_000}
	quickSize = size{rounds: 1, window: 300 * time.Millisecond, bulk: 2000, bundles: 50, million: 10_000, watchers: 200}
)

// scenario is one line of the report.
type scenario struct {
	name   string
	what   string // for people
	unit   string // of figure and floor
	target target
	// single scenarios count something exactly: one round says all.
	single bool
	// setup prepares the scenario and returns what measures one round of it.
	setup func(ctx context.Context, b *bench) (round, error)
}

// target is what the ratio, or the figure where there is no floor, should be.
type target struct {
	atMost bool
	value  float64
}

func atLeast(ratio float64) target { return target{value: ratio} }
func atMost(value float64) target  { return target{atMost: true, value: value} }

func (t target) met(value float64) bool {
	if t.atMost {
		return value <= t.value
	}
	return value >= t.value
}

// round measures once: the scenario's figure, and the floor right before or after
// it. A floor of 0 means that there is none: the figure stands for itself.
type round func(ctx context.Context) (sample, error)

// sample is one round's outcome.
type sample struct {
	Figure float64 `json:"figure"`
	Floor  float64 `json:"floor,omitempty"`
}

func (s sample) ratio() float64 {
	if s.Floor == 0 {
		return s.Figure
	}
	return s.Figure / s.Floor
}

// errNotMeasurable is returned by setup where this build or machine lacks what
// the scenario is about.
var errNotMeasurable = errors.New("cannot be measured here")

// patience is how long one scenario may take with all its rounds. Most need half
// a minute: one that meets the limit has met a defect.
const patience = 10 * time.Minute

// run measures a scenario round by round.
func (b *bench) run(ctx context.Context, s scenario) ([]sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it did not end within %v", patience))
	defer cancel()
	measure, err := s.setup(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", s.name, err)
	}
	rounds := b.size.rounds
	if s.single {
		rounds = 1
	} else if b.size.rounds > 1 {
		// The first round pays for cold caches and unprepared statements.
		if _, err := measure(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	samples := make([]sample, rounds)
	for i := range samples {
		if samples[i], err = measure(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return samples, nil
}

// against pairs a figure with its floor, the floor first.
func against(figure, floor func(ctx context.Context) (float64, error)) round {
	return func(ctx context.Context) (s sample, err error) {
		if s.Floor, err = floor(ctx); err != nil {
			return s, err
		}
		s.Figure, err = figure(ctx)
		return s, err
	}
}

// work is what is measured over and over. It returns how much one call did.
type work func(ctx context.Context, worker int) (int, error)

// perSecond runs work with a number of workers until the window is over, and
// returns how much was done a second.
func perSecond(ctx context.Context, workers int, window time.Duration, work work) (float64, error) {
	over, cancel := context.WithTimeout(context.Background(), window)
	defer cancel()
	return perSecondUntil(ctx, workers, over.Done(), work)
}

// perSecondUntil is perSecond for a window that ends when over is closed. Work
// that has begun is finished, and counted with its time.
func perSecondUntil(ctx context.Context, workers int, over <-chan struct{}, work work) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		total   atomic.Int64
		running sync.WaitGroup
		start   = time.Now()
	)
	for worker := range workers {
		running.Go(func() {
			for {
				done, err := work(ctx, worker)
				if err != nil {
					cancel(err) // only the first one counts: it ends the others
					return
				}
				total.Add(int64(done))
				select {
				case <-over:
					return
				case <-ctx.Done():
					return
				default:
				}
			}
		})
	}
	running.Wait()
	return float64(total.Load()) / time.Since(start).Seconds(), context.Cause(ctx)
}

// beside runs work in the background, with a number of workers, while figure is
// measured.
func beside(ctx context.Context, workers int, work work, figure func(ctx context.Context) (float64, error)) (float64, error) {
	var (
		running sync.WaitGroup
		over    atomic.Bool
		failed  = make(chan error, workers)
	)
	for worker := range workers {
		running.Go(func() {
			for !over.Load() {
				if _, err := work(ctx, worker); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	value, err := figure(ctx)
	over.Store(true)
	running.Wait()
	close(failed)
	return value, errors.Join(err, <-failed)
}
