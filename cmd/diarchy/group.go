package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
)

func groupCommand(io stdio) *cobra.Command {
	return targetFlags(parent(&cobra.Command{
		Use: "group", Short: "Groups: replicas that agree on a log and run it on a machine",
		Example: "  diarchy group list\n  diarchy group status orders",
	},
		groupListCommand(), groupStatusCommand(), groupPeersCommand(), groupTailCommand(), groupCreateCommand(), groupDestroyCommand(),
		changeCommand("add-learner", pb.ChangeOp_CHANGE_OP_ADD_LEARNER, "Add a replica on a node; it follows and does not vote"),
		changeCommand("promote", pb.ChangeOp_CHANGE_OP_PROMOTE, "Make a learner that has caught up a voter"),
		changeCommand("demote", pb.ChangeOp_CHANGE_OP_DEMOTE, "Make a voter a learner"),
		changeCommand("remove", pb.ChangeOp_CHANGE_OP_REMOVE, "Take a replica out of the group"),
		groupReplaceCommand(), groupTransferCommand(), groupRecoverCommand(), snapshotCommand(io),
	))
}

func groupListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the cluster's groups", Example: "  diarchy group list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				groups, err := t.Groups(ctx)
				if err != nil {
					return err
				}
				names := t.nodeNames(ctx)
				value, rows := make([]groupRow, 0, len(groups)), [][]string{}
				for _, g := range groups {
					r := groupRowOf(g, names)
					value = append(value, r)
					rows = append(rows, []string{r.Name, r.Engine, r.Machine, fmt.Sprint(r.Replicas), r.Durability, orDash(strings.Join(r.Nodes, ","))})
				}
				return table(cmd, value, []string{"NAME", "ENGINE", "MACHINE", "REPLICAS", "DURABILITY", "NODES"}, rows)
			})
		},
	}
}

type groupRow struct {
	Name        string   `json:"name"`
	ID          string   `json:"id"`
	Engine      string   `json:"engine"`
	Machine     string   `json:"machine"`
	Replicas    int64    `json:"replicas"`
	Durability  string   `json:"durability"`
	Nodes       []string `json:"nodes"`
	Incarnation uint32   `json:"incarnation"`
	System      bool     `json:"system,omitempty"`
}

func groupRowOf(g *pb.GroupInfo, names func(string) string) groupRow {
	s := g.GetSpec()
	r := groupRow{
		Name: s.GetName(), ID: g.GetId(), Engine: s.GetEngine(), Machine: s.GetMachine(), Replicas: s.GetReplicas(),
		Durability: s.GetDurability(), Incarnation: g.GetIncarnation(), System: g.GetSystem(), Nodes: []string{},
	}
	for _, n := range g.GetPlaced() {
		r.Nodes = append(r.Nodes, names(n))
	}
	return r
}

// nodeNames turns node ids into names; into themselves where nobody knows.
func (t *target) nodeNames(ctx context.Context) func(string) string {
	names := map[string]string{}
	if nodes, err := t.Nodes(ctx); err == nil {
		for _, n := range nodes {
			names[n.GetId()] = n.GetName()
		}
	}
	return func(id string) string {
		if n := names[id]; n != "" {
			return n
		}
		return id
	}
}

func groupStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status GROUP", Short: "Show a group: leader, term, each replica's lag and machine, what is wrong",
		Example: "  diarchy group status orders\n  diarchy group status orders -o json", Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				a, err := t.Group(args[0]).Status(ctx)
				if err != nil {
					return err
				}
				return printStatus(cmd, a, t.nodeNames(ctx))
			})
		},
	}
}

type statusRow struct {
	Group    groupRow     `json:"group"`
	Leader   string       `json:"leader"`
	Term     uint64       `json:"term"`
	Replicas []replicaRow `json:"replicas"`
	Problems []string     `json:"problems"`
}

type replicaRow struct {
	Node      string `json:"node"`
	ID        string `json:"id"`
	Reachable bool   `json:"reachable"`
	Role      string `json:"role"`
	Suffrage  string `json:"suffrage"`
	Commit    uint64 `json:"commit"`
	Applied   uint64 `json:"applied"`
	Number    uint64 `json:"number"`
	Snapshot  uint64 `json:"snapshot"`
	// Lag is in positions behind the leader, -1 when not known.
	Lag      int64  `json:"lag"`
	Machine  string `json:"machine"`
	Restarts int64  `json:"machine_restarts"`
	Problem  string `json:"problem,omitempty"`
}

func statusRowOf(a *pb.GroupStatusResponse, names func(string) string) statusRow {
	s := statusRow{Group: groupRowOf(a.GetInfo(), names), Term: a.GetTerm(), Replicas: []replicaRow{}, Problems: []string{}}
	if a.GetLeader() != "" {
		s.Leader = names(a.GetLeader())
	}
	s.Problems = append(s.Problems, a.GetProblems()...)
	for _, r := range a.GetReplicas() {
		name := r.GetName()
		if name == "" {
			name = names(r.GetNode())
		}
		problem := errors.Join(wordy(r.GetError()), wordy(r.GetWarning()), wordy(r.GetMachine().GetError()))
		row := replicaRow{
			Node: name, ID: r.GetNode(), Reachable: r.GetReachable(), Role: r.GetRole(), Suffrage: r.GetSuffrage(),
			Commit: r.GetCommit(), Applied: r.GetApplied(), Number: r.GetNumber(), Snapshot: r.GetSnapshot(), Lag: r.GetLag(),
			Machine: r.GetMachine().GetState(), Restarts: r.GetMachine().GetRestarts(),
		}
		if problem != nil {
			row.Problem = strings.ReplaceAll(problem.Error(), "\n", "; ")
		}
		s.Replicas = append(s.Replicas, row)
	}
	return s
}

func wordy(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

func printStatus(cmd *cobra.Command, a *pb.GroupStatusResponse, names func(string) string) error {
	s := statusRowOf(a, names)
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), s)
		return nil
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s: %s, engine %s, leader %s, term %d\n\n", s.Group.Name, s.Group.Machine, s.Group.Engine, orDash(s.Leader), s.Term)
	rows := [][]string{}
	for _, r := range s.Replicas {
		role, lag := r.Role, "unknown"
		if !r.Reachable {
			role = "not reachable"
		}
		if r.Lag >= 0 {
			lag = fmt.Sprint(r.Lag)
		}
		rows = append(rows, []string{r.Node, role, r.Suffrage, fmt.Sprint(r.Commit), fmt.Sprint(r.Applied), fmt.Sprint(r.Number), lag, orDash(r.Machine), fmt.Sprint(r.Restarts), orDash(r.Problem)})
	}
	if err := writeTable(w, []string{"NODE", "ROLE", "SUFFRAGE", "COMMIT", "APPLIED", "NUMBER", "LAG", "MACHINE", "RESTARTS", "PROBLEM"}, rows); err != nil {
		return err
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "\nproblem: %s\n", p)
	}
	return nil
}

func groupPeersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "peers GROUP", Short: "List a group's members as its leader has them", Example: "  diarchy group peers orders", Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				a, err := t.Group(args[0]).Status(ctx)
				if err != nil {
					return err
				}
				return printPeers(cmd, a, t.nodeNames(ctx))
			})
		},
	}
}

func printPeers(cmd *cobra.Command, a *pb.GroupStatusResponse, names func(string) string) error {
	type member struct {
		Node     string `json:"node"`
		ID       string `json:"id"`
		Suffrage string `json:"suffrage"`
		Leader   bool   `json:"leader"`
	}
	value := struct {
		Membership uint64   `json:"membership"`
		Committed  bool     `json:"committed"`
		Members    []member `json:"members"`
	}{a.GetMembership().GetId(), a.GetMembership().GetCommitted(), []member{}}
	rows := [][]string{}
	for _, m := range a.GetMembership().GetMembers() {
		x := member{names(m.GetNode()), m.GetNode(), m.GetSuffrage(), m.GetNode() == a.GetLeader()}
		value.Members = append(value.Members, x)
		leads := "-"
		if x.Leader {
			leads = "leader"
		}
		rows = append(rows, []string{x.Node, x.Suffrage, leads, x.ID})
	}
	return table(cmd, value, []string{"NODE", "SUFFRAGE", "LEADER", "ID"}, rows)
}

func groupTailCommand() *cobra.Command {
	var from uint64
	cmd := &cobra.Command{
		Use: "tail GROUP", Short: "Print committed commands as they come",
		Long:    "Print the group's committed commands in order: number, time, and the command's bytes\nas a quoted string. Without --from: from the next one on.",
		Example: "  diarchy group tail orders --from 1\n  diarchy group tail orders -o json", Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return follow(cmd, func(ctx context.Context, t *target) error {
				for e, err := range t.Group(args[0]).Tail(ctx, from) {
					if err != nil {
						return unlessInterrupted(ctx, err)
					}
					printEntry(cmd, e)
				}
				return nil
			})
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "the first number wanted; 0 is the next to come")
	return cmd
}

// unlessInterrupted is nil for what Ctrl-C ended.
func unlessInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func printEntry(cmd *cobra.Command, e client.Entry) {
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), map[string]any{"number": e.Number, "time": e.Time, "data": e.Data})
		return
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d\t%s\t%q\n", e.Number, e.Time.Format(time.RFC3339Nano), e.Data)
}
