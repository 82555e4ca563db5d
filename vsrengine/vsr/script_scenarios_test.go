package vsr_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// scenarioList says of every scenario of the design (A1 to A75, R1 to R16) which
// scripts show it, or why none does:
//
//	A1   a01_transfer_keeps_acked.txt
//	A11  - the session table is the applier's: framework/...
//	A2   todo
const scenarioList = "testdata/scenarios.txt"

func TestScenarios(t *testing.T) {
	b, err := os.ReadFile(scenarioList)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	var todo []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		id, what := fields[0], fields[1:]
		if listed[id] {
			t.Errorf("%s is listed twice", id)
		}
		listed[id] = true
		switch {
		case len(what) == 0 || what[0] == "-" && len(what) < 4:
			t.Errorf("%s has neither a script nor a reason", id)
		case what[0] == "todo":
			todo = append(todo, id)
		case what[0] != "-":
			for _, name := range what {
				checkScenario(t, id, filepath.Join("testdata", name))
			}
		}
	}
	for _, id := range scenarioIDs() {
		if !listed[id] {
			t.Errorf("%s is not listed", id)
		}
		delete(listed, id)
	}
	for id := range listed {
		t.Errorf("%s is no scenario of the design", id)
	}
	if len(todo) > 0 {
		t.Skipf("without a script yet: %s", strings.Join(todo, " "))
	}
}

// checkScenario: the script is there, and its opening names the scenario.
func checkScenario(t *testing.T, id, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s: %v", id, err)
		return
	}
	if !regexp.MustCompile(`\b` + id + `\b`).MatchString(opening(t, path)) {
		t.Errorf("%s: the opening sentence of %s does not name it", id, path)
	}
}

func scenarioIDs() []string {
	ids := []string{"A1b", "A34b", "A34c", "A34d"}
	for i := 1; i <= 75; i++ {
		ids = append(ids, fmt.Sprintf("A%d", i))
	}
	for i := 1; i <= 16; i++ {
		ids = append(ids, fmt.Sprintf("R%d", i))
	}
	return ids
}
