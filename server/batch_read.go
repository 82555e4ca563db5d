package server

import (
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// read is one query that waits for a reader.
type read struct {
	run *run
	i   int
	q   framework.ReadQuery
}

// read queues the queries of a run for readers, of which there are as many as
// there is work for, up to readersMax: a query waits for its quorum, so many
// are asked at once.
func (r *run) read(m *pb.Run) {
	b := r.b
	b.s.metrics.calls.WithLabelValues("query").Add(float64(len(m.Reads)))
	queued := make([]read, 0, len(m.Reads))
	for i, q := range m.Reads {
		i += len(m.Proposals)
		query, err := readFromPB(q.Data, q.Consistency, q.After, m.NoForward)
		if err == nil {
			err = b.s.fits(q.Data)
		}
		if err == nil && b.s.stopping() {
			err = errStopping
		}
		if err != nil {
			r.finish(i, outcome{err: err})
			continue
		}
		queued = append(queued, read{run: r, i: i, q: query})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads = append(b.reads, queued...)
	for b.readers < readersMax && b.idle < len(b.reads) {
		b.readers++
		b.idle++
		go b.reader()
	}
	for range min(len(queued), b.idle) { // not all: most would find nothing
		b.work.Signal()
	}
}

// reader asks queued queries one after another until the stream ends. It counts
// as idle until it has taken one.
func (b *batches) reader() {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.readers--; b.work.Broadcast() }()
	for {
		for len(b.reads) == 0 && !b.ended {
			b.work.Wait()
		}
		if b.ended {
			return
		}
		q := b.reads[0]
		b.reads[0] = read{}
		if b.reads = b.reads[1:]; len(b.reads) == 0 {
			b.reads = nil
		}
		b.idle--
		b.mu.Unlock()
		a, err := b.s.svc.Query(q.run.ctx, q.run.group, q.q)
		q.run.finish(q.i, outcome{err: err, value: a.Value, token: a.Token, time: a.Time, age: a.Age})
		b.mu.Lock()
		b.idle++
	}
}

// stopReaders ends the readers and waits for them; the stream's context has
// ended, so no query lasts.
func (b *batches) stopReaders() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.reads = nil
	b.work.Broadcast()
	for b.readers > 0 {
		b.work.Wait()
	}
}
