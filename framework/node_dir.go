package framework

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A data directory:
//
//	lock                    held while a process uses the directory; its pid
//	node.json               nodeRecord
//	catalogue.json          the newest catalogue seen, so that a node finds its
//	                        groups and peers with the system group down
//	groups/UUID/group.json  groupRecord
//	groups/UUID/replica/    the replica's own (GroupConfig.Dir)
//
// Files are replaced whole: written beside, synced, renamed, directory synced.
const (
	dirFormat     = 1
	nodeFile      = "node.json"
	catalogueFile = "catalogue.json"
	groupsDir     = "groups"
	groupFile     = "group.json"
	replicaDir    = "replica"
	lockFile      = "lock"
)

// nodeRecord is who a data directory belongs to.
type nodeRecord struct {
	Format int    `json:"format"`
	ID     NodeID `json:"id"`
	// Name is set at the node's first start, Cluster once it has formed or
	// joined one.
	Name    string `json:"name,omitempty"`
	Cluster UUID   `json:"cluster,omitzero"`
	// System are the first members of the system group, on the nodes that
	// formed the cluster.
	System []NodeID `json:"system,omitempty"`
}

// groupRecord is a replica that this node hosts or has hosted.
type groupRecord struct {
	Format int       `json:"format"`
	Group  GroupInfo `json:"group"`
	// Founders form the group; empty for a replica that joins one.
	Founders []NodeID `json:"founders,omitempty"`
	// Started: the replica has run, so its directory must not be empty.
	Started bool `json:"started,omitempty"`
	// Removed: the replica is no longer a member. Its data is kept, and it is
	// not started.
	Removed bool `json:"removed,omitempty"`
	// Recovered are the members that a recovery left, until the catalogue knows
	// them.
	Recovered []NodeID `json:"recovered,omitempty"`
}

// LoadNodeID returns the id of the node that a data directory belongs to, drawn
// at random the first time and kept there. It fails, naming it, while another
// process uses the directory.
func LoadNodeID(dir string) (NodeID, error) {
	lock, err := lockDataDir(dir)
	if err != nil {
		return "", err
	}
	defer lock.release()
	r, err := loadNodeRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		r = nodeRecord{Format: dirFormat, ID: NodeID(newUUID().String())}
		err = writeJSON(filepath.Join(dir, nodeFile), r)
	}
	return r.ID, err
}

// newUUID draws a version 4 UUID.
func newUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u
}

func loadNodeRecord(dir string) (r nodeRecord, err error) {
	path := filepath.Join(dir, nodeFile)
	if err := readJSON(path, &r); err != nil {
		return r, err
	}
	if r.Format != dirFormat {
		return r, fmt.Errorf("data directory %s is of format %d: this version reads format %d", dir, r.Format, dirFormat)
	}
	if _, err := ParseUUID(string(r.ID)); err != nil {
		return r, fmt.Errorf("%s is damaged: id: %w", path, err)
	}
	return r, nil
}

// dataLock keeps a data directory to one process.
type dataLock struct{ f *os.File }

// lockDataDir makes the directory if it is not there and takes its lock.
func lockDataDir(dir string) (*dataLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the data directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("data directory %s is not a directory", dir)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("data directory %s may be written by everyone (mode %04o): 'chmod 700 %s'", dir, info.Mode().Perm(), dir)
	}
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the data directory's lock: %w", err)
	}
	if err := lockFileExclusive(f); err != nil {
		defer f.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
		}
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		return nil, ErrConflict.Because("data directory %s is in use by process %s: stop that one first, or give this node a directory of its own",
			dir, strings.TrimSpace(string(holder[:n])))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for people only
	}
	return &dataLock{f}, nil
}

// release may be called on nil and twice.
func (l *dataLock) release() {
	if l != nil && l.f != nil {
		_ = l.f.Close() // closing gives the lock back
		l.f = nil
	}
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file whole: after a crash there is the old or the new.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	tmp := path + ".tmp"
	if err := writeSynced(tmp, append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func groupPath(dataDir string, id UUID) string {
	return filepath.Join(dataDir, groupsDir, id.String())
}

func writeGroupRecord(dataDir string, r groupRecord) error {
	dir := groupPath(dataDir, r.Group.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the group's directory: %w", err)
	}
	r.Format = dirFormat
	if err := writeJSON(filepath.Join(dir, groupFile), r); err != nil {
		return err
	}
	return syncDir(filepath.Join(dataDir, groupsDir))
}

// loadGroupRecords reads every group.json below a data directory. A directory
// without one is of a create that was cut short and holds nothing.
func loadGroupRecords(dataDir string) ([]groupRecord, error) {
	entries, err := os.ReadDir(filepath.Join(dataDir, groupsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the groups of the data directory: %w", err)
	}
	var out []groupRecord
	for _, e := range entries {
		id, err := ParseUUID(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		var r groupRecord
		path := filepath.Join(dataDir, groupsDir, e.Name(), groupFile)
		err = readJSON(path, &r)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case r.Format != dirFormat:
			return nil, fmt.Errorf("%s is of format %d: this version reads format %d", path, r.Format, dirFormat)
		case r.Group.ID != id:
			return nil, fmt.Errorf("%s speaks of group %s: the directory was renamed or copied", path, r.Group.ID)
		}
		out = append(out, r)
	}
	return out, nil
}
