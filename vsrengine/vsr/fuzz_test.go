package vsr_test

import (
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// bytesSource turns fuzz input into small numbers; it gives zeros when it is used
// up.
type bytesSource struct{ b []byte }

func (s *bytesSource) next(n int) int {
	if len(s.b) == 0 {
		return 0
	}
	x := int(s.b[0])
	s.b = s.b[1:]
	return x % n
}

// op is mostly small, sometimes absurd.
func (s *bytesSource) op() vsr.Op {
	switch x := s.next(16); x {
	case 15:
		return ^vsr.Op(0)
	case 14:
		return 1 << 40
	default:
		return vsr.Op(x)
	}
}

func (s *bytesSource) view() vsr.View {
	return vsr.MakeView(uint64(s.next(3)), uint64(s.next(5)))
}

func (s *bytesSource) entry() vsr.Entry {
	e := vsr.Entry{Header: vsr.Header{
		Checksum: vsr.Checksum(s.next(6)), Parent: vsr.Checksum(s.next(6)), View: s.view(), Op: s.op(),
		First: vsr.Position(s.next(4)), Count: uint32(s.next(3)), Kind: vsr.EntryKind(s.next(7)),
	}}
	if n := s.next(3); n > 0 {
		e.Body = make([]byte, n)
		e.Size = uint32(n)
	}
	return e
}

func (s *bytesSource) log() *vsr.Log {
	l := &vsr.Log{LogView: s.view(), Head: s.op(), Begin: s.op(), First: s.op(), Contiguous: s.op(), Applied: s.op(), Commit: s.op(), Snapshot: s.op(), Intact: s.next(2) == 0}
	n := s.next(7)
	for i := range n {
		h := s.entry().Header
		if s.next(8) > 0 {
			h.Op = l.Head + 1 - vsr.Op(n) + vsr.Op(i)
		}
		l.Headers = append(l.Headers, h)
		l.Claims = append(l.Claims, vsr.Claim(s.next(4)))
	}
	if s.next(16) == 15 {
		l.Claims = nil
	}
	return l
}

func (s *bytesSource) members() *vsr.Membership {
	m := &vsr.Membership{Epoch: uint64(s.next(3)), First: uint64(s.next(3)), Op: s.op(), Lineage: vsr.Checksum(s.next(4))}
	for id := range s.next(6) {
		m.Members = append(m.Members, vsr.Member{ID: vsr.ID(id + s.next(2)), Role: vsr.Role(s.next(4))})
	}
	return m
}

func (s *bytesSource) snapshot() *vsr.Snapshot {
	return &vsr.Snapshot{Header: s.entry().Header, Next: vsr.Position(s.next(9)), Members: *s.members(), Size: uint64(s.next(5)), Sum: vsr.Checksum(s.next(3))}
}

// message fills every field that its kind may use, and some that it may not.
func (s *bytesSource) message() vsr.Message {
	m := vsr.Message{
		Kind: vsr.Kind(s.next(28)), From: vsr.ID(s.next(5)), To: 2, View: s.view(), Target: s.view(), Op: s.op(), Commit: s.op(),
		Checksum: vsr.Checksum(s.next(6)), Seq: uint64(s.op()), Nonce: vsr.Nonce{Hi: 2, Lo: uint64(s.next(4))},
	}
	parts := s.next(32)
	if parts&1 != 0 {
		m.Log = s.log()
	}
	if parts&2 != 0 {
		m.Members = s.members()
	}
	if parts&4 != 0 {
		m.Snapshot = s.snapshot()
	}
	if parts&8 != 0 {
		for range s.next(4) {
			m.Entries = append(m.Entries, s.entry())
		}
	}
	if parts&16 != 0 {
		m.Data = make([]byte, s.next(4))
	}
	return m
}

// FuzzStep: whatever peers send, a replica neither panics nor grows without
// bound. Content is not believable here, so nothing is said of what it agrees on.
func FuzzStep(f *testing.F) {
	f.Add([]byte{0, 0})
	f.Add([]byte("a replica is told many things, few of which are true, and goes on"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &bytesSource{b}
		members := vsr.NewMembership(vsr.Member{ID: 1, Role: vsr.Voter}, vsr.Member{ID: 2, Role: vsr.Voter}, vsr.Member{ID: 3, Role: vsr.Voter})
		cfg := vsr.DefaultConfig()
		cfg.ID, cfg.Memory, cfg.PipelineMax = 2, s.next(2) == 1, 4
		rec := &vsr.Record{View: vsr.View(s.next(3)), Members: members, Virgin: s.next(2) == 1}
		st := vsr.State{Record: rec, Incarnation: vsr.Nonce{Hi: 2}, Unplaced: s.next(4) == 3}
		if rec.Virgin {
			rec.View = 0
		}
		r, err := vsr.New(cfg, st)
		if err != nil {
			t.Skip(err)
		}
		for len(s.b) > 0 {
			switch s.next(8) {
			case 0:
				r.Tick()
			case 1:
				r.Propose(vsr.Batch{Kind: vsr.KindUser, Count: 1, Body: []byte{1}})
			case 2:
				_ = r.ReadIndex(uint64(s.next(9)))
			default:
				m := s.message()
				r.Step(&m)
			}
			out := r.Take()
			if len(out.Send)+len(out.Promise)+len(out.Persist) > 2000 {
				t.Fatalf("one input, %d messages and %d writes", len(out.Send)+len(out.Promise), len(out.Persist))
			}
			if n := len(out.Persist); n > 0 && s.next(4) > 0 {
				r.Persisted(out.Persist[n-1].Ticket)
				r.Take()
			}
		}
	})
}

// FuzzMembership: what a committed change carries is decoded or refused.
func FuzzMembership(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := vsr.DecodeMembership(&vsr.Entry{Body: b})
		if err == nil && m.Voters() == 0 {
			t.Error("a membership without voters")
		}
	})
}
