package kv_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/fsmtest"
	"github.com/diarchy/diarchy/fsm/kv"
)

// randomCommand makes every kind of command, over few keys, that succeeds often
// enough to build something up.
func randomCommand(r *rand.Rand) []byte {
	switch r.IntN(10) {
	case 0:
		return kv.CAS(randomKey(r), uint64(r.IntN(60)), randomValue(r), randomTTL(r))
	case 1:
		return kv.DeleteIf(randomKey(r), uint64(1+r.IntN(60)))
	case 2:
		return randomTxn(r).Command()
	default:
		return randomOperation(r)
	}
}

func randomOperation(r *rand.Rand) []byte {
	switch key := randomKey(r); r.IntN(8) {
	case 0:
		return kv.Delete(key)
	case 1:
		return kv.Append(key, randomValue(r))
	case 2, 3:
		return kv.Add(key, int64(r.IntN(20)-10))
	case 4:
		return kv.GetQuery(key)
	default:
		return kv.Put(key, randomValue(r), randomTTL(r))
	}
}

func randomTxn(r *rand.Rand) kv.Txn {
	var t kv.Txn
	for range r.IntN(3) {
		switch key := randomKey(r); r.IntN(4) {
		case 0:
			t.If = append(t.If, kv.RevisionIs(key, uint64(r.IntN(60))))
		case 1:
			t.If = append(t.If, kv.ValueIs(key, randomValue(r)))
		case 2:
			t.If = append(t.If, kv.Exists(key))
		default:
			t.If = append(t.If, kv.Absent(key))
		}
	}
	for range r.IntN(4) {
		t.Then = append(t.Then, randomOperation(r))
	}
	for range r.IntN(3) {
		t.Else = append(t.Else, randomOperation(r))
	}
	return t
}

func randomKey(r *rand.Rand) string { return fmt.Sprintf("%c/%d", 'a'+r.IntN(3), r.IntN(6)) }

func randomValue(r *rand.Rand) []byte {
	switch r.IntN(4) {
	case 0:
		return nil
	case 1:
		return fmt.Append(nil, r.IntN(100))
	default:
		return make([]byte, r.IntN(20))
	}
}

func randomTTL(r *rand.Rand) time.Duration {
	if r.IntN(3) > 0 {
		return 0
	}
	return time.Duration(r.IntN(int(20 * time.Second)))
}

func TestContract(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			fsmtest.Run(t, fsmtest.InProcess(func() fsm.Machine { return kv.New() }), fsmtest.Options{
				Seed:     seed,
				Commands: 400,
				Command:  randomCommand,
				Queries: [][]byte{
					kv.GetQuery("a/0"), kv.GetQuery("b/1"), kv.GetQuery("none"),
					kv.ListQuery(kv.List{}), kv.ListQuery(kv.List{Prefix: "b/", After: "b/2", Limit: 2}),
					kv.ListQuery(kv.List{Prefix: "c", KeysOnly: true}),
				},
			})
		})
	}
}
