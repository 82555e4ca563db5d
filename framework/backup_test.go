package framework

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackupRestoresStateAndEndsHistoryAndSessions(t *testing.T) {
	r := newRig(t, nil)
	id := SessionID{4}
	if err := r.g.OpenSession(context.Background(), id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	r.mustAdd(10, Session{ID: id, Seq: 1})
	var archive bytes.Buffer
	rep, err := r.g.Backup(context.Background(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	info, err := InspectBackup(bytes.NewReader(archive.Bytes()))
	if err != nil || info.Number != rep.Number || info.MachineName != "sum" || info.Group != "g" {
		t.Fatalf("%+v %v", info, err)
	}
	before := r.mustAdd(32, Session{ID: id, Seq: 2})
	hash, _, err := r.g.StageRestore(context.Background(), bytes.NewReader(archive.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.sum(); got != 42 {
		t.Fatalf("staging changed the group: %d", got)
	}
	if err := r.g.CommitRestore(context.Background(), hash); err != nil {
		t.Fatal(err)
	}
	if got := r.sum(); got != 10 {
		t.Fatal(got)
	}
	if _, err := r.g.Query(context.Background(), ReadQuery{After: before.Token}); !errors.Is(err, ErrOtherHistory) {
		t.Fatal(err)
	}
	if _, err := r.add(1, Session{ID: id, Seq: 3}); !errors.Is(err, ErrSessionExpired) {
		t.Fatal(err)
	}
	if rec := r.mustAdd(1, Session{}); rec.Token.Number != 3 {
		t.Fatalf("numbers go on above both: %+v", rec)
	}
	r.close()
	r.open()
	if got := r.sum(); got != 11 {
		t.Fatalf("after a restart: %d", got)
	}
}

func TestADamagedBackupIsRefusedAndChangesNothing(t *testing.T) {
	r := newRig(t, nil)
	r.mustAdd(10, Session{})
	var archive bytes.Buffer
	rep, err := r.g.Backup(context.Background(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	whole := archive.Bytes()
	try := func(what string, b []byte) {
		t.Helper()
		_, _, err := r.g.StageRestore(context.Background(), bytes.NewReader(b))
		if !errors.Is(err, ErrInvalid) || HappenedOf(err) != No {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, n := range []int{0, 10, 600, 1100, len(whole) / 2, len(whole) - 1600} {
		try(fmt.Sprintf("cut to %d of %d bytes", n, len(whole)), whole[:n])
	}
	at := bytes.Index(whole, []byte(payloadMagic))
	for i := at; i < at+int(rep.Bytes); i += 7 {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		try(fmt.Sprintf("byte %d flipped", i), b)
	}
	r.shared.dirty = errors.New("written by a newer version")
	try("a machine that does not take it", whole)
	if got := r.sum(); got != 10 {
		t.Fatal(got)
	}
}

func TestEveryFlippedByteOfAPayloadIsFound(t *testing.T) {
	r := newRig(t, nil)
	for range 10 {
		r.mustAdd(1, Session{})
	}
	if _, err := r.g.Snapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	whole := r.engine.snap
	if err := checkPayload(bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if checkPayload(bytes.NewReader(b)) == nil {
			t.Errorf("byte %d of %d flipped, not found", i, len(whole))
		}
		if checkPayload(bytes.NewReader(whole[:i])) == nil {
			t.Errorf("cut to %d of %d, not found", i, len(whole))
		}
	}
}

// staged are the payloads that a replica keeps.
func (r *rig) staged() (names []string) {
	files, err := os.ReadDir(filepath.Join(r.cfg.Dir, "staged"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// What the machine does not take must not be there to be agreed on: every
// replica would lose its machine over it, for ever.
func TestABackupThatTheMachineRefusesCannotBeCommitted(t *testing.T) {
	archive := archiveOf(t, 3)
	for what, set := range map[string]func(*sumShared){
		"refused":       func(s *sumShared) { s.dirty = errors.New("written by a newer version") },
		"not read over": func(s *sumShared) { s.unread = true },
	} {
		r := newRig(t, nil)
		r.mustAdd(1, Session{})
		r.shared.mu.Lock()
		set(r.shared)
		r.shared.mu.Unlock()
		ctx, cancel := soon()
		defer cancel()
		hash, _, err := r.g.StageRestore(ctx, bytes.NewReader(archive))
		if !errors.Is(err, ErrInvalid) || HappenedOf(err) != No {
			t.Fatalf("%s: %v", what, err)
		}
		if left := r.staged(); len(left) > 0 {
			t.Errorf("%s: %v is left", what, left)
		}
		if err := r.g.CommitRestore(ctx, hash); !errors.Is(err, ErrInvalid) || HappenedOf(err) != No {
			t.Fatalf("%s: %v", what, err)
		}
		if got := r.sum(); got != 1 {
			t.Fatalf("%s: %d", what, got)
		}
	}
}

// committed has another replica's restore in the log.
func (r *rig) committed(hash [32]byte, history UUID) {
	h := header{origin: 1, time: 1}
	body := append(append([]byte{byte(controlRestore)}, hash[:]...), history[:]...)
	r.engine.append(Entry{Kind: KindControl, Data: appendEntry(nil, &h, body)})
}

// source is another replica that has the archive's payload staged.
func source(t *testing.T, archive []byte) (*Group, [32]byte) {
	o := newRig(t, nil)
	return o.g, o.stagedFrom(archive)
}

// A replica fetches what it has not staged from whoever has it: the leader may
// have lost it, or be this very replica.
func TestALatePayloadIsFetchedFromAnyMemberThatHasIt(t *testing.T) {
	for _, leads := range []bool{true, false} {
		from, hash := source(t, archiveOf(t, 3))
		var asked []NodeID
		r := newRig(t, func(r *rig) {
			r.engine.members = []Member{{ID: "b"}, {ID: "c"}, {ID: "other"}}
			r.engine.notLead = !leads
			r.cfg.FetchPayload = func(_ context.Context, id NodeID, hash [32]byte) (io.ReadCloser, error) {
				asked = append(asked, id)
				if id != "c" {
					return nil, ErrInvalid.Because("payload is not here")
				}
				return from.OpenStaged(hash)
			}
		})
		r.committed(hash, UUID{9})
		r.until("restored", func() bool { return r.g.Status().History == UUID{9} })
		if made, _ := r.shared.machines(); made != 2 {
			t.Errorf("%d machines: it should not be lost over it", made)
		}
		if !leads && asked[0] != "other" {
			t.Errorf("asked %v, and not the leader first", asked)
		}
	}
}

// A staged payload that has gone bad is fetched again.
func TestADamagedStagedPayloadIsFetchedAgain(t *testing.T) {
	archive := archiveOf(t, 3)
	from, hash := source(t, archive)
	r := newRig(t, func(r *rig) {
		r.engine.members = []Member{{ID: "b"}}
		r.cfg.FetchPayload = func(_ context.Context, _ NodeID, hash [32]byte) (io.ReadCloser, error) {
			return from.OpenStaged(hash)
		}
	})
	r.mustAdd(1, Session{})
	r.stagedFrom(archive)
	path := filepath.Join(r.cfg.Dir, "staged", r.staged()[0])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-3] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r.committed(hash, UUID{9})
	r.until("restored", func() bool { s := r.g.Status(); return s.History == UUID{9} && s.Machine.State == "running" })
	if got := r.sum(); got != 3 {
		t.Error(got)
	}
}

// Without the payload nothing is done: the replica keeps its log and goes on as
// soon as somebody has it.
func TestARestoreWaitsForItsPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, hash := source(t, archiveOf(t, 3))
		var missing atomic.Bool
		missing.Store(true)
		r := newRig(t, func(r *rig) {
			r.cfg.Dir = ""
			r.engine.members = []Member{{ID: "b"}}
			r.cfg.FetchPayload = func(_ context.Context, _ NodeID, hash [32]byte) (io.ReadCloser, error) {
				if missing.Load() {
					return nil, ErrInvalid.Because("payload is not here")
				}
				return from.OpenStaged(hash)
			}
		})
		r.mustAdd(1, Session{})
		before := r.g.Status().History
		r.committed(hash, UUID{9})
		time.Sleep(time.Minute)
		if s := r.g.Status(); s.History != before || s.Machine.State == "running" {
			t.Errorf("%+v", s)
		}
		missing.Store(false)
		time.Sleep(time.Minute)
		if got := r.sum(); got != 3 {
			t.Error(got)
		}
	})
}

// Payloads that the log may still ask for stay, whatever snapshots there are;
// once it cannot, the newest two do.
func TestStagedPayloadsGoWhenTheLogDoesNotNameThemAnyMore(t *testing.T) {
	r := newRig(t, nil)
	ctx, cancel := soon()
	defer cancel()
	r.engine.mu.Lock()
	r.engine.keepLog = true
	r.engine.mu.Unlock()
	for i := range 5 {
		r.mustAdd(1, Session{})
		if err := r.g.CommitRestore(ctx, r.stagedFrom(archiveOf(t, i+1))); err != nil {
			t.Fatal(err)
		}
		if _, err := r.g.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if left := r.staged(); len(left) != 5 {
		t.Errorf("%d payloads left while the log names 5", len(left))
	}
	r.engine.mu.Lock()
	r.engine.keepLog = false
	r.engine.mu.Unlock()
	for range 2 {
		r.mustAdd(1, Session{})
		if _, err := r.g.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if left := r.staged(); len(left) != stagedKept {
		t.Errorf("%d payloads left", len(left))
	}
}

// A restore that this replica has acted on, met again after its machine was
// lost: the state and the numbers are the same as before.
func TestARestoreIsReplayedAlike(t *testing.T) {
	archive := archiveOf(t, 10)
	r := newRig(t, nil)
	ctx, cancel := soon()
	defer cancel()
	for range 3 {
		r.mustAdd(1, Session{})
	}
	if err := r.g.CommitRestore(ctx, r.stagedFrom(archive)); err != nil {
		t.Fatal(err)
	}
	before := r.mustAdd(5, Session{})
	if value(before) != 15 || before.Token.Number != 11 {
		t.Fatalf("%+v", before)
	}
	r.shared.mu.Lock()
	r.shared.dieAt[12] = 2
	r.shared.mu.Unlock()
	after := r.mustAdd(5, Session{})
	if value(after) != 20 || after.Token.Number != 12 || after.Token.History != before.Token.History {
		t.Errorf("%+v", after)
	}
}

func TestABackupMeetsNoMachine(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.dirty = errors.New("no") })
	r.engine.install(100, otherReplica(t, 3)) // which cannot be restored
	r.until("down", func() bool { return r.g.Status().Machine.State == "down" })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	var b bytes.Buffer
	_, err := r.g.Backup(ctx, &b)
	if !errors.Is(err, ErrMachineDown) || b.Len() > 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
}
