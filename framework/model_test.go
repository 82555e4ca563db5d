package framework

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var modelLimits = Limits{Sessions: 3, SessionWindow: 4, SessionResultBytes: 1 << 10, ResultBytes: 500}

// model is what a group is to its clients, as simply as it can be said: a sum, a
// number, and all that was ever answered in the sessions that live.
type model struct {
	sum, number uint64
	sessions    map[SessionID]*modelSession
	order       []SessionID // least recently committed first
}

type modelSession struct {
	ordered     bool
	acked, next uint64
	done        map[uint64]modelAnswer
}

type modelAnswer struct {
	number uint64
	value  uint64
	long   bool // the value is too long to be given
	err    string
}

func newModel() *model { return &model{sessions: map[SessionID]*modelSession{}} }

func (m *model) touch(id SessionID) {
	m.order = slices.DeleteFunc(m.order, func(o SessionID) bool { return o == id })
	m.order = append(m.order, id)
}

func (m *model) open(id SessionID, ordered bool) Code {
	if s := m.sessions[id]; s != nil {
		if s.ordered != ordered {
			return CodeInvalid
		}
		m.touch(id)
		return ""
	}
	if len(m.order) == modelLimits.Sessions {
		delete(m.sessions, m.order[0])
		m.order = m.order[1:]
	}
	m.sessions[id] = &modelSession{ordered: ordered, acked: 1, next: 1, done: map[uint64]modelAnswer{}}
	m.touch(id)
	return ""
}

func (m *model) close(id SessionID) {
	delete(m.sessions, id)
	m.order = slices.DeleteFunc(m.order, func(o SessionID) bool { return o == id })
}

// propose says what must come of a command.
func (m *model) propose(c Command) (a modelAnswer, duplicate bool, refusal Code) {
	if c.Session.ID == (SessionID{}) {
		return m.execute(c), false, ""
	}
	s := m.sessions[c.Session.ID]
	if s == nil {
		return a, false, CodeSessionExpired
	}
	m.touch(c.Session.ID)
	seq := c.Session.Seq
	s.acked = max(s.acked, min(c.Session.AckedBelow, seq))
	s.next = max(s.next, s.acked)
	was, done := s.done[seq]
	switch {
	case seq < s.acked:
		return a, false, CodeResultGone
	case done:
		return was, true, ""
	case seq >= s.acked+uint64(modelLimits.SessionWindow):
		return a, false, CodeWindow
	case s.ordered && seq != s.next:
		return a, false, CodeOutOfOrder
	}
	a = m.execute(c)
	s.done[seq], s.next = a, max(s.next, seq+1)
	return a, false, ""
}

func (m *model) execute(c Command) modelAnswer {
	m.number++
	a := modelAnswer{number: m.number}
	switch {
	case string(c.Data) == "no":
		a.err = "refused"
		return a
	case string(c.Data) == "big":
		a.long = true
		return a
	case len(c.Data) == 8:
		m.sum += binary.LittleEndian.Uint64(c.Data)
	}
	a.value = m.sum
	return a
}

// pair is a group of two replicas on fake logs: lead is proposed to, and tail is
// given the same log in other pieces.
type pair struct {
	t          *rapid.T
	lead, tail *rig
	m          *model
	durable    bool
	archive    []byte
	archived   model
	restored   bool
}

func newPair(outer testing.TB, t *rapid.T) *pair {
	p := &pair{t: t, m: newModel(), durable: rapid.Bool().Draw(t, "durable")}
	make := func(name string) *rig {
		dir, err := os.MkdirTemp("", "diarchy-model-")
		if err != nil {
			t.Fatal(err)
		}
		r := makeRig(outer, dir)
		r.cfg.Limits = modelLimits
		r.cfg.Queues.RingBytes = rapid.SampledFrom([]int{200, 1000, 1 << 20}).Draw(t, name+" ring")
		r.cfg.Snapshots.Entries = int64(rapid.SampledFrom([]int{7, 1 << 20}).Draw(t, name+" entries"))
		r.shared.durable = p.durable && rapid.Bool().Draw(t, name+" durable")
		r.engine.keepLog = rapid.Bool().Draw(t, name+" keeps its log")
		return r
	}
	p.lead, p.tail = make("leader"), make("follower")
	p.tail.engine.notLead = true
	p.tail.engine.members = []Member{{ID: "lead"}}
	p.tail.cfg.FetchPayload = func(_ context.Context, _ NodeID, hash [32]byte) (io.ReadCloser, error) {
		return p.lead.live.Load().OpenStaged(hash)
	}
	p.lead.open()
	p.tail.open()
	return p
}

func (p *pair) end() {
	for _, r := range []*rig{p.lead, p.tail} {
		r.end()
		_ = os.RemoveAll(r.cfg.Dir)
	}
}

// run has a batch committed in one piece and compares the answers.
func (p *pair) run(cs []Command) {
	type got struct {
		r   Receipt
		err error
	}
	answers := make([]got, len(cs))
	var wg sync.WaitGroup
	wg.Add(len(cs))
	p.lead.engine.hold()
	p.lead.g.ProposeAsync(context.Background(), cs, func(i int, r Receipt, err error) {
		answers[i] = got{r, err}
		wg.Done()
	})
	p.lead.engine.release()
	wg.Wait()
	for i, c := range cs {
		a, duplicate, refusal := p.m.propose(c)
		g := answers[i]
		var e *Error
		switch {
		case refusal != "":
			if !errors.As(g.err, &e) || e.Code != refusal {
				p.t.Fatalf("%+v: %+v %v, want %s", c, g.r, g.err, refusal)
			}
		case g.err != nil:
			// A durable machine knows what it has executed, but not what it
			// answered; and a retry may have been acknowledged right behind.
			gone := errors.As(g.err, &e) && e.Code == CodeResultGone
			if !gone || !(p.durable && e.Index == a.number) && !(duplicate && acknowledged(c, cs[i:])) {
				p.t.Fatalf("%+v: %v, want %+v", c, g.err, a)
			}
		default:
			p.same(c, g.r, a, duplicate)
		}
	}
}

func acknowledged(c Command, later []Command) bool {
	return slices.ContainsFunc(later, func(o Command) bool {
		return o.Session.ID == c.Session.ID && min(o.Session.AckedBelow, o.Session.Seq) > c.Session.Seq
	})
}

func (p *pair) same(c Command, r Receipt, a modelAnswer, duplicate bool) {
	err := a.err
	if a.long {
		err = "result too large (1000 > 500)"
	}
	ok := r.Token.Number == a.number && r.Duplicate == duplicate && r.Err == err
	if err == "" {
		ok = ok && len(r.Value) == 8 && binary.LittleEndian.Uint64(r.Value) == a.value
	}
	if !ok {
		p.t.Fatalf("%+v: %+v, want %+v duplicate %v", c, r, a, duplicate)
	}
}

// follow gives the follower some of what it lacks, or a snapshot.
func (p *pair) follow(all bool) {
	from, to := p.lead.engine, p.tail.engine
	from.mu.Lock()
	log, oldest, last, snapAt, snap := slices.Clone(from.log), from.oldest, from.last, from.snapAt, from.snap
	from.mu.Unlock()
	at := to.Status().Last
	if at+1 < oldest || snapAt > at && rapid.Bool().Draw(p.t, "snapshot instead") {
		to.install(snapAt, snap)
		at = snapAt
	}
	i, _ := slices.BinarySearchFunc(log, at+1, func(e Entry, p Position) int { return int(e.Position) - int(p) })
	rest := log[i:]
	for len(rest) > 0 && (all || rapid.Bool().Draw(p.t, "more")) {
		n := rapid.IntRange(1, len(rest)).Draw(p.t, "piece")
		through := rest[n-1].Position
		if n == len(rest) {
			through = last
		}
		to.accept(rest[:n], through)
		rest = rest[n:]
	}
}

// state is what replicas must agree on to the last byte: all but kept results.
func state(r *rig) (info payloadInfo, at Position) {
	done := make(chan struct{})
	r.g.a.ring.do(func() {
		a := r.g.a
		info = payloadInfo{number: a.st.number, time: a.st.time, history: a.st.history, sessions: a.st.sessions.appendTo(nil, -1)}
		at = a.at
		close(done)
	})
	<-done
	return info, at
}

// check compares both replicas with the model and with each other.
func (p *pair) check() {
	p.follow(true)
	p.tail.engine.announceAll()
	last := p.lead.engine.Status().Last
	for _, r := range []*rig{p.lead, p.tail} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // of the bubble's time
		if err := r.g.a.seen.waitAt(ctx, last); err != nil {
			p.t.Fatalf("not applied: %v: %+v", err, r.g.Status())
		}
		cancel()
		r.until("runs", func() bool { return r.g.Status().Machine.State == "running" })
		a, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale})
		if err != nil || binary.LittleEndian.Uint64(a.Value) != p.m.sum || a.Token.Number != p.m.number {
			p.t.Fatalf("%+v %v, want sum %d at %d", a, err, p.m.sum, p.m.number)
		}
	}
	l, at := state(p.lead)
	f, fat := state(p.tail)
	if at != fat || l.number != f.number || l.time != f.time || l.history != f.history || !bytes.Equal(l.sessions, f.sessions) {
		p.t.Fatalf("the replicas differ at %d and %d:\n%+v\n%+v", at, fat, l, f)
	}
}

func (p *pair) command(name string) Command {
	c := Command{Data: rapid.SampledFrom([][]byte{num(1), num(2), num(3), []byte("no"), []byte("big"), {}}).Draw(p.t, name)}
	if s := rapid.IntRange(0, 5).Draw(p.t, "session"); s > 0 {
		c.Session = Session{ID: SessionID{byte(s)}, Seq: rapid.Uint64Range(1, 9).Draw(p.t, "seq"), AckedBelow: rapid.Uint64Range(0, 9).Draw(p.t, "acked")}
	}
	return c
}

func (p *pair) step() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	which := p.lead
	if rapid.Bool().Draw(p.t, "of the follower") {
		which = p.tail
	}
	switch what := rapid.SampledFrom([]string{"propose", "propose", "propose", "open", "close", "die", "snapshot", "restart", "follow", "hang", "check", "backup", "restore", "tick"}).Draw(p.t, "step"); what {
	case "propose":
		cs := make([]Command, rapid.IntRange(1, 6).Draw(p.t, "commands"))
		for i := range cs {
			cs[i] = p.command("data")
		}
		p.run(cs)
	case "open":
		id, ordered := SessionID{byte(rapid.IntRange(1, 5).Draw(p.t, "id"))}, rapid.Bool().Draw(p.t, "ordered")
		err := p.lead.g.OpenSession(ctx, id, SessionOptions{Ordered: ordered})
		if want := p.m.open(id, ordered); err == nil && want != "" || err != nil && AsError(err).Code != want {
			p.t.Fatalf("open %v: %v, want %q", id, err, want)
		}
	case "close":
		id := SessionID{byte(rapid.IntRange(1, 5).Draw(p.t, "id"))}
		if err := p.lead.g.CloseSession(ctx, id); err != nil {
			p.t.Fatal(err)
		}
		p.m.close(id)
	case "die":
		which.shared.mu.Lock()
		which.shared.dieAt[p.m.number+rapid.Uint64Range(1, 4).Draw(p.t, "in")] = rapid.IntRange(1, 2).Draw(p.t, "times")
		which.shared.mu.Unlock()
	case "snapshot":
		if _, err := which.g.Snapshot(ctx); err != nil && !errors.Is(err, ErrMachineDown) {
			p.t.Fatal(err)
		}
	case "restart":
		which.close()
		which.engine.behind = which == p.tail && rapid.Bool().Draw(p.t, "knows of nothing committed")
		which.open()
	case "follow":
		p.follow(false)
	case "hang":
		_, open := p.lead.shared.stop("apply", true)
		go open()
		p.run([]Command{p.command("data"), p.command("data")})
	case "check":
		p.check()
	case "backup":
		p.backup(ctx)
	case "restore":
		p.restore(ctx)
	case "tick":
		if _, err := p.lead.g.control(ctx, []byte{byte(controlTick)}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *pair) backup(ctx context.Context) {
	var b bytes.Buffer
	if _, err := p.lead.g.Backup(ctx, &b); err != nil {
		if !errors.Is(err, ErrMachineDown) {
			p.t.Fatal(err)
		}
		return
	}
	p.archive, p.archived = b.Bytes(), model{sum: p.m.sum, number: p.m.number}
}

func (p *pair) restore(ctx context.Context) {
	if p.archive == nil {
		return
	}
	hash, _, err := p.lead.g.StageRestore(ctx, bytes.NewReader(p.archive))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.lead.g.CommitRestore(ctx, hash); err != nil {
		p.t.Fatal(err)
	}
	number := max(p.m.number, p.archived.number)
	p.m = newModel()
	p.m.sum, p.m.number = p.archived.sum, number
}

// Whatever happens to machines, logs and replicas: clients see what the model
// says, and replicas agree on everything that is replicated, also when one of
// them replays and another does not.
func TestGroupAgainstAModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) { // without t.Deadline, which a bubble has not
			p := newPair(t, rt)
			defer p.end()
			for range rapid.IntRange(1, 60).Draw(rt, "steps") {
				p.step()
			}
			p.check()
		})
	})
}
