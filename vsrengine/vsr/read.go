package vsr

// Linearizable reads without the log (D12): one round of heartbeats serves all
// that arrived before it left.

type reads struct {
	waiting []uint64 // tokens for the next round
	asked   []uint64 // tokens of the round under way
	seq     uint64   // its heartbeat; 0 if none is
	op      Op       // its read index
}

// ReadIndex asks for an op that a linearizable read must wait for. The outcome
// comes in Output.Reads under the caller's token; an error here means that there
// will be none.
func (r *Replica) ReadIndex(token uint64) error {
	if !r.serving() {
		return ErrNotPrimary
	}
	if len(r.reads.waiting)+len(r.reads.asked) >= r.cfg.ReadsMax {
		return ErrBusy
	}
	r.reads.waiting = append(r.reads.waiting, token)
	r.startRound()
	r.check()
	return nil
}

// startRound sends a heartbeat for the reads that wait, unless one is under way.
// A fresh primary first commits what it took over: its predecessor may have
// answered for it (A43).
func (r *Replica) startRound() {
	q := &r.reads
	if q.seq != 0 || len(q.waiting) == 0 || !r.serving() {
		return
	}
	if r.commit < r.prim.suffix && r.cfg.Defect != DefectFreshRead {
		return
	}
	q.waiting, q.asked = q.asked[:0], q.waiting
	q.op = r.commit
	r.beat()
	q.seq = r.prim.seq
	r.finishRound()
}

// finishRound answers the round once as many replicas as meet every view change
// quorum are still in this view.
func (r *Replica) finishRound() {
	q := &r.reads
	if q.seq == 0 {
		return
	}
	n := 1
	for i := range r.peers {
		if p := &r.peers[i]; p.Role == Voter && p.seq >= q.seq {
			n++
		}
	}
	if n < meetQuorum(r.voters) {
		return
	}
	for _, token := range q.asked {
		r.out.Reads = append(r.out.Reads, Read{Token: token, Op: q.op})
	}
	q.asked, q.seq = q.asked[:0], 0
	r.startRound()
}

// failReads tells everybody who waits to ask elsewhere.
func (r *Replica) failReads() {
	q := &r.reads
	for _, token := range q.asked {
		r.out.Reads = append(r.out.Reads, Read{Token: token, Err: ErrNotPrimary})
	}
	for _, token := range q.waiting {
		r.out.Reads = append(r.out.Reads, Read{Token: token, Err: ErrNotPrimary})
	}
	q.asked, q.waiting, q.seq = q.asked[:0], q.waiting[:0], 0
}
