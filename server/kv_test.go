package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

const bytesType = "Content-Type: application/octet-stream"

func TestKeysOverHTTP(t *testing.T) {
	p := serve(t, nil)
	r := p.want(p.do("PUT", "/v1/groups/orders/kv/a", "one"), 200, "")
	if r.header.Get("Diarchy-Index") != "1" || r.header.Get("Diarchy-History") == "" {
		t.Errorf("headers %v", r.header)
	}
	var w struct{ Index, Revision uint64 }
	if err := json.Unmarshal([]byte(r.body), &w); err != nil || w.Index != 1 || w.Revision != 1 {
		t.Errorf("body %s: %v", r.body, err)
	}
	r = p.want(p.do("GET", "/v1/groups/orders/kv/a", ""), 200, "")
	if r.body != "one" || r.header.Get("Diarchy-Revision") != "1" || r.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %+v", r)
	}
	r = p.want(p.do("HEAD", "/v1/groups/orders/kv/a", ""), 200, "")
	if r.body != "" || r.header.Get("Content-Length") != "3" {
		t.Errorf("HEAD: %+v", r)
	}

	p.want(p.do("PUT", "/v1/groups/orders/kv/a?cas=1", "two"), 200, "")
	r = p.want(p.do("PUT", "/v1/groups/orders/kv/a?cas=1", "three"), 409, pb.CodeConflict)
	if e := r.error(t); e.Happened != "no" || e.Index != 2 {
		t.Errorf("conflict %+v, want happened no and revision 2", e)
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/a?cas=0", "three"), 409, pb.CodeConflict)
	p.want(p.do("DELETE", "/v1/groups/orders/kv/a?cas=7", ""), 409, pb.CodeConflict)
	r = p.want(p.do("DELETE", "/v1/groups/orders/kv/a", ""), 200, "")
	if !strings.Contains(r.body, `"deleted":true`) {
		t.Errorf("body %s", r.body)
	}
	r = p.want(p.do("DELETE", "/v1/groups/orders/kv/a", ""), 200, "")
	if !strings.Contains(r.body, `"deleted":false`) {
		t.Errorf("body %s", r.body)
	}
	r = p.want(p.do("GET", "/v1/groups/orders/kv/a", ""), 404, pb.CodeNotFound)
	if r.header.Get("Diarchy-Index") == "" {
		t.Error("an absent key's answer has no Diarchy-Index")
	}

	p.want(p.do("PUT", "/v1/groups/orders/kv/t?ttl=1h", "x"), 200, "")
	r = p.want(p.do("GET", "/v1/groups/orders/kv/t", ""), 200, "")
	if at, err := time.Parse(time.RFC3339Nano, r.header.Get("Diarchy-Expires")); err != nil || time.Until(at) > time.Hour || time.Until(at) < 50*time.Minute {
		t.Errorf("expires %v, %v", at, err)
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/empty", ""), 200, "")
	if r = p.want(p.do("GET", "/v1/groups/orders/kv/empty", ""), 200, ""); r.body != "" {
		t.Errorf("empty value reads %q", r.body)
	}
}

// A key is any bytes but NUL, and each stays what it is on its way through the
// path.
func TestKeysThatPathsWouldEat(t *testing.T) {
	p := serve(t, nil)
	for i, key := range []string{"a/b", "a//b", "..", "a/../b", "/lead", "trail/", "sp ace", "%2F", "%", "ü", "\xff\xfe", "?x=1", "#", "kv", "."} {
		var esc strings.Builder
		for _, b := range []byte(key) {
			fmt.Fprintf(&esc, "%%%02X", b)
		}
		want := fmt.Sprint("value ", i)
		p.want(p.do("PUT", "/v1/groups/orders/kv/"+esc.String(), want), 200, "")
		if r := p.want(p.do("GET", "/v1/groups/orders/kv/"+esc.String(), ""), 200, ""); r.body != want {
			t.Errorf("key %q holds %q, want %q", key, r.body, want)
		}
	}
	// The plain forms of some of them name the same keys.
	for path, want := range map[string]string{"a/b": "value 0", "a//b": "value 1", "trail/": "value 5"} {
		if r := p.want(p.do("GET", "/v1/groups/orders/kv/"+path, ""), 200, ""); r.body != want {
			t.Errorf("path %q reads %q, want %q", path, r.body, want)
		}
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/", "x"), 400, pb.CodeInvalid)
	p.want(p.do("PUT", "/v1/groups/orders/kv/a%00b", "x"), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv/a%00b", ""), 400, pb.CodeInvalid)
	p.want(p.do("PUT", "/v1/groups/orders/kv/"+strings.Repeat("k", 5000), "x"), 400, pb.CodeInvalid)
}

func TestListOverHTTP(t *testing.T) {
	p := serve(t, nil)
	for _, k := range []string{"x/1", "x/2", "x/3", "y", "x/%FF"} {
		p.want(p.do("PUT", "/v1/groups/orders/kv/"+k, "v"+k), 200, "")
	}
	var out struct {
		Items []struct {
			Key       string
			KeyBase64 string `json:"key_base64"`
			Value     []byte
			Revision  uint64
		}
		More bool
	}
	get := func(q string) {
		t.Helper()
		out.Items, out.More = nil, false
		r := p.want(p.do("GET", "/v1/groups/orders/kv?"+q, ""), 200, "")
		if err := json.Unmarshal([]byte(r.body), &out); err != nil {
			t.Fatal(err)
		}
	}
	get("prefix=x/")
	if len(out.Items) != 4 || out.Items[0].Key != "x/1" || string(out.Items[0].Value) != "vx/1" || out.Items[3].KeyBase64 != "eC//" {
		t.Errorf("list %+v", out)
	}
	get("prefix=x/&limit=2")
	if len(out.Items) != 2 || !out.More {
		t.Errorf("limited list %+v", out)
	}
	get("prefix=x/&after=x/2&keys_only")
	if len(out.Items) != 2 || out.Items[0].Key != "x/3" || out.Items[0].Value != nil {
		t.Errorf("list after %+v", out)
	}
	p.want(p.do("GET", "/v1/groups/orders/kv?limit=-1", ""), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv?keys_only=perhaps", ""), 400, pb.CodeInvalid)
}

func TestRawBytesOverHTTP(t *testing.T) {
	p := serve(t, nil)
	// put "k" "v", in the machine's own bytes: code, key, ttl, value.
	r := p.want(p.do("POST", "/v1/groups/orders/propose", "\x01\x01k\x00\x01v", bytesType), 200, "")
	if r.header.Get("Diarchy-Index") != "1" {
		t.Errorf("headers %v", r.header)
	}
	r = p.want(p.do("POST", "/v1/groups/orders/query?consistency=stale", "\x07\x01k", bytesType), 200, "")
	if !strings.Contains(r.body, "v") || r.header.Get("Diarchy-Index") != "1" {
		t.Errorf("answer %q, %v", r.body, r.header)
	}
	p.want(p.do("POST", "/v1/groups/orders/query?consistency=psychic", "\x07\x01k", bytesType), 400, pb.CodeInvalid)
	r = p.want(p.do("POST", "/v1/groups/orders/propose", "garbage", bytesType), 422, pb.CodeRefused)
	if e := r.error(t); e.Happened != "yes" || r.header.Get("Diarchy-Index") != "2" {
		t.Errorf("the machine's refusal: %+v %v", e, r.header)
	}
	p.want(p.do("POST", "/v1/groups/nobody/propose", "x", bytesType), 404, pb.CodeNoSuchGroup)
}

func TestSessionsOverHTTP(t *testing.T) {
	p := serve(t, nil)
	const id = "000102030405060708090a0b0c0d0e0f"
	put := func(seq string) reply {
		return p.do("PUT", "/v1/groups/orders/kv/n", "x", "Diarchy-Session: "+id, "Diarchy-Seq: "+seq)
	}
	p.want(put("1"), 410, pb.CodeSessionExpired)
	p.want(p.do("PUT", "/v1/groups/orders/sessions/"+id, ""), 204, "")
	p.want(p.do("PUT", "/v1/groups/orders/sessions/"+id, ""), 204, "")
	first := p.want(put("1"), 200, "")
	again := p.want(put("1"), 200, "")
	if first.header.Get("Diarchy-Index") != again.header.Get("Diarchy-Index") || again.header.Get("Diarchy-Duplicate") != "true" {
		t.Errorf("a repeated command was executed twice: %v, %v", first.header, again.header)
	}
	if n := p.Number(); n != 1 {
		t.Errorf("%d commands were executed, want 1", n)
	}
	p.ForgetResults()
	gone := p.want(put("1"), 410, pb.CodeResultGone)
	if e := gone.error(t); e.Happened != "yes" || e.Index != 1 || gone.header.Get("Diarchy-Index") != "1" {
		t.Errorf("result gone: %+v", e)
	}
	for _, h := range [][]string{
		{"Diarchy-Session: short", "Diarchy-Seq: 1"}, {"Diarchy-Session: " + strings.Repeat("0", 32), "Diarchy-Seq: 1"},
		{"Diarchy-Session: " + id}, {"Diarchy-Seq: 1"}, {"Diarchy-Session: " + id, "Diarchy-Seq: -1"},
		{"Diarchy-Session: " + id, "Diarchy-Seq: 1", "Diarchy-Acked: x"},
	} {
		p.want(p.do("PUT", "/v1/groups/orders/kv/n", "x", h...), 400, pb.CodeInvalid)
	}
	p.want(p.do("DELETE", "/v1/groups/orders/sessions/"+id, ""), 204, "")
	p.want(put("2"), 410, pb.CodeSessionExpired)
}

func TestReadYourWritesOverHTTP(t *testing.T) {
	p := serve(t, nil)
	w := p.want(p.do("PUT", "/v1/groups/orders/kv/a", "1"), 200, "")
	token := []string{"Diarchy-Index: " + w.header.Get("Diarchy-Index"), "Diarchy-History: " + w.header.Get("Diarchy-History")}
	p.want(p.do("GET", "/v1/groups/orders/kv/a?consistency=stale", "", token...), 200, "")
	p.want(p.do("GET", "/v1/groups/orders/kv/a", "", token[0]), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv/a", "", token[0], "Diarchy-History: what"), 400, pb.CodeInvalid)
	other := "Diarchy-History: 11111111-1111-1111-1111-111111111111"
	p.want(p.do("GET", "/v1/groups/orders/kv/a", "", token[0], other), 412, pb.CodeOtherHistory)
	p.want(p.do("GET", "/v1/groups/orders/kv/a?timeout=20ms", "", "Diarchy-Index: 99", token[1]), 503, pb.CodeDeadline)
}

func TestBlockingQuery(t *testing.T) {
	p := serve(t, nil)
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "1"), 200, "")
	got := make(chan reply, 1)
	go func() { got <- p.do("GET", "/v1/groups/orders/kv/a?index=1&wait=1m", "") }()
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "2"), 200, "")
	if r := <-got; r.body != "2" || r.header.Get("Diarchy-Index") != "2" {
		t.Errorf("the blocking query gave %+v", r)
	}
	// Time up: the present state, with the number to go on from.
	if r := p.want(p.do("GET", "/v1/groups/orders/kv/a?index=2&wait=10ms", ""), 200, ""); r.body != "2" || r.header.Get("Diarchy-Index") != "2" {
		t.Errorf("after the wait: %+v", r)
	}
	p.want(p.do("GET", "/v1/groups/orders/kv/a?wait=1s", ""), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv/a?index=x", ""), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv/a?index=2&wait=-1s", ""), 400, pb.CodeInvalid)
}

// The bundled machine's commands must not reach another machine.
func TestKeysNeedTheKeyValueMachine(t *testing.T) {
	p := serve(t, nil)
	p.MachineName("counter")
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "x"), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv/a", ""), 400, pb.CodeInvalid)
	if n := p.Number(); n != 0 {
		t.Errorf("%d commands were executed", n)
	}
}
