package config

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// plugin checks a block and the executable it names.
func (k *checker) plugin(p *Plugin) {
	refuse := func(key, format string, args ...any) {
		at, ok := p.where[key]
		if !ok {
			at = p.at
		}
		k.ps.add(at, "plugin %q: "+format, append([]any{p.Name}, args...)...)
	}
	if !nameForm.MatchString(p.Name) {
		refuse("", "the name: expected %s", nameFormWords)
	}
	if p.Path == "" {
		refuse("path", "path is not set: expected the executable of a machine")
		return
	}
	info, err := os.Stat(p.Path)
	switch {
	case err != nil:
		refuse("path", "path = %q: %s; expected the executable of a machine", p.Path, reason(err))
		return
	case !info.Mode().IsRegular():
		refuse("path", "path = %q is not a file; expected the executable of a machine", p.Path)
		return
	case info.Mode().Perm()&0o111 == 0:
		refuse("path", "path = %q is not executable: chmod +x it", p.Path)
		return
	}
	have, err := fileSHA256(p.Path)
	if err != nil {
		refuse("path", "path = %q: %s", p.Path, reason(err))
		return
	}
	want, err := hex.DecodeString(p.SHA256)
	switch {
	case p.SHA256 == "":
		refuse("sha256", "sha256 is not set: the file has now\n    sha256 = %q", have)
	case err != nil || len(want) != sha256.Size:
		refuse("sha256", "sha256 = %q: expected 64 hexadecimal digits", p.SHA256)
	case !strings.EqualFold(have, p.SHA256):
		refuse("sha256", "the checksum differs: expected %s, the file %s has %s; if the new file is meant, put that in", strings.ToLower(p.SHA256), p.Path, have)
	case k.known.CheckPlugin != nil:
		if err := k.known.CheckPlugin(*p); err != nil {
			k.ps.add(p.at, "%s", err)
		}
	}
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// group checks a block against the engines, machines and plugins there are.
func (k *checker) group(g *Group) {
	at := func(key string) Place {
		if p, ok := g.where[key]; ok {
			return p
		}
		return g.at
	}
	refuse := func(key, format string, args ...any) {
		k.ps.add(at(key), "group %q: "+format, append([]any{g.Name}, args...)...)
	}
	switch {
	case !nameForm.MatchString(g.Name):
		refuse("", "the name: expected %s", nameFormWords)
	case slices.Contains(k.known.ReservedGroups, g.Name):
		refuse("", "the name is the program's own: choose another")
	}
	k.replicas(g, at, refuse)
	if g.Durability != "disk" && g.Durability != "memory" {
		refuse("durability", `durability = %q: expected "disk" or "memory"`, g.Durability)
	} else {
		k.engine(g, refuse)
	}
	k.machine(g, refuse)
}

func (k *checker) replicas(g *Group, at func(string) Place, refuse func(string, string, ...any)) {
	expect := k.c.Gossip.BootstrapExpect
	switch {
	case g.Replicas < 1:
		refuse("replicas", "replicas = %d: expected 1 or more; 3 and 5 are usual", g.Replicas)
	case expect > 0 && expect < g.Replicas:
		refuse("replicas", "replicas = %d is more than gossip.bootstrap_expect = %d: the cluster would start with too few nodes for the group", g.Replicas, expect)
	case g.Replicas%2 == 0:
		k.ps.warn(at("replicas"), "group %q: replicas = %d: an even number survives no more failures than %d", g.Name, g.Replicas, g.Replicas-1)
	}
}

func (k *checker) engine(g *Group, refuse func(string, string, ...any)) {
	if g.Engine == "" {
		g.Engine = k.known.DefaultEngine
	}
	names := strings.Join(slices.Sorted(maps.Keys(k.known.Engines)), ", ")
	check, ok := k.known.Engines[g.Engine]
	switch {
	case g.Engine == "":
		refuse("engine", "engine is not set: expected one of %s", names)
		return
	case !ok:
		refuse("engine", "engine = %q: expected one of %s", g.Engine, names)
		return
	}
	if check == nil {
		return
	}
	if err := check(g.Durability, nil); err != nil {
		refuse("durability", "durability = %q: %s", g.Durability, err)
	} else if err := check(g.Durability, g.Options); err != nil {
		refuse("options", "options: %s", err)
	}
}

func (k *checker) machine(g *Group, refuse func(string, string, ...any)) {
	kind, name, _ := strings.Cut(g.Machine, ":")
	switch {
	case g.Machine == "":
		refuse("machine", `machine is not set: expected "builtin:NAME" (%s) or "plugin:NAME"`, strings.Join(k.known.Builtins, ", "))
	case kind == "builtin":
		if !slices.Contains(k.known.Builtins, name) {
			refuse("machine", "machine = %q: expected one of %s", g.Machine, "builtin:"+strings.Join(k.known.Builtins, ", builtin:"))
		}
	case kind == "plugin" && name != "":
		name, version, _ := strings.Cut(name, "@")
		p, ok := k.c.Plugin(name)
		switch {
		case !ok:
			refuse("machine", "machine = %q: there is no block plugin %q; add one with path and sha256", g.Machine, name)
		case version != "" && p.Version != "" && p.Version != version:
			refuse("machine", "machine = %q: block plugin %q has version %q", g.Machine, name, p.Version)
		}
	default:
		refuse("machine", `machine = %q: expected "builtin:NAME" or "plugin:NAME"`, g.Machine)
	}
}
