package plugintest_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/fsmtest"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/plugins/plugintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheBundledMachinePassesBehindTheProtocol(t *testing.T) {
	factory := plugintest.Factory(t, fsmtest.InProcess(func() fsm.Machine { return kv.New() }))
	fsmtest.Run(t, factory, fsmtest.Options{
		Corpus:  [][]byte{kv.Put("a", []byte("1"), 0), kv.Add("n", 3), kv.Append("a", []byte("2")), kv.Delete("b")},
		Queries: [][]byte{kv.GetQuery("a"), kv.GetQuery("n"), kv.ListQuery(kv.List{})},
	})
}

func TestAClosedMachineSaysSo(t *testing.T) {
	m := plugintest.New(t, kv.New())
	if _, err := m.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Query(t.Context(), fsm.Query{Data: kv.GetQuery("a")}); !errors.Is(err, fsm.ErrLost) {
		t.Fatalf("a query after Close: %v, want ErrLost", err)
	}
}
