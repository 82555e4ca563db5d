package framework

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

var errUnknownControl = errors.New("unknown or malformed control entry")

// act carries out one of the framework's own entries and answers who asked for
// it, before anything that follows can fail.
func (a *applier) act(h *header, data []byte, at Position) error {
	a.st.time = max(a.st.time, h.time)
	refusal, err := a.control(data, at)
	if err != nil {
		return err
	}
	a.at = at
	a.publish()
	if h.origin == a.origin {
		if w, ok := a.pending.take(h.ref); ok {
			w.who.complete(w.i, Receipt{Token: Token{History: a.history, Number: a.st.number}}, refusal)
		}
	}
	return nil
}

// control does what an entry says. refusal is an answer, alike on every replica.
func (a *applier) control(data []byte, at Position) (refusal, err error) {
	d := decoder{b: data}
	switch kind := control(d.byte()); kind {
	case controlOpenSession, controlCloseSession:
		var id SessionID
		copy(id[:], d.take(len(id)))
		ordered := kind == controlOpenSession && d.byte()&1 == 1
		switch {
		case d.bad:
			return nil, unknownEntry(at, errUnknownControl)
		case kind == controlOpenSession:
			return a.st.sessions.open(id, ordered), nil
		}
		a.st.sessions.close(id)
		return nil, nil
	case controlTick:
		return nil, a.tick(at)
	case controlRestore:
		var hash [32]byte
		var history UUID
		copy(hash[:], d.take(len(hash)))
		copy(history[:], d.take(len(history)))
		if d.bad {
			return nil, unknownEntry(at, errUnknownControl)
		}
		return nil, a.restore(hash, history, at)
	}
	return nil, unknownEntry(at, errUnknownControl)
}

// tick tells a machine with deadlines that time has moved on. A durable one that
// holds it already is not told again.
func (a *applier) tick(at Position) error {
	if !a.opened.Capabilities.Ticks || at <= a.hostAt {
		return nil
	}
	var result [1]fsm.Result
	fb := fsm.Batch{Time: a.st.time}
	if a.opened.Capabilities.Durable {
		fb.Host = a.hostBytes(at)
	}
	a.state.begin(time.Now())
	err := a.machine.Apply(a.ctx, fb, result[:])
	a.state.end()
	if err != nil {
		return fmt.Errorf("%w: tick: %w", fsm.ErrLost, err)
	}
	a.due.Store(result[0].Due)
	return nil
}

// What a durable machine stores with its data, and gives back from Open: a byte
// for the format, the position up to which it holds everything, the command
// number there, and the group. A position means the same in all histories of a
// group, so that it is known what of a log with a restored backup in it the
// machine has behind it.
const hostBytesLen = 1 + 8 + 8 + 16

func (a *applier) hostBytes(to Position) []byte {
	b := append(make([]byte, 0, hostBytesLen), 1)
	b = binary.LittleEndian.AppendUint64(b, uint64(to))
	b = binary.LittleEndian.AppendUint64(b, a.st.number)
	return append(b, a.cfg.Identity.ID[:]...)
}

func readHostBytes(b []byte) (at Position, group UUID, ok bool) {
	if len(b) != hostBytesLen || b[0] != 1 {
		return 0, UUID{}, false
	}
	copy(group[:], b[17:])
	return Position(binary.LittleEndian.Uint64(b[1:])), group, true
}
