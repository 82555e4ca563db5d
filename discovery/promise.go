package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/diarchy/diarchy/framework"
)

// promiseFile keeps a node's Agreement. It is what bootstrap.go's argument
// stands on, so a file that cannot be read is an error and never an empty one.
type promiseFile struct{ path string }

const (
	promiseName   = "bootstrap.json"
	promiseFormat = 1
)

func promiseIn(dir string) promiseFile { return promiseFile{filepath.Join(dir, promiseName)} }

// promiseRecord is the file's content. Check is over the others, so that a
// flipped bit is noticed.
type promiseRecord struct {
	Format  int              `json:"format"`
	Node    framework.UUID   `json:"node"`
	Phase   string           `json:"phase"`
	Set     []framework.UUID `json:"set,omitempty"`
	Cluster *framework.UUID  `json:"cluster,omitempty"`
	Check   string           `json:"check"`
}

func (r *promiseRecord) check() string {
	c := *r
	c.Check = ""
	b, _ := json.Marshal(c) // of such fields it cannot fail
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

// save returns once the promise is durable.
func (f promiseFile) save(node framework.UUID, a Agreement) error {
	r := promiseRecord{Format: promiseFormat, Node: node, Phase: a.Phase.String(), Set: a.Set}
	if a.Phase == PhaseFormed {
		r.Cluster = &a.Cluster
	}
	r.Check = r.check()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := writeAtomically(f.path, append(b, '\n')); err != nil {
		return fmt.Errorf("keep the bootstrap promise in %s: %w", f.path, err)
	}
	return nil
}

// load gives the promise that node has made; none when there is no file.
func (f promiseFile) load(node framework.UUID) (Agreement, error) {
	text, err := readSmallFile(f.path, sourceBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return Agreement{}, nil
	}
	if err != nil {
		return Agreement{}, fmt.Errorf("read the bootstrap promise: %w", err)
	}
	a, err := parsePromise([]byte(text), node)
	if err != nil {
		return Agreement{}, framework.ErrConflict.Because("%s: %v: this node may have promised to form a cluster with others, and forgetting that could split it; "+
			"restore the file, or, when no node has formed a cluster with this one, start it once with --force-new", f.path, err)
	}
	return a, nil
}

func parsePromise(b []byte, node framework.UUID) (Agreement, error) {
	var r promiseRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Agreement{}, fmt.Errorf("damaged: %w", err)
	}
	if r.Format != promiseFormat {
		return Agreement{}, fmt.Errorf("of format %d: this version reads format %d", r.Format, promiseFormat)
	}
	if r.Check != r.check() {
		return Agreement{}, errors.New("damaged: its check value does not match")
	}
	if r.Node != node {
		return Agreement{}, fmt.Errorf("it was made by node %s, this is node %s", r.Node, node)
	}
	a := Agreement{Set: r.Set}
	for a.Phase.String() != r.Phase {
		if a.Phase++; a.Phase > PhaseFormed {
			return Agreement{}, fmt.Errorf("damaged: unknown phase %q", r.Phase)
		}
	}
	if r.Cluster != nil {
		a.Cluster = *r.Cluster
	}
	return a, nil
}

// forget is --force-new.
func (f promiseFile) forget() error {
	err := os.Remove(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(filepath.Dir(f.path)))
}
