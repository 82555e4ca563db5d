package framework

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
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
	err = g.a.captureNow(ctx, func(_ context.Context, pw *payloadWriter, at Position) error {
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
