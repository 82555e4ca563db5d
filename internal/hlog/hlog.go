// Package hlog lets HashiCorp's components, which log through hclog, write to
// the project's slog.Logger.
package hlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// New returns an hclog.Logger that writes to l under a name. Records below the
// level least are dropped, whatever l would take: the components are chatty.
func New(l *slog.Logger, name string, least slog.Level) hclog.Logger {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &logger{out: l, name: name, least: least}
}

type logger struct {
	out     *slog.Logger
	name    string
	least   slog.Level
	implied []any
}

var levels = map[hclog.Level]slog.Level{
	hclog.Trace: slog.LevelDebug - 4, hclog.Debug: slog.LevelDebug, hclog.Info: slog.LevelInfo,
	hclog.Warn: slog.LevelWarn, hclog.Error: slog.LevelError, hclog.NoLevel: slog.LevelInfo, hclog.Off: math.MaxInt,
}

func (l *logger) write(level slog.Level, msg string, args []any) {
	if closedByUs(args) {
		level = slog.LevelDebug
	}
	if level < l.least || !l.out.Enabled(context.Background(), level) {
		return
	}
	l.out.Log(context.Background(), level, l.name+": "+msg, append(append([]any(nil), l.implied...), pairs(args)...)...)
}

// closedByUs tells failures of connections that this side has closed: no news,
// though the components call them errors.
func closedByUs(args []any) bool {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, net.ErrClosed) {
			return true
		}
	}
	return false
}

// pairs makes hclog's loose key and value list one that slog takes: values of
// hclog's own kinds become strings, a dangling value gets a key.
func pairs(args []any) []any {
	out := make([]any, 0, len(args)+1)
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) {
			return append(out, "extra", args[i])
		}
		v := args[i+1]
		if f, ok := v.(hclog.Format); ok && len(f) > 0 {
			v = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		out = append(out, fmt.Sprint(args[i]), v)
	}
	return out
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) { l.write(levels[level], msg, args) }
func (l *logger) Trace(msg string, args ...any)                  { l.write(levels[hclog.Trace], msg, args) }
func (l *logger) Debug(msg string, args ...any)                  { l.write(slog.LevelDebug, msg, args) }
func (l *logger) Info(msg string, args ...any)                   { l.write(slog.LevelInfo, msg, args) }
func (l *logger) Warn(msg string, args ...any)                   { l.write(slog.LevelWarn, msg, args) }
func (l *logger) Error(msg string, args ...any)                  { l.write(slog.LevelError, msg, args) }

func (l *logger) enabled(level slog.Level) bool {
	return level >= l.least && l.out.Enabled(context.Background(), level)
}
func (l *logger) IsTrace() bool { return l.enabled(levels[hclog.Trace]) }
func (l *logger) IsDebug() bool { return l.enabled(slog.LevelDebug) }
func (l *logger) IsInfo() bool  { return l.enabled(slog.LevelInfo) }
func (l *logger) IsWarn() bool  { return l.enabled(slog.LevelWarn) }
func (l *logger) IsError() bool { return l.enabled(slog.LevelError) }

func (l *logger) ImpliedArgs() []any { return l.implied }
func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.implied = append(append([]any(nil), l.implied...), pairs(args)...)
	return &c
}
func (l *logger) Name() string { return l.name }
func (l *logger) Named(name string) hclog.Logger {
	return l.ResetNamed(l.name + "." + name)
}
func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}
func (l *logger) SetLevel(level hclog.Level) { l.least = levels[level] }
func (l *logger) GetLevel() hclog.Level {
	for _, h := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn} {
		if l.least <= levels[h] {
			return h
		}
	}
	return hclog.Error
}
func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l, "", 0)
}
func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return l }

// Write takes lines in the "[LEVEL] message" form that components without
// hclog (memberlist) use.
func (l *logger) Write(p []byte) (int, error) {
	line := strings.TrimRight(string(p), "\n")
	level := slog.LevelInfo
	for tag, v := range map[string]slog.Level{
		"[TRACE] ": slog.LevelDebug - 4, "[DEBUG] ": slog.LevelDebug, "[INFO] ": slog.LevelInfo,
		"[WARN] ": slog.LevelWarn, "[ERR] ": slog.LevelError, "[ERROR] ": slog.LevelError,
	} {
		if rest, ok := strings.CutPrefix(line, tag); ok {
			line, level = rest, v
		}
	}
	l.write(level, line, nil)
	return len(p), nil
}
