package framework

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

	"github.com/diarchy/diarchy/fsm"
)

// A backup is a tar archive of three files: meta.json (backupMeta), payload.bin
// (see payload.go; the same on every engine) and SHA256SUMS over both. What it
// says of membership is information only.
type backupMeta struct {
	Format  int       `json:"format"`
	Group   string    `json:"group"`
	GroupID UUID      `json:"group_id"`
	Taken   time.Time `json:"taken"`
	Members []Member  `json:"members"`
	SnapshotReport
}

const (
	backupFormat = 1
	metaFile     = "meta.json"
	payloadFile  = "payload.bin"
	sumsFile     = "SHA256SUMS"
	metaBytesMax = 1 << 20
)

// Backup writes an archive of the state this replica has applied. On a leader
// that is at least everything committed before the call.
func (g *Group) Backup(ctx context.Context, w io.Writer) (rep SnapshotReport, err error) {
	if g.engine.Status().Role == RoleLeader {
		if err := g.awaitReadIndex(ctx); err != nil {
			return rep, err
		}
	}
	// tar needs the size first, so the payload is spooled.
	spool, err := g.staged.temp()
	if err != nil {
		return rep, fmt.Errorf("backup: %w", err)
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	sum := sha256.New()
	err = g.a.captureNow(ctx, func(pw *payloadWriter, at Position) error {
		defer pw.machine.Release()
		n, err := pw.WriteTo(io.MultiWriter(spool, sum))
		rep = g.a.report(&pw.info, at)
		rep.Bytes = n
		return err
	})
	if err != nil {
		return rep, err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return rep, fmt.Errorf("backup: %w", err)
	}
	return rep, g.writeArchive(w, rep, spool, sum.Sum(nil))
}

func (g *Group) writeArchive(w io.Writer, rep SnapshotReport, payload io.Reader, payloadSum []byte) error {
	meta, err := json.MarshalIndent(backupMeta{
		Format: backupFormat, Group: g.cfg.Identity.Name, GroupID: g.cfg.Identity.ID, Taken: g.cfg.Now().UTC(),
		Members: g.engine.Status().Membership.Members, SnapshotReport: rep,
	}, "", "  ")
	if err != nil {
		return err
	}
	metaSum := sha256.Sum256(meta)
	sums := fmt.Sprintf("%x  %s\n%x  %s\n", metaSum, metaFile, payloadSum, payloadFile)
	t := tar.NewWriter(w)
	put := func(name string, size int64, r io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		_, err := io.Copy(t, r)
		return err
	}
	if err := errors.Join(
		put(metaFile, int64(len(meta)), bytes.NewReader(meta)),
		put(payloadFile, rep.Bytes, payload),
		put(sumsFile, int64(len(sums)), strings.NewReader(sums)),
	); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return t.Close()
}

// InspectBackup reads an archive to its end, checks everything in it and says
// what it holds.
func InspectBackup(r io.Reader) (BackupInfo, error) {
	meta, _, err := readArchive(r, io.Discard)
	if err != nil {
		return BackupInfo{}, err
	}
	return BackupInfo{Group: meta.Group, GroupID: meta.GroupID, Taken: meta.Taken, Members: meta.Members,
		SnapshotReport: meta.SnapshotReport}, nil
}

// BackupInfo is what an archive says of itself.
type BackupInfo struct {
	Group   string    `json:"group"`
	GroupID UUID      `json:"group_id"`
	Taken   time.Time `json:"taken"`
	Members []Member  `json:"members"`
	SnapshotReport
}

// readArchive copies the payload to w while it checks it, and returns its hash.
func readArchive(r io.Reader, w io.Writer) (meta backupMeta, hash [32]byte, err error) {
	t := tar.NewReader(r)
	metaJSON, err := archiveFile(t, metaFile, metaBytesMax)
	if err != nil {
		return meta, hash, err
	}
	if err := json.Unmarshal(metaJSON, &meta); err != nil {
		return meta, hash, &DamagedError{fmt.Sprintf("%s of the backup (%v)", metaFile, err)}
	}
	if meta.Format != backupFormat {
		return meta, hash, ErrInvalid.Because("backup of format %d; this version reads format %d", meta.Format, backupFormat)
	}
	if h, err := t.Next(); err != nil || h.Name != payloadFile {
		return meta, hash, &DamagedError{"the backup has no " + payloadFile + " where it should"}
	}
	sum := sha256.New()
	if err := checkPayload(io.TeeReader(t, io.MultiWriter(w, sum))); err != nil {
		return meta, hash, err
	}
	copy(hash[:], sum.Sum(nil))
	sums, err := archiveFile(t, sumsFile, metaBytesMax)
	if err != nil {
		return meta, hash, err
	}
	if want := fmt.Sprintf("%x  %s\n%x  %s\n", sha256.Sum256(metaJSON), metaFile, hash, payloadFile); want != string(sums) {
		return meta, hash, &DamagedError{"the backup's checksums do not match"}
	}
	return meta, hash, nil
}

// checkPayload reads a payload to its end.
func checkPayload(r io.Reader) error {
	p, err := openPayload(r)
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := io.Copy(io.Discard, p); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, p.chunks.r); err != nil {
		return readFault(err)
	} else if n > 0 {
		return &DamagedError{"bytes after the end of the snapshot"}
	}
	return nil
}

func archiveFile(t *tar.Reader, name string, most int64) ([]byte, error) {
	h, err := t.Next()
	if err != nil {
		return nil, &DamagedError{fmt.Sprintf("not a backup, or cut short before its %s (%v)", name, err)}
	}
	if h.Name != name || h.Size > most {
		return nil, &DamagedError{fmt.Sprintf("not a backup: %q where %s was expected", h.Name, name)}
	}
	b, err := io.ReadAll(t)
	if err != nil {
		return nil, &DamagedError{fmt.Sprintf("the backup is cut short in its %s (%v)", name, err)}
	}
	return b, nil
}

// staging keeps payloads that a restore has named or will name, by their hash.
type staging struct {
	dir  string
	mu   sync.Mutex
	used map[[32]byte]Position // the restore entry that named it
	own  bool                  // dir is temporary and ours
}

func newStaging(groupDir string) (*staging, error) {
	s := &staging{used: map[[32]byte]Position{}}
	var err error
	if groupDir == "" {
		s.own = true
		s.dir, err = os.MkdirTemp("", "diarchy-staged-")
	} else {
		s.dir = filepath.Join(groupDir, "staged")
		err = os.MkdirAll(s.dir, 0o700)
	}
	if left, e := filepath.Glob(filepath.Join(s.dir, "tmp-*")); e == nil {
		for _, f := range left {
			_ = os.Remove(f) // cut short by the end of the last run
		}
	}
	return s, err
}

func (s *staging) path(hash [32]byte) string {
	return filepath.Join(s.dir, hex.EncodeToString(hash[:]))
}

func (s *staging) temp() (*os.File, error) { return os.CreateTemp(s.dir, "tmp-") }

func (s *staging) open(hash [32]byte) (*os.File, error) { return os.Open(s.path(hash)) }

// put stores what fill writes, durably, under the hash that fill returns.
func (s *staging) put(fill func(io.Writer) ([32]byte, error)) (hash [32]byte, err error) {
	f, err := s.temp()
	if err != nil {
		return hash, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if hash, err = fill(f); err != nil {
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

// use notes that the log names this payload at a position.
func (s *staging) use(hash [32]byte, at Position) {
	s.mu.Lock()
	s.used[hash] = at
	s.mu.Unlock()
}

// stagedKept is how many payloads stay though this replica has a snapshot above
// them: another that was away may still have to fetch them from here.
const stagedKept = 2

// prune removes what no replica will ask for again: all but the newest, unless
// the log above this replica's snapshot names it.
func (s *staging) prune(snapshot Position) {
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
		if kept++; kept > stagedKept && s.used[hash] <= snapshot {
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
	})
	if err == nil {
		err = g.a.tryPayload(ctx, hash)
	}
	return hash, meta.SnapshotReport, stagingError(err)
}

// StagePayload keeps a payload fetched from another node, checked against hash.
func (g *Group) StagePayload(ctx context.Context, hash [32]byte, r io.Reader) error {
	_, err := g.staged.put(func(w io.Writer) (got [32]byte, err error) {
		sum := sha256.New()
		if err := checkPayload(io.TeeReader(r, io.MultiWriter(ctxWriter{ctx, w}, sum))); err != nil {
			return got, err
		}
		copy(got[:], sum.Sum(nil))
		if got != hash {
			return got, &DamagedError{"the payload has another hash than the restore names"}
		}
		return got, nil
	})
	if err == nil {
		err = g.a.tryPayload(ctx, hash)
	}
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

// CommitRestore, on the leader, makes the staged payload the group's state by a
// control entry and waits until this replica has it. Every other replica should
// have staged it before; a late one fetches it then.
func (g *Group) CommitRestore(ctx context.Context, hash [32]byte) error {
	f, err := g.OpenStaged(hash)
	if err != nil {
		return err
	}
	_ = f.Close()
	body := append([]byte{byte(controlRestore)}, hash[:]...)
	var history UUID
	_, _ = rand.Read(history[:]) // never fails
	_, err = g.control(ctx, append(body, history[:]...))
	return err
}

// tryPayload restores a staged payload into a machine that is thrown away, so
// that what cannot be restored is refused before anything is agreed on. A
// durable machine's disk cannot be shared, so it is spared the trial.
func (a *applier) tryPayload(ctx context.Context, hash [32]byte) error {
	f, err := a.staged.open(hash)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := openPayload(f)
	if err != nil {
		return err
	}
	defer p.Close()
	opened := a.state.openedAs()
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
	info := fsm.SnapshotInfo{Index: p.info.number, Time: p.info.time, Name: p.info.machineName, Version: p.info.machineVersion, Size: -1}
	if err := m.Restore(ctx, info, p); err != nil {
		return ErrInvalid.Because("the machine does not take this backup: %v", err)
	}
	return nil
}

func (s *machineState) openedAs() fsm.Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// restore acts on a committed restore: the payload's state becomes the group's,
// all sessions end, numbers go on above both, a new history begins. A replica
// that has not staged the payload fetches it now. An error means that nothing
// was done yet: the machine is made anew and the entry is met again.
func (a *applier) restore(hash [32]byte, history UUID, at Position) error {
	f, err := a.staged.open(hash)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = a.fetchStaged(hash)
	}
	if err != nil {
		return fmt.Errorf("restore of payload %x: %w", hash[:4], err)
	}
	defer f.Close()
	a.staged.use(hash, at)
	p, err := openPayload(f)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := a.sameMachine(&p.info); err != nil {
		return err
	}
	a.closeMachine()
	m, err := a.newMachine(a.ctx)
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	a.machine = m
	if a.opened, err = m.Open(a.ctx); err != nil {
		return fmt.Errorf("open machine: %w", err)
	}
	a.st = replicated{
		number: max(a.st.number, p.info.number), time: max(a.st.time, p.info.time),
		history: history, sessions: newSessionTable(a.limits),
	}
	if err := a.restoreMachine(m, p, at); err != nil {
		return err
	}
	a.hostAt = 0
	a.tail.forget()
	a.state.serve(m)
	a.sinceSnap.entries = a.cfg.Snapshots.Entries // soon, so that the payload can go
	if a.opened.Capabilities.Ticks {
		a.due.Store(1)
	}
	a.log.Info("backup restored", "number", a.st.number, "history", a.history())
	return nil
}

func (a *applier) fetchStaged(hash [32]byte) (*os.File, error) {
	from := a.engine.Status().Leader
	if a.cfg.FetchPayload == nil || from == "" || from == a.cfg.Self {
		return nil, errors.New("it is not staged here and there is nobody to fetch it from now")
	}
	r, err := a.cfg.FetchPayload(a.ctx, from, hash)
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", from, err)
	}
	defer r.Close()
	_, err = a.staged.put(func(w io.Writer) (got [32]byte, err error) {
		sum := sha256.New()
		if err := checkPayload(io.TeeReader(r, io.MultiWriter(w, sum))); err != nil {
			return got, err
		}
		if copy(got[:], sum.Sum(nil)); got != hash {
			return got, &DamagedError{"the payload fetched has another hash"}
		}
		return got, nil
	})
	if err != nil {
		return nil, err
	}
	return a.staged.open(hash)
}
