package raftengine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/diarchy/diarchy/framework"
)

// The interleaving in which raft's VerifyLeader confirms a leader already
// replaced: it counts the answer to a heartbeat sent before the question.
func TestReadIndexWhereVerifyLeaderLies(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory()
		old := c.nodes[0]
		// Its clock is slow, or it was paused: it does not notice by its lease that
		// nobody answers.
		old.seams.tuning = func(conf *raft.Config) {
			conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 100*time.Second, 100*time.Second, 100*time.Second
		}
		c.start()
		if l := c.leader(); l != old {
			if err := l.e.Transfer(old.ctx(within), old.id); err != nil {
				t.Fatal(err)
			}
		}
		c.leader(old)
		old.write("before")

		// A heartbeat leaves; the answer to it stays on the way.
		old.faults.Cut(c.nodes[1].id, framework.FromNode)
		old.faults.Cut(c.nodes[2].id, framework.BothWays)
		old.e.raft.Load().VerifyLeader()
		synctest.Wait()
		now := c.leader(c.nodes[1:]...)
		last := now.write("after")

		verified := old.e.raft.Load().VerifyLeader()
		type answer struct {
			at  framework.Position
			err error
		}
		read := make(chan answer, 1)
		go func() {
			at, err := old.e.ReadIndex(old.ctx(10 * time.Second))
			read <- answer{at, err}
		}()
		synctest.Wait()
		old.heal()
		if err := verified.Error(); err != nil {
			t.Fatalf("VerifyLeader answered %v: the interleaving was not reached", err)
		}
		if a := <-read; a.err == nil && a.at < last {
			t.Errorf("ReadIndex answered %d; %d was committed before it was called", a.at, last)
		} else if a.err != nil && framework.HappenedOf(a.err) != framework.No {
			t.Errorf("ReadIndex: %v", a.err)
		}
	})
}

func TestReadIndexRoundsServeAllThatWait(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		last := l.write("a")
		first := l.e.trans.peers.stamp()
		const readers = 500
		errs := make(chan error, readers)
		for range readers {
			go func() {
				at, err := l.e.ReadIndex(l.ctx(within))
				if err == nil && at < last {
					err = fmt.Errorf("read index %d, want at least %d", at, last)
				}
				errs <- err
			}()
		}
		for range readers {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if rounds := l.e.trans.peers.stamp() - first; rounds > 3 {
			t.Errorf("%d rounds for %d reads at once", rounds, readers)
		}
	})
}

func TestReadIndexWithoutAQuorum(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		f := c.others(l)[0]
		if _, err := f.e.ReadIndex(f.ctx(time.Second)); !errors.Is(err, framework.ErrNotLeader) || framework.AsError(err).Leader != l.id {
			t.Errorf("on a follower: %v, leader %q", err, framework.AsError(err).Leader)
		}
		l.cut()
		if _, err := l.e.ReadIndex(l.ctx(100 * time.Millisecond)); !errors.Is(err, framework.ErrNoQuorum) {
			t.Errorf("on a leader cut off, at once: %v", err)
		}
		if _, err := l.e.ReadIndex(l.ctx(within)); !errors.Is(err, framework.ErrNotLeader) {
			t.Errorf("on a leader cut off, with time to notice: %v", err)
		}
	})
}

// staleSuffix prepares the directories of hashicorp/raft#697: two members whose
// log was shortened to a snapshot at 15 of term 3, and one whose log reaches to
// last with entries of term 2 from 11 on.
func staleSuffix(t *testing.T, dirs []string, servers raft.Configuration, last uint64) {
	t.Helper()
	for i, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, walDir), 0o700); err != nil {
			t.Fatal(err)
		}
		w, err := wal.Open(filepath.Join(dir, walDir))
		if err != nil {
			t.Fatal(err)
		}
		var logs []*raft.Log
		term := uint64(3)
		if i < 2 {
			logs = []*raft.Log{{Index: 15, Term: 3, Data: []byte("new15")}, {Index: 16, Term: 3, Data: []byte("new16")}}
			files, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			_, trans := raft.NewInmemTransport("")
			sink, err := files.Create(1, 15, 3, servers, 1, trans)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(sink, "state at 15"); err != nil {
				t.Fatal(err)
			}
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			term = 2
			logs = append(logs, &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)})
			for index := uint64(2); index <= last; index++ {
				l := &raft.Log{Index: index, Term: 1, Data: []byte("old")}
				if index > 10 {
					l.Term = 2
				}
				logs = append(logs, l)
			}
		}
		err = errors.Join(w.StoreLogs(logs), w.SetUint64(keyCurrentTerm, term), w.Close())
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSnapshotLivelockHeals(t *testing.T) {
	// The follower's log ends at the snapshot, or goes beyond it.
	for _, last := range []uint64{15, 20} {
		t.Run(fmt.Sprint(last), func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, c *cluster) {
				var dirs []string
				for _, n := range c.nodes {
					dirs = append(dirs, n.config.Dir)
				}
				staleSuffix(t, dirs, configurationOf(c.first), last)
				c.start()
				l := c.leader()
				at := l.write("written")
				f := c.nodes[2]
				f.host.untilThrough(at)
				if got := f.host.data(); !slices.Equal(got, []string{"new16", "written"}) || !slices.Equal(f.host.installs, []framework.Position{15}) {
					t.Errorf("the follower was told %v after installs %v", got, f.host.installs)
				}
				if n := f.e.restarts.Load(); n != 1 {
					t.Errorf("raft was started anew %d times, want once", n)
				}
				// It goes on, and can lead.
				if err := l.e.Transfer(l.ctx(within), f.id); err != nil {
					t.Fatal(err)
				}
				c.leader(f)
				f.write("led by it")
			})
		})
	}
}

// counting is a raft.FSM that counts restores.
type counting struct{ restores atomic.Int64 }

func (*counting) Apply(*raft.Log) any                 { return nil }
func (*counting) Snapshot() (raft.FSMSnapshot, error) { return nil, errNoRaftSnapshots }
func (c *counting) Restore(rc io.ReadCloser) error    { c.restores.Add(1); return rc.Close() }

// rawNode is hashicorp/raft used directly.
type rawNode struct {
	r     *raft.Raft
	fsm   counting
	trans *raft.InmemTransport
	store *wal.WAL
}

func startRaw(t *testing.T, id raft.ServerID, dir string) *rawNode {
	t.Helper()
	n := &rawNode{}
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(id))
	var err error
	if n.store, err = wal.Open(filepath.Join(dir, walDir)); err != nil {
		t.Fatal(err)
	}
	snaps, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = id, hclog.NewNullLogger()
	if n.r, err = raft.NewRaft(conf, &n.fsm, n.store, n.store, snaps, n.trans); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *rawNode) stop(t *testing.T) {
	if err := errors.Join(n.r.Shutdown().Error(), n.trans.Close(), n.store.Close()); err != nil {
		t.Error(err)
	}
}

// What TestSnapshotLivelockHeals heals is there: raft alone installs the same
// snapshot again and again. When this fails, raft has learned better and
// restart.go can go.
func TestSnapshotLivelockIsInRaft(t *testing.T) {
	base := t.TempDir()
	var dirs []string
	var servers raft.Configuration
	for i := range 3 {
		dirs = append(dirs, filepath.Join(base, string(nodeID(i))))
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(nodeID(i)), Address: raft.ServerAddress(nodeID(i))})
	}
	staleSuffix(t, dirs, servers, 20)
	var nodes []*rawNode
	for i, dir := range dirs {
		nodes = append(nodes, startRaw(t, servers.Servers[i].ID, dir))
	}
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.trans.Connect(b.trans.LocalAddr(), b.trans)
			}
		}
	}
	const enough = 20
	for limit := time.Now().Add(within); nodes[2].fsm.restores.Load() < enough; {
		if time.Now().After(limit) {
			t.Fatalf("raft installed the snapshot %d times, not %d", nodes[2].fsm.restores.Load(), enough)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, n := range nodes {
		n.trans.DisconnectAll()
	}
	for _, n := range nodes {
		n.stop(t)
	}
}

// A snapshot sent to the same follower over and over is sent ever more slowly,
// whatever the reason.
func TestRepeatedInstallsBackOff(t *testing.T) {
	p := newPeers(nil)
	req := &raft.InstallSnapshotRequest{Term: 3, LastLogIndex: 15, LastLogTerm: 2}
	var pauses []time.Duration
	for range 10 {
		pauses = append(pauses, p.installPause("n2", 15, 2))
		p.installed("n2", req)
	}
	if pauses[0] != 0 || pauses[1] != installPauseFirst || pauses[9] != installPauseMax || !slices.IsSorted(pauses) {
		t.Errorf("pauses %v", pauses)
	}
	if d := p.installPause("n2", 16, 2); d != 0 {
		t.Errorf("another snapshot waits for %v", d)
	}
	if d := p.installPause("n3", 15, 2); d != 0 {
		t.Errorf("another follower waits for %v", d)
	}
}

// raft's follower takes a commit index up to its own last entry, checked or not.
// So what a leader of ours sends never names one beyond the entries it sends.
func TestRaftFollowerCommitsWhatNobodyChecked(t *testing.T) {
	store := raft.NewInmemStore()
	servers := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}, {ID: "b", Address: "b"}}}
	logs := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)},
		{Index: 2, Term: 1, Data: []byte("common")},
		{Index: 3, Term: 2, Data: []byte("of a leader that failed")},
	}
	if err := errors.Join(store.StoreLogs(logs), store.SetUint64(keyCurrentTerm, 2)); err != nil {
		t.Fatal(err)
	}
	applied := make(chan string, 10)
	_, trans := raft.NewInmemTransport("b")
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = "b", hclog.NewNullLogger()
	r, err := raft.NewRaft(conf, applies(applied), store, store, raft.NewDiscardSnapshotStore(), trans)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(r.Shutdown().Error(), trans.Close()); err != nil {
			t.Error(err)
		}
	}()
	_, leader := raft.NewInmemTransport("a")
	defer leader.Close()
	leader.Connect("b", trans)
	// A leader of term 3 read its last index (2), waited out a back-off, and read
	// its commit index, by then 3: its own entry 3, which "b" does not have.
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")},
		Term:      3, PrevLogEntry: 2, PrevLogTerm: 1, LeaderCommitIndex: 3,
	}
	confined := *req
	confine(&confined)
	if err := leader.AppendEntries("b", "b", &confined, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if got := <-applied; got != "common" || len(applied) != 0 {
		t.Fatalf("a confined request made it apply %q and %d more", got, len(applied))
	}
	if err := leader.AppendEntries("b", "b", req, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if got := <-applied; got != "of a leader that failed" {
		t.Errorf("the request as raft makes it had %q applied: raft has learned better", got)
	}
}

// applies is a raft.FSM that shows what it is given.
type applies chan string

func (a applies) Apply(l *raft.Log) any             { a <- string(l.Data); return nil }
func (applies) Snapshot() (raft.FSMSnapshot, error) { return nil, errNoRaftSnapshots }
func (applies) Restore(io.ReadCloser) error         { return nil }

func TestConfine(t *testing.T) {
	big := make([]byte, appendBytesMax/2)
	req := &raft.AppendEntriesRequest{PrevLogEntry: 10, LeaderCommitIndex: 14, Entries: []*raft.Log{
		{Index: 11, Data: big}, {Index: 12, Data: big}, {Index: 13, Data: big}, {Index: 14},
	}}
	confine(req)
	if len(req.Entries) != 2 || req.LeaderCommitIndex != 12 {
		t.Errorf("%d entries with commit index %d, want 2 with 12", len(req.Entries), req.LeaderCommitIndex)
	}
	one := &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1, Data: make([]byte, 2*appendBytesMax)}}}
	if confine(one); len(one.Entries) != 1 {
		t.Error("an entry over the bound must go alone")
	}
	heartbeat := &raft.AppendEntriesRequest{Term: 3}
	if confine(heartbeat); heartbeat.LeaderCommitIndex != 0 {
		t.Error("a heartbeat must stay one")
	}
}

// An old InstallSnapshot that comes late, on a dead connection, must not take back
// what was applied since.
func TestASnapshotOutOfDateIsNotInstalled(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.start()
		l := c.leader()
		l.write(numbered("x", 20)...)
		at := l.snapshot("old state")
		last := l.write(numbered("y", 20)...)
		f := c.others(l)[0]
		f.host.untilThrough(last)
		meta, payload, err := l.e.snaps.Open(must(l.e.snaps.List())[0].ID)
		if err != nil || meta.Index != uint64(at) {
			t.Fatal(meta, err)
		}
		defer payload.Close()
		req := &raft.InstallSnapshotRequest{
			RPCHeader:       raft.RPCHeader{ProtocolVersion: 3, ID: []byte(l.id), Addr: []byte(l.id)},
			SnapshotVersion: 1, Term: uint64(l.e.Status().Term), LastLogIndex: meta.Index, LastLogTerm: meta.Term,
			Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex, Size: meta.Size,
		}
		err = l.e.trans.net.InstallSnapshot(raft.ServerID(f.id), raft.ServerAddress(f.id), req, &raft.InstallSnapshotResponse{}, payload)
		if err == nil {
			t.Error("it was installed")
		}
		if s := f.e.Status(); s.Last != last || s.Commit != last || s.Snapshot != 0 {
			t.Errorf("afterwards: %+v", s)
		}
		f.host.untilThrough(l.write("z"))
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A pipeline ends when an answer is a rejection, instead of waiting for ever for
// answers that raft has stopped reading.
func TestPipelineEndsAtARejection(t *testing.T) {
	stub := &stubPipeline{}
	p := &pipeline{AppendPipeline: stub, t: &transport{gate: newGate(nil), peers: newPeers(nil)}, id: "n2"}
	call := func() error {
		_, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7}, &raft.AppendEntriesResponse{Term: 3, Success: stub.sent == 0})
		stub.sent++
		return err
	}
	if err := errors.Join(call(), call()); err != nil {
		t.Fatalf("the first was a success: %v", err)
	}
	if err := call(); !errors.Is(err, errRejected) {
		t.Errorf("after a rejection: %v", err)
	}
	if p := p.t.peers.progress("n2", 3); p.Match != 7 {
		t.Errorf("match %d, want 7", p.Match)
	}
}

type stubPipeline struct{ sent int }

func (*stubPipeline) Consumer() <-chan raft.AppendFuture { return nil }
func (*stubPipeline) Close() error                       { return nil }
func (*stubPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	return stubFuture{req, resp}, nil
}

type stubFuture struct {
	req  *raft.AppendEntriesRequest
	resp *raft.AppendEntriesResponse
}

func (stubFuture) Error() error                            { return nil }
func (stubFuture) Start() time.Time                        { return time.Time{} }
func (f stubFuture) Request() *raft.AppendEntriesRequest   { return f.req }
func (f stubFuture) Response() *raft.AppendEntriesResponse { return f.resp }
