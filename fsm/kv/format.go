package kv

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FormatResult makes an answer, to a command or a query, readable; bytes that
// are no answer come out quoted.
func FormatResult(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if Op(b[0]) == OpList {
		if items, more, err := DecodeList(b); err == nil {
			return formatList(items, more)
		}
	} else if o, err := DecodeOutcome(b); err == nil {
		return formatOutcome(o)
	}
	return strconv.Quote(string(b))
}

func formatList(items []Item, more bool) string {
	var s strings.Builder
	for i := range items {
		fmt.Fprintf(&s, "%s = %s (revision %d%s)\n", plain(items[i].Key), plain(string(items[i].Value)), items[i].Revision, formatExpiry(items[i].Expires))
	}
	switch {
	case more:
		fmt.Fprintf(&s, "more: list … after=%s", plain(items[len(items)-1].Key))
	case len(items) == 0:
		s.WriteString("nothing")
	}
	return strings.TrimSuffix(s.String(), "\n")
}

func formatOutcome(o Outcome) string {
	switch {
	case o.Op == OpGet && o.OK:
		return fmt.Sprintf("%s (revision %d%s)", plain(string(o.Item.Value)), o.Item.Revision, formatExpiry(o.Item.Expires))
	case o.Op == OpGet || o.Op == OpDelete && !o.OK:
		return "no such key"
	case o.Conflict() && o.Revision == 0:
		return "conflict: no such key"
	case o.Conflict():
		return fmt.Sprintf("conflict: at revision %d", o.Revision)
	case o.Op == OpDelete || o.Op == OpDeleteIf:
		return fmt.Sprintf("deleted (was revision %d)", o.Revision)
	case o.Op == OpAdd:
		return fmt.Sprintf("%d (revision %d)", o.Number, o.Revision)
	case o.Op == OpAppend:
		return fmt.Sprintf("%d bytes (revision %d)", o.Number, o.Revision)
	case o.Op == OpTxn:
		return formatTxn(o)
	default:
		return fmt.Sprintf("revision %d", o.Revision)
	}
}

func formatTxn(o Outcome) string {
	var s strings.Builder
	branch := "else"
	if o.OK {
		branch = "then"
	}
	fmt.Fprintf(&s, "%s (revision %d)", branch, o.Revision)
	for _, r := range o.Results {
		fmt.Fprintf(&s, "\n  %v: %s", r.Op, formatOutcome(r))
	}
	return s.String()
}

func formatExpiry(expires int64) string {
	if expires == 0 {
		return ""
	}
	return ", expires " + time.Unix(0, expires).UTC().Format(time.RFC3339Nano)
}

// plain is s itself when a terminal shows it as it is and ParseCommand reads it
// back, quoted otherwise.
func plain(s string) string {
	quoted := strconv.Quote(s)
	if s == "" || quoted != `"`+s+`"` || strings.ContainsAny(s, " ;") {
		return quoted
	}
	return s
}
