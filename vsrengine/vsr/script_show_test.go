package vsr_test

import (
	"flag"
	"os"
	"testing"

	"github.com/cockroachdb/datadriven"
)

var showScript = flag.String("script", "", "a script for TestShow to run as far as it goes")

// TestShow prints what a script does, up to where it fails, without comparing:
// go test ./vsrengine/vsr -run TestShow -v -script testdata/x.txt
func TestShow(t *testing.T) {
	if *showScript == "" {
		t.Skip("no -script")
	}
	input, err := os.ReadFile(*showScript)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{}
	alone := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		datadriven.RunTestFromStringAny(alone, string(input), func(tb testing.TB, d *datadriven.TestData) string {
			out := s.block(tb, d)
			t.Logf("%s\n%s\n----\n%s", d.FullCmd(), d.Input, out)
			d.Expected = out
			return out
		})
	}()
	<-done
	if alone.failed {
		t.Log(alone.log.String())
	}
}
