package framework

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// noise is a machine's snapshot that does not compress.
type noise int64

func (n noise) WriteTo(w io.Writer) (int64, error) {
	return io.CopyN(w, rand.NewChaCha8([32]byte{1}), int64(n))
}

func (noise) Release() {}

// foreignArchive is a sound backup of a machine of that name.
func foreignArchive(t *testing.T, g *Group, machine string, size int64) []byte {
	t.Helper()
	var payload, archive bytes.Buffer
	w := payloadWriter{ctx: t.Context(), machine: noise(size), info: payloadInfo{number: 1, machineName: machine, sessions: nil}}
	n, err := w.WriteTo(&payload)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(payload.Bytes())
	if err := g.writeArchive(&archive, SnapshotReport{Bytes: n}, &payload, sum[:]); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestABackupOfSomethingElseIsRefusedByName(t *testing.T) {
	r := newRig(t, nil)
	r.mustAdd(10, Session{})
	sound := foreignArchive(t, r.g, "sum", 100)
	for want, archive := range map[string][]byte{
		`the backup is of machine "ledger", the group's machine is "sum"`: foreignArchive(t, r.g, "ledger", 100),
		"backup of format 9; this version reads format 1":                 bytes.Replace(sound, []byte(`"format": 1`), []byte(`"format": 9`), 1),
		"snapshot of format 9; this version reads format 1":               bytes.Replace(sound, []byte(payloadMagic+"\x01"), []byte(payloadMagic+"\x09"), 1),
		"not a backup": []byte(strings.Repeat("PK\x03\x04", 1000)),
	} {
		_, _, err := r.g.StageRestore(context.Background(), bytes.NewReader(archive))
		if !errors.Is(err, ErrInvalid) || HappenedOf(err) != No || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q: %v", want, err)
		}
	}
	if got := r.sum(); got != 10 {
		t.Fatal(got)
	}
}

// smallDisk runs the calling test again in a process that sees 256 KiB of disk
// at the path returned, which is empty in the process that asked for it.
func smallDisk(t *testing.T) string {
	t.Helper()
	const name = "DIARCHY_TEST_SMALL_DISK"
	if dir := os.Getenv(name); dir != "" {
		return dir
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mount := func(then string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "unshare", "-rm", "sh", "-c", `mount -t tmpfs -o size=256k x "$1" && exec `+then, "sh", dir, self, "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	}
	if out, err := mount("true").CombinedOutput(); err != nil {
		t.Skipf("no file system of our own can be mounted here: %v %s", err, out)
	}
	cmd := mount(`"$2" "$3" "$4"`)
	cmd.Env = append(os.Environ(), name+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return ""
}

func TestABackupLargerThanTheDiskLeft(t *testing.T) {
	dir := smallDisk(t)
	if dir == "" {
		return
	}
	r := newRig(t, func(r *rig) { r.cfg.Dir = dir })
	r.mustAdd(10, Session{})
	_, _, err := r.g.StageRestore(context.Background(), bytes.NewReader(foreignArchive(t, r.g, "sum", 1<<20)))
	if HappenedOf(err) != No || err == nil || !strings.Contains(err.Error(), "no space left on device; nothing was changed") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "staged")); err != nil || len(left) > 0 {
		t.Errorf("what was begun takes room: %v, %v", left, err)
	}
	r.mustAdd(1, Session{})
	if got := r.sum(); got != 11 {
		t.Fatal(got)
	}
}
