package main

import (
	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/internal/config"
	"github.com/diarchy/diarchy/internal/dev"
)

// soloHome makes the flags those of a node that needs no configuration: alone,
// in a directory that goes with it. Flags that are given win.
func soloHome(cmd *cobra.Command) (*dev.Home, error) {
	dir, _ := cmd.Flags().GetString("data-dir")
	home, err := dev.OpenHome(dir)
	if err != nil {
		return nil, err
	}
	taken := map[int]bool{}
	for _, s := range [][2]string{
		{"name", "dev"}, {"data-dir", home.Dir + "/node"}, {"gossip-bootstrap-expect", "1"}, {"gossip-timing", "local"},
		{"gossip-bind", ""}, {"peer-bind", ""}, {"client-bind", ""},
	} {
		flag, value := s[0], s[1]
		if port, ok := soloPorts[flag]; ok && !cmd.Flags().Changed(flag) {
			free, err := dev.Port(port, taken)
			if err != nil {
				return nil, err
			}
			value = dev.Loopback(free)
		}
		if flag == "data-dir" || !cmd.Flags().Changed(flag) {
			if err := cmd.Flags().Set(flag, value); err != nil {
				return nil, err
			}
		}
	}
	return home, nil
}

var soloPorts = map[string]int{"gossip-bind": 7946, "peer-bind": 7950, "client-bind": 7960}

// addSoloGroup gives a node without groups one to try things with.
func addSoloGroup(c *config.Config, problems config.Problems) config.Problems {
	if problems.Err() == nil && len(c.Groups) == 0 {
		c.Groups = append(c.Groups, config.Group{Name: "kv", Engine: "raft", Machine: "builtin:kv", Replicas: 1, Durability: "disk"})
	}
	return problems
}
