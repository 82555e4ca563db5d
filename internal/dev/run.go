package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// Run is one `diarchy dev`.
type Run struct {
	// Binary is the program, Command what people call it by.
	Binary, Command string
	// Dir holds everything; unless Keep it goes with the run.
	Dir      string
	Keep     bool
	Nodes    int
	AnyPorts bool
	LogLevel string
	// Group runs the machine in plugin blocks that Plugin writes; Own: it is the
	// user's. broken asks for the machine that corrupts its state.
	Group  string
	Plugin func(broken bool) string
	Own    bool
	// Break sabotages Check: one of Breaks.
	Break string
	Out   io.Writer
	// Signals end the run; a second one at once.
	Signals <-chan os.Signal
	// Parent: end when the process that started this one has ended.
	Parent bool
	// Abandoned is set when the run ended for that reason.
	Abandoned bool

	cluster *Cluster
}

const (
	startWithin = 60 * time.Second
	closeWithin = 20 * time.Second
	closeSoon   = time.Second
	sameSignal  = 300 * time.Millisecond
)

var (
	errInterrupted = errors.New("interrupted")
	errParentGone  = errors.New("the process that started this one is gone")
	errKilled      = errors.New("ended at once; what was acknowledged is on disk if --data-dir was given")
)

// Serve starts the cluster, says what to try, and keeps it until it is told to
// end.
func (r *Run) Serve(ctx context.Context) error {
	return r.guarded(ctx, func(ctx context.Context) error {
		status, err := r.start(ctx)
		if err != nil {
			return err
		}
		r.introduce(ctx, status)
		return r.watch(ctx)
	})
}

// guarded runs f until it returns, a signal comes or the parent is gone, and
// then ends every process.
func (r *Run) guarded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hurry := make(chan struct{})
	go r.listen(ctx, cancel, hurry)
	if r.Parent {
		go watchParent(ctx, cancel)
	}
	err := f(ctx)
	cause := context.Cause(ctx)
	if errors.Is(cause, errParentGone) {
		r.Abandoned = true
		if r.cluster != nil {
			r.cluster.Kill()
		}
		return cause
	}
	err = errors.Join(err, r.end(hurry))
	if errors.Is(cause, errInterrupted) && !errors.Is(err, errKilled) {
		return nil
	}
	return err
}

// listen turns the first signal into an orderly end and the second into a quick
// one.
func (r *Run) listen(ctx context.Context, cancel context.CancelCauseFunc, hurry chan<- struct{}) {
	select {
	case <-r.Signals:
		fmt.Fprintln(r.Out, "\nending; once more ends at once")
		cancel(errInterrupted)
	case <-ctx.Done():
	}
	// Wrappers such as timeout send the first one twice, to this process and to
	// its group; a person is slower.
	for first := time.Now(); ; {
		<-r.Signals
		if time.Since(first) > sameSignal {
			close(hurry)
			return
		}
	}
}

// watchParent polls: nothing tells a process that its parent has ended.
func watchParent(ctx context.Context, cancel context.CancelCauseFunc) {
	parent := os.Getppid()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if os.Getppid() != parent {
				cancel(errParentGone)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// end stops the cluster in order, or at once when hurried.
func (r *Run) end(hurry <-chan struct{}) error {
	if r.cluster == nil {
		return nil
	}
	// What does not outlast the run need not be closed with care: nodes that all
	// end at once have nobody to hand over to, and wait for somebody.
	within := closeWithin
	if !r.Keep {
		within = closeSoon
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- r.cluster.Close(ctx) }()
	select {
	case err := <-closed:
		if !r.Keep {
			return nil
		}
		return err
	case <-hurry:
		r.cluster.Kill()
		return errKilled
	}
}

// start brings the cluster up and waits until the group serves.
func (r *Run) start(ctx context.Context) (*pb.GroupStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	group := fmt.Sprintf("group %s {\n  engine   = \"raft\"\n  machine  = %s\n  replicas = %d\n}\n",
		Quote(r.Group), Quote("plugin:"+r.Group), r.Nodes)
	var err error
	r.cluster, err = NewCluster(ClusterConfig{
		Binary: r.Binary, Dir: r.Dir, Nodes: r.Nodes, AnyPorts: r.AnyPorts, LogLevel: r.LogLevel,
		BlocksOf: func(i int) string {
			return r.Plugin(r.Break == breakCorrupt && i == r.Nodes-1) + "\n" + group
		},
	})
	if err != nil {
		return nil, err
	}
	for _, n := range r.cluster.Nodes {
		for _, m := range n.Moved {
			fmt.Fprintf(r.Out, "node %s: %s\n", n.Name, m)
		}
	}
	if err := r.cluster.Start(ctx); err != nil {
		return nil, errors.Join(context.Cause(ctx), err)
	}
	return r.cluster.AwaitGroup(ctx, r.Group, AllRunning(r.Nodes))
}

// introduce prints who runs where and what to try.
func (r *Run) introduce(ctx context.Context, status *pb.GroupStatusResponse) {
	w := tabwriter.NewWriter(r.Out, 0, 4, 2, ' ', 0)
	found := fmt.Sprintf("%d nodes found each other by gossip", r.Nodes)
	if r.Nodes == 1 {
		found = "One node runs"
	}
	fmt.Fprintf(r.Out, "\n%s; group %s runs on raft, its machine in a process beside each node\n\n", found, r.Group)
	fmt.Fprintln(w, "NODE\tPID\tPLUGIN PID\tROLE\tCLIENT\tPEER\tGOSSIP")
	for _, n := range r.cluster.Nodes {
		role := ""
		for _, x := range status.GetReplicas() {
			if x.GetName() == n.Name {
				role = x.GetRole()
			}
		}
		plugin := "-"
		if pid, err := n.PluginPID(ctx, r.Group); err == nil {
			plugin = fmt.Sprint(pid)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Process().PID(), plugin, role, n.ClientAddr(), Loopback(n.Peer), Loopback(n.Gossip))
	}
	_ = w.Flush()
	first := r.cluster.Nodes[0].ClientAddr()
	fmt.Fprintf(r.Out, "\nHTTP     http://%s/v1/status  (metrics: /metrics)\nlogs     %s\n", first, r.Dir+"/n*/node.log")
	fmt.Fprintf(r.Out, "\nIn another shell:\n\n  export DIARCHY_ADDR=%s\n", first)
	for _, c := range r.commands() {
		fmt.Fprintf(r.Out, "  %s %s\n", r.Command, c)
	}
	fmt.Fprintln(r.Out, "\nCtrl-C ends it.")
}

// commands are three to try.
func (r *Run) commands() []string {
	if r.Own {
		return []string{"propose " + r.Group + " COMMAND", "query " + r.Group + " QUERY", "group status " + r.Group}
	}
	return []string{"kv put greeting hello", "kv get greeting", "kv list"}
}

// watch waits for the end, and tells of nodes that end before.
func (r *Run) watch(ctx context.Context) error {
	ended := make(chan *Node, len(r.cluster.Nodes))
	for _, n := range r.cluster.Nodes {
		go func() {
			<-n.Process().Done()
			ended <- n
		}()
	}
	for range r.cluster.Nodes {
		select {
		case <-ctx.Done():
			return nil
		case n := <-ended:
			if ctx.Err() == nil {
				fmt.Fprintf(r.Out, "node %s has ended (%v); its log ends with:\n%s\n", n.Name, n.Process().Err(), n.LastLines(5))
			}
		}
	}
	return errors.New("all nodes have ended")
}

// The ways to make a check fail.
const (
	breakSkip    = "skip-write"
	breakStale   = "stale-read"
	breakLose    = "lose-replica"
	breakCorrupt = "corrupt-state"
	breakLeader  = "no-leader"
)

// Breaks are the values of Run.Break.
var Breaks = []string{breakSkip, breakStale, breakLose, breakCorrupt, breakLeader}

// CheckBreak says whether Break is one of Breaks, or empty.
func (r *Run) CheckBreak() error {
	if r.Break == "" || slices.Contains(Breaks, r.Break) {
		return nil
	}
	return fmt.Errorf("--break %q: expected one of %s", r.Break, strings.Join(Breaks, ", "))
}
