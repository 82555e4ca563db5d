package hlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// lines logs with f and returns what came out, one line a record.
func lines(least slog.Level, f func(hclog.Logger)) []string {
	var b bytes.Buffer
	f(New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})), "part", least))
	return strings.Split(strings.TrimSpace(b.String()), "\n")
}

func TestRecordsKeepLevelNameAndValues(t *testing.T) {
	got := lines(slog.LevelInfo, func(l hclog.Logger) {
		l.Debug("too chatty")
		l.With("peer", "n2").Named("sub").Warn("slow", "took", 3, "dangling")
		l.Error("bad", "fmt", hclog.Fmt("%d of %d", 1, 2))
		if l.IsDebug() || !l.IsWarn() {
			t.Error("levels")
		}
	})
	if len(got) != 2 {
		t.Fatalf("%q", got)
	}
	for i, want := range [][]string{
		{"level=WARN", `msg="part.sub: slow"`, "peer=n2", "took=3", "extra=dangling"},
		{"level=ERROR", `fmt="1 of 2"`},
	} {
		for _, w := range want {
			if !strings.Contains(got[i], w) {
				t.Errorf("%q lacks %q", got[i], w)
			}
		}
	}
}

func TestLinesOfPlainLoggersGetTheirLevel(t *testing.T) {
	got := lines(slog.LevelWarn, func(l hclog.Logger) {
		std := l.StandardLogger(nil)
		std.Print("[INFO] memberlist: hello")
		std.Print("[ERR] memberlist: no")
	})
	if len(got) != 1 || !strings.Contains(got[0], "level=ERROR") || !strings.Contains(got[0], "memberlist: no") {
		t.Fatalf("%q", got)
	}
}

func TestConnectionsClosedByUsAreNoNews(t *testing.T) {
	got := lines(slog.LevelInfo, func(l hclog.Logger) {
		l.Error("failed to decode", "error", fmt.Errorf("read: %w", net.ErrClosed))
		l.Error("failed to decode", "error", fmt.Errorf("garbage"))
	})
	if len(got) != 1 || !strings.Contains(got[0], "garbage") {
		t.Fatalf("%q", got)
	}
}
