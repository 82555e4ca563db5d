package framework

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

func someHello() hello {
	return hello{plane: PlaneBulk, cluster: UUID{1, 2}, group: UUID{15: 9}, incarnation: 7, from: "node-a", to: "node-b", name: "n\u00e4me"}
}

func TestAHelloSurvivesItsFrame(t *testing.T) {
	want := someHello()
	r := bytes.NewReader(append(want.encode(frameHello), "more"...))
	f, err := readFrame(r)
	if err != nil || f.kind != frameHello || f.version != handshakeVersion {
		t.Fatalf("%+v, %v", f, err)
	}
	if got, err := decodeHello(f.body); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "more" {
		t.Errorf("bytes past the frame were taken: %q is left", rest)
	}
}

// The bytes are a contract with nodes of other versions.
func TestTheFramesBytes(t *testing.T) {
	h := hello{plane: PlaneRaft, cluster: UUID{0xc}, group: UUID{0xd}, incarnation: 1, from: "a", to: "b", name: "n"}
	want := "DRCY\x01\x01\x00\x2b\x4f\xd4\x3a\xbb" + "\x01" + "\x0c" + strings.Repeat("\x00", 15) + "\x0d" + strings.Repeat("\x00", 15) +
		"\x00\x00\x00\x01" + "\x01a\x01b\x01n"
	if got := string(h.encode(frameHello)); got != want {
		t.Errorf("hello\n got %q\nwant %q", got, want)
	}
	if got := string(refuse(RefusedNode, "x").encode()); got != "DRCY\x01\x03\x00\x02\x57\x08\x82\xbb\x05x" {
		t.Errorf("refusal %q", got)
	}
}

func TestDamagedFramesAreToldApart(t *testing.T) {
	good := someHello().encode(frameHello)
	edit := func(at int, b byte) []byte {
		c := bytes.Clone(good)
		c[at] ^= b
		return c
	}
	long := bytes.Clone(good)
	binary.BigEndian.PutUint16(long[6:], frameBodyBytesMax+1)
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":      {nil, io.EOF},
		"part":         {good[:len(good)-1], io.ErrUnexpectedEOF},
		"magic":        {edit(0, 1), errNotOurs},
		"checksum":     {edit(9, 1), errDamaged},
		"body":         {edit(30, 1), errDamaged},
		"length":       {long, errDamaged},
		"HTTP":         {[]byte("GET / HTTP/1.1\r\n\r\n"), errNotOurs},
		"TLS":          {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), errNotOurs},
		"a short line": {[]byte("abc"), io.ErrUnexpectedEOF},
	} {
		if _, err := readFrame(bytes.NewReader(c.in)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, want := range map[string]string{"HTTP/1.1 400": "HTTP", "\x15\x03\x03\x00\x02": "TLS"} {
		if _, err := readFrame(strings.NewReader(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNoByteOfAHelloFlipsUnseen(t *testing.T) {
	good := someHello().encode(frameHello)
	for at := range good {
		for bit := range 8 {
			if at == 4 || at == 5 {
				continue // version and kind are judged by what they say
			}
			bad := bytes.Clone(good)
			bad[at] ^= 1 << bit
			if _, err := readFrame(bytes.NewReader(bad)); err == nil {
				t.Fatalf("bit %d of byte %d can flip", bit, at)
			}
		}
	}
}

func TestHellosThatAreNone(t *testing.T) {
	body := someHello().encode(frameHello)[frameHeaderBytes:]
	with := func(edit func(*hello)) []byte {
		h := someHello()
		edit(&h)
		return h.encode(frameHello)[frameHeaderBytes:]
	}
	for name, b := range map[string][]byte{
		"empty": {}, "short": body[:20], "cut in a name": body[:len(body)-1], "cut at a name": body[:helloFixedBytes],
		"too long": append(bytes.Clone(body), 0), "no from": with(func(h *hello) { h.from = "" }), "no to": with(func(h *hello) { h.to = "" }),
		"long id":      with(func(h *hello) { h.from = NodeID(strings.Repeat("x", nodeIDBytesMax+1)) }),
		"control":      with(func(h *hello) { h.name = "a\nb" }),
		"no text":      with(func(h *hello) { h.name = "\xff" }),
		"escape codes": with(func(h *hello) { h.to = "\x1b[31m" }),
	} {
		if h, err := decodeHello(b); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestARefusalIsCutAndCleaned(t *testing.T) {
	f, err := readFrame(bytes.NewReader(refuse(RefusedBusy, "%s", "\x1b[31m\n"+strings.Repeat("x", 5000)).encode()))
	if err != nil || f.kind != frameRefusal {
		t.Fatal(err)
	}
	r, err := decodeRefusal(f.body)
	if err != nil || r.code != RefusedBusy || strings.ContainsAny(r.text, "\x1b\n") || len(r.text) > reasonBytesMax {
		t.Errorf("%+v, %v", r, err)
	}
	if s := RefusalCode(200).String(); s != "refused" {
		t.Errorf("a code of the future is %q", s)
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add(someHello().encode(frameHello))
	f.Add(refuse(RefusedCluster, "why").encode())
	f.Add([]byte("DRCY\x01\x01\xff\xff\x00\x00\x00\x00"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		fr, err := readFrame(r)
		if err != nil {
			// What a damaged checksum hides must be as safe.
			if len(in) > frameHeaderBytes {
				_, _ = decodeHello(in[frameHeaderBytes:])
				_, _ = decodeRefusal(in[frameHeaderBytes:])
			}
			return
		}
		used := in[:len(in)-r.Len()]
		if crc32.Checksum(fr.body, castagnoli) != binary.BigEndian.Uint32(used[8:]) || len(fr.body) > frameBodyBytesMax {
			t.Fatal("a frame that should not pass")
		}
		if h, err := decodeHello(fr.body); err == nil {
			if again := h.encode(fr.kind); !bytes.Equal(again[frameHeaderBytes:], fr.body) {
				t.Fatalf("%q is read as %+v and written as %q", fr.body, h, again)
			}
		}
		if _, err := decodeRefusal(fr.body); err == nil && len(fr.body) > 1+reasonBytesMax {
			t.Fatal("a refusal that should not pass")
		}
	})
}
