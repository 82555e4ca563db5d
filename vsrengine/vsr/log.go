package vsr

// slot is what is known of one op.
type slot struct {
	Entry
	ticket  Ticket // its write; durable once the stream has come so far
	linked  bool   // it belongs to the log of logView
	present bool   // the body is in memory, in the journal or on its way there
	damaged bool   // the journal cannot read it
}

// held reports whether the entry is there and can be used.
func (s *slot) held() bool { return s.present && !s.damaged }

// oplog keeps the slots of the ops first..head in a ring. It knows nothing of
// what they mean.
type oplog struct {
	first, head Op
	ring        []slot // length is a power of two
}

func newLog(first Op) oplog { return oplog{first: first, head: first - 1, ring: make([]slot, 64)} }

// at is the slot of an op within first..head.
func (l *oplog) at(op Op) *slot { return &l.ring[uint64(op)&uint64(len(l.ring)-1)] }

// find is the slot of an op, or nil outside first..head.
func (l *oplog) find(op Op) *slot {
	if op < l.first || op > l.head {
		return nil
	}
	return l.at(op)
}

// extend moves the head up over empty slots.
func (l *oplog) extend(head Op) {
	if need := uint64(head - l.first + 1); need > uint64(len(l.ring)) {
		n := uint64(len(l.ring))
		for n < need {
			n *= 2
		}
		ring := make([]slot, n)
		for op := l.first; op <= l.head; op++ {
			ring[uint64(op)&(n-1)] = *l.at(op)
		}
		l.ring = ring
	}
	for l.head < head {
		l.head++
		*l.at(l.head) = slot{Entry: Entry{Header: Header{Op: l.head}}}
	}
}

// cut moves the head down.
func (l *oplog) cut(head Op) {
	for l.head > head && l.head >= l.first {
		*l.at(l.head) = slot{}
		l.head--
	}
}

// trim moves the beginning up, at most to behind the head.
func (l *oplog) trim(first Op) {
	for l.first < first && l.first <= l.head {
		*l.at(l.first) = slot{}
		l.first++
	}
}

// restart forgets everything: the next op is first.
func (l *oplog) restart(first Op) {
	clear(l.ring)
	l.first, l.head = first, first-1
}
