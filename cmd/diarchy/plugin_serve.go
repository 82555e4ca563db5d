package main

import (
	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/internal/dev"
	"github.com/diarchy/diarchy/plugins/sdk"
)

// servable are the machines that this program serves as a plugin of itself.
var servable = map[string]func() fsm.Machine{
	"kv": func() fsm.Machine { return kv.New() },
	// kv-corrupt is what 'dev --check --break corrupt-state' runs on one node.
	"kv-corrupt": func() fsm.Machine { return dev.Corrupt(kv.New()) },
}

// pluginServeCommand is this program as a plugin: 'dev' starts it again so.
func pluginServeCommand(stdio) *cobra.Command {
	return &cobra.Command{
		Use: "plugin-serve MACHINE", Short: "Serve a bundled machine as a plugin", Hidden: true,
		Args: exactly("MACHINE"),
		RunE: func(_ *cobra.Command, args []string) error {
			make, ok := servable[args[0]]
			if !ok {
				return usagef("no machine %q is bundled", args[0])
			}
			sdk.Serve(make())
			return nil
		},
	}
}
