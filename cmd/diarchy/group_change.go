package main

import (
	"context"

	"github.com/spf13/cobra"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

func groupCreateCommand() *cobra.Command {
	spec := &pb.GroupSpec{Limits: &pb.Limits{}}
	cmd := &cobra.Command{
		Use: "create GROUP", Short: "Create a group",
		Long:    "Create a group. Every node that gets a replica must offer the machine: builtin:kv is\neverywhere, plugin:NAME where the configuration has a plugin block of that name.",
		Example: "  diarchy group create cache --machine builtin:kv\n  diarchy group create orders --machine plugin:orders --replicas 5 --option log_store=boltdb", Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			return call(cmd, func(ctx context.Context, t *target) error {
				g, err := t.CreateGroup(ctx, spec)
				if err != nil {
					return err
				}
				r := groupRowOf(g, t.nodeNames(ctx))
				return done(cmd, r, "created group %s (%s on %s) with replicas on %v", r.Name, r.Machine, r.Engine, r.Nodes)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Engine, "engine", "raft", "the consensus engine")
	f.StringVar(&spec.Machine, "machine", "builtin:kv", "builtin:NAME or plugin:NAME")
	f.Int64Var(&spec.Replicas, "replicas", 3, "how many replicas")
	f.StringSliceVar(&spec.Nodes, "node", nil, "put a replica on this node; may be repeated (default: the cluster chooses)")
	f.StringVar(&spec.Durability, "durability", "disk", "disk or memory")
	f.StringToStringVar(&spec.Options, "option", nil, "a setting of the engine, KEY=VALUE; may be repeated")
	f.Int64Var(&spec.Limits.CommandBytes, "command-bytes", 0, "longest command (default 1 MiB)")
	f.Int64Var(&spec.Limits.ResultBytes, "result-bytes", 0, "longest result (default 1 MiB)")
	return cmd
}

func groupDestroyCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use: "destroy GROUP --confirm GROUP", Short: "Remove a group and its data everywhere",
		Long:    "Remove a group and its data on every node. There is no way back but a backup\n('diarchy group snapshot save'). The name is given twice.",
		Example: "  diarchy group destroy cache --confirm cache", Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return usagef("to remove group %s and all its data, repeat its name: --confirm %s", args[0], args[0])
			}
			return call(cmd, func(ctx context.Context, t *target) error {
				if err := t.DestroyGroup(ctx, args[0], confirm); err != nil {
					return err
				}
				return done(cmd, map[string]string{"destroyed": args[0]}, "group %s is destroyed", args[0])
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the group's name again")
	return cmd
}

func changeCommand(verb string, op pb.ChangeOp, short string) *cobra.Command {
	var force bool
	var basedOn uint64
	cmd := &cobra.Command{
		Use: verb + " GROUP NODE", Short: short,
		Example: "  diarchy group " + verb + " orders n4", Args: exactly("GROUP", "NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				if err := t.Group(args[0]).ChangeMembership(ctx, op, args[1], basedOn, force); err != nil {
					return err
				}
				return done(cmd, map[string]string{"group": args[0], "node": args[1], "done": verb}, "%s %s in group %s: done", verb, args[1], args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "do it though it may leave the group without a live quorum: it would then answer nobody")
	cmd.Flags().Uint64Var(&basedOn, "based-on", 0, "only if the membership still has this number ('group peers -o json')")
	return cmd
}

func groupReplaceCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "replace GROUP OLD NEW", Short: "Put a replica on NEW in the place of OLD's",
		Long: "Add a learner on NEW, promote it when it has caught up, then remove OLD. Use it for a\n" +
			"node that is gone for good, or whose disk was wiped: it comes back as a new node.",
		Example: "  diarchy group replace orders n3 n4\n  diarchy group replace orders 3f0c2a9e-1b7d-4a53-8d0e-5f6a7b8c9d0e n3", Args: exactly("GROUP", "OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				if err := t.Group(args[0]).Replace(ctx, args[1], args[2], force); err != nil {
					return err
				}
				return done(cmd, map[string]string{"group": args[0], "old": args[1], "new": args[2]}, "group %s: %s is replaced by %s", args[0], args[1], args[2])
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "do it though it may leave the group without a live quorum on the way")
	return cmd
}

func groupTransferCommand() *cobra.Command {
	return &cobra.Command{
		Use: "transfer GROUP [NODE]", Short: "Hand a group's leadership over",
		Example: "  diarchy group transfer orders n2", Args: between([]string{"GROUP"}, []string{"NODE"}),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := ""
			if len(args) > 1 {
				to = args[1]
			}
			return call(cmd, func(ctx context.Context, t *target) error {
				if err := t.Group(args[0]).Transfer(ctx, to); err != nil {
					return err
				}
				return done(cmd, map[string]string{"group": args[0], "to": to}, "group %s: leadership handed over", args[0])
			})
		},
	}
}
