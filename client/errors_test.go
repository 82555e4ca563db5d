package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

// Row by row through the real server: what the table says the client does with
// an error, it does; what it returns has the table's code and verdict.
func TestEachRowOfTheTable(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 60*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	for i, row := range pb.Table {
		raised := &framework.Error{
			Code: framework.Code(row.Code), Happened: framework.Happened(row.Happened), Message: "planted", Index: 42, LeaderAddr: c.addrs()[0],
		}
		again := func(inSession bool) bool {
			return row.Retry == pb.Elsewhere || row.Retry == pb.Later || row.Retry == pb.InSession && inSession
		}
		check := func(how string, err error, retried bool) {
			t.Helper()
			if retried {
				if err != nil {
					t.Errorf("%s %s: not asked again: %v", row.Code, how, err)
				}
				return
			}
			var e *client.Error
			if !errors.As(err, &e) || e.Code != row.Code || e.Message != "planted" || e.Index != 42 {
				t.Errorf("%s %s: got %+v", row.Code, how, err)
				return
			}
			if e.Happened != client.Happened(row.Happened) {
				t.Errorf("%s %s: happened %v, want %s", row.Code, how, e.Happened, row.Happened.Word())
			}
			if !errors.Is(err, &client.Error{Code: row.Code}) || client.ExitCode(err) != row.Exit {
				t.Errorf("%s %s: errors.Is or exit code %d", row.Code, how, client.ExitCode(err))
			}
		}

		none, own := kv.Put("none", []byte{byte(i)}, 0), kv.Put("own", []byte{byte(i)}, 0)
		c.FailNext(raised)
		_, err := g.ProposeWithoutSession(ctx, none)
		check("without a session", err, again(false))
		if n := c.Executed(none); n > 1 || (n == 1) != again(false) {
			t.Errorf("%s without a session: executed %d times", row.Code, n)
		}

		c.FailNext(raised)
		_, err = g.Propose(ctx, own)
		// The client's own session is opened anew when nothing was in doubt.
		anew := row.Code == pb.CodeSessionExpired
		check("in a session", err, again(true) || anew)
		if n := c.Executed(own); n > 1 || (n == 1) != (again(true) || anew) {
			t.Errorf("%s in a session: executed %d times", row.Code, n)
		}

		c.FailNext(raised)
		_, err = g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{})
		if again(true) != (err == nil) {
			t.Errorf("%s for a read: %v", row.Code, err)
		} else if err != nil && (client.CodeOf(err) != row.Code || client.HappenedOf(err) != client.No) {
			t.Errorf("%s for a read: %v", row.Code, err)
		}
	}
}

func TestKindsOfError(t *testing.T) {
	nl := error(&client.Error{Code: pb.CodeNotLeader, Leader: "id", LeaderAddr: "h:1"})
	var notLeader *client.NotLeaderError
	if !errors.As(nl, &notLeader) || notLeader.LeaderAddr != "h:1" || !errors.Is(nl, client.ErrNotLeader) || errors.Is(nl, client.ErrBusy) {
		t.Errorf("%+v", notLeader)
	}
	var gone *client.ResultGoneError
	if errors.As(nl, &gone) {
		t.Error("a NotLeader passes for a ResultGone")
	}
	if client.HappenedOf(errors.New("x")) != client.Maybe || client.CodeOf(errors.New("x")) != "" || client.ExitCode(errors.New("x")) != 1 || client.ExitCode(nil) != 0 {
		t.Error("an error of unknown make")
	}
}
