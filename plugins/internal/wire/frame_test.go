package wire

import (
	"bytes"
	"reflect"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

var (
	anyBytes = rapid.SliceOfN(rapid.Byte(), 0, 300)
	anyEntry = rapid.Custom(func(t *rapid.T) fsm.Entry {
		return fsm.Entry{Index: rapid.Uint64().Draw(t, "index"), Time: rapid.Int64().Draw(t, "time"), Data: anyBytes.Draw(t, "data")}
	})
	anyResult = rapid.Custom(func(t *rapid.T) fsm.Result {
		return fsm.Result{Value: anyBytes.Draw(t, "value"), Err: string(anyBytes.Draw(t, "err")), Due: rapid.Int64().Draw(t, "due")}
	})
)

// encode is what gRPC does with a frame.
func encode(t interface{ Fatal(...any) }, f frame) []byte {
	data, err := newCodec().Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	b := data.Materialize()
	if len(b) != f.size() {
		t.Fatal("size says", f.size(), "encoding has", len(b))
	}
	return b
}

// parts splits b in two, as the transport may.
func parts(b []byte) mem.BufferSlice {
	return mem.BufferSlice{mem.SliceBuffer(b[:len(b)/2]), mem.SliceBuffer(b[len(b)/2:])}
}

func TestBatchesAreTheProtobufOfTheSchema(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(anyEntry, 0, 20).Draw(t, "entries")
		out := &batchOut{
			batch: rapid.Uint64().Draw(t, "batch"), entries: entries, last: rapid.Bool().Draw(t, "last"),
			time: rapid.Int64().Draw(t, "time"), host: anyBytes.Draw(t, "host"),
		}
		want := &fsmpb.ApplyRequest{Batch: out.batch, Last: out.last}
		for i := range entries {
			out.bytes += sizeItem(sizeEntry(&entries[i]))
			want.Entries = append(want.Entries, &fsmpb.Entry{Index: entries[i].Index, Time: entries[i].Time, Data: entries[i].Data})
		}
		if out.last {
			want.Time, want.Host = out.time, out.host
		}
		b := encode(t, out)
		var got fsmpb.ApplyRequest
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, want) {
			t.Fatalf("generated code reads %v, want %v", &got, want)
		}
		generated, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{b, generated} {
			var in batchIn
			if err := in.fill(parts(data)); err != nil {
				t.Fatal(err)
			}
			if in.batch != want.Batch || in.last != want.Last || in.time != want.Time || !bytes.Equal(in.host, want.Host) || len(in.entries) != len(entries) {
				t.Fatalf("read %+v, want %v", in, want)
			}
			for i, e := range in.entries {
				if e.Index != entries[i].Index || e.Time != entries[i].Time || !bytes.Equal(e.Data, entries[i].Data) {
					t.Fatalf("entry %d is %v, want %v", i, e, entries[i])
				}
			}
		}
	})
}

func TestResultsAreTheProtobufOfTheSchema(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		results := rapid.SliceOfN(anyResult, 0, 20).Draw(t, "results")
		out := &resultsOut{batch: rapid.Uint64().Draw(t, "batch"), results: results, last: rapid.Bool().Draw(t, "last")}
		want := &fsmpb.ApplyReply{Batch: out.batch, Last: out.last}
		for i := range results {
			out.bytes += sizeItem(sizeResult(&results[i]))
			want.Results = append(want.Results, &fsmpb.Result{Value: results[i].Value, Err: []byte(results[i].Err), Due: results[i].Due})
		}
		b := encode(t, out)
		var got fsmpb.ApplyReply
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, want) {
			t.Fatalf("generated code reads %v, want %v", &got, want)
		}
		want.Failure = &fsmpb.Failure{Message: "m", Unsupported: true}
		generated, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		in := resultsIn{results: make([]fsm.Result, len(results))}
		if err := in.fill(parts(generated)); err != nil {
			t.Fatal(err)
		}
		if in.batch != want.Batch || in.last != want.Last || in.filled != len(results) || !proto.Equal(in.failure, want.Failure) {
			t.Fatalf("read %+v, want %v", in, want)
		}
		for i, r := range in.results {
			if !bytes.Equal(r.Value, results[i].Value) || r.Err != results[i].Err || r.Due != results[i].Due {
				t.Fatalf("result %d is %v, want %v", i, r, results[i])
			}
		}
	})
}

func TestMoreResultsThanCommandsAreRefused(t *testing.T) {
	b := encode(t, &resultsOut{results: make([]fsm.Result, 2), bytes: 2 * sizeItem(0)})
	in := resultsIn{results: make([]fsm.Result, 1)}
	if err := in.fill(parts(b)); err == nil {
		t.Fatal("2 results were taken for 1 command")
	}
}

func TestAViewCannotGrowIntoItsNeighbour(t *testing.T) {
	entries := []fsm.Entry{{Index: 1, Data: []byte("one")}, {Index: 2, Data: []byte("two")}}
	out := &batchOut{entries: entries, last: true}
	for i := range entries {
		out.bytes += sizeItem(sizeEntry(&entries[i]))
	}
	var in batchIn
	if err := in.fill(parts(encode(t, out))); err != nil {
		t.Fatal(err)
	}
	_ = append(in.entries[0].Data, "overwritten by a careless machine"...)
	if string(in.entries[1].Data) != "two" {
		t.Fatalf("the second command became %q", in.entries[1].Data)
	}
}

// FuzzFrames holds the hand-written decoders against the generated ones: what
// those refuse may be refused or not, what both take must be read alike.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(f, &batchOut{batch: 7, entries: []fsm.Entry{{Index: 1, Time: 2, Data: []byte("x")}}, bytes: 16, last: true, time: 3, host: []byte("h")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var request fsmpb.ApplyRequest
		var in batchIn
		if err := in.fill(parts(b)); err == nil && proto.Unmarshal(b, &request) == nil {
			if in.batch != request.Batch || in.last != request.Last || in.time != request.Time || len(in.entries) != len(request.Entries) {
				t.Fatalf("read %+v, generated code reads %v", in, &request)
			}
			for i, e := range in.entries {
				if e.Index != request.Entries[i].Index || e.Time != request.Entries[i].Time || !bytes.Equal(e.Data, request.Entries[i].Data) {
					t.Fatalf("entry %d is %v, generated code reads %v", i, e, request.Entries[i])
				}
			}
		}
		var reply fsmpb.ApplyReply
		results := resultsIn{results: make([]fsm.Result, 64)}
		if err := results.fill(parts(b)); err == nil && proto.Unmarshal(b, &reply) == nil {
			if results.filled != len(reply.Results) || results.last != reply.Last {
				t.Fatalf("read %+v, generated code reads %v", results, &reply)
			}
			for i, r := range results.results[:results.filled] {
				w := reply.Results[i]
				if !bytes.Equal(r.Value, w.Value) || r.Err != string(w.Err) || r.Due != w.Due {
					t.Fatalf("result %d is %v, generated code reads %v", i, r, w)
				}
			}
		}
	})
}

func TestResetGivesNothingOfTheBatchBefore(t *testing.T) {
	out := &batchOut{batch: 1, entries: []fsm.Entry{{Data: []byte("x")}}, bytes: sizeItem(3), last: true, time: 1, host: []byte("h")}
	var in batchIn
	if err := in.fill(parts(encode(t, out))); err != nil {
		t.Fatal(err)
	}
	in.reset()
	if len(in.entries) != 0 || !reflect.DeepEqual(in.entries[:1], []fsm.Entry{{}}) || in.last || in.time != 0 || in.host != nil || len(in.held) != 0 {
		t.Fatalf("after reset: %+v", in)
	}
}
