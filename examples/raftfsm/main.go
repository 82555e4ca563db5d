// Raftfsm serves a machine written for hashicorp/raft as a plugin, unchanged:
// the machine is in words.go; what is needed beside it is here. Try it with
//
//	go build -o /tmp/words ./examples/raftfsm && diarchy dev --plugin /tmp/words
package main

import (
	"context"
	"log"
	"strconv"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/sdk"
	"github.com/diarchy/diarchy/raftengine/raftfsm"
)

func main() {
	m, err := machine(NewWords())
	if err != nil {
		log.Fatal(err)
	}
	sdk.Serve(m)
}

// machine makes it one for any engine. raft.FSM has no reads, so that is what
// must be said: how a query is answered.
func machine(w *Words) (fsm.Machine, error) {
	return raftfsm.New(w, raftfsm.Options{
		Name: "words", Version: "1",
		Query: func(_ context.Context, q fsm.Query) ([]byte, error) {
			return strconv.AppendInt(nil, int64(w.Count(string(q.Data))), 10), nil
		},
	})
}
