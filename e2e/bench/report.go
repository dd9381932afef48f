package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// reportFile is the name of the JSON report in its folder.
const reportFile = "bench.json"

// report is the outcome of a run.
type report struct {
	Time       time.Time `json:"time"`
	Processors int       `json:"processors"`
	Processor  string    `json:"processor"`
	GoVersion  string    `json:"go_version"`
	Postgres   int       `json:"postgres_major"`
	Quick      bool      `json:"quick"`
	GrownRows  int       `json:"grown_rows"`
	Lines      []line    `json:"scenarios"`
}

// line is one scenario's outcome. Figure, floor and ratio are the medians of
// their own; the ratio of each round is made before the median.
type line struct {
	Scenario string   `json:"scenario"`
	What     string   `json:"what"`
	Unit     string   `json:"unit"`
	Figure   float64  `json:"figure"`
	Floor    float64  `json:"floor,omitempty"`
	Ratio    float64  `json:"ratio"`
	Min      float64  `json:"min"`
	Max      float64  `json:"max"`
	Target   float64  `json:"target"`
	AtMost   bool     `json:"target_is_upper_bound"`
	Met      bool     `json:"met"`
	Samples  []sample `json:"samples"`
}

func newLine(s scenario, samples []sample) line {
	figures, floors, ratios := make([]float64, len(samples)), make([]float64, len(samples)), make([]float64, len(samples))
	for i, sample := range samples {
		figures[i], floors[i], ratios[i] = sample.Figure, sample.Floor, sample.ratio()
	}
	ratio := median(ratios)
	return line{
		Scenario: s.name, What: s.what, Unit: s.unit,
		Figure: median(figures), Floor: median(floors),
		Ratio: ratio, Min: slices.Min(ratios), Max: slices.Max(ratios),
		Target: s.target.value, AtMost: s.target.atMost, Met: s.target.met(ratio), Samples: samples,
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// print writes the table, beside an earlier run if there is one.
func (r *report) print(w io.Writer, earlier *report) error {
	say(w, "\n%d × %s, %s, PostgreSQL %d, log grown by %d rows\n\n", r.Processors, r.Processor, r.GoVersion, r.Postgres, r.GrownRows)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	say(table, "scenario\tfigure\tfloor\tratio\tmin–max\ttarget\t\t")
	if earlier != nil {
		say(table, "earlier\tnow/earlier\t")
	}
	say(table, "\n")
	for _, l := range r.Lines {
		floor, bound, verdict := "", "≥", "missed"
		if l.Floor != 0 {
			floor = number(l.Floor)
		}
		if l.AtMost {
			bound = "≤"
		}
		if l.Met {
			verdict = ""
		}
		say(table, "%s\t%s %s\t%s\t%s\t%s–%s\t%s %s\t%s\t", l.Scenario, number(l.Figure), l.Unit, floor,
			number(l.Ratio), number(l.Min), number(l.Max), bound, number(l.Target), verdict)
		if earlier != nil {
			i := slices.IndexFunc(earlier.Lines, func(e line) bool { return e.Scenario == l.Scenario })
			if i >= 0 && earlier.Lines[i].Ratio != 0 {
				say(table, "%s\t%s\t", number(earlier.Lines[i].Ratio), number(l.Ratio/earlier.Lines[i].Ratio))
			}
		}
		say(table, "\n")
	}
	return table.Flush()
}

// say prints for people. A reader that is gone is no reason to stop measuring.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// number writes three digits that matter.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	decimals := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	text := fmt.Sprintf("%.*f", decimals, v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

func (r *report) write(folder string) error {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, reportFile), append(text, '\n'), 0o600)
}

func readReport(folder string) (*report, error) {
	text, err := os.ReadFile(filepath.Join(folder, reportFile)) //nolint:gosec // named by whoever runs the program
	if err != nil {
		return nil, err
	}
	r := new(report)
	return r, json.Unmarshal(text, r)
}

// processorName is what the machine says it runs on.
func processorName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for entry := range strings.Lines(string(text)) {
			if name, value, found := strings.Cut(entry, ":"); found && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
