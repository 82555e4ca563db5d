package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

func pluginCommand(stdio) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List what the node may run: path, checksum, version, state",
		Example: "  diarchy plugin list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				all, err := t.Plugins(ctx)
				if err != nil {
					return err
				}
				return printPlugins(cmd, all)
			})
		},
	}
	info := &cobra.Command{
		Use: "info NAME", Short: "Show one plugin and its processes",
		Example: "  diarchy plugin info orders", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, func(ctx context.Context, t *target) error {
				p, err := t.Plugin(ctx, args[0])
				if err != nil {
					return err
				}
				return printPlugin(cmd, p)
			})
		},
	}
	return targetFlags(parent(&cobra.Command{Use: "plugin", Short: "Machines in processes of their own", Example: "  diarchy plugin list"}, list, info))
}

type pluginRow struct {
	Name      string       `json:"name"`
	Version   string       `json:"version"`
	Path      string       `json:"path"`
	SHA256    string       `json:"sha256"`
	Protocols []uint32     `json:"protocols"`
	Problem   string       `json:"problem,omitempty"`
	Processes []processRow `json:"processes"`
}

type processRow struct {
	Group    string    `json:"group"`
	PID      int64     `json:"pid"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Restarts int64     `json:"restarts"`
}

func pluginRowOf(p *pb.Plugin) pluginRow {
	r := pluginRow{
		Name: p.GetName(), Version: p.GetVersion(), Path: p.GetPath(), SHA256: p.GetSha256(),
		Protocols: p.GetProtocols(), Problem: p.GetProblem(), Processes: []processRow{},
	}
	for _, x := range p.GetProcesses() {
		r.Processes = append(r.Processes, processRow{x.GetGroup(), x.GetPid(), x.GetState(), time.Unix(0, x.GetSince()), x.GetRestarts()})
	}
	return r
}

func printPlugins(cmd *cobra.Command, plugins []*pb.Plugin) error {
	value, rows := make([]pluginRow, 0, len(plugins)), [][]string{}
	for _, p := range plugins {
		r := pluginRowOf(p)
		value = append(value, r)
		rows = append(rows, []string{r.Name, orDash(r.Version), r.Path, orDash(r.SHA256[:min(12, len(r.SHA256))]), fmt.Sprint(len(r.Processes)), orDash(r.Problem)})
	}
	return table(cmd, value, []string{"NAME", "VERSION", "PATH", "SHA256", "PROCESSES", "PROBLEM"}, rows)
}

func printPlugin(cmd *cobra.Command, p *pb.Plugin) error {
	r := pluginRowOf(p)
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), r)
		return nil
	}
	fields := [][]string{
		{"Name", r.Name}, {"Version", orDash(r.Version)}, {"Path", r.Path}, {"SHA256", orDash(r.SHA256)},
		{"Protocols", strings.Trim(fmt.Sprint(r.Protocols), "[]")}, {"Problem", orDash(r.Problem)},
	}
	if err := writeTable(cmd.OutOrStdout(), []string{"FIELD", "VALUE"}, fields); err != nil {
		return err
	}
	rows := [][]string{}
	for _, x := range r.Processes {
		rows = append(rows, []string{x.Group, fmt.Sprint(x.PID), x.State, age(time.Since(x.Since)), fmt.Sprint(x.Restarts)})
	}
	fmt.Fprintln(cmd.OutOrStdout())
	return writeTable(cmd.OutOrStdout(), []string{"GROUP", "PID", "STATE", "SINCE", "RESTARTS"}, rows)
}
