package discovery

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// readBounded reads at most max bytes and says whether there were more.
func readBounded(r io.Reader, max int64) (text string, over bool, err error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if int64(len(b)) > max {
		return string(b[:max]), true, err
	}
	return string(b), false, err
}

// writeAtomically replaces a file so that, whenever the machine stops, either
// the old content or the new is there. It returns once the new is durable.
func writeAtomically(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // gone already when only the last sync failed
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
