package client

import (
	"errors"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

var errSilent = errors.New("the node is silent")

// unsent is the failure of a call that was still here when its stream ended.
func unsent(why *Error) *Error {
	if why.Code == pb.CodeClosed {
		return why
	}
	return &Error{Code: pb.CodeUnavailable, Message: "the stream to the node ended: " + why.Error()}
}

// broken is the failure of a call that was on its way when its stream ended. A
// node that ends a stream by itself has answered what it had taken; what it had
// not read cannot be told apart.
func broken(why *Error) *Error {
	return &Error{Code: pb.CodeOutcomeUnknown, Happened: Maybe, Message: "the stream to the node broke: " + why.Error(), cause: why.cause}
}

// openEnd is how long a node waits for a call without a deadline before it says
// that it does not know; then it is asked again, if that is safe.
const openEnd = time.Minute

// encode makes one message: neighbours of one group and one session share a run.
func encode(batch []request) *pb.StreamRequest {
	m := &pb.StreamRequest{}
	if len(batch) == 0 {
		return m // a ping
	}
	now := time.Now()
	longest := time.Millisecond
	proposals := make([]pb.Proposal, countProposals(batch))
	var run *pb.Run
	var last *request
	for i := range batch {
		r := &batch[i]
		if last == nil || r.group != last.group || r.session != last.session || r.noForward != last.noForward {
			run = &pb.Run{Group: r.group, NoForward: r.noForward}
			if r.session != (SessionID{}) {
				run.Session = append([]byte(nil), r.session[:]...)
			}
			m.Runs = append(m.Runs, run)
		}
		last = r
		run.AckedBelow = max(run.AckedBelow, r.acked)
		if r.read {
			run.Reads = append(run.Reads, &pb.Read{Id: r.id, Consistency: levelPB[r.level], Data: r.data, After: r.after.pb()})
		} else {
			p := &proposals[0]
			proposals = proposals[1:]
			p.Id, p.Seq, p.Data = r.id, r.seq, r.data
			run.Proposals = append(run.Proposals, p)
		}
		left := openEnd
		if !r.deadline.IsZero() {
			left = r.deadline.Sub(now)
		}
		longest = max(longest, left)
	}
	m.TimeoutMs = uint32(min(longest, time.Hour) / time.Millisecond)
	return m
}

func countProposals(batch []request) int {
	n := 0
	for i := range batch {
		if !batch[i].read {
			n++
		}
	}
	return n
}
