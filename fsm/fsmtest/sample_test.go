package fsmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// sample is a small machine that keeps the contract, but for the one fault that
// is planted in it.
type sample struct {
	fault string
	dir   string // of a durable one

	mu     sync.RWMutex
	st     sampleState
	buf    []byte // of results, with fault result-reused
	cached []byte // with fault query-cached
	shared []byte // with fault answer-reused
	asked  int    // how many queries came
	lags   []byte // with fault query-lags
	closed chan struct{}
}

type sampleState struct {
	Values map[string][]byte
	Until  map[string]int64 // deadlines of values
	Left   int              // Left and Right change together
	Right  int
	Batch  int    // with fault counts-batches
	Host   []byte // of a durable one
}

func newSample(fault string) *sample {
	return &sample{fault: fault, closed: make(chan struct{}),
		st: sampleState{Values: map[string][]byte{}, Until: map[string]int64{}}}
}

// sampleCommand makes set, move, all and until commands, over few keys.
func sampleCommand(r *rand.Rand) []byte {
	key := string(rune('a' + r.IntN(12)))
	switch r.IntN(5) {
	case 0:
		return []byte("move " + key)
	case 1:
		return []byte("all " + key)
	case 2:
		return fmt.Appendf(nil, "until %s %d", key, r.IntN(5000))
	default:
		return fmt.Appendf(nil, "set %s value%d", key, r.IntN(100))
	}
}

var sampleQueries = [][]byte{[]byte("a"), []byte("b"), []byte("c"), []byte("pair"), []byte("pair"), []byte("none")}

func (s *sample) Open(context.Context) (fsm.Opened, error) {
	o := fsm.Opened{Name: "sample", Version: "1", Capabilities: fsm.Capabilities{Digest: true, Ticks: true, Durable: s.dir != ""}}
	switch s.fault {
	case "name-differs":
		o.Name = fmt.Sprint(rand.Uint64())
	case "host-from-nowhere":
		o.Host = []byte("x")
	}
	if s.dir == "" {
		return o, nil
	}
	b, err := os.ReadFile(s.file())
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s.st)
	}
	o.Host = s.st.Host
	return o, err
}

func (s *sample) file() string { return filepath.Join(s.dir, "state") }

func (s *sample) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	if s.fault == "result-reused" {
		s.buf = s.buf[:0]
	}
	if len(b.Entries) == 0 {
		s.sweep(b.Time)
	}
	s.mu.Lock()
	s.st.Batch++
	s.lags = fmt.Append(nil, s.st.Left, s.st.Right)
	s.mu.Unlock()
	for i, e := range b.Entries {
		now := e.Time
		if s.fault == "time-of-batch" {
			now = b.Time
		}
		s.sweep(now)
		value, refusal, err := s.execute(e.Data, now, i)
		if err != nil {
			return err
		}
		results[i] = fsm.Result{Value: value, Err: refusal}
	}
	results[len(results)-1].Due = s.due()
	return s.save(b.Host)
}

func (s *sample) save(host []byte) error {
	if s.dir == "" || s.fault == "not-stored" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != "host-not-stored" {
		s.st.Host = bytes.Clone(host)
	}
	b, err := json.Marshal(s.st)
	if err != nil {
		return err
	}
	return os.WriteFile(s.file(), b, 0o600)
}

func (s *sample) execute(data []byte, now int64, place int) (value []byte, refusal string, lost error) {
	if data == nil && s.fault == "nil-is-not-empty" {
		return []byte("nil"), "", nil
	}
	word := strings.SplitN(string(data), " ", 3)
	if s.fault == "panics" && len(word) > 1 && word[0] == "set" {
		_ = word[2]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case word[0] == "set" && len(word) == 3:
		value = s.set(word[1], data[len(data)-len(word[2]):])
	case word[0] == "move" && len(word) == 2:
		value = s.move()
	case word[0] == "all" && len(word) == 2:
		value = s.all()
	case word[0] == "until" && len(word) == 3 && s.st.Values[word[1]] != nil:
		s.st.Until[word[1]] = now + int64(len(word[2]))*int64(time.Second)
	case s.fault == "fails-on-garbage":
		return nil, "", errors.New("unknown command")
	default:
		refusal = "no such command"
	}
	if s.fault == "place-in-batch" {
		value = fmt.Append(nil, place)
	}
	if s.fault == "random" {
		value = fmt.Append(nil, rand.IntN(1000))
	}
	return value, refusal, nil
}

func (s *sample) set(key string, value []byte) []byte {
	old := s.st.Values[key]
	if s.fault == "keeps-data" {
		s.st.Values[key] = value
	} else {
		s.st.Values[key] = bytes.Clone(value)
	}
	switch s.fault {
	case "result-is-data":
		return value
	case "result-reused":
		at := len(s.buf)
		s.buf = append(s.buf, value...)
		return s.buf[at:len(s.buf):len(s.buf)]
	}
	return old
}

func (s *sample) move() []byte {
	s.st.Left--
	if s.fault == "torn" {
		for seen, n := s.asked, 0; s.asked == seen && n < 2000; n++ {
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
	}
	s.st.Right++
	return fmt.Append(nil, s.st.Right)
}

func (s *sample) all() []byte {
	keys := slices.Collect(maps.Keys(s.st.Values))
	if s.fault != "map-order" {
		slices.Sort(keys)
	}
	return []byte(strings.Join(keys, ","))
}

func (s *sample) sweep(now int64) {
	if s.fault == "due-for-ever" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, until := range s.st.Until {
		if until <= now {
			delete(s.st.Until, k)
			delete(s.st.Values, k)
		}
	}
}

func (s *sample) due() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var due int64
	for _, until := range s.st.Until {
		if due == 0 || until < due {
			due = until
		}
	}
	return due
}

func (s *sample) Query(_ context.Context, q fsm.Query) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	switch s.fault {
	case "query-writes":
		if s.asked%5 == 0 {
			s.st.Right++
		}
	case "query-sweeps":
		for k, until := range s.st.Until {
			if until <= q.Time {
				delete(s.st.Values, k)
			}
		}
	case "query-after-close":
		select {
		case <-s.closed:
			panic("it is closed")
		default:
			s.mu.Unlock()
			<-s.closed
			s.mu.Lock()
			panic("it was closed meanwhile")
		}
	}
	switch key := string(q.Data); {
	case key == "pair" && s.fault == "query-cached":
		if s.cached == nil {
			s.cached = fmt.Append(nil, s.st.Left, s.st.Right)
		}
		return s.cached, nil
	case key == "pair" && s.fault == "query-lags":
		return s.lags, nil
	case key == "pair" && s.fault == "answer-reused":
		s.shared = fmt.Append(s.shared[:0], s.st.Left, s.st.Right, len(s.st.Values))
		return s.shared, nil
	case key == "pair":
		return fmt.Append(nil, s.st.Left, s.st.Right), nil
	case len(key) > 8:
		return nil, errors.New("no such query")
	default:
		return bytes.Clone(s.st.Values[key]), nil
	}
}

func (s *sample) Digest(context.Context) ([]byte, error) {
	switch s.fault {
	case "digest-constant":
		return []byte("same"), nil
	case "digest-random":
		return []byte(fmt.Sprint(rand.Uint64())), nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state()
}

// state is the state's bytes; json writes maps in order of key.
func (s *sample) state() ([]byte, error) {
	st := s.st
	st.Host = nil
	if s.fault != "counts-batches" {
		st.Batch = 0
	}
	switch s.fault {
	case "forgets":
		st.Right = 0
	case "forgets-deadlines":
		st.Until = nil
	}
	return json.Marshal(st)
}

func (s *sample) Snapshot(context.Context) (fsm.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.state()
	if s.fault == "snapshot-writes" {
		s.st.Left++
	}
	return &sampleSnapshot{s: s, b: b}, err
}

type sampleSnapshot struct {
	s *sample
	b []byte
}

func (x *sampleSnapshot) Release() {}

func (x *sampleSnapshot) WriteTo(w io.Writer) (int64, error) {
	switch x.s.fault {
	case "captures-late":
		x.s.mu.RLock()
		x.b, _ = x.s.state()
		x.s.mu.RUnlock()
	case "write-locks":
		x.s.mu.Lock()
		defer x.s.mu.Unlock()
	case "write-hangs-on-close":
		<-make(chan struct{})
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(x.b)))
	n, err := w.Write(append(head, x.b...))
	switch x.s.fault {
	case "write-swallows":
		return int64(len(x.b) + 4), nil
	case "write-miscounts":
		return int64(len(x.b)), err
	}
	return int64(n), err
}

func (s *sample) Restore(_ context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	if s.fault == "restore-absent" {
		return fsm.ErrUnsupported
	}
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, b); err != nil && s.fault != "restore-swallows" {
		return err
	}
	if s.fault != "restore-stops" {
		if err := expectEnd(r); err != nil && s.fault != "restore-swallows" {
			return err
		}
	}
	st := newSample("").st
	if s.fault == "leaks" {
		st.Values = s.st.Values
	}
	if err := json.Unmarshal(b, &st); err != nil && s.fault != "restore-swallows" {
		return err
	}
	s.mu.Lock()
	s.st = st
	s.mu.Unlock()
	if s.fault == "restore-not-stored" {
		return nil
	}
	return s.save(info.Host)
}

func expectEnd(r io.Reader) error {
	switch n, err := r.Read(make([]byte, 1)); {
	case n > 0:
		return errors.New("more than expected")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

func (s *sample) Close() error {
	if s.fault == "close-fails" {
		return errors.New("cannot close")
	}
	close(s.closed)
	return nil
}
