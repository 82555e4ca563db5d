package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

func snapshotCommand(stdio) *cobra.Command {
	return parent(&cobra.Command{
		Use: "snapshot", Short: "Backups of a group's state",
		Example: "  diarchy group snapshot save orders orders.backup",
	}, snapshotSaveCommand(), snapshotRestoreCommand(), snapshotInspectCommand())
}

func snapshotSaveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "save GROUP FILE", Short: "Write a backup of a group's state",
		Long:    "Write a backup of a group's state to FILE, which must not exist: it is there whole\nor not at all.",
		Example: "  diarchy group snapshot save orders orders.backup", Args: exactly("GROUP", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Lstat(args[1]); err == nil {
				return fmt.Errorf("%s exists: choose another file, or remove it first", args[1])
			}
			return follow(cmd, func(ctx context.Context, t *target) error {
				r, err := t.save(ctx, args[0], args[1], progress(cmd, "saved"))
				if err != nil {
					return err
				}
				return done(cmd, r, "group %s up to command %d (%s of machine %s) is in %s", args[0], r.GetNumber(), bytesText(r.GetBytes()), orDash(r.GetMachineName()), args[1])
			})
		},
	}
}

// save streams a backup into a file beside path and puts it in place when it is
// whole.
func (t *target) save(ctx context.Context, group, path string, tell func(int64)) (*pb.SnapshotReport, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	report, err := t.Group(group).SaveSnapshot(ctx, &told{w: f, tell: tell})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	return report, os.Rename(f.Name(), path)
}

func snapshotRestoreCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use: "restore GROUP FILE --confirm GROUP", Short: "Replace a group's state by a backup's",
		Long: "Replace the state of a live group by a backup's, on all replicas at once. What the\n" +
			"group holds now is lost; its sessions end and its history gets a new id. The name is\ngiven twice.",
		Example: "  diarchy group snapshot restore orders orders.backup --confirm orders", Args: exactly("GROUP", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return usagef("to replace all that group %s holds, repeat its name: --confirm %s", args[0], args[0])
			}
			f, err := os.Open(args[1])
			if err != nil {
				return fmt.Errorf("read the backup: %w", err)
			}
			defer f.Close()
			return follow(cmd, func(ctx context.Context, t *target) error {
				r, err := t.Group(args[0]).RestoreSnapshot(ctx, &told{r: f, tell: progress(cmd, "sent")})
				if err != nil {
					return err
				}
				return done(cmd, r, "group %s is restored: command %d of the backup, machine %s", args[0], r.GetNumber(), orDash(r.GetMachineName()))
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the group's name again")
	return cmd
}

func snapshotInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use: "inspect FILE", Short: "Check a backup and say what it holds; needs no node",
		Example: "  diarchy group snapshot inspect orders.backup", Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read the backup: %w", err)
			}
			defer f.Close()
			b, err := framework.InspectBackup(bufio.NewReader(f))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			members := ""
			for _, m := range b.Members {
				members += fmt.Sprintf("%s (%s) ", m.ID, m.Suffrage)
			}
			return table(cmd, b, []string{"FIELD", "VALUE"}, [][]string{
				{"Group", b.Group}, {"Group id", b.GroupID.String()}, {"Taken", b.Taken.UTC().String()},
				{"Command number", fmt.Sprint(b.Number)}, {"Position", fmt.Sprint(b.Position)}, {"History", b.History.String()},
				{"Machine", orDash(b.MachineName) + " " + b.MachineVersion}, {"State", bytesText(b.Bytes)}, {"Members then", orDash(members)},
			})
		},
	}
}

// told counts what goes through it.
type told struct {
	r    io.Reader
	w    io.Writer
	n    int64
	tell func(int64)
}

func (t *told) count(n int) {
	t.n += int64(n)
	t.tell(t.n)
}

func (t *told) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	t.count(n)
	return n, err
}

func (t *told) Write(b []byte) (int, error) {
	n, err := t.w.Write(b)
	t.count(n)
	return n, err
}

// progress tells on standard error how far a transfer is, every 16 MiB.
func progress(cmd *cobra.Command, verb string) func(int64) {
	const step = 16 << 20
	next := int64(step)
	return func(n int64) {
		if n >= next {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s %s\n", verb, bytesText(n))
			next = n + step
		}
	}
}
