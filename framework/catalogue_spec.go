package framework

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	nameBytesMax    = 63
	optionsMax      = 64
	optionBytesMax  = 1024
	replicasMax     = 15
	commandBytesMax = 32 << 20
)

// ValidName reports what is wrong with a group's or node's name, nil when
// nothing is: letters, digits, '.', '_' and '-', not first, at most 63 bytes.
func ValidName(name string) error {
	if name == "" {
		return ErrInvalid.Because("a name is empty: expected letters, digits, '.', '_' or '-'")
	}
	if len(name) > nameBytesMax {
		return ErrInvalid.Because("name %.20q… is %d bytes long: at most %d", name, len(name), nameBytesMax)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", r)) {
			return ErrInvalid.Because("name %q has %q at byte %d: expected letters, digits, '.', '_' or '-', the first a letter or digit", name, r, i)
		}
	}
	return nil
}

func checkNode(n catalogueNode) error {
	if _, err := ParseUUID(string(n.ID)); err != nil {
		return ErrInvalid.Because("node id: %s", err)
	}
	if len(n.Version) > nameBytesMax || !utf8.ValidString(n.Version) {
		return ErrInvalid.Because("node version is over %d bytes", nameBytesMax)
	}
	return ValidName(n.Name)
}

// normal fills what was left out, so that equal wishes are equal values.
func (s GroupSpec) normal() GroupSpec {
	if s.Replicas == 0 {
		s.Replicas = 3
		if len(s.Nodes) > 0 {
			s.Replicas = len(s.Nodes)
		}
	}
	if s.Durability == "" {
		s.Durability = "disk"
	}
	if s.Engine == "" {
		s.Engine = "raft"
	}
	if s.Machine == "" {
		s.Machine = "builtin:kv"
	}
	s.Limits = s.Limits.WithDefaults()
	if len(s.Nodes) > 0 {
		s.Nodes = sortedIDs(s.Nodes)
	} else {
		s.Nodes = nil
	}
	if len(s.Options) == 0 {
		s.Options = nil
	}
	return s
}

// Validate says what is wrong with a spec, as far as it can be told without a
// node: names and ranges. Which engines and machines there are is the node's
// business.
func (s GroupSpec) Validate() error {
	s = s.normal()
	if err := ValidName(s.Name); err != nil {
		return err
	}
	if s.Name == SystemGroup {
		return ErrInvalid.Because("the name %q is the catalogue's own group's", SystemGroup)
	}
	if len(s.Engine) > nameBytesMax || len(s.Machine) > 4*nameBytesMax {
		return ErrInvalid.Because("group %q: the engine's or machine's name is too long", s.Name)
	}
	if s.Replicas < 1 || s.Replicas > replicasMax {
		return ErrInvalid.Because("group %q: replicas = %d, expected 1 to %d", s.Name, s.Replicas, replicasMax)
	}
	if len(s.Nodes) > 0 && len(s.Nodes) != s.Replicas {
		return ErrInvalid.Because("group %q: replicas = %d, but %d nodes are named", s.Name, s.Replicas, len(s.Nodes))
	}
	if s.Durability != "disk" && s.Durability != "memory" {
		return ErrInvalid.Because("group %q: durability = %q, expected \"disk\" or \"memory\"", s.Name, s.Durability)
	}
	return s.validateSizes()
}

func (s GroupSpec) validateSizes() error {
	if len(s.Options) > optionsMax {
		return ErrInvalid.Because("group %q: %d options, at most %d", s.Name, len(s.Options), optionsMax)
	}
	for k, v := range s.Options {
		if len(k)+len(v) > optionBytesMax {
			return ErrInvalid.Because("group %q: option %.20q is over %d bytes", s.Name, k, optionBytesMax)
		}
	}
	l := s.Limits
	for _, x := range []struct {
		name        string
		v, min, max int
	}{
		{"command_bytes", l.CommandBytes, 1, commandBytesMax},
		{"result_bytes", l.ResultBytes, 1, commandBytesMax},
		{"sessions", l.Sessions, 1, 10_000_000},
		{"session_window", l.SessionWindow, 1, 65_536},
		{"session_result_bytes", l.SessionResultBytes, 1, commandBytesMax},
	} {
		if x.v < x.min || x.v > x.max {
			return ErrInvalid.Because("group %q: %s = %d, expected %d to %d", s.Name, x.name, x.v, x.min, x.max)
		}
	}
	return nil
}

// differs names the first thing in which a wanted spec is not the one that the
// catalogue has, with both values; nil when there is none. Where the wanted one
// leaves the nodes open, any placement will do.
func differs(have, want GroupSpec) error {
	have, want = have.normal(), want.normal()
	say := func(what string, h, w any) error {
		hint := "change the configuration, or destroy the group and create it anew"
		return ErrConflict.Because("group %q: %s is %v in the catalogue and %v in the configuration: %s", have.Name, what, h, w, hint)
	}
	switch {
	case have.Engine != want.Engine:
		return say("engine", quoted(have.Engine), quoted(want.Engine))
	case have.Machine != want.Machine:
		return say("machine", quoted(have.Machine), quoted(want.Machine))
	case have.Replicas != want.Replicas:
		return say("replicas", have.Replicas, want.Replicas)
	case have.Durability != want.Durability:
		return say("durability", quoted(have.Durability), quoted(want.Durability))
	case len(want.Nodes) > 0 && len(have.Nodes) > 0 && !slices.Equal(have.Nodes, want.Nodes):
		return say("nodes", have.Nodes, want.Nodes)
	case !maps.Equal(have.Options, want.Options):
		k := firstDifference(have.Options, want.Options)
		return say("option "+k, optionText(have.Options, k), optionText(want.Options, k))
	case have.Limits != want.Limits:
		return say("limits", fmt.Sprintf("%+v", have.Limits), fmt.Sprintf("%+v", want.Limits))
	}
	return nil
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

func optionText(m map[string]string, k string) string {
	if v, ok := m[k]; ok {
		return quoted(v)
	}
	return "not set"
}

func firstDifference(a, b map[string]string) string {
	keys := slices.Sorted(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if va, ok := a[k]; !ok || va != b[k] {
			return k
		}
		if _, ok := b[k]; !ok {
			return k
		}
	}
	return ""
}
