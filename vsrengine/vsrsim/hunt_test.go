package vsrsim

import (
	"os"
	"testing"
	"time"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// TestHunt runs every defect over the lanes until one finds it, for as long as
// VSRSIM_HUNT says each (a duration), and prints a table. Not run otherwise.
func TestHunt(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("VSRSIM_HUNT"))
	if err != nil {
		t.Skip("VSRSIM_HUNT is not a duration")
	}
	for i := 1; i < vsr.DefectCount; i++ {
		d := vsr.Defect(i)
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			hunt(t, d, limit)
		})
	}
}

func hunt(t *testing.T, d vsr.Defect, limit time.Duration) {
	begin, runs := time.Now(), 0
	for seed := uint64(0); time.Since(begin) < limit; seed++ {
		for _, lane := range Lanes() {
			runs++
			res, _ := Hunt(d, lane, seed, 1)
			if res.Failure == nil || Run(seed, lane).Failure != nil {
				continue
			}
			t.Logf("%-20s %6d runs %8.1fs  lane %s seed %d: %.120s", d, runs, time.Since(begin).Seconds(), lane, seed, res.Failure.Line())
			return
		}
	}
	t.Errorf("%-20s survives %d runs", d, runs)
}
