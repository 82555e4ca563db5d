package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/vsrengine/vsrsim"
	"github.com/diarchy/diarchy/vsrengine/vsrsim/diagram"
)

const simLong = `Run a whole cluster of the Viewstamped Replication engine in a simulator.

A run is a function of its seed and lane alone: a cluster with clients, network,
disks and machines, faults that the seed draws, checks of everything that leaves a
replica, and at the end a healed core that must get on. The same seed gives the
same run, byte for byte. A lane is a choice of faults; 'swarm' draws from all.

The exit code is 1 if a run failed.`

// simFlags are the flags of 'sim'.
type simFlags struct {
	seed, seeds uint64
	lane, svg   string
	done        string
	workers     int
	verbose     bool
	heartbeats  bool
	from, to    uint64
}

func simCommand(stdio) *cobra.Command {
	f := &simFlags{}
	cmd := &cobra.Command{
		Use: "sim", Short: "Simulate a cluster of the Viewstamped Replication engine", Long: simLong, Args: cobra.NoArgs,
		Example: "  diarchy sim --seed 7\n  diarchy sim --seed 7 -v\n  diarchy sim --seed 1 --svg one.svg\n  diarchy sim --seeds 1000 --lane all",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSim(cmd, f) },
	}
	names := make([]string, 0, len(vsrsim.Lanes())+1)
	for _, l := range vsrsim.Lanes() {
		names = append(names, string(l))
	}
	fs := cmd.Flags()
	fs.Uint64Var(&f.seed, "seed", 1, "the seed, or the first one")
	fs.Uint64Var(&f.seeds, "seeds", 1, "how many seeds, of each lane")
	fs.StringVar(&f.lane, "lane", "swarm", "which faults: "+strings.Join(names, ", ")+", or all")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "print every event of the run")
	fs.StringVar(&f.svg, "svg", "", "draw the run as a space-time diagram into this file")
	fs.Uint64Var(&f.from, "from", 0, "first tick of the picture")
	fs.Uint64Var(&f.to, "to", 0, "last tick of the picture; 0 for a part around the first view change")
	fs.BoolVar(&f.heartbeats, "heartbeats", false, "draw heartbeats too")
	fs.StringVar(&f.done, "done", "", "file of the seeds that are done: they are passed over, and new ones added")
	fs.IntVar(&f.workers, "workers", runtime.GOMAXPROCS(0), "runs at the same time")
	_ = cmd.RegisterFlagCompletionFunc("lane", cobra.FixedCompletions(append(names, "all"), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runSim(cmd *cobra.Command, f *simFlags) error {
	lanes := vsrsim.Lanes()
	if f.lane != "all" {
		lanes = []vsrsim.Lane{vsrsim.Lane(f.lane)}
		if !lanes[0].Known() {
			return usagef("there is no lane %q: expected one of %v, or all", f.lane, vsrsim.Lanes())
		}
	}
	switch {
	case f.seeds == 0 || f.workers < 1:
		return usagef("--seeds and --workers must be at least 1")
	case f.to != 0 && f.to <= f.from:
		return usagef("--to must be after --from")
	case f.seeds > 1 || len(lanes) > 1 || f.done != "":
		if f.svg != "" || f.verbose {
			return usagef("--svg and --verbose show one run: give one seed and one lane")
		}
		return simMany(cmd, lanes, f)
	}
	return simOne(cmd, lanes[0], f)
}

// simOne shows one run.
func simOne(cmd *cobra.Command, lane vsrsim.Lane, f *simFlags) error {
	out := cmd.OutOrStdout()
	o := vsrsim.Draw(f.seed, lane)
	if !jsonOutput(cmd) {
		fmt.Fprintf(out, "seed %d, lane %s\n\n", f.seed, lane)
		columns(out, strings.Split(o.Table(), "\n"))
	}
	var events []vsrsim.Event
	res := vsrsim.RunWith(f.seed, lane, o, func(e *vsrsim.Event) {
		if f.svg != "" {
			events = append(events, *e)
		}
		if f.verbose {
			fmt.Fprintln(out, e)
		}
	})
	if f.svg != "" {
		if err := drawSim(events, lane, f); err != nil {
			return err
		}
	}
	if jsonOutput(cmd) {
		printJSON(out, res)
	} else {
		fmt.Fprintln(out)
		columns(out, strings.Fields(res.Counters.String()))
		fmt.Fprintf(out, "\n%d events in %d ticks, hash %016x\n", res.Events, res.Ticks, res.Hash)
		if f.svg != "" {
			fmt.Fprintf(out, "picture: %s\n", f.svg)
		}
	}
	if res.Failure != nil {
		return fmt.Errorf("seed %d, lane %s: %w", f.seed, lane, res.Failure)
	}
	if !jsonOutput(cmd) {
		fmt.Fprintln(out, "all checks held, and the healed core got on")
	}
	return nil
}

// simMany runs seeds side by side and prints progress and what failed.
func simMany(cmd *cobra.Command, lanes []vsrsim.Lane, f *simFlags) error {
	progress := cmd.OutOrStdout()
	if jsonOutput(cmd) {
		progress = io.Discard
	}
	report, err := vsrsim.Soak(lanes, f.seed, f.seeds, f.workers, f.done, progress)
	if err != nil {
		return err
	}
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), report)
	}
	if n := len(report.Failures); n > 0 {
		first := report.Failures[0]
		return fmt.Errorf("%d of %d runs failed; see one with 'diarchy sim --lane %s --seed %d -v'", n, report.Runs, first.Lane, first.Seed)
	}
	return nil
}

func drawSim(events []vsrsim.Event, lane vsrsim.Lane, f *simFlags) error {
	file, err := os.Create(f.svg)
	if err != nil {
		return err
	}
	err = diagram.Write(file, events, diagram.Options{
		From: f.from, To: f.to, Heartbeats: f.heartbeats, Title: fmt.Sprintf("seed %d, lane %s", f.seed, lane),
	})
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

// columns prints name=value pairs side by side.
func columns(w io.Writer, pairs []string) {
	const across = 4
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for i, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		end := "\t"
		if i%across == across-1 || i == len(pairs)-1 {
			end = "\n"
		}
		fmt.Fprintf(t, "%s\t%s%s", name, value, end)
	}
	_ = t.Flush() // what cannot be written cannot be reported either
}
