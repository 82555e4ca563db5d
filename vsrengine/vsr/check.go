package vsr

import "fmt"

// assert ends the program when the replica itself is wrong: going on could only
// spread it. It is never reached by what comes from outside alone.
func (r *Replica) assert(ok bool, what string) {
	if !ok {
		panic(fmt.Sprintf("vsr: replica %d: %s (%s, view %s, log_view %s, head %d, applied %d, commit %d)",
			r.id, what, r.phase, r.view, r.logView, r.log.head, r.applied, r.commit))
	}
}

// check asserts the invariants listed on Replica, in that order.
func (r *Replica) check() {
	if r.phase >= Recovering {
		r.assert(r.durable <= r.issued, "6: durable is beyond what was issued")
		return
	}
	r.assert(r.view >= r.logView, "1: view is below log_view")
	r.assert(r.phase != Normal || r.view == r.logView, "1: normal in a view that is not its log's")
	r.assert(r.phase != ViewChange || r.view > r.logView, "1: changing to the view of its own log")
	r.assert(r.view.Epoch() == r.members.Epoch, "2: view and membership are of different epochs")
	r.assert(r.log.first <= r.applied+1 && r.applied <= r.log.head, "3: applied is outside the log")
	r.assert(r.snapshotOp() <= r.applied, "3: a snapshot is above what is applied")
	r.assert(r.applied <= r.commit, "4: applied is beyond commit")
	r.assert(r.durable <= r.issued, "6: durable is beyond what was issued")
	if r.phase == Normal && r.isPrimary() {
		r.assert(r.log.head <= r.commit+Op(r.cfg.PipelineMax) || r.prim.suffix >= r.log.head, "5: the pipeline is longer than its bound")
		r.assert(!r.changing() || r.log.head == r.changeOp, "5: something follows a Reconfigure")
	}
	if r.phase == Normal {
		r.assert(r.vc.log == nil, "7: a vote of a view change that is over")
		r.checkChain()
	}
}

// checkChain looks at the top of the log: what is below was looked at before.
func (r *Replica) checkChain() {
	top := r.log.find(r.log.head)
	if top == nil || r.log.head <= r.applied {
		return
	}
	below := r.log.find(r.log.head - 1)
	r.assert(!top.linked || below == nil || !below.linked || below.Checksum == top.Parent, "8: linked neighbours are not chained")
}
