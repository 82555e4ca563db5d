package framework

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// RecoverConfig is what RecoverGroup is given.
type RecoverConfig struct {
	DataDir string
	// Group is a name or an id; "system" is the catalogue's.
	Group string
	// Peers are the members that are left, this node among them, by id or name:
	// the same on each of them.
	Peers []NodeID
	// AcceptLoss: without it nothing is changed.
	AcceptLoss bool
	Engines    map[string]EngineDriver
	// Out is told what is done, for people.
	Out    io.Writer
	Logger *slog.Logger
	// Now names the backup; nil takes time.Now.
	Now func() time.Time
}

// incarnationStep leaves the lower bits for who is left, so that two recoveries
// of one group with different survivors can never meet again.
const incarnationStep = 1 << 16

// RecoverGroup gives a group whose quorum is lost for ever new members: those
// that are left. The node must be stopped. What this replica does not hold is
// lost, and so is what it holds beyond the commits, or not: both are said. It
// writes a backup first, and begins a new incarnation, so that a member left
// behind cannot come back and clients see that the history is another one.
func RecoverGroup(ctx context.Context, c RecoverConfig) error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, nodeFile)); err != nil {
		return fmt.Errorf("recover: %s is not a node's data directory: %w", c.DataDir, err)
	}
	lock, err := lockDataDir(c.DataDir)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	defer lock.release()
	r, err := openRecovery(c)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := r.show(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if !c.AcceptLoss {
		return ErrDenied.Because("nothing was changed: what the other members had and this one has not will be lost; repeat with --i-accept-loss")
	}
	if err := r.backup(); err != nil {
		return fmt.Errorf("recover: write the backup: %w; nothing was changed", err)
	}
	if err := r.rewrite(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// recovery is one call of RecoverGroup.
type recovery struct {
	c      RecoverConfig
	node   nodeRecord
	record groupRecord
	driver EngineDriver
	peers  []NodeID
	name   func(NodeID) string
}

func openRecovery(c RecoverConfig) (*recovery, error) {
	r := &recovery{c: c}
	var err error
	if r.node, err = loadNodeRecord(c.DataDir); err != nil {
		return nil, err
	}
	if err = r.findGroup(); err != nil {
		return nil, err
	}
	if err = r.findPeers(); err != nil {
		return nil, err
	}
	var ok bool
	if r.driver, ok = c.Engines[r.record.Group.Engine]; !ok || r.driver.Recover == nil {
		return nil, ErrUnsupported.Because("engine %q of group %q cannot recover a lost quorum", r.record.Group.Engine, r.record.Group.Name)
	}
	return r, nil
}

// findGroup finds the one replica here that is meant.
func (r *recovery) findGroup() error {
	records, err := loadGroupRecords(r.c.DataDir)
	if err != nil {
		return err
	}
	var found []groupRecord
	var names []string
	for _, g := range records {
		names = append(names, fmt.Sprintf("%s (%s)", g.Group.Name, g.Group.ID))
		if g.Group.Name == r.c.Group || g.Group.ID.String() == r.c.Group {
			found = append(found, g)
		}
	}
	if len(found) > 1 {
		found = slices.DeleteFunc(found, func(g groupRecord) bool { return g.Removed })
	}
	switch len(found) {
	case 1:
		r.record = found[0]
	case 0:
		return ErrNoSuchGroup.Because("no replica of group %q is in %s; there are: %s", r.c.Group, r.c.DataDir, strings.Join(names, ", "))
	default:
		return ErrInvalid.Because("more than one group called %q has been here: give the id of one of: %s", r.c.Group, strings.Join(names, ", "))
	}
	if !r.record.Started {
		return ErrInvalid.Because("the replica of group %q here has never run: it holds nothing; recover on another node", r.c.Group)
	}
	return nil
}

// findPeers makes ids of the names, by the catalogue that the node last saw.
func (r *recovery) findPeers() error {
	state := &catalogueState{}
	var kept viewRecord
	if err := readJSON(filepath.Join(r.c.DataDir, catalogueFile), &kept); err == nil {
		if s, err := decodeCatalogue(kept.State); err == nil {
			state = s
		}
	}
	r.name = func(id NodeID) string {
		if n := state.node(id); n != nil {
			return fmt.Sprintf("%s (%s)", n.Name, id)
		}
		return string(id)
	}
	for _, p := range r.c.Peers {
		if n := state.nodeNamed(string(p)); n != nil {
			p = n.ID
		}
		if _, err := ParseUUID(string(p)); err != nil {
			return ErrNoSuchNode.Because("peer %q is neither a node id nor the name of a node that this one knows", p)
		}
		r.peers = append(r.peers, p)
	}
	r.peers = sortedIDs(r.peers)
	if !slices.Contains(r.peers, r.node.ID) {
		return ErrInvalid.Because("this node, %s, must be among the peers that are left: run the command on one of them", r.name(r.node.ID))
	}
	return nil
}

func (r *recovery) replicaDir() string {
	return filepath.Join(groupPath(r.c.DataDir, r.record.Group.ID), replicaDir)
}

func (r *recovery) say(format string, args ...any) { fmt.Fprintf(r.c.Out, format+"\n", args...) }

// show says what this replica holds. An engine tells when it rewrites, so it is
// let loose on a copy.
func (r *recovery) show(ctx context.Context) error {
	dir, err := os.MkdirTemp(r.c.DataDir, "recover-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(filepath.Join(dir, replicaDir), os.DirFS(r.replicaDir())); err != nil {
		return fmt.Errorf("copy the replica to look at it: %w", err)
	}
	report, err := r.engineRecover(ctx, filepath.Join(dir, replicaDir))
	if err != nil {
		return fmt.Errorf("look at the replica: %w", err)
	}
	g := r.record.Group
	r.say("group      %s (%s), engine %s, machine %s, incarnation %d", g.Name, g.ID, g.Engine, g.Machine, g.Incarnation)
	r.say("this node  %s", r.name(r.node.ID))
	r.say("holds      entries up to position %d of term %d, newest snapshot at %d", report.Last, report.Term, report.Snapshot)
	r.say("members    %s", r.list(report.Old))
	r.say("will be    %s", r.list(report.New))
	r.say("")
	r.say("What may be lost: every command that the other members had agreed on and that this")
	r.say("replica does not hold. It cannot be told from here how many these are. Commands that")
	r.say("this replica holds and that had no quorum may come to count: their senders were told")
	r.say("that they may have happened. Recover with the replica that holds the highest term and")
	r.say("position of those that are left.")
	return nil
}

func (r *recovery) list(members []Member) string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = r.name(m.ID) + " " + m.Suffrage.String()
	}
	return strings.Join(names, ", ")
}

func (r *recovery) engineRecover(ctx context.Context, dir string) (RecoverReport, error) {
	members := make([]Member, len(r.peers))
	for i, id := range r.peers {
		members[i] = Member{ID: id, Suffrage: Voter}
	}
	g := r.record.Group
	return r.driver.Recover(ctx, EngineConfig{
		Group: GroupIdentity{ID: g.ID, Incarnation: g.Incarnation, Name: g.Name},
		Self:  r.node.ID, Dir: engineDir(dir), Options: g.Options, Logger: r.c.Logger,
	}, members)
}

// backup keeps everything of the replica as it is, so that the recovery can be
// undone by hand.
func (r *recovery) backup() (err error) {
	dir := filepath.Join(r.c.DataDir, "backups")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := fmt.Sprintf("recover-%s-%s.tar", r.record.Group.Name, r.c.Now().UTC().Format("20060102T150405.000Z"))
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	t := tar.NewWriter(f)
	root := groupPath(r.c.DataDir, r.record.Group.ID)
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return addFile(t, root, path)
	}); err != nil {
		return err
	}
	if err := errors.Join(t.Close(), f.Sync(), syncDir(dir)); err != nil {
		return err
	}
	r.say("")
	r.say("backup     %s (everything of this replica as it was)", f.Name())
	return nil
}

func addFile(t *tar.Writer, root, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	name, err := filepath.Rel(root, path)
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, info.Size())
	return err
}

// rewrite has the engine take the new members, then begins the new incarnation.
// Cut short in between, the command can be repeated.
func (r *recovery) rewrite(ctx context.Context) error {
	if _, err := r.engineRecover(ctx, r.replicaDir()); err != nil {
		return fmt.Errorf("the engine: %w; restore the replica from the backup before another try", err)
	}
	record := r.record
	record.Group.Incarnation = nextIncarnation(record.Group.Incarnation, r.peers)
	record.Group.Placed, record.Recovered, record.Removed = r.peers, r.peers, false
	if err := writeGroupRecord(r.c.DataDir, record); err != nil {
		return err
	}
	r.say("recovered  group %s is in incarnation %d", record.Group.Name, record.Group.Incarnation)
	r.say("")
	if len(r.peers) > 1 {
		r.say("Run the same command with the same peers on each of the others before any of them starts:")
		for _, id := range r.peers {
			if id != r.node.ID {
				r.say("  %s", r.name(id))
			}
		}
	}
	r.say("Then start the node. Members left behind are refused; add new ones with 'diarchy group add-learner' and 'promote'.")
	return nil
}

// nextIncarnation is higher than any before, and another one for other peers.
func nextIncarnation(old uint32, peers []NodeID) uint32 {
	h := sha256.New()
	for _, id := range peers {
		h.Write([]byte(id))
		h.Write([]byte{0})
	}
	return (old/incarnationStep+1)*incarnationStep | uint32(binary.BigEndian.Uint16(h.Sum(nil)))
}
