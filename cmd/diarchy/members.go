package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

func membersCommand(stdio) *cobra.Command {
	return targetFlags(&cobra.Command{
		Use: "members", Short: "List the gossip pool: name, address, status, groups, version",
		Example: "  diarchy members\n  diarchy members -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				members, err := t.Members(ctx)
				if err != nil {
					return err
				}
				return printMembers(cmd, members)
			})
		},
	})
}

func printMembers(cmd *cobra.Command, members []*pb.PoolMember) error {
	type row struct {
		Name    string   `json:"name"`
		ID      string   `json:"id"`
		Addr    string   `json:"addr"`
		Status  string   `json:"status"`
		Groups  []string `json:"groups"`
		Version string   `json:"version"`
	}
	value, rows := make([]row, 0, len(members)), [][]string{}
	for _, m := range members {
		value = append(value, row{m.GetName(), m.GetId(), m.GetAddr(), m.GetStatus(), m.GetGroups(), m.GetVersion()})
		rows = append(rows, []string{m.GetName(), m.GetAddr(), m.GetStatus(), orDash(strings.Join(m.GetGroups(), ",")), orDash(m.GetVersion()), m.GetId()})
	}
	return table(cmd, value, []string{"NAME", "ADDRESS", "STATUS", "GROUPS", "VERSION", "ID"}, rows)
}

func joinCommand(stdio) *cobra.Command {
	return targetFlags(&cobra.Command{
		Use: "join ADDRESS…", Short: "Make the node join the pools at these gossip addresses",
		Long:    "Make the node join others by their gossip addresses, once. What is listed in its\nconfiguration (gossip.join) it tries for ever.",
		Example: "  diarchy join n2.internal:7946",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("'%s' needs ADDRESS", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				n, err := t.Join(ctx, args...)
				if err != nil {
					return err
				}
				return done(cmd, map[string]int{"joined": n}, "%d of %d addresses answered", n, len(args))
			})
		},
	})
}

func leaveCommand(stdio) *cobra.Command {
	return targetFlags(&cobra.Command{
		Use: "leave", Short: "Make the node leave the pool and stop",
		Long: "Make the node hand over what it leads, leave the gossip pool and stop. Its replicas\n" +
			"stay members of their groups, and it finds everything when it is started again.\n" +
			"To take it out of a group for good: diarchy group remove, or group replace.",
		Example: "  diarchy leave --addr n3.internal:7960",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				if err := t.Leave(ctx); err != nil {
					return err
				}
				return done(cmd, map[string]bool{"leaving": true}, "the node at %s is leaving", t.addr)
			})
		},
	})
}

func forceLeaveCommand(stdio) *cobra.Command {
	return targetFlags(&cobra.Command{
		Use: "force-leave NODE", Short: "Declare a failed member of the pool gone",
		Long:    "Make the pool forget a member that has failed and will not come back. Its replicas\nstay members of their groups: diarchy group replace GROUP OLD NEW changes that.",
		Example: "  diarchy force-leave n3",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				if err := t.ForceLeave(ctx, args[0]); err != nil {
					return err
				}
				return done(cmd, map[string]string{"gone": args[0]}, "%s is declared gone", args[0])
			})
		},
	})
}
