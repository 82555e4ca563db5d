package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/framework"
)

const recoverLong = `Give a group whose quorum is lost for ever new members: those that are left.

Stop the node first, and run this on each node that is left with the same --peers.
It prints what the replica here holds and what may be lost, writes a backup into the
data directory, and then makes --peers the members. The group's history gets a new
id and a member left behind cannot come back. Without --i-accept-loss it only prints.

The catalogue is a group too, called "system": when its quorum is lost, recover it as
well, with the same peers.`

func groupRecoverCommand() *cobra.Command {
	var dir string
	var peers []string
	var accept bool
	cmd := &cobra.Command{
		Use: "recover GROUP", Short: "Give a group whose quorum is lost for ever new members", Long: recoverLong,
		Example: "  diarchy group recover orders --data-dir data/n1 --peers n1\n  diarchy group recover orders --data-dir data/n1 --peers n1 --i-accept-loss",
		Args:    exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" || len(peers) == 0 {
				return usagef("'%s' needs --data-dir (this node's) and --peers (the nodes that are left, this one among them)", cmd.CommandPath())
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			c := framework.RecoverConfig{
				DataDir: dir, Group: args[0], AcceptLoss: accept, Engines: engines, Out: cmd.OutOrStdout(),
				Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
			}
			for _, p := range peers {
				c.Peers = append(c.Peers, framework.NodeID(p))
			}
			return framework.RecoverGroup(ctx, c)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "the stopped node's data directory")
	cmd.Flags().StringSliceVar(&peers, "peers", nil, "the nodes that are left, by name or id")
	cmd.Flags().BoolVar(&accept, "i-accept-loss", false, "do it")
	return cmd
}
