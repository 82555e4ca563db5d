package vsr_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// names knows which body belongs to which checksum, so that a header alone can
// be printed as its entry.
type names map[vsr.Checksum]string

// learn remembers an entry whose body is at hand.
func (ns names) learn(e *vsr.Entry) {
	if e.Checksum == 0 || e.Size > 0 && e.Body == nil {
		return
	}
	ns[e.Checksum] = bodyText(e)
}

// bodyText is what a script calls a body: the body itself, or what a change of
// membership says.
func bodyText(e *vsr.Entry) string {
	switch e.Kind {
	case vsr.KindConfig, vsr.KindLearners:
		m, err := vsr.DecodeMembership(e)
		if err != nil {
			return e.Kind.String() + "{" + err.Error() + "}"
		}
		return e.Kind.String() + "{" + membersText(&m) + "}"
	case vsr.KindNoop:
		return "noop"
	}
	return string(e.Body)
}

// of is an entry as scripts print it: 3:x(0) is op 3, body x, first prepared in
// view 0. A header that is not known is 3:_.
func (ns names) of(h *vsr.Header) string {
	if h.Checksum == 0 {
		return fmt.Sprintf("%d:_", h.Op)
	}
	return fmt.Sprintf("%d:%s(%s)", h.Op, ns.body(h.Checksum), h.View)
}

func (ns names) body(sum vsr.Checksum) string {
	if body, ok := ns[sum]; ok {
		return body
	}
	return fmt.Sprintf("#%04x", uint64(sum)>>48)
}

func (ns names) entries(es []vsr.Entry) string {
	out := make([]string, len(es))
	for i := range es {
		out[i] = ns.of(&es[i].Header)
	}
	return strings.Join(out, " ")
}

// log prints what a replica says of its log. After an entry, "-" means that its
// body is not there and "?" that it is not known to belong to the log of LogView.
func (ns names) log(l *vsr.Log) string {
	if l == nil {
		return "none"
	}
	var hs []string
	for i := range l.Headers {
		s := ns.of(&l.Headers[i])
		if l.Headers[i].Checksum != 0 {
			if l.Claims[i]&vsr.Linked == 0 {
				s += "?"
			}
			if l.Claims[i]&vsr.Present == 0 {
				s += "-"
			}
		}
		hs = append(hs, s)
	}
	s := fmt.Sprintf("log_view=%s head=%d commit=%d [%s]", l.LogView, l.Head, l.Commit, strings.Join(hs, " "))
	if l.First > 1 {
		s += fmt.Sprintf(" first=%d", l.First)
	}
	if l.Contiguous != l.Head {
		s += fmt.Sprintf(" contiguous=%d", l.Contiguous)
	}
	if l.Snapshot != 0 {
		s += fmt.Sprintf(" snapshot=%d", l.Snapshot)
	}
	if !l.Intact {
		s += " damaged"
	}
	return s
}

// letter is a replica's name in scripts: 1 is A.
func letter(id vsr.ID) string {
	if id == 0 {
		return "nobody"
	}
	return string(rune('A' + id - 1))
}

// membersText writes voters as capitals and learners as small letters, with the
// epoch in front once it is not the first: ABCd, 1/ABCD.
func membersText(m *vsr.Membership) string {
	var b strings.Builder
	if m.Epoch > 0 {
		fmt.Fprintf(&b, "%d/", m.Epoch)
	}
	for _, x := range m.Members {
		name := letter(x.ID)
		if x.Role == vsr.Learner {
			name = strings.ToLower(name)
		}
		b.WriteString(name)
	}
	return b.String()
}

func (ns names) snapshot(s *vsr.Snapshot) string {
	return ns.of(&s.Header)
}

// message prints the fields of a message that say something, without sender and
// receiver.
func (ns names) message(m *vsr.Message) string {
	out := []string{m.Kind.String(), "view=" + m.View.String()}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if m.Target != 0 {
		add("to_view=%s", m.Target)
	}
	if m.Checksum != 0 && m.Op > 0 {
		if body, ok := ns[m.Checksum]; ok {
			add("%d:%s", m.Op, body)
		} else {
			add("op=%d#%04x", m.Op, uint64(m.Checksum)>>48)
		}
	} else if (m.Op != 0 || m.Checksum != 0) && m.Kind != vsr.Prepare {
		add("op=%d", m.Op)
	}
	if m.Commit != 0 {
		add("commit=%d", m.Commit)
	}
	if m.Seq != 0 {
		add("seq=%d", m.Seq)
	}
	if len(m.Entries) > 0 {
		add("%s", ns.entries(m.Entries))
	}
	if m.Snapshot != nil {
		add("snapshot=%s", ns.snapshot(m.Snapshot))
	}
	if m.Kind == vsr.Chunk {
		add("%q", m.Data)
	}
	if m.Log != nil {
		add("%s", ns.log(m.Log))
	}
	if m.Members != nil && (m.Members.Epoch > 0 || m.Members.Op > 0 || m.Kind == vsr.EpochAhead) {
		add("members=%s", membersText(m.Members))
	}
	if m.Nonce != (vsr.Nonce{}) {
		add("nonce")
	}
	return strings.Join(out, " ")
}

// write prints a durable effect.
func (ns names) write(w *vsr.Write) string {
	switch w.Kind {
	case vsr.WriteEntry:
		return "entry " + ns.of(&w.Entry.Header)
	case vsr.WriteRecord:
		return "record " + ns.record(w.Record)
	case vsr.WriteChunk:
		return fmt.Sprintf("chunk at %d %q", w.Offset, w.Data)
	case vsr.WriteSeal:
		return "seal of snapshot " + ns.snapshot(w.Snapshot)
	case vsr.WriteTrim:
		s := fmt.Sprintf("trim below %d", w.Op)
		if w.Snapshot != nil {
			s += " and below snapshot " + ns.snapshot(w.Snapshot)
		}
		return s
	case vsr.WriteHeal:
		return "heal"
	}
	return fmt.Sprintf("write of kind %d", w.Kind)
}

func (ns names) record(r *vsr.Record) string {
	if r == nil {
		return "none"
	}
	s := "view=" + r.View.String()
	if r.Log != nil {
		s += " " + ns.log(r.Log)
	}
	if r.Members.Epoch > 0 || slices.ContainsFunc(r.Members.Members, func(m vsr.Member) bool { return m.Role == vsr.Learner }) {
		s += " members=" + membersText(&r.Members)
	}
	if r.Virgin {
		s += " virgin"
	}
	return s
}
