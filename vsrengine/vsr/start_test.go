package vsr_test

import (
	"errors"
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// A group of one has no other copy (D8): whatever the damage, also where nothing
// else tells of it than that its op is unknown, it does not start. A group of three
// does, and waits for a primary's word.
func TestDamageInAGroupOfOne(t *testing.T) {
	damaged := []vsr.Slot{{Entry: vsr.Entry{Header: vsr.Header{Op: 1}}, Damaged: true}}
	for name, st := range map[string]vsr.State{
		"op unknown":                   {Unplaced: true},
		"op known, nothing lies above": {Slots: damaged},
	} {
		for voters := vsr.ID(1); voters <= 3; voters += 2 {
			var members []vsr.Member
			for id := vsr.ID(1); id <= voters; id++ {
				members = append(members, vsr.Member{ID: id, Role: vsr.Voter})
			}
			cfg := vsr.DefaultConfig()
			cfg.ID = 1
			st.Record = &vsr.Record{Members: vsr.NewMembership(members...)}
			r, err := vsr.New(cfg, st)
			if voters == 1 {
				if !errors.Is(err, vsr.ErrNoCopy) {
					t.Errorf("%s, a group of one: %v, expected %v", name, err, vsr.ErrNoCopy)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s, %d voters: %v", name, voters, err)
			}
			if st := r.Status(); st.Phase != vsr.RecoveringHead || !st.Damaged {
				t.Errorf("%s, %d voters: %s, damaged %v", name, voters, st.Phase, st.Damaged)
			}
		}
	}
}
