package raftengine

import (
	"slices"
	"testing"

	"github.com/diarchy/diarchy/framework"
)

// On real disks, sockets and clocks, with each store: write, lose the leader, catch
// up by snapshot, restart all at new addresses.
func TestOverTCP(t *testing.T) {
	for _, store := range []string{storeWAL, storeBolt} {
		t.Run(store, func(t *testing.T) {
			c := newCluster(t, 3, t.TempDir()).option(logStoreOption, store).option(trailingLogsOption, "0")
			defer c.close()
			c.start()
			l := c.leader()
			l.write(numbered("x", 1000)...)
			l.stop()
			now := c.leader(c.others(l)...)
			var at framework.Position
			for range 2 {
				last := now.write(numbered("y", 100)...)
				for _, n := range c.others(l) {
					n.host.untilThrough(last)
					at = n.snapshot("state")
				}
			}
			l.start()
			l.host.untilThrough(now.write("back"))
			if !slices.Equal(l.host.installs, []framework.Position{at}) {
				t.Errorf("installs %v, want one at %d", l.host.installs, at)
			}
			c.close()
			c.start()
			last := c.leader().write("again")
			for _, n := range c.nodes {
				n.host.untilThrough(last)
				if got := n.host.data(); !slices.Contains(got, "again") || slices.Contains(got, "x1") {
					t.Errorf("%s was told %d entries", n.id, len(got))
				}
			}
		})
	}
}
