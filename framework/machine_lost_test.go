package framework

import (
	"context"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// losable is a machine whose process can end while nobody calls it.
type losable struct {
	fsm.Machine
	lost chan struct{}
}

func (l *losable) Open(ctx context.Context) (fsm.Opened, error) {
	o, err := l.Machine.Open(ctx)
	o.Lost = l.lost
	return o, err
}

func TestAMachineThatEndsWhileIdleComesBack(t *testing.T) {
	var first *losable
	r := newRig(t, func(r *rig) {
		r.cfg.Machine = func(ctx context.Context) (fsm.Machine, error) {
			m, err := r.shared.factory(ctx)
			l := &losable{Machine: m, lost: make(chan struct{})}
			if first == nil {
				first = l
			}
			return l, err
		}
	})
	r.mustAdd(5, Session{})
	close(first.lost)
	deadline := time.After(20 * time.Second)
	for {
		changed := r.g.Changed()
		if s := r.g.Status().Machine; s.Restarts == 1 && s.State == "running" {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the machine was not started again: %+v", r.g.Status().Machine)
		}
	}
	if got := r.sum(); got != 5 {
		t.Fatalf("after its return the machine holds %d", got)
	}
}
