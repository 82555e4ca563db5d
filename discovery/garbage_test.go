package discovery

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// Garbage on the port is dropped and counted, and the pool goes on; with a key
// and without.
func TestGarbageOnThePort(t *testing.T) {
	for name, keys := range map[string][][]byte{"open": nil, "with a key": mustKeys(t, Keygen())} {
		t.Run(name, func(t *testing.T) {
			ca := config("n1")
			ca.Keys = keys
			a := start(t, ca)
			cb := config("n2", a)
			cb.Keys = keys
			b := start(t, cb)
			sees(t, a, "n1=alive n2=alive")
			reason := refusedMalformed
			if keys != nil {
				reason = refusedKey
			}
			before := figure(t, a.met.refused[reason])
			throwGarbage(t, a.gossipAddr())
			eventually(t, "garbage is counted as "+reason, func() (bool, string) {
				v := figure(t, a.met.refused[reason])
				return v > before+50, fmt.Sprint(v)
			})
			c := config("n3", a)
			c.Keys = keys
			start(t, c) // there is room for an honest node
			sees(t, b, "n1=alive n2=alive n3=alive")
		})
	}
}

// throwGarbage sends noise, and noise that begins like a message, over UDP and
// TCP.
func throwGarbage(t *testing.T, addr string) {
	t.Helper()
	u, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 600 {
		b := make([]byte, 1+r.IntN(1400))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		if i%2 == 0 {
			b[0] = byte(r.IntN(16)) // a message type
		}
		u.Write(b)
		if i%10 != 0 {
			continue
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		c.Close()
	}
}

// Whoever opens connections and says nothing takes at most streamsMax of them,
// each for Timing.StreamTimeout at most.
func TestIdleConnectionsAreCapped(t *testing.T) {
	a := start(t, config("n1"))
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range streamsMax + 50 {
		c, err := net.DialTimeout("tcp", a.gossipAddr(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	eventually(t, "the last 50 are refused", func() (bool, string) {
		v := figure(t, a.met.refused[refusedConnections])
		return v >= 50, fmt.Sprint(v)
	})
	// The idle ones are dropped in time, so that others get in.
	b := start(t, config("n2", a))
	sees(t, b, "n1=alive n2=alive")
}

func TestMessagesOfOthersAreCounted(t *testing.T) {
	met, _ := newMetrics(nil)
	self := record{name: "n1", addr: mustAddr("10.0.0.1:1"), meta: Meta{
		ID: testID(1), Cluster: testID(5), Agreement: Agreement{Phase: PhaseFormed, Cluster: testID(5)},
	}}
	h, err := newHints(self, fast(), met)
	if err != nil {
		t.Fatal(err)
	}
	d := departure{ID: testID(2), Run: 1, At: time.Now().Unix()}
	h.NotifyMsg([]byte("noise"))
	h.MergeRemoteState([]byte("noise"), true)
	h.NotifyMsg(encodeDeparture(testID(6), d))
	h.MergeRemoteState((&gossipState{Cluster: testID(6), Departures: []departure{d}}).encode(), false)
	if n := len(h.gone.byRun); n != 0 {
		t.Errorf("%d departures of another cluster are believed", n)
	}
	bad := &memberlist.Node{Name: "n2", Addr: net.IP{10, 0, 0, 2}, Port: 1, Meta: []byte("noise")}
	meta, _ := (&Meta{ID: testID(2)}).encode()
	for _, n := range []*memberlist.Node{bad,
		{Name: "a\nb", Addr: net.IP{10, 0, 0, 2}, Port: 1, Meta: meta},
		{Name: "n2", Addr: net.IP{10, 0, 0}, Port: 1, Meta: meta},
		{Name: "n2", Addr: net.IP{0, 0, 0, 0}, Port: 1, Meta: meta},
		{Name: "n2", Addr: net.IP{10, 0, 0, 2}, Port: 0, Meta: meta},
		{Name: strings.Repeat("n", 200), Addr: net.IP{10, 0, 0, 2}, Port: 1, Meta: meta},
	} {
		if h.NotifyAlive(n) == nil {
			t.Errorf("let in: %+v", n)
		}
	}
	if v := figure(t, met.refused[refusedMalformed]); v != 8 {
		t.Errorf("%v malformed, expected 8", v)
	}
	if v := figure(t, met.refused[refusedCluster]); v != 2 {
		t.Errorf("%v of another cluster, expected 2", v)
	}
	if err := h.NotifyAlive(&memberlist.Node{Name: "n2", Addr: net.IP{10, 0, 0, 2}, Port: 1, Meta: meta}); err != nil {
		t.Errorf("an honest node: %v", err)
	}
}

func TestConflictsAreBounded(t *testing.T) {
	c := conflicts{kept: time.Minute}
	now := time.Unix(1e9, 0)
	for i := range 3 * conflictsMax {
		c.note(SameName, &record{name: "n", meta: Meta{ID: testID(i)}, addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i))}, "x", "text", now)
	}
	if len(c.list()) != conflictsMax {
		t.Errorf("%d are kept", len(c.list()))
	}
	if n := len(c.toLog(now)); n != conflictsMax {
		t.Errorf("%d are logged at first", n)
	}
	if n := len(c.toLog(now)); n != 0 {
		t.Errorf("%d are logged at once again", n)
	}
	c.expire(now.Add(2 * time.Minute))
	if len(c.list()) != 0 {
		t.Error("they are kept for ever")
	}
}

func TestLogFilter(t *testing.T) {
	var out bytes.Buffer
	met, _ := newMetrics(nil)
	f := newLogFilter(&out, met)
	now := time.Unix(1e9, 0)
	f.now = func() time.Time { return now }
	const line = "[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=1.2.3.4:5\n"
	for range 1000 {
		fmt.Fprint(f, line)
	}
	fmt.Fprint(f, "[INFO] memberlist: Suspect n3 has failed, no acks received\n")
	now = now.Add(noisyEvery)
	fmt.Fprint(f, line)
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 3 || !strings.HasSuffix(lines[2], "(and 999 more of this kind before)") {
		t.Errorf("let through: %q", lines)
	}
	if v := figure(t, met.refused[refusedKey]); v != 1001 {
		t.Errorf("%v counted", v)
	}
}

// A dial to where nobody answers ends when the pool is closed.
func TestCloseEndsDials(t *testing.T) {
	tr, _, err := listen(netip.MustParseAddr("127.0.0.1"), 0, nil, mustMetrics().refused[refusedConnections])
	if err != nil {
		t.Fatal(err)
	}
	tr.stop()
	if _, err := tr.DialTimeout("192.0.2.1:9", time.Hour); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) && !strings.Contains(err.Error(), "cancel") {
		t.Errorf("dial after the stop: %v", err)
	}
	tr.Shutdown()
}
