package raftengine

import (
	"context"
	"sync"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/framework/enginetest"
)

// Faulty is a driver of engines whose disks the suite can harm.
func Faulty() (framework.EngineDriver, func(framework.NodeID) enginetest.Disk) {
	var mu sync.Mutex
	disks := map[framework.NodeID]*faultyBackend{}
	driver := Driver()
	driver.New = func(_ context.Context, c framework.EngineConfig) (framework.Engine, error) {
		e, err := start(c, seams{backend: func(b backend) backend {
			mu.Lock()
			defer mu.Unlock()
			disks[c.Self] = &faultyBackend{backend: b}
			return disks[c.Self]
		}})
		if err != nil {
			return nil, err
		}
		return e, nil
	}
	return driver, func(id framework.NodeID) enginetest.Disk {
		mu.Lock()
		defer mu.Unlock()
		return harmful{disks[id]}
	}
}

type harmful struct{ b *faultyBackend }

func (h harmful) Hang() func() { return sync.OnceFunc(h.b.hang()) }
func (h harmful) Fail()        { h.b.fail("StoreLogs"); h.b.fail("SetUint64") }
