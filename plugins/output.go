package plugins

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
)

const (
	// lineBytesMax is where a longer line is cut in two.
	lineBytesMax = 64 << 10
	// tailLines and tailBytes bound what is kept to say why a process ended.
	tailLines = 5
	tailBytes = 300
	// quoteBytes is how much of a plugin's output an error quotes.
	quoteBytes = 100
)

// An output puts what a plugin prints into the host's log, and keeps what may
// explain its end.
type output struct {
	log *slog.Logger

	mu   sync.Mutex
	tail []string
	// panicking is the line that began a Go program's last words; from there on
	// every line is one of them.
	panicking string
}

// readLines gives r's lines to take until r ends.
func readLines(r io.Reader, take func(line []byte)) {
	lines := bufio.NewReaderSize(r, lineBytesMax)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			take(bytes.TrimRight(line, "\r\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (o *output) stdout(line []byte) { o.take("stdout", line) }
func (o *output) stderr(line []byte) { o.take("stderr", line) }

func (o *output) take(stream string, line []byte) {
	level, text, attrs, structured := parseLine(line)
	if stream == "stderr" && !structured && o.remember(text) {
		level = slog.LevelError
	}
	o.log.LogAttrs(context.Background(), level, text, append(attrs, slog.String("stream", stream))...)
}

// remember keeps a line of standard error, and says whether it belongs to a
// program's last words.
func (o *output) remember(line string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		o.panicking = clip(line, tailBytes)
	}
	if strings.TrimSpace(line) != "" {
		o.tail = append(o.tail, clip(line, tailBytes))
		o.tail = o.tail[max(0, len(o.tail)-tailLines):]
	}
	return o.panicking != ""
}

// lastWords is what the process said before it ended, in one line.
func (o *output) lastWords() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.panicking != "" {
		return o.panicking
	}
	return strings.Join(o.tail, " | ")
}

func clip(line string, bytesMax int) string {
	if len(line) > bytesMax {
		line = line[:bytesMax] + "…"
	}
	return strings.ToValidUTF8(strings.TrimSpace(line), "\uFFFD")
}

// parseLine reads the forms that loggers write: slog's and hclog's JSON, and a
// level in brackets. Any other line is information.
func parseLine(line []byte) (level slog.Level, text string, attrs []slog.Attr, structured bool) {
	if len(line) > 0 && line[0] == '{' {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil {
			if level, text, attrs, ok := parseRecord(fields); ok {
				return level, text, attrs, true
			}
		}
	}
	text = strings.ToValidUTF8(string(line), "\uFFFD")
	if tag, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(tag, "[") {
		if level, ok := levelOf(tag[1:]); ok {
			return level, rest, nil, false
		}
	}
	return slog.LevelInfo, text, nil, false
}

func parseRecord(fields map[string]any) (level slog.Level, text string, attrs []slog.Attr, ok bool) {
	for _, keys := range [][3]string{{"level", "msg", "time"}, {"@level", "@message", "@timestamp"}} {
		name, _ := fields[keys[0]].(string)
		if level, ok = levelOf(name); !ok {
			continue
		}
		text, _ = fields[keys[1]].(string)
		for _, k := range keys {
			delete(fields, k)
		}
		for _, k := range slices.Sorted(maps.Keys(fields)) {
			attrs = append(attrs, slog.Any(strings.TrimPrefix(k, "@"), fields[k]))
		}
		return level, text, attrs, true
	}
	return 0, "", nil, false
}

func levelOf(name string) (slog.Level, bool) {
	switch strings.ToUpper(name) {
	case "TRACE":
		return slog.LevelDebug - 4, true
	case "ERR":
		return slog.LevelError, true
	}
	var level slog.Level
	return level, level.UnmarshalText([]byte(name)) == nil
}

// lineWriter is an io.Writer for what arrives in pieces.
type lineWriter struct {
	take    func(line []byte)
	partial []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ok := bytes.Cut(p, []byte{'\n'})
		w.partial = append(w.partial, line...)
		if !ok && len(w.partial) < lineBytesMax {
			return n, nil
		}
		w.take(w.partial)
		w.partial = w.partial[:0]
		if p = rest; len(p) == 0 {
			return n, nil
		}
	}
}
