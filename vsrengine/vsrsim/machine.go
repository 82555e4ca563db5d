package vsrsim

import (
	"encoding/binary"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// machine is the reference: a table of sessions, a count and a running hash of
// the commands executed, each at most once a session.
type machine struct {
	op       vsr.Op // applied up to here
	number   uint64 // commands executed
	hash     uint64 // of them, in order
	sessions []session
}

// session remembers which of a client's commands were executed: all below next,
// and those above that have their bit.
type session struct {
	next uint32
	bits uint64
}

// sessionWindow is how far ahead of its oldest unanswered command a client may be.
const sessionWindow = 64

const commandBytes = 8

// command is the whole of a command: whose it is, and its number in the session.
type command uint64

func newCommand(client int, seq uint32) command { return command(client)<<32 | command(seq) }

func (c command) client() int { return int(c >> 32) }
func (c command) seq() uint32 { return uint32(c) }

// commands calls f for each command of a batch.
func commands(body []byte, f func(command)) {
	for ; len(body) >= commandBytes; body = body[commandBytes:] {
		f(command(binary.LittleEndian.Uint64(body)))
	}
}

// apply executes a batch. executed, if not nil, is told each command that is not
// a repetition.
func (m *machine) apply(e *vsr.Entry, executed func(command)) {
	m.op = e.Op
	if e.Kind != vsr.KindUser {
		return
	}
	for b := e.Body; len(b) >= commandBytes; b = b[commandBytes:] {
		c := command(binary.LittleEndian.Uint64(b))
		if !m.once(c) {
			continue
		}
		m.number++
		m.hash = (m.hash ^ uint64(c)) * 0x9e3779b97f4a7c15
		m.hash ^= m.hash >> 29
		if executed != nil {
			executed(c)
		}
	}
}

// once reports whether the command is new, and remembers it.
func (m *machine) once(c command) bool {
	for c.client() >= len(m.sessions) {
		m.sessions = append(m.sessions, session{})
	}
	s, seq := &m.sessions[c.client()], c.seq()
	if seq < s.next || seq >= s.next+sessionWindow || s.bits&(1<<(seq-s.next)) != 0 {
		return false
	}
	s.bits |= 1 << (seq - s.next)
	for s.bits&1 != 0 {
		s.bits >>= 1
		s.next++
	}
	return true
}

// save is the payload of a snapshot. Without the sessions it is a defect.
func (m *machine) save(sessions bool) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, uint64(m.op))
	b = le.AppendUint64(b, m.number)
	b = le.AppendUint64(b, m.hash)
	if sessions {
		for _, s := range m.sessions {
			b = le.AppendUint32(b, s.next)
			b = le.AppendUint64(b, s.bits)
		}
	}
	return b
}

func (m *machine) load(b []byte) bool {
	if len(b) < 24 || (len(b)-24)%12 != 0 {
		return false
	}
	le := binary.LittleEndian
	*m = machine{op: vsr.Op(le.Uint64(b)), number: le.Uint64(b[8:]), hash: le.Uint64(b[16:])}
	for b = b[24:]; len(b) > 0; b = b[12:] {
		m.sessions = append(m.sessions, session{le.Uint32(b), le.Uint64(b[4:])})
	}
	return true
}
