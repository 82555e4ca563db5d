package framework

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// staging keeps payloads that a restore has named or will name, by their hash.
type staging struct {
	dir  string
	mu   sync.Mutex
	used map[[32]byte]Position // the restore entry that named it
	own  bool                  // dir is temporary and ours
}

const stagingTemp = "tmp-"

func newStaging(groupDir string) (*staging, error) {
	s := &staging{used: map[[32]byte]Position{}}
	if groupDir == "" {
		dir, err := os.MkdirTemp("", "diarchy-staged-")
		s.dir, s.own = dir, true
		return s, err
	}
	s.dir = filepath.Join(groupDir, "staged")
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return s, err
	}
	files, err := os.ReadDir(s.dir)
	for _, f := range files {
		if strings.HasPrefix(f.Name(), stagingTemp) {
			_ = os.Remove(filepath.Join(s.dir, f.Name())) // cut short by the end of the last run
		}
	}
	return s, err
}

func (s *staging) path(hash [32]byte) string {
	return filepath.Join(s.dir, hex.EncodeToString(hash[:]))
}

func (s *staging) temp() (*os.File, error) { return os.CreateTemp(s.dir, stagingTemp) }

func (s *staging) open(hash [32]byte) (*os.File, error) { return os.Open(s.path(hash)) }

// openWhole is open for a payload that is to be acted on: its bytes are checked
// first, and a damaged file is removed, as if it had never been here.
func (s *staging) openWhole(hash [32]byte) (*os.File, error) {
	f, err := s.open(hash)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	if _, err = io.Copy(sum, f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	switch {
	case err != nil:
	case [32]byte(sum.Sum(nil)) != hash:
		err = errors.Join(&DamagedError{"a staged payload"}, fs.ErrNotExist, os.Remove(f.Name()))
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// put stores what fill writes, durably, under the hash that fill returns, once
// try has found nothing against it.
func (s *staging) put(fill func(io.Writer) ([32]byte, error), try func(io.Reader) error) (hash [32]byte, err error) {
	f, err := s.temp()
	if err != nil {
		return hash, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	disk := &diskWriter{w: f}
	if hash, err = fill(disk); err != nil {
		return hash, cmp.Or(disk.err, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return hash, err
	}
	if err := try(f); err != nil {
		return hash, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return hash, err
	}
	if err := os.Rename(f.Name(), s.path(hash)); err != nil {
		return hash, err
	}
	return hash, syncDir(s.dir)
}

// checked is a fill for put: it copies a payload from r and checks its hash.
func checked(ctx context.Context, r io.Reader, want [32]byte) func(io.Writer) ([32]byte, error) {
	return func(w io.Writer) (got [32]byte, err error) {
		sum := sha256.New()
		if err := checkPayload(io.TeeReader(r, io.MultiWriter(ctxWriter{ctx, w}, sum))); err != nil {
			return got, err
		}
		if copy(got[:], sum.Sum(nil)); got != want {
			return got, &DamagedError{"the payload has another hash than the restore names"}
		}
		return got, nil
	}
}

// use notes that the log names this payload at a position.
func (s *staging) use(hash [32]byte, at Position) {
	s.mu.Lock()
	s.used[hash] = at
	s.mu.Unlock()
}

// stagedKept is how many payloads stay though this replica will not ask for
// them again: another that was away may still have to fetch them from here.
const stagedKept = 2

// prune removes all but the newest payloads, unless the log names them above
// this replica's snapshot, or at all: another may be sent that part of the log.
func (s *staging) prune(snapshot, first Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return // what is left costs room and nothing else
	}
	age := func(e os.DirEntry) int64 {
		if i, err := e.Info(); err == nil {
			return i.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(files, func(a, b os.DirEntry) int { return cmp.Compare(age(b), age(a)) })
	kept := 0
	for _, f := range files {
		var hash [32]byte
		if len(f.Name()) != 2*len(hash) {
			continue // being written
		}
		if _, err := hex.Decode(hash[:], []byte(f.Name())); err != nil {
			continue
		}
		if kept++; kept > stagedKept && s.used[hash] <= snapshot && s.used[hash] < first {
			_ = os.Remove(filepath.Join(s.dir, f.Name()))
			delete(s.used, hash)
		}
	}
}

func (s *staging) close() {
	if s.own {
		_ = os.RemoveAll(s.dir)
	}
}

// StageRestore reads and checks an archive, keeps its payload under its hash
// and reports what it holds. Nothing of the group changes.
func (g *Group) StageRestore(ctx context.Context, r io.Reader) (hash [32]byte, rep SnapshotReport, err error) {
	var meta backupMeta
	hash, err = g.staged.put(func(w io.Writer) (h [32]byte, err error) {
		meta, h, err = readArchive(r, ctxWriter{ctx, w})
		return h, err
	}, func(r io.Reader) error { return g.a.tryPayload(ctx, r) })
	return hash, meta.SnapshotReport, stagingError(err)
}

// StagePayload keeps a payload fetched from another node, checked against hash.
func (g *Group) StagePayload(ctx context.Context, hash [32]byte, r io.Reader) error {
	_, err := g.staged.put(checked(ctx, r, hash), func(r io.Reader) error { return g.a.tryPayload(ctx, r) })
	return stagingError(err)
}

// stagingError says that nothing of the group has changed.
func stagingError(err error) error {
	var d *DamagedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &d):
		return ErrInvalid.Because("%s; nothing was changed", d)
	case HappenedOf(err) == No:
		return err
	}
	return ErrInvalid.Because("stage the backup: %s; nothing was changed", err)
}

// OpenStaged opens a staged payload for another node to fetch.
func (g *Group) OpenStaged(hash [32]byte) (io.ReadCloser, error) {
	f, err := g.staged.open(hash)
	if err != nil {
		return nil, ErrInvalid.Because("payload %x is not here", hash[:4])
	}
	return f, nil
}

// trialWait is how long a trial waits for a machine that is still starting.
const trialWait = 10 * time.Second

// tryPayload restores a payload into a machine that is thrown away, so that
// what cannot be restored is refused before anything is agreed on. A durable
// machine's disk cannot be shared, so it is spared the trial.
func (a *applier) tryPayload(ctx context.Context, r io.Reader) error {
	wait, cancel := context.WithTimeout(ctx, trialWait)
	defer cancel()
	select { // what machine it is is not known before
	case <-a.loaded:
	case <-a.ctx.Done():
		return ErrStopped
	case <-wait.Done():
		return ErrMachineDown.Because("this replica's machine has not been running yet: whether it takes the backup cannot be tried")
	}
	opened := a.state.openedAs()
	p, err := openPayload(r)
	if err != nil {
		return err
	}
	defer p.Close()
	if opened.Name != p.info.machineName {
		return ErrInvalid.Because("the backup is of machine %q, the group's machine is %q", p.info.machineName, opened.Name)
	}
	if opened.Capabilities.Durable {
		return nil
	}
	m, err := a.newMachine(ctx)
	if err != nil {
		return fmt.Errorf("start a machine to try the backup on: %w", err)
	}
	defer m.Close()
	if _, err := m.Open(ctx); err != nil {
		return fmt.Errorf("open a machine to try the backup on: %w", err)
	}
	if err := restoreFrom(ctx, m, p, nil); err != nil {
		return ErrInvalid.Because("the machine does not take this backup: %v", err)
	}
	return nil
}

// openOrFetch opens a payload that the log names, from here or from another
// member.
func (a *applier) openOrFetch(hash [32]byte) (*os.File, error) {
	f, err := a.staged.openWhole(hash)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if a.cfg.FetchPayload == nil {
		return nil, errors.New("it is not staged here, and there is nobody to fetch it from")
	}
	s := a.engine.Status()
	from := []NodeID{s.Leader} // it had it when this was proposed
	for _, m := range s.Membership.Members {
		from = append(from, m.ID)
	}
	var errs []error
	for i, id := range from {
		if id == "" || id == a.cfg.Self || slices.Contains(from[:i], id) {
			continue
		}
		if err := a.fetch(id, hash); err != nil {
			errs = append(errs, fmt.Errorf("fetch from %s: %w", id, err))
			continue
		}
		return a.staged.open(hash)
	}
	return nil, errors.Join(append(errs, errors.New("it is not staged here, and nobody could be asked or has it"))...)
}

func (a *applier) fetch(from NodeID, hash [32]byte) error {
	r, err := a.cfg.FetchPayload(a.ctx, from, hash)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = a.staged.put(checked(a.ctx, r, hash), func(io.Reader) error { return nil })
	return err
}

// diskWriter keeps its first error: a full disk is no damage of what is read.
type diskWriter struct {
	w   io.Writer
	err error
}

func (d *diskWriter) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	d.err = cmp.Or(d.err, err)
	return n, err
}
