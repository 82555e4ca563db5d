package vsrsim

import (
	"encoding/binary"
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// planted is a checker with a history of two ops by two clients.
type planted struct {
	checker
	entries []vsr.Entry
}

func newPlanted() *planted {
	p := &planted{}
	p.limits = limits{entryBytes: 64, headers: 4, chunkBytes: 32, queue: 10}
	p.issue(newCommand(0, 0))
	p.issue(newCommand(1, 0))
	parent := vsr.Checksum(7)
	for i := range 2 {
		e := batch(vsr.Op(i+1), 0, parent, newCommand(i, 0))
		p.apply(1, vsr.Op(i), &e)
		p.entries = append(p.entries, e)
		parent = e.Checksum
	}
	p.ack(0, 1, newCommand(0, 0))
	return p
}

func batch(op vsr.Op, v vsr.View, parent vsr.Checksum, commands ...command) vsr.Entry {
	var body []byte
	for _, x := range commands {
		body = binary.LittleEndian.AppendUint64(body, uint64(x))
	}
	h := vsr.Header{Op: op, View: v, Parent: parent, Kind: vsr.KindUser, Count: uint32(len(commands)), Size: uint32(len(body)), BodyChecksum: vsr.BodySum(body)}
	h.Checksum = h.Sum(77)
	return vsr.Entry{Header: h, Body: body}
}

// A checker that never fires proves nothing: each is shown its violation, and the
// same without it.
func TestCheckersFire(t *testing.T) {
	record := func(v, logView vsr.View, commit vsr.Op) *vsr.Record {
		return &vsr.Record{View: v, Log: &vsr.Log{LogView: logView, Commit: commit}}
	}
	headers := func(p *planted) *vsr.Log {
		l := &vsr.Log{Head: 2}
		for i := range p.entries {
			l.Headers = append(l.Headers, p.entries[i].Header)
			l.Claims = append(l.Claims, vsr.Linked|vsr.Present)
		}
		return l
	}
	send := func(p *planted, m vsr.Message, rec *vsr.Record, was, is vsr.Where) {
		d := &disk{}
		d.append(written{entry: p.entries[0]})
		p.promise(0, &m, rec, d, &was, &is, false)
	}
	at := func(v vsr.View) vsr.Where { return vsr.Where{View: v, Commit: 0} }
	for _, c := range []struct {
		name, kind string
		plant      func(p *planted)
	}{
		{"nothing wrong", "", func(p *planted) {
			p.apply(2, 0, &p.entries[0])
			p.read(1, p.floor(), 2)
			p.ack(0, 2, newCommand(1, 0))
			l := headers(p)
			send(p, vsr.Message{Kind: vsr.StartView, From: 1, View: 2, Log: l}, record(2, 2, 0), at(2), at(2))
			send(p, vsr.Message{Kind: vsr.PrepareOK, From: 1, View: 2, Op: 1, Checksum: p.entries[0].Checksum}, record(2, 2, 0), at(2), at(2))
			p.record(0, 1, record(1, 0, 1))
			p.record(0, 1, record(1, 0, 1)) // an install while the view changes
			p.record(0, 1, record(2, 2, 1))
			p.record(0, 1, &vsr.Record{View: 2, Log: &vsr.Log{LogView: 2, Commit: 1, Head: 9}}) // and after it
			p.bounds(&vsr.Message{Entries: p.entries, Log: l})
		}},
		{"another entry", "agreement", func(p *planted) { e := batch(1, 1, 7, newCommand(0, 0)); p.apply(2, 0, &e) }},
		{"an op left out", "order", func(p *planted) { p.apply(2, 0, &p.entries[1]) }},
		{"an op nobody applied before", "order", func(p *planted) { e := batch(4, 0, 7, newCommand(0, 0)); p.apply(2, 3, &e) }},
		{"another body", "content", func(p *planted) {
			e := p.entries[0]
			e.Body = []byte{1, 2, 3, 4, 5, 6, 7, 8}
			p.apply(2, 0, &e)
		}},
		{"another parent", "chain", func(p *planted) { e := batch(3, 0, 99, newCommand(0, 0)); p.apply(1, 2, &e) }},
		{"a command nobody sent", "invented", func(p *planted) {
			e := batch(3, 0, p.entries[1].Checksum, newCommand(0, 5))
			p.apply(1, 2, &e)
		}},
		{"a command executed twice", "twice", func(p *planted) { p.execute(newCommand(0, 0)) }},
		{"a state of its own", "state", func(p *planted) { p.state(1, &machine{op: 2, number: 3}) }},
		{"a state beyond all", "agreement", func(p *planted) { p.state(1, &machine{op: 9}) }},
		{"too few copies", "quorum", func(p *planted) {
			m := vsr.NewMembership(vsr.Member{ID: 1, Role: vsr.Voter}, vsr.Member{ID: 2, Role: vsr.Voter}, vsr.Member{ID: 3, Role: vsr.Voter}, vsr.Member{ID: 4, Role: vsr.Learner})
			p.quorum(&p.entries[1], 1<<1|1<<4, []vsr.Membership{m})
		}},
		{"an answer without execution", "false ack", func(p *planted) { p.ack(0, 2, newCommand(1, 7)) }},
		{"a stale read", "stale read", func(p *planted) { p.ack(0, 2, newCommand(1, 0)); p.read(1, p.floor(), 1) }},
		{"a read that goes back", "stale read", func(p *planted) { p.read(1, 0, 2); p.read(2, p.floor(), 1) }},
		{"an acknowledged op cut", "survival", func(p *planted) {
			send(p, vsr.Message{Kind: vsr.StartView, From: 1, View: 2, Log: &vsr.Log{}}, record(2, 2, 0), at(2), at(2))
		}},
		{"an acknowledged op replaced", "survival", func(p *planted) {
			l := headers(p)
			l.Headers[0].Checksum++
			send(p, vsr.Message{Kind: vsr.StartView, From: 1, View: 2, Log: l}, record(2, 2, 0), at(2), at(2))
		}},
		{"a beginning that may be of another log", "uncertain", func(p *planted) {
			l := headers(p)
			l.Claims[0] = vsr.Present
			send(p, vsr.Message{Kind: vsr.StartView, From: 1, View: 2, Log: l}, record(2, 2, 0), at(2), at(2))
		}},
		{"two primaries", "two primaries", func(p *planted) {
			for id := vsr.ID(1); id <= 2; id++ {
				send(p, vsr.Message{Kind: vsr.StartView, From: id, View: 2, Log: headers(p)}, record(2, 2, 0), at(2), at(2))
			}
		}},
		{"two logs in one view", "two logs", func(p *planted) {
			send(p, vsr.Message{Kind: vsr.DoViewChange, From: 1, View: 2, Log: &vsr.Log{Head: 1}}, record(2, 0, 0), at(2), at(2))
			send(p, vsr.Message{Kind: vsr.DoViewChange, From: 1, View: 2, Log: &vsr.Log{Head: 2}}, record(2, 0, 0), at(2), at(2))
		}},
		{"another log for one vote", "two logs", func(p *planted) {
			a, b := record(3, 2, 1), record(3, 2, 1)
			a.Log.Head, b.Log.Head = 1, 2
			p.record(0, 1, a)
			p.record(0, 1, b)
		}},
		{"a view without its quorum", "alone", func(p *planted) {
			m := vsr.NewMembership(vsr.Member{ID: 1, Role: vsr.Voter}, vsr.Member{ID: 2, Role: vsr.Voter}, vsr.Member{ID: 3, Role: vsr.Voter}, vsr.Member{ID: 4, Role: vsr.Learner})
			p.joined(&vsr.Message{Kind: vsr.StartView, View: 2}, &m, 1<<1|1<<2)
			if p.violation != nil {
				t.Fatal("two of three are a quorum")
			}
			p.joined(&vsr.Message{Kind: vsr.StartView, View: 2}, &m, 1<<1|1<<4)
		}},
		{"an op after the end of its epoch", "epoch", func(p *planted) {
			e := batch(3, vsr.MakeView(0, 4), p.entries[1].Checksum)
			e.Kind = vsr.KindConfig
			e.Checksum = e.Sum(77)
			p.apply(1, 2, &e)
			f := batch(4, vsr.MakeView(1, 0), e.Checksum)
			p.apply(1, 3, &f)
			if p.violation != nil {
				t.Fatal("the next epoch goes on")
			}
			f = batch(5, vsr.MakeView(0, 9), f.Checksum)
			p.apply(1, 4, &f)
		}},
		{"one who comes back with nothing", "amnesia", func(p *planted) {
			p.recovered(1)
			if p.violation != nil {
				t.Fatal("enough others remember")
			}
			p.lost = true
			p.recovered(1)
		}},
		{"a vote before its record", "promise", func(p *planted) {
			send(p, vsr.Message{Kind: vsr.DoViewChange, From: 1, View: 2, Log: &vsr.Log{}}, record(1, 0, 0), at(2), at(2))
		}},
		{"an acknowledgement before log_view", "promise", func(p *planted) {
			send(p, vsr.Message{Kind: vsr.PrepareOK, From: 1, View: 2, Op: 1, Checksum: p.entries[0].Checksum}, record(2, 0, 0), at(2), at(2))
		}},
		{"an acknowledgement before its write", "promise", func(p *planted) {
			send(p, vsr.Message{Kind: vsr.PrepareOK, From: 1, View: 2, Op: 2, Checksum: p.entries[1].Checksum}, record(2, 2, 0), at(2), at(2))
		}},
		{"an acknowledgement after its view", "promise", func(p *planted) {
			send(p, vsr.Message{Kind: vsr.PrepareOK, From: 1, View: 2, Op: 1, Checksum: p.entries[0].Checksum}, record(2, 2, 0), at(3), at(3))
		}},
		{"a vote while recovering", "promise", func(p *planted) {
			r := vsr.Where{Phase: vsr.Recovering, View: 2}
			send(p, vsr.Message{Kind: vsr.Notice, From: 1, View: 2}, record(2, 0, 0), r, r)
		}},
		{"a view that goes back", "monotone", func(p *planted) { p.record(0, 1, record(2, 1, 1)); p.record(0, 1, record(1, 1, 1)) }},
		{"a log_view that goes back", "monotone", func(p *planted) { p.record(0, 1, record(2, 1, 1)); p.record(0, 1, record(2, 0, 1)) }},
		{"a durable commit that goes back", "monotone", func(p *planted) { p.record(0, 1, record(2, 1, 1)); p.record(0, 1, record(3, 1, 0)) }},
		{"a configuration that goes back", "monotone", func(p *planted) {
			a, b := record(vsr.MakeView(1, 0), 0, 0), record(vsr.MakeView(1, 1), 0, 0)
			a.Members.Epoch, a.Members.Op, b.Members.Epoch = 1, 5, 1
			p.record(0, 1, a)
			p.record(0, 1, b)
		}},
		{"a commit that goes back", "monotone", func(p *planted) {
			p.where(0, 1, 1, &vsr.Where{Commit: 2})
			p.where(0, 1, 1, &vsr.Where{Commit: 1})
		}},
		{"a replica that halts", "halted", func(p *planted) { p.where(0, 1, 1, &vsr.Where{Phase: vsr.Halted}) }},
		{"too many bytes", "bounds", func(p *planted) {
			e := vsr.Entry{Body: make([]byte, 40)}
			p.bounds(&vsr.Message{Entries: []vsr.Entry{e, e}})
		}},
		{"too many headers", "bounds", func(p *planted) {
			p.bounds(&vsr.Message{Log: &vsr.Log{Headers: make([]vsr.Header, 5), Claims: make([]vsr.Claim, 5)}})
		}},
		{"too large a chunk", "bounds", func(p *planted) { p.bounds(&vsr.Message{Data: make([]byte, 33)}) }},
		{"too long a queue", "bounds", func(p *planted) { p.waiting(1, "writes", 11) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlanted()
			c.plant(p)
			switch v := p.violation; {
			case v == nil && c.kind != "":
				t.Fatalf("no %q was reported", c.kind)
			case v != nil && v.kind != c.kind:
				t.Fatalf("reported %q (%s), want %q", v.kind, v.what, c.kind)
			}
		})
	}
}

// An op acknowledged in a later view need not be in an earlier one that begins late.
func TestEarlierViewsMayLackIt(t *testing.T) {
	p := newPlanted()
	p.ack(5, 2, newCommand(1, 0))
	for v, want := range map[vsr.View]vsr.Op{0: 1, 4: 1, 5: 2, 9: 2} {
		if got := p.ackedBefore(v); got != want {
			t.Errorf("view %s: %d, want %d", v, got, want)
		}
	}
}
