package vsr_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// planted builds headers and messages that break one property each.
type planted struct {
	*properties
	disk disk
	st   vsr.Status
}

func newPlanted() *planted {
	p := &planted{properties: newProperties(names{})}
	p.st = vsr.Status{ID: 1, Phase: vsr.Normal, Members: vsr.NewMembership(
		vsr.Member{ID: 1, Role: vsr.Voter}, vsr.Member{ID: 2, Role: vsr.Voter}, vsr.Member{ID: 3, Role: vsr.Voter})}
	p.disk.record = &vsr.Record{Log: &vsr.Log{Intact: true}, Members: p.st.Members}
	return p
}

// header makes an entry's header that follows parent.
func (p *planted) make(body string, view vsr.View, parent *vsr.Header) vsr.Header {
	h := vsr.Header{View: view, Op: 1, First: 1, Count: 1, Size: uint32(len(body)), Kind: vsr.KindUser, BodyChecksum: vsr.BodySum([]byte(body))}
	if parent != nil {
		h.Parent, h.Op, h.First = parent.Checksum, parent.Op+1, parent.Next()
	}
	h.Checksum = h.Sum(p.seed)
	p.ns[h.Checksum] = body
	return h
}

func (p *planted) durableEntry(h vsr.Header) {
	p.disk.slots = append(p.disk.slots, slot{Entry: vsr.Entry{Header: h}})
}

func (p *planted) sends(m vsr.Message) { p.message(&m, &sender{disk: &p.disk, was: p.st, is: p.st}) }

func (p *planted) vote(view, logView vsr.View, headers ...vsr.Header) vsr.Message {
	l := &vsr.Log{LogView: logView, Head: headers[len(headers)-1].Op, Headers: headers, Intact: true}
	for range headers {
		l.Claims = append(l.Claims, vsr.Linked|vsr.Present)
	}
	return vsr.Message{Kind: vsr.DoViewChange, From: 1, To: 2, View: view, Log: l}
}

// TestPropertiesFire plants a violation of each property and looks for its name;
// sound says what is right in the same situation and must pass.
func TestPropertiesFire(t *testing.T) {
	for _, x := range []struct {
		property string
		sound    func(p *planted)
		planted  func(p *planted)
	}{
		{"one primary a view",
			func(p *planted) {
				p.sends(vsr.Message{Kind: vsr.Commit, From: 1})
				p.sends(vsr.Message{Kind: vsr.Commit, From: 2, View: 1})
			},
			func(p *planted) { p.sends(vsr.Message{Kind: vsr.Commit, From: 2}) }},
		{"one primary a view",
			func(p *planted) {
				p.statusMoves(vsr.Status{ID: 1, Serving: true})
				p.statusMoves(vsr.Status{ID: 2, View: 1, Serving: true})
			},
			func(p *planted) { p.statusMoves(vsr.Status{ID: 3, View: 1, Serving: true}) }},
		{"minted once",
			func(p *planted) { x := p.make("x", 0, nil); p.header(&x); y := p.make("y", 1, nil); p.header(&y) },
			func(p *planted) { z := p.make("z", 0, nil); p.header(&z) }},
		{"append only",
			func(p *planted) { p.prepares(3, p.make("x", 0, nil)); p.prepares(4, p.make("y", 1, nil)) },
			func(p *planted) { p.prepares(3, p.make("y", 1, nil)) }},
		{"log matching",
			func(p *planted) { x := p.make("x", 0, nil); p.header(&x); y := p.make("y", 0, &x); p.header(&y) },
			func(p *planted) {
				x := p.make("x", 0, nil)
				y := p.make("y", 0, &x)
				y.First = 7
				y.Checksum = y.Sum(0)
				p.logMatching(&y)
			}},
		{"log matching",
			func(p *planted) {},
			func(p *planted) { x := p.make("x", 0, nil); x.View = 3; p.logMatching(&x) }},
		{"one log a view",
			func(p *planted) {
				m := p.vote(2, 1, p.make("x", 0, nil))
				p.oneLogAView(&m)
				m = p.vote(3, 2, p.make("y", 1, nil))
				p.oneLogAView(&m)
			},
			func(p *planted) { m := p.vote(3, 1, p.make("y", 1, nil)); p.oneLogAView(&m) }},
		{"acknowledged survives",
			func(p *planted) {
				x := p.make("x", 0, nil)
				p.acknowledged(&x, 0)
				p.begins(1, x)
				y := p.make("y", 1, &x)
				p.acknowledged(&y, 1)
				p.begins(1, x)
			},
			func(p *planted) { p.begins(1, p.make("y", 0, nil)) }},
		{"acknowledged survives",
			func(p *planted) {
				x := p.make("x", 0, nil)
				y := p.make("y", 0, &x)
				p.acknowledged(&y, 0)
				p.begins(1, x, y)
			},
			func(p *planted) { p.begins(1, p.make("x", 0, nil)) }},
		{"same DoViewChange",
			func(p *planted) {
				m := p.vote(1, 0, p.make("x", 0, nil))
				p.sameDoViewChange(&m)
				p.sameDoViewChange(&m)
			},
			func(p *planted) {
				m := p.vote(1, 0, p.make("x", 0, nil))
				m.Log.Claims[0] = vsr.Linked
				p.sameDoViewChange(&m)
			}},
		{"promise after persist",
			func(p *planted) {
				x := p.make("x", 0, nil)
				p.durableEntry(x)
				p.sends(vsr.Message{Kind: vsr.PrepareOK, From: 1, Op: 1, Checksum: x.Checksum})
			},
			func(p *planted) {
				p.sends(vsr.Message{Kind: vsr.PrepareOK, From: 1, Op: 1, Checksum: p.make("y", 0, nil).Checksum})
			}},
		{"promise after persist", // a hole below
			func(p *planted) {},
			func(p *planted) {
				x := p.make("x", 0, nil)
				y := p.make("y", 0, &x)
				p.durableEntry(y)
				p.sends(vsr.Message{Kind: vsr.PrepareOK, From: 1, Op: 2, Checksum: y.Checksum})
			}},
		{"promise after persist", // log_view is not durable
			func(p *planted) {},
			func(p *planted) {
				x := p.make("x", 0, nil)
				p.durableEntry(x)
				p.st.View = 1
				p.sends(vsr.Message{Kind: vsr.PrepareOK, From: 1, View: 1, Op: 1, Checksum: x.Checksum})
			}},
		{"promise after persist", // another status
			func(p *planted) {},
			func(p *planted) {
				x := p.make("x", 0, nil)
				p.durableEntry(x)
				p.st.Phase = vsr.ViewChange
				p.sends(vsr.Message{Kind: vsr.PrepareOK, From: 1, Op: 1, Checksum: x.Checksum})
			}},
		{"promise after persist", // DoViewChange before its record
			func(p *planted) {
				m := p.vote(1, 0, p.make("x", 0, nil))
				p.st.Phase, p.st.View = vsr.ViewChange, 1
				p.disk.record.View, p.disk.record.Log = 1, m.Log
				p.sends(m)
			},
			func(p *planted) { p.disk.record.View = 0; p.sends(p.vote(1, 0, p.make("x", 0, nil))) }},
		{"promise after persist", // StartView before log_view
			func(p *planted) { p.disk.record.Log.LogView = 1; p.begins(1, p.make("x", 0, nil)) },
			func(p *planted) { p.begins(2, p.make("x", 0, nil)) }},
		{"a view begins by a quorum",
			func(p *planted) { p.stampedAt(1, 1); p.stampedAt(3, 2); p.startsView(1, p.make("x", 0, nil)) },
			func(p *planted) { p.startsView(2, p.make("x", 0, nil)) }},
		{"a view begins by a quorum", // a disk that was formatted for it has not been in it
			func(p *planted) {},
			func(p *planted) {
				p.stampedAt(1, 1)
				p.stamped(2, &vsr.Record{View: 1, Virgin: true})
				p.startsView(1, p.make("x", 0, nil))
			}},
		{"a Reconfigure ends its epoch",
			func(p *planted) {
				k := p.reconfigure(p.make("x", 0, nil))
				p.header(&k)
				y := p.make("y", vsr.MakeView(1, 0), &k)
				p.header(&y)
			},
			func(p *planted) {
				k := p.reconfigure(p.make("x", 0, nil))
				z := p.make("z", 2, &k)
				p.header(&z)
			}},
		{"the record keeps what was said",
			func(p *planted) {
				x := p.vote(2, 1, p.make("x", 0, nil)).Log
				p.recordMoves(1, &vsr.Record{View: 2, Log: x})
				snapshot := *x
				snapshot.Snapshot, snapshot.Commit = 1, 1
				p.recordMoves(1, &vsr.Record{View: 2, Log: &snapshot})
				p.recordMoves(2, &vsr.Record{View: 2, Log: x})
				begun := *x
				begun.LogView, begun.Headers, begun.Claims = 2, nil, nil
				p.recordMoves(2, &vsr.Record{View: 2, Log: &begun})
			},
			func(p *planted) {
				x := p.vote(2, 1, p.make("x", 0, nil)).Log
				x.Claims[0] = vsr.Linked
				p.recordMoves(1, &vsr.Record{View: 2, Log: x})
			}},
		{"applied histories are prefixes",
			func(p *planted) { p.apply(1, p.make("x", 0, nil)); p.apply(2, p.make("x", 0, nil)) },
			func(p *planted) { p.apply(3, p.make("y", 1, nil)) }},
		{"applied histories are prefixes", // a gap
			func(p *planted) {},
			func(p *planted) { x := p.make("x", 0, nil); p.apply(3, p.make("y", 0, &x)) }},
		{"applied histories are prefixes",
			func(p *planted) { x := p.make("x", 0, nil); p.apply(1, x); p.installed(2, &vsr.Snapshot{Header: x}) },
			func(p *planted) { p.installed(2, &vsr.Snapshot{Header: p.make("y", 0, nil)}) }},
		{"committed rests on a quorum",
			func(p *planted) { p.apply(1, p.make("x", 0, nil)) },
			func(p *planted) {
				x := p.make("x", 0, nil)
				y := p.make("y", 0, &x)
				p.durable(1, y.Checksum)
				p.applied(1, 1, &y, &p.st)
			}},
		{"commit never goes back",
			func(p *planted) {
				p.statusMoves(vsr.Status{ID: 1, Commit: 2})
				p.restarted(1)
				p.statusMoves(vsr.Status{ID: 1, Commit: 1})
			},
			func(p *planted) { p.statusMoves(vsr.Status{ID: 1, Commit: 0}) }},
		{"views never go back",
			func(p *planted) { p.recordMoves(1, &vsr.Record{View: 2}) },
			func(p *planted) { p.recordMoves(1, &vsr.Record{View: 1}) }},
		{"views never go back",
			func(p *planted) { p.recordMoves(1, &vsr.Record{View: 2, Log: &vsr.Log{LogView: 1}}) },
			func(p *planted) { p.recordMoves(1, &vsr.Record{View: 2, Log: &vsr.Log{}}) }},
		{"reads are linearizable",
			func(p *planted) {
				x := p.make("x", 0, nil)
				p.acknowledged(&x, 0)
				p.asked(1)
				p.answered(vsr.Read{Token: 1, Op: 1})
			},
			func(p *planted) { p.answered(vsr.Read{Token: 1}) }},
	} {
		p := newPlanted()
		x.sound(p)
		if len(p.broken) > 0 {
			t.Errorf("%s fires on what is sound: %s", x.property, p.broken)
			continue
		}
		x.planted(p)
		if !slices.ContainsFunc(p.broken, func(s string) bool { return strings.HasPrefix(s, x.property+":") }) {
			t.Errorf("%s does not fire: %q", x.property, p.broken)
		}
	}
}

// reconfigure is the header of a Reconfigure that follows parent.
func (p *planted) reconfigure(parent vsr.Header) vsr.Header {
	h := p.make("config", 1, &parent)
	h.Kind, h.Count = vsr.KindConfig, 0
	h.Checksum = h.Sum(p.seed)
	return h
}

func (p *planted) prepares(view vsr.View, h vsr.Header) {
	p.sends(vsr.Message{Kind: vsr.Prepare, From: 1, View: view, Entries: []vsr.Entry{{Header: h}}})
}

// begins sends the StartView of a view that two of three are in.
func (p *planted) begins(view vsr.View, headers ...vsr.Header) {
	p.stampedAt(1, view)
	p.stampedAt(2, view)
	p.startsView(view, headers...)
}

func (p *planted) stampedAt(id vsr.ID, view vsr.View) { p.stamped(id, &vsr.Record{View: view}) }

func (p *planted) startsView(view vsr.View, headers ...vsr.Header) {
	m := p.vote(view, view, headers...)
	m.Kind = vsr.StartView
	p.disk.record.Log.LogView = max(p.disk.record.Log.LogView, min(view, 1))
	p.sends(m)
}

// apply applies an op that two of three hold.
func (p *planted) apply(id vsr.ID, h vsr.Header) {
	p.durable(1, h.Checksum)
	p.durable(2, h.Checksum)
	p.applied(id, 0, &h, &p.st)
}
