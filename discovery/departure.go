package discovery

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// memberlist tells its delegates that a member is gone, not whether it left or
// failed, and it has no way to declare a failed member left. So a node that
// leaves says so itself, and force-leave says so for it, by a departure: "the
// run R of node N is over for good". It travels as a broadcast, in every full
// exchange, and directly to a few members when a node leaves. Everybody who
// holds that run for failed, then or later, lists it as left, stops looking for
// it and drops it after Timing.LeftKept. A node that is declared gone while it
// runs draws a new run number: the departure then speaks of nobody.

// departure is one such statement.
type departure struct {
	ID  framework.UUID
	Run uint64
	// At is when it was made, by its maker's clock, in Unix seconds: it is
	// forgotten after Timing.FailedKept, as is the member that it speaks of.
	At int64
}

type runKey struct {
	id  framework.UUID
	run uint64
}

func (d departure) key() runKey { return runKey{d.ID, d.Run} }

// departuresMax bounds what a node remembers and sends. Beyond it the oldest go.
const departuresMax = 1024

// Wire forms, version 1, integers big-endian.
//
//	message: version, kind (1), cluster [16], departure
//	state:   version, kind (2), cluster [16], sender [16], run u64, count u16, departures
//	departure: id [16], run u64, at i64
const (
	wireVersion   = 1
	kindDeparture = 1
	kindState     = 2
	wireHead      = 18
	departureLen  = 32
	stateHead     = wireHead + 16 + 8 + 2
)

var errWire = errors.New("malformed gossip message")

func appendHead(b []byte, kind byte, cluster framework.UUID) []byte {
	return append(append(b, wireVersion, kind), cluster[:]...)
}

func (d departure) append(b []byte) []byte {
	b = append(b, d.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, d.Run)
	return binary.BigEndian.AppendUint64(b, uint64(d.At))
}

func decodeDeparture(b []byte) departure {
	return departure{
		ID: framework.UUID(b[:16]), Run: binary.BigEndian.Uint64(b[16:]), At: int64(binary.BigEndian.Uint64(b[24:])),
	}
}

// gossipState is what a full exchange carries beside memberlist's own.
type gossipState struct {
	Cluster    framework.UUID
	Sender     framework.UUID
	Run        uint64
	Departures []departure
}

func encodeDeparture(cluster framework.UUID, d departure) []byte {
	return d.append(appendHead(make([]byte, 0, wireHead+departureLen), kindDeparture, cluster))
}

func (s *gossipState) encode() []byte {
	b := appendHead(make([]byte, 0, stateHead+departureLen*len(s.Departures)), kindState, s.Cluster)
	b = append(b, s.Sender[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Run)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Departures)))
	for _, d := range s.Departures {
		b = d.append(b)
	}
	return b
}

// decodeMessage reads a broadcast.
func decodeMessage(b []byte) (cluster framework.UUID, d departure, err error) {
	if len(b) != wireHead+departureLen || b[0] != wireVersion || b[1] != kindDeparture {
		return cluster, d, errWire
	}
	return framework.UUID(b[2:18]), decodeDeparture(b[wireHead:]), nil
}

// decodeState reads an exchange's state.
func decodeState(b []byte) (s gossipState, err error) {
	if len(b) < stateHead || b[0] != wireVersion || b[1] != kindState {
		return s, errWire
	}
	n := int(binary.BigEndian.Uint16(b[stateHead-2:]))
	if n > departuresMax || len(b) != stateHead+n*departureLen {
		return s, errWire
	}
	s.Cluster, s.Sender = framework.UUID(b[2:18]), framework.UUID(b[18:34])
	s.Run = binary.BigEndian.Uint64(b[34:])
	for i := range n {
		s.Departures = append(s.Departures, decodeDeparture(b[stateHead+i*departureLen:]))
	}
	return s, nil
}

// departures remembers what was said, by run.
type departures struct {
	byRun map[runKey]departure
	kept  time.Duration
}

// add reports whether d is news worth telling on.
func (l *departures) add(d departure, now time.Time) bool {
	if _, known := l.byRun[d.key()]; known {
		return false
	}
	made := time.Unix(d.At, 0)
	if now.Sub(made) > l.kept || made.Sub(now) > 24*time.Hour {
		return false // outlived, or made up: it would never be forgotten
	}
	if len(l.byRun) >= departuresMax {
		l.dropOldest()
	}
	l.byRun[d.key()] = d
	return true
}

func (l *departures) dropOldest() {
	var oldest departure
	first := true
	for _, d := range l.byRun {
		if first || d.At < oldest.At {
			oldest, first = d, false
		}
	}
	delete(l.byRun, oldest.key())
}

func (l *departures) has(id framework.UUID, run uint64) bool {
	_, ok := l.byRun[runKey{id, run}]
	return ok
}

func (l *departures) expire(now time.Time) {
	for k, d := range l.byRun {
		if now.Sub(time.Unix(d.At, 0)) > l.kept {
			delete(l.byRun, k)
		}
	}
}

func (l *departures) all() []departure {
	out := make([]departure, 0, len(l.byRun))
	for _, d := range l.byRun {
		out = append(out, d)
	}
	return out
}
