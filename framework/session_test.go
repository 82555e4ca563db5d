package framework

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

var smallLimits = Limits{Sessions: 3, SessionWindow: 4, SessionResultBytes: 30}.WithDefaults()

// Random commands against a model that remembers everything: no (session, seq)
// is ever executed twice while its session lives, and a table written and read
// back goes on exactly like the one it came from.
func TestSessionTableAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newSessionTable(smallLimits)
		executed := map[SessionID]map[uint64]bool{}
		number := uint64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			id := SessionID{rapid.Byte().Draw(t, "id")%5 + 1}
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				was := table.byID[id] != nil
				if err := table.open(id, id[0] == 1); err != nil {
					t.Fatal(err)
				}
				if !was {
					executed[id] = map[uint64]bool{}
				}
			case 1:
				table.close(id)
			case 2:
				again := newSessionTable(smallLimits)
				rest, err := again.readFrom(table.appendTo(nil, 1<<20))
				if err != nil || len(rest) != 0 {
					t.Fatal(err, rest)
				}
				if !bytes.Equal(again.appendTo(nil, 1<<20), table.appendTo(nil, 1<<20)) {
					t.Fatal("another table came back")
				}
				table = again
			default:
				seq := rapid.Uint64Range(0, 12).Draw(t, "seq")
				acked := rapid.Uint64Range(0, 12).Draw(t, "acked")
				s, v, err := table.admit(Session{ID: id, Seq: seq, AckedBelow: acked}, number+1)
				if (v == refused) != (err != nil) {
					t.Fatal(v, err)
				}
				if v == execute {
					if executed[id][seq] {
						t.Fatalf("session %d: %d executed twice", id[0], seq)
					}
					executed[id][seq] = true
					number++
					s.keep(seq, make([]byte, rapid.IntRange(0, 40).Draw(t, "result")), "", table.resultMax)
				}
				if v == duplicate && !executed[id][seq] {
					t.Fatalf("session %d: %d called a duplicate", id[0], seq)
				}
			}
			checkTable(t, table)
		}
	})
}

// checkTable asserts the invariants that sessionTable lists.
func checkTable(t *rapid.T, table *sessionTable) {
	if len(table.byID) > table.limit {
		t.Fatalf("%d sessions", len(table.byID))
	}
	n := 0
	for s := table.oldest; s != nil; s = s.after {
		n++
		kept := 0
		for i, r := range s.records {
			if r.seq < s.acked || r.seq >= s.acked+uint64(table.window) || i > 0 && s.records[i-1].seq >= r.seq {
				t.Fatalf("records %+v with acked %d", s.records, s.acked)
			}
			kept += r.bytes()
		}
		if kept != s.resultBytes || kept > table.resultMax {
			t.Fatalf("%d bytes kept, counted %d", kept, s.resultBytes)
		}
	}
	if n != len(table.byID) {
		t.Fatalf("%d in the list, %d in the map", n, len(table.byID))
	}
}

func FuzzSessionTable(f *testing.F) {
	table := newSessionTable(smallLimits)
	_ = table.open(SessionID{1}, false)
	s, _, _ := table.admit(Session{ID: SessionID{1}, Seq: 1}, 1)
	s.keep(1, []byte("x"), "y", 30)
	f.Add(table.appendTo(nil, 1<<20))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		table := newSessionTable(smallLimits)
		rest, err := table.readFrom(b)
		if err == nil && len(rest) == 0 && len(b) > 1 {
			again := newSessionTable(smallLimits)
			if _, err := again.readFrom(table.appendTo(nil, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzEntry(f *testing.F) {
	h := header{origin: 1, ref: 2, time: 3, session: Session{ID: SessionID{1}, Seq: 1}}
	f.Add(appendEntry(nil, &h, []byte("x")))
	f.Add([]byte{0x11})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		data, err := decodeEntry(b, &h)
		if err == nil && h.session.ID != (SessionID{}) && !bytes.Equal(appendEntry(nil, &h, data), b) {
			t.Fatalf("%x decodes to something else", b)
		}
	})
}

func FuzzPayload(f *testing.F) {
	var b bytes.Buffer
	w := payloadWriter{ctx: f.Context(), machine: sumSnapshot{sum: 7}, info: payloadInfo{number: 3, machineName: "sum"}}
	if _, err := w.WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(payloadMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1<<16 {
			_ = checkPayload(bytes.NewReader(b)) // it must end, and not panic
		}
	})
}
