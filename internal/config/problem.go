package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Place is where a value came from: a file and line, or a variable or flag.
type Place struct {
	// File is a path, "environment" or "flag"; Line is 0 for the last two.
	File string
	Line int
	// Name is the variable or flag.
	Name string
}

func (p Place) String() string {
	switch {
	case p.Line > 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	case p.Name != "":
		return p.File + " " + p.Name
	}
	return p.File
}

func placeOf(r hcl.Range) Place { return Place{File: r.Filename, Line: r.Start.Line} }

// Problem is one complaint. A Warning does not keep a node from starting.
type Problem struct {
	At      Place
	Warning bool
	Message string
}

func (p Problem) String() string {
	var b strings.Builder
	if at := p.At.String(); at != "" {
		b.WriteString(at + ": ")
	}
	if p.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all that is wrong, in the order of the sources.
type Problems []Problem

// Err returns the problems as an error, nil when all are warnings.
func (ps Problems) Err() error {
	if slices.ContainsFunc(ps, func(p Problem) bool { return !p.Warning }) {
		return &Error{Problems: ps}
	}
	return nil
}

// Warnings are those that do not keep a node from starting.
func (ps Problems) Warnings() Problems {
	var out Problems
	for _, p := range ps {
		if p.Warning {
			out = append(out, p)
		}
	}
	return out
}

// Error is a configuration that is refused.
type Error struct{ Problems Problems }

func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func (ps *Problems) add(at Place, format string, args ...any) {
	*ps = append(*ps, Problem{At: at, Message: fmt.Sprintf(format, args...)})
}

func (ps *Problems) warn(at Place, format string, args ...any) {
	*ps = append(*ps, Problem{At: at, Warning: true, Message: fmt.Sprintf(format, args...)})
}

// addDiags takes over the parser's complaints. expected, when not empty, is
// added to those about names that are not known.
func (ps *Problems) addDiags(diags hcl.Diagnostics, expected string) {
	for _, d := range diags {
		p := Problem{Warning: d.Severity == hcl.DiagWarning, Message: d.Summary}
		if d.Subject != nil {
			p.At = placeOf(*d.Subject)
		}
		if d.Detail != "" {
			p.Message += ": " + d.Detail
		}
		if expected != "" && isUnknownName(d.Summary) {
			p.Message += " Expected here: " + expected + "."
		}
		*ps = append(*ps, p)
	}
}

func isUnknownName(summary string) bool {
	return strings.HasPrefix(summary, "Unsupported ") || strings.HasPrefix(summary, "Extraneous ")
}

// sorted puts the problems in the order of file and line, and drops doubles.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.At.File, b.At.File), cmp.Compare(a.At.Line, b.At.Line))
	})
	return slices.Compact(ps)
}
