package discovery

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/diarchy/diarchy/framework"
)

func longestMeta() Meta {
	return Meta{
		ID: testID(1), Run: math.MaxUint64, Expect: ExpectMax,
		Agreement: Agreement{Phase: PhaseReady, Set: testIDs(1, 2, 3, 4, 5, 6, 7, 8, 9)},
		Peer:      netip.MustParseAddrPort("[2001:db8::1]:65535"),
		Client:    strings.Repeat("c", ClientBytesMax), Version: strings.Repeat("v", VersionBytesMax),
	}
}

func sampleMetas() []Meta {
	formed := Meta{ID: testID(2), Cluster: testID(9), Agreement: Agreement{Phase: PhaseFormed, Cluster: testID(9)},
		Peer: netip.AddrPortFrom(netip.Addr{}, 7950), Client: "10.0.0.1:7960", Version: "0.1"}
	return []Meta{longestMeta(), formed, {ID: testID(3)},
		{ID: testID(4), Expect: 3, Peer: netip.MustParseAddrPort("10.0.0.1:1"), Agreement: Agreement{Phase: PhasePrepared, Set: testIDs(1, 4)}}}
}

func TestMetaRoundTrip(t *testing.T) {
	for _, m := range sampleMetas() {
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeMeta(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		for n := range b {
			if _, err := decodeMeta(b[:n]); !errors.Is(err, errMeta) {
				t.Errorf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := decodeMeta(append(bytes.Clone(b), 0)); !errors.Is(err, errMeta) {
			t.Errorf("with a byte more: %v", err)
		}
	}
	longest := longestMeta()
	if b, _ := longest.encode(); len(b) != 402 || len(b) > memberlist.MetaMaxSize {
		t.Errorf("the longest record has %d bytes", len(b))
	}
}

// The bytes of version 1 stay what they are.
func TestMetaGolden(t *testing.T) {
	m := sampleMetas()[3]
	m.Run, m.Client, m.Version = 0x0102030405060708, "c:1", "v1"
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	const want = "01000103" + "04000000000000000000000000000001" + "00000000000000000000000000000000" +
		"HASH" + "0102030405060708" + "0001" + "04030202" + "0a000001" + "633a31" + "7631" +
		"01000000000000000000000000000001" + "04000000000000000000000000000001"
	h := SetHash(testIDs(1, 4))
	if got := hex.EncodeToString(b); got != strings.Replace(want, "HASH", hex.EncodeToString(h[:]), 1) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The cluster's UUID must never change either: nodes compare it.
	if got := ClusterOf(testIDs(1, 4)).String(); got != "266d9323-86dd-436c-a077-cd3a947e9efa" {
		t.Errorf("ClusterOf = %s", got)
	}
}

func TestMetaRefusesWhatIsTooLong(t *testing.T) {
	for says, spoil := range map[string]func(*Meta){
		"client address":                func(m *Meta) { m.Client += "x" },
		"version":                       func(m *Meta) { m.Version += "x" },
		"printable":                     func(m *Meta) { m.Version = "1\x00" },
		"bootstrap_expect is 10":        func(m *Meta) { m.Expect = 10 },
		"bootstrap_expect is -1":        func(m *Meta) { m.Expect = -1 },
		"at most 9, ascending":          func(m *Meta) { m.Agreement.Set = append(testIDs(0), m.Agreement.Set...) },
		"without an id":                 func(m *Meta) { m.ID = framework.UUID{} },
		"if and only if it names":       func(m *Meta) { m.Cluster = testID(1) },
		"if and only if it is prepared": func(m *Meta) { m.Agreement.Set = nil },
		"unknown phase":                 func(m *Meta) { m.Agreement.Phase = 4 },
	} {
		m := longestMeta()
		spoil(&m)
		if _, err := m.encode(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; expected %q", err, says)
		}
	}
	if _, err := decodeMeta([]byte{9}); err == nil || !strings.Contains(err.Error(), "version is 9, expected 1") {
		t.Errorf("another version: %v", err)
	}
}

func FuzzMeta(f *testing.F) {
	for _, m := range sampleMetas() {
		b, _ := m.encode()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			if !errors.Is(err, errMeta) {
				t.Fatalf("%v is no errMeta", err)
			}
			return
		}
		again, err := m.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x, %v", b, m, again, err)
		}
	})
}

func FuzzGossipMessages(f *testing.F) {
	d := departure{ID: testID(1), Run: 7, At: 99}
	s := gossipState{Cluster: testID(2), Sender: testID(3), Run: 1, Departures: []departure{d, d}}
	f.Add(encodeDeparture(testID(5), d))
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if cluster, d, err := decodeMessage(b); err == nil && !bytes.Equal(encodeDeparture(cluster, d), b) {
			t.Fatalf("message %x became %+v", b, d)
		}
		if s, err := decodeState(b); err == nil && !bytes.Equal(s.encode(), b) {
			t.Fatalf("state %x became %+v", b, s)
		}
	})
}

func TestDeparturesAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := departures{byRun: map[runKey]departure{}, kept: time.Hour}
	for i := range departuresMax + 10 {
		if !l.add(departure{ID: testID(1), Run: uint64(i), At: now.Unix() + int64(i)}, now) {
			t.Fatalf("departure %d was not taken", i)
		}
	}
	if len(l.byRun) != departuresMax || l.has(testID(1), 0) || !l.has(testID(1), departuresMax+9) {
		t.Errorf("%d are kept; the oldest still there: %v", len(l.byRun), l.has(testID(1), 0))
	}
	if b := (&gossipState{Departures: l.all()}).encode(); len(b) > 64<<10 {
		t.Errorf("the state is %d bytes long", len(b))
	} else if s, err := decodeState(b); err != nil || len(s.Departures) != departuresMax {
		t.Errorf("a full state does not come back: %d, %v", len(s.Departures), err)
	}
	if d := l.all()[0]; l.add(d, now) {
		t.Error("what is known is news")
	}
	for _, at := range []time.Time{now.Add(-2 * time.Hour), now.Add(48 * time.Hour)} {
		if l.add(departure{ID: testID(2), At: at.Unix()}, now) {
			t.Errorf("a departure made at %v is taken at %v", at, now)
		}
	}
	l.expire(now.Add(2 * time.Hour))
	if len(l.byRun) != 0 {
		t.Errorf("%d are kept for ever", len(l.byRun))
	}
}
