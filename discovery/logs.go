package discovery

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// logFilter stands between memberlist's log and ours. What anybody on the
// network can make memberlist say, packet by packet, is counted and let through
// once in a while; and its counts of wrong keys and labels can be had nowhere
// else. If memberlist changes the words, the tests of wrong keys and labels
// fail.
type logFilter struct {
	out   io.Writer
	mu    sync.Mutex
	kinds []*noisyLine
	now   func() time.Time
}

type noisyLine struct {
	mark    []byte
	counter prometheus.Counter // may be nil
	last    time.Time
	dropped int
}

// noisyEvery is how often one kind of noisy line may appear.
const noisyEvery = 10 * time.Second

func newLogFilter(out io.Writer, m *metrics) *logFilter {
	kind := func(mark, reason string) *noisyLine {
		return &noisyLine{mark: []byte(mark), counter: m.refused[reason]}
	}
	return &logFilter{out: out, now: time.Now, kinds: []*noisyLine{
		kind("Decrypt packet failed", refusedKey),
		kind("no installed keys could decrypt", refusedKey),
		kind("remote state is not encrypted", refusedKey),
		kind("remote state is encrypted and encryption is not", refusedKey),
		kind("with unacceptable label", refusedLabel),
		kind("Failed to decode", refusedMalformed),
		kind("failed to receive", refusedMalformed),
		kind("Failed to receive", refusedMalformed),
		kind("Failed to read remote state", refusedMalformed),
		kind("not supported", refusedMalformed),
		kind("invalid msgType", refusedMalformed),
		kind("missing message type", refusedMalformed),
		kind("truncated messages", refusedMalformed),
		kind("Failed to decompress", refusedMalformed),
		kind("Got invalid checksum", refusedMalformed),
		// admit.go counts what these only repeat.
		kind("ignoring alive message for", ""),
		kind("Failed push/pull merge", ""),
		kind("Refuting a", ""),
		kind("[ERR] memberlist: ", ""),
		kind("[WARN] memberlist: ", ""),
	}}
}

// Write takes one line.
func (f *logFilter) Write(p []byte) (int, error) {
	pass, dropped := f.pass(p)
	if !pass {
		return len(p), nil
	}
	if dropped > 0 {
		line := fmt.Appendf(bytes.TrimRight(bytes.Clone(p), "\n"), " (and %d more of this kind before)\n", dropped)
		_, err := f.out.Write(line)
		return len(p), err
	}
	return f.out.Write(p)
}

// pass says whether the line may go through, and how many of its kind were
// kept back before it.
func (f *logFilter) pass(line []byte) (ok bool, dropped int) {
	for _, k := range f.kinds {
		if !bytes.Contains(line, k.mark) {
			continue
		}
		if k.counter != nil {
			k.counter.Inc()
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		now := f.now()
		if now.Sub(k.last) < noisyEvery {
			k.dropped++
			return false, 0
		}
		dropped, k.last, k.dropped = k.dropped, now, 0
		return true, dropped
	}
	return true, 0
}
