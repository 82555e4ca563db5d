package vsrsim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// SoakReport is what a soak came to.
type SoakReport struct {
	Runs, Events uint64 // of this soak
	Done         uint64 // seeds in the file, earlier soaks included
	Failures     []Result
}

// Soak runs count seeds of each lane from a first one on, on so many workers, and
// writes what is done and every failure to out. Seeds that doneFile lists are
// passed over, and those done are added to it, so a soak that was interrupted goes
// on where it was. A seed that failed is not done. An empty doneFile remembers
// nothing.
//
// This is the one part of the package that reads a clock: for its progress line.
func Soak(names []Lane, from, count uint64, workers int, doneFile string, out io.Writer) (SoakReport, error) {
	done, err := readDone(doneFile)
	if err != nil {
		return SoakReport{}, err
	}
	s := &soak{done: done, file: doneFile, out: out, began: time.Now(), saved: time.Now()}
	for _, l := range names {
		if !l.Known() {
			return SoakReport{}, fmt.Errorf("vsrsim: soak: no lane %q", l)
		}
	}
	next := s.seeds(names, from, count)
	var wg sync.WaitGroup
	for range max(workers, 1) {
		wg.Go(func() {
			for {
				l, seed, ok := next()
				if !ok {
					return
				}
				s.finished(Run(seed, l))
			}
		})
	}
	wg.Wait()
	for _, r := range s.done {
		for _, x := range r {
			s.report.Done += x.to - x.from
		}
	}
	s.progress()
	return s.report, s.save()
}

// soak is one under way.
type soak struct {
	mu     sync.Mutex
	done   map[Lane][]seedRange
	file   string
	out    io.Writer
	report SoakReport
	began  time.Time
	saved  time.Time
	err    error
}

// seedRange is the seeds from one on up to another, which is not among them.
type seedRange struct{ from, to uint64 }

// seeds goes over the lanes seed by seed, so that all come on at the same pace.
func (s *soak) seeds(names []Lane, from, count uint64) func() (Lane, uint64, bool) {
	i := uint64(0)
	var was map[Lane][]seedRange
	return func() (Lane, uint64, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if was == nil {
			was = map[Lane][]seedRange{}
			for l, r := range s.done {
				was[l] = slices.Clone(r)
			}
		}
		for n := uint64(len(names)); i < n*count; {
			l, seed := names[i%n], from+i/n
			i++
			if !contains(was[l], seed) {
				return l, seed, true
			}
		}
		return "", 0, false
	}
}

func contains(ranges []seedRange, seed uint64) bool {
	i, _ := slices.BinarySearchFunc(ranges, seed, func(r seedRange, seed uint64) int {
		if r.to <= seed {
			return -1
		}
		return 1
	})
	return i < len(ranges) && ranges[i].from <= seed
}

// finished takes in a run.
func (s *soak) finished(res Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Runs++
	s.report.Events += uint64(res.Events)
	if res.Failure != nil {
		s.report.Failures = append(s.report.Failures, res)
		fmt.Fprintf(s.out, "FAILED lane %s seed %d: %s\n", res.Lane, res.Seed, res.Failure.Line())
	} else {
		s.done[res.Lane] = addSeed(s.done[res.Lane], res.Seed)
	}
	if now := time.Now(); now.Sub(s.saved) > 10*time.Second {
		s.saved = now
		s.progress()
		s.err = errors.Join(s.err, s.write())
	}
}

// addSeed keeps the ranges ascending and apart.
func addSeed(ranges []seedRange, seed uint64) []seedRange {
	i := 0
	for i < len(ranges) && ranges[i].to < seed {
		i++
	}
	switch {
	case i == len(ranges) || ranges[i].from > seed+1:
		return slices.Insert(ranges, i, seedRange{seed, seed + 1})
	case ranges[i].from == seed+1:
		ranges[i].from = seed
	case ranges[i].to == seed:
		ranges[i].to = seed + 1
		if i+1 < len(ranges) && ranges[i+1].from == seed+1 {
			ranges[i].to = ranges[i+1].to
			ranges = slices.Delete(ranges, i+1, i+2)
		}
	}
	return ranges
}

func (s *soak) progress() {
	d := time.Since(s.began)
	fmt.Fprintf(s.out, "%d runs, %d events, %.0f events/s, %d failures\n", s.report.Runs, s.report.Events,
		float64(s.report.Events)/max(d.Seconds(), 0.001), len(s.report.Failures))
}

func (s *soak) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.err, s.write())
}

// write replaces the file of what is done: a line a range.
func (s *soak) write() error {
	if s.file == "" {
		return nil
	}
	var b strings.Builder
	for _, l := range Lanes() {
		for _, r := range s.done[l] {
			fmt.Fprintf(&b, "%s %d %d\n", l, r.from, r.to)
		}
	}
	if err := os.WriteFile(s.file+".new", []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write seeds done: %w", err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		return fmt.Errorf("write seeds done: %w", err)
	}
	return nil
}

func readDone(name string) (map[Lane][]seedRange, error) {
	done := map[Lane][]seedRange{}
	if name == "" {
		return done, nil
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return done, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read seeds done: %w", err)
	}
	defer func() { _ = f.Close() }()
	for in := bufio.NewScanner(f); in.Scan(); {
		var l Lane
		var r seedRange
		if _, err := fmt.Sscan(in.Text(), &l, &r.from, &r.to); err != nil || r.to <= r.from {
			return nil, fmt.Errorf("read seeds done: %s: line %q", name, in.Text())
		}
		done[l] = append(done[l], r)
	}
	return done, nil
}
