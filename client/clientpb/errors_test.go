package clientpb

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"
)

var update = flag.Bool("update", false, "write the table into docs/errors.md")

const (
	docPath = "../../docs/errors.md"
	begin   = "<!-- table: begin -->\n"
	end     = "<!-- table: end -->\n"
)

func render() string {
	var b strings.Builder
	b.WriteString("| Code | Did it happen? | gRPC | HTTP | Exit | The client library | Meaning |\n|---|---|---|---|---|---|---|\n")
	for _, r := range Table {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %d | %d | %s | %s |\n", r.Code, r.Happened.Word(), grpcName(r.GRPC), r.HTTP, r.Exit, r.Retry, r.Meaning)
	}
	return b.String()
}

func grpcName(c connect.Code) string { return strings.ToUpper(c.String()) }

// The page holds the table as the code has it. -update writes it.
func TestDocsHoldTheTable(t *testing.T) {
	page, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", docPath, begin, end)
	}
	if old == render() {
		return
	}
	if !*update {
		t.Fatalf("%s differs from Table; run go test ./client/clientpb -run DocsHold -update", docPath)
	}
	if err := os.WriteFile(docPath, []byte(head+begin+render()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTableHoldsTogether(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Table {
		if seen[r.Code] {
			t.Errorf("%s stands twice", r.Code)
		}
		seen[r.Code] = true
		if http.StatusText(r.HTTP) == "" || r.HTTP < 400 {
			t.Errorf("%s: HTTP status %d", r.Code, r.HTTP)
		}
		if r.Exit != 1 && r.Exit != 2 {
			t.Errorf("%s: exit %d", r.Code, r.Exit)
		}
		if r.GRPC == connect.CodeUnavailable && r.Happened != no {
			t.Errorf("%s: generic clients retry UNAVAILABLE, and it may have happened", r.Code)
		}
		if (r.Retry == Elsewhere || r.Retry == Later) && r.Happened != no {
			t.Errorf("%s: asked again without a session, and it may have happened", r.Code)
		}
		if r.Retry == InSession && r.Happened != maybe {
			t.Errorf("%s: %v", r.Code, r.Retry)
		}
	}
	if got := RowOf("from the future").Code; got != CodeInternal {
		t.Errorf("an unknown code is taken for %s", got)
	}
}
