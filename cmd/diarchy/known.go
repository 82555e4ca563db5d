package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/diarchy/diarchy/discovery"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/internal/config"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/raftengine"
)

// engines are the consensus engines there are, by the name that configurations
// use. A third one is a line here.
var engines = map[string]framework.EngineDriver{
	"raft": raftengine.Driver(),
}

// builtins are the machines that run inside the node.
var builtins = map[string]fsm.Factory{
	"kv": func(context.Context) (fsm.Machine, error) { return kv.New(), nil },
}

// known is what configurations are checked against.
func known() config.Known {
	k := config.Known{
		Engines: map[string]func(string, map[string]string) error{}, DefaultEngine: "raft",
		Builtins: slices.Sorted(maps.Keys(builtins)), ReservedGroups: []string{framework.SystemGroup},
		CheckJoin: func(s string) error {
			_, err := discovery.ParseSource(s)
			return err
		},
		CheckPlugin: func(p config.Plugin) error {
			_, err := plugins.Verify(specOf(p))
			return err
		},
	}
	for name, d := range engines {
		k.Engines[name] = d.Check
	}
	return k
}

func specOf(p config.Plugin) plugins.Spec {
	s := plugins.Spec{Name: p.Name, Version: p.Version, Path: p.Path, SHA256: p.SHA256, Args: p.Args}
	for _, k := range slices.Sorted(maps.Keys(p.Env)) {
		s.Env = append(s.Env, k+"="+p.Env[k])
	}
	return s
}

// machines makes the factory for a group's machine, as its specification names
// it.
func machines(host *plugins.Host) func(group, machine string) (fsm.Factory, error) {
	return func(group, machine string) (fsm.Factory, error) {
		kind, name, _ := strings.Cut(machine, ":")
		if kind == "plugin" {
			return host.FactoryFor(name, group)
		}
		if f, ok := builtins[name]; ok && kind == "builtin" {
			return f, nil
		}
		return nil, fmt.Errorf("no machine %q: expected builtin:%s or plugin:NAME", machine, strings.Join(slices.Sorted(maps.Keys(builtins)), ", builtin:"))
	}
}

func groupSpecOf(g config.Group) framework.GroupSpec {
	return framework.GroupSpec{
		Name: g.Name, Engine: g.Engine, Machine: g.Machine, Replicas: g.Replicas, Durability: g.Durability, Options: g.Options,
		Limits: framework.Limits{
			CommandBytes: g.Limits.CommandBytes, ResultBytes: g.Limits.ResultBytes, Sessions: g.Limits.Sessions,
			SessionWindow: g.Limits.SessionWindow, SessionResultBytes: g.Limits.SessionResultBytes,
		},
	}
}
