package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var serve func() error
	switch {
	case len(os.Args) == 2 && os.Args[1] == emptyHandlerArgument:
		serve = serveEmptyHandler
	case len(os.Args) == 3 && os.Args[1] == bareServerArgument:
		serve = func() error { return serveBare(os.Args[2]) }
	}
	if serve != nil {
		fmt.Fprintln(os.Stderr, "bench:", serve()) // it ends only by failing
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	scenario string
	quick    bool
	binary   string
	out      string
	against  string
	grow     int
	rounds   int
	settings []string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.scenario, "scenario", "", "run the scenarios with this in their name, or one of these with commas between; all without")
	flags.BoolVar(&o.quick, "quick", false, "run each once, and small")
	flags.StringVar(&o.binary, "binary", "", "the oversync to measure; built from the source without")
	flags.StringVar(&o.out, "out", "", "folder to write "+reportFile+" to; not written without")
	flags.StringVar(&o.against, "against", "", "folder of an earlier "+reportFile+" to compare with")
	flags.IntVar(&o.grow, "grow", 0, "fill the database with this many log rows first")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds of each scenario; 5, or 1 with -quick, without")
	flags.Func("set", "a setting of PostgreSQL, as name=value; may be repeated", func(value string) error {
		if !strings.Contains(value, "=") {
			return errors.New("write name=value")
		}
		o.settings = append(o.settings, value)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag: run with -help to see what there is", flags.Arg(0))
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	scenarios := slices.Concat(pushScenarios, bareScenarios, pullScenarios, snapshotScenarios, existingScenarios, statementScenarios, diskScenarios, watchScenarios, memoryScenarios)
	wanted := strings.Split(o.scenario, ",")
	scenarios = slices.DeleteFunc(scenarios, func(s scenario) bool {
		return !slices.ContainsFunc(wanted, func(part string) bool { return strings.Contains(s.name, part) })
	})
	if len(scenarios) == 0 {
		return fmt.Errorf("no scenario has %q in its name", o.scenario)
	}
	var earlier *report
	if o.against != "" {
		if earlier, err = readReport(o.against); err != nil {
			return err
		}
	}

	b := &bench{size: fullSize}
	if o.quick {
		b.size = quickSize
	}
	if o.rounds > 0 {
		b.size.rounds = o.rounds
	}
	if b.lab, err = openLab(ctx, o.binary, o.settings); err != nil {
		return err
	}
	b.atEnd(func() { err = errors.Join(err, b.lab.close()) })
	defer b.end()
	if b.site, err = b.newSite(ctx); err != nil {
		return err
	}
	if o.grow > 0 {
		if err := b.site.grow(ctx, o.grow, stdout); err != nil {
			return err
		}
	}

	r := &report{
		Time: time.Now().UTC(), Processors: runtime.NumCPU(), Processor: processorName(), GoVersion: runtime.Version(),
		Postgres: b.lab.postgres.Version(), Quick: o.quick, GrownRows: o.grow,
	}
	var failed []string
	for _, s := range scenarios {
		samples, err := b.run(ctx, s)
		if err != nil {
			say(stdout, "%v\n", err)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !errors.Is(err, errNotMeasurable) {
				failed = append(failed, s.name)
			}
			continue
		}
		l := newLine(s, samples)
		say(stdout, "%-26s %s %s\n", s.name, number(l.Figure), s.unit)
		r.Lines = append(r.Lines, l)
	}
	if err := r.print(stdout, earlier); err != nil {
		return err
	}
	if o.out != "" {
		if err := r.write(o.out); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}
