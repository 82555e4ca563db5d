package framework

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// laneRig is a lane to a peer service whose answers the test decides.
type laneRig struct {
	peerpb.UnimplementedPeerServer
	t       *testing.T
	peers   *peers
	got     chan *peerpb.Op
	answers chan *peerpb.Outcome
	cut     chan struct{} // closed: the stream breaks
	server  *peerServer

	mu      sync.Mutex
	refused bool
	conns   chan net.Conn
}

type laneConn struct{ net.Conn }

func (laneConn) From() NodeID { return fixedNode(1) }

func (r *laneRig) Dial(context.Context, NodeID, Plane, GroupIdentity) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused {
		return nil, errors.New("nobody is there")
	}
	here, there := net.Pipe()
	r.conns <- there
	return here, nil
}

func (r *laneRig) Listen(Plane, GroupIdentity) (PeerListener, error) { return r, nil }
func (r *laneRig) Accept() (PeerConn, error) {
	c, ok := <-r.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return laneConn{c}, nil
}

func (r *laneRig) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.refused {
		r.refused = true
		close(r.conns)
	}
	return nil
}

func (r *laneRig) Propose(stream grpc.BidiStreamingServer[peerpb.Ops, peerpb.Outcomes]) error {
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			for _, op := range m.Ops {
				r.got <- op
			}
		}
	}()
	for {
		select {
		case a := <-r.answers:
			if err := stream.Send(&peerpb.Outcomes{Outcomes: []*peerpb.Outcome{a}}); err != nil {
				return err
			}
		case <-r.cut:
			return errors.New("cut")
		case <-stream.Context().Done():
			return nil
		}
	}
}

func newLaneRig(t *testing.T, limits laneLimits) *laneRig {
	before := goleak.IgnoreCurrent()
	r := &laneRig{
		t: t, got: make(chan *peerpb.Op, 64), answers: make(chan *peerpb.Outcome, 64),
		cut: make(chan struct{}), conns: make(chan net.Conn, 16),
	}
	r.peers = newPeers(r, limits)
	var err error
	if r.server, err = servePeers(r, r, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.peers.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.server.stop(ctx)
		goleak.VerifyNone(t, before)
	})
	return r
}

type laneAnswer struct {
	i   int
	r   Receipt
	err error
}

// submit sends commands and returns where their answers come.
func (r *laneRig) submit(ctx context.Context, cs ...Command) <-chan laneAnswer {
	r.t.Helper()
	p, err := r.peers.get(fixedNode(2))
	if err != nil {
		r.t.Fatal(err)
	}
	out := make(chan laneAnswer, len(cs))
	p.lane.submit(ctx, fixedUUID(7), cs, nil, func(i int, rec Receipt, err error) { out <- laneAnswer{i, rec, err} })
	return out
}

func command(s string) Command { return Command{Data: []byte(s)} }

func TestLaneAnswersComeBackToTheirCommands(t *testing.T) {
	r := newLaneRig(t, laneLimits{ops: 10, bytes: 1000})
	sess := Session{ID: SessionID{9}, Seq: 3, AckedBelow: 2}
	out := r.submit(context.Background(), Command{Data: []byte("a"), Session: sess}, command("b"))
	a, b := <-r.got, <-r.got
	if string(a.Data) != "a" || !bytes.Equal(a.Session, sess.ID[:]) || a.Seq != 3 || a.AckedBelow != 2 || string(b.Data) != "b" || b.Session != nil {
		t.Fatalf("%v, %v", a, b)
	}
	history := fixedUUID(8)
	r.answers <- &peerpb.Outcome{Ref: b.Ref, Number: 5, Value: []byte("vb"), AppError: "no", Duplicate: true, History: history[:]}
	r.answers <- &peerpb.Outcome{Ref: a.Ref, Error: errorToWire(&Error{Code: CodeNotLeader, Happened: No, Leader: fixedNode(3), LeaderAddr: "x", Index: 4})}
	r.answers <- &peerpb.Outcome{Ref: a.Ref} // a second answer is nothing
	got := <-out
	if want := (Receipt{Token: Token{history, 5}, Value: []byte("vb"), Err: "no", Duplicate: true}); got.i != 1 || got.err != nil ||
		got.r.Token != want.Token || string(got.r.Value) != "vb" || got.r.Err != "no" || !got.r.Duplicate {
		t.Fatalf("%+v", got)
	}
	got = <-out
	var e *Error
	if got.i != 0 || !errors.As(got.err, &e) || *e != (Error{Code: CodeNotLeader, Leader: fixedNode(3), LeaderAddr: "x", Index: 4}) {
		t.Fatalf("%+v", got)
	}
}

func TestLaneSaysMaybeOfWhatHadLeft(t *testing.T) {
	r := newLaneRig(t, laneLimits{ops: 10, bytes: 1000})
	out := r.submit(context.Background(), command("a"))
	<-r.got
	close(r.cut)
	if got := <-out; !errors.Is(got.err, ErrMaybe) || HappenedOf(got.err) != Maybe {
		t.Fatalf("%+v", got)
	}
}

func TestLaneSaysNoOfWhatNeverLeft(t *testing.T) {
	r := newLaneRig(t, laneLimits{ops: 10, bytes: 1000})
	r.mu.Lock()
	r.refused = true
	r.mu.Unlock()
	t.Cleanup(func() { close(r.conns) })
	out := r.submit(context.Background(), command("a"))
	got := <-out
	if HappenedOf(got.err) != No || !isUnreachable(got.err) || !strings.Contains(got.err.Error(), "nobody is there") {
		t.Fatalf("%+v", got)
	}
}

func TestLaneIsBounded(t *testing.T) {
	r := newLaneRig(t, laneLimits{ops: 3, bytes: 10})
	out := r.submit(context.Background(), command("a"), command("b"), command("c"), command("d"))
	if got := <-out; got.i != 3 || !errors.Is(got.err, ErrBusy) {
		t.Fatalf("the fourth of three: %+v", got)
	}
	for range 3 {
		r.answers <- &peerpb.Outcome{Ref: (<-r.got).Ref}
		if got := <-out; got.err != nil {
			t.Fatalf("%+v", got)
		}
	}
	// The room is given back.
	out = r.submit(context.Background(), command("12345678"), command("345"))
	if got := <-out; got.i != 1 || !errors.Is(got.err, ErrBusy) {
		t.Fatalf("11 of 10 bytes: %+v", got)
	}
	r.answers <- &peerpb.Outcome{Ref: (<-r.got).Ref}
	<-out
}

func TestLaneTellsAtTheEndOfTheContext(t *testing.T) {
	r := newLaneRig(t, laneLimits{ops: 10, bytes: 1000})
	ctx, cancel := context.WithCancel(context.Background())
	out := r.submit(ctx, command("a"))
	op := <-r.got
	cancel()
	if got := <-out; !errors.Is(got.err, ErrMaybe) {
		t.Fatalf("it had left: %+v", got)
	}
	r.answers <- &peerpb.Outcome{Ref: op.Ref} // too late: told already
	if got := <-r.submit(ctx, command("b")); !errors.Is(got.err, ErrDeadline) && !errors.Is(got.err, ErrMaybe) {
		t.Fatalf("%+v", got)
	}
	long, stop := context.WithTimeout(context.Background(), time.Hour)
	defer stop()
	out = r.submit(long, command("c"))
	for op = <-r.got; string(op.Data) != "c"; op = <-r.got {
	}
	if left := time.Duration(op.TimeoutNs); left <= 0 || left > time.Hour {
		t.Fatalf("the deadline went as %s", left)
	}
	r.answers <- &peerpb.Outcome{Ref: op.Ref}
	if got := <-out; got.err != nil {
		t.Fatalf("%+v", got)
	}
}

func TestLaneTellsEverythingWhenItCloses(t *testing.T) {
	r := newLaneRig(t, laneLimits{ops: 10, bytes: 1000})
	out := r.submit(context.Background(), command("a"))
	<-r.got
	r.peers.close()
	if got := <-out; HappenedOf(got.err) != Maybe {
		t.Fatalf("%+v", got)
	}
	if _, err := r.peers.get(fixedNode(3)); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
}

func TestErrorsCrossTheWireWhole(t *testing.T) {
	for _, e := range []*Error{
		{Code: CodeNotLeader, Happened: No, Message: "m", Leader: "l", LeaderAddr: "a"},
		{Code: CodeResultGone, Happened: Yes, Message: "m", Index: 7},
		{Code: CodeMaybe, Happened: Maybe},
	} {
		got := callError("n", wireStatus(e), true, true)
		var back *Error
		if !errors.As(got, &back) || *back != *e && e.Message != "" {
			t.Errorf("%+v became %+v", e, got)
		}
	}
	if got := errorFromWire(&peerpb.Error{Happened: 77}); got.Happened != Maybe || got.Code != CodeInternal {
		t.Errorf("an error of unknown make: %+v", got)
	}
	lost := errors.New("connection reset")
	if got := callError("n", lost, true, true); !errors.Is(got, ErrMaybe) {
		t.Errorf("a change that had left: %v", got)
	}
	if got := callError("n", lost, true, false); !isUnreachable(got) || HappenedOf(got) != No {
		t.Errorf("a change that had not: %v", got)
	}
	if got := callError("n", lost, false, true); HappenedOf(got) != No {
		t.Errorf("a read: %v", got)
	}
}
