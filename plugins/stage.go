package plugins

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// A staged plugin is a checked copy that nobody else writes to.
type staged struct {
	path   string
	sha256 string
}

// stage copies s below dir. The copy's place follows from what it holds, so
// plugins with the same files share it.
func stage(s Spec, dir string) (staged, error) {
	fail := func(err error) (staged, error) {
		return staged{}, &Error{Plugin: s.ID(), Err: fmt.Errorf("copying it to run it: %w", err)}
	}
	fresh, err := os.MkdirTemp(dir, "new")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(fresh)
	sum, err := copyProgram(s, fresh)
	if err != nil {
		return staged{}, err
	}
	content := sha256.New()
	fmt.Fprintf(content, "%s\n", sum)
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		sum, err := copyCompanion(s, name, fresh)
		if err != nil {
			return staged{}, err
		}
		fmt.Fprintf(content, "%s %s\n", sum, name)
	}
	place := filepath.Join(dir, hex.EncodeToString(content.Sum(nil)))
	if err := moveInto(fresh, place, append(slices.Collect(maps.Keys(s.Files)), filepath.Base(s.Path))); err != nil {
		return fail(err)
	}
	return staged{path: filepath.Join(place, filepath.Base(s.Path)), sha256: sum}, nil
}

// moveInto replaces files one by one: a process that runs an older copy keeps
// it, and nobody ever sees half of one.
func moveInto(from, to string, names []string) error {
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyProgram checks s's program and copies it into dir; with an empty dir it
// only checks. It returns the hash of what it read.
func copyProgram(s Spec, dir string) (string, error) {
	open := openProgram
	if s.self {
		open = openSelf
	}
	return copyChecked(s, s.Path, s.SHA256, dir, filepath.Base(s.Path), 0o500, open)
}

func copyCompanion(s Spec, name, dir string) (string, error) {
	path := filepath.Join(filepath.Dir(s.Path), name)
	return copyChecked(s, path, s.Files[name], dir, name, 0o400, openPlain)
}

func copyChecked(s Spec, path, pin, dir, name string, mode fs.FileMode, open func(string) (*os.File, error)) (string, error) {
	in, err := open(path)
	if err != nil {
		return "", &Error{Plugin: s.ID(), Path: path, Err: reason(err)}
	}
	defer in.Close()
	hash := sha256.New()
	if err := copyHashed(in, hash, dir, name, mode); err != nil {
		return "", &Error{Plugin: s.ID(), Path: path, Err: err}
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if pin != "" && !strings.EqualFold(pin, sum) {
		return "", &Error{Plugin: s.ID(), Path: path, Err: fmt.Errorf(
			"wrong checksum: the file's SHA-256 is %s, the configuration says %s; it was not run", sum, strings.ToLower(pin))}
	}
	return sum, nil
}

// copyHashed reads in once, so that what is hashed is what is copied.
func copyHashed(in io.Reader, hash io.Writer, dir, name string, mode fs.FileMode) error {
	if dir == "" {
		_, err := io.Copy(hash, in)
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(hash, out), in)
	return errors.Join(err, out.Close())
}

// openProgram opens what may be run.
func openProgram(path string) (*os.File, error) {
	f, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o111 == 0 && runtime.GOOS != "windows" {
		err = fmt.Errorf("not executable (mode %s); chmod +x makes it so", info.Mode().Perm())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openPlain opens a regular file that, with its directory, is no symbolic link
// and not open to everybody's writing.
func openPlain(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := filepath.EvalSymlinks(path)
		return nil, fmt.Errorf("a symbolic link, which may come to point elsewhere; configure the file itself (%s)", target)
	case info.IsDir():
		return nil, errors.New("a directory; expected a program")
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file (%s)", info.Mode())
	case info.Mode().Perm()&0o002 != 0 && runtime.GOOS != "windows":
		return nil, fmt.Errorf("writable by everybody (mode %s); chmod o-w closes it", info.Mode().Perm())
	}
	if err := checkDirectory(filepath.Dir(path), info); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if opened, err := f.Stat(); err != nil || !os.SameFile(info, opened) {
		return nil, errors.Join(errors.New("replaced while it was being opened"), err, f.Close())
	}
	return f, nil
}

// checkDirectory looks at the directory that the file program lies in.
func checkDirectory(dir string, program fs.FileInfo) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := filepath.EvalSymlinks(dir)
		return fmt.Errorf("its directory %s is a symbolic link, which may come to point elsewhere; configure the real path (%s)", dir, target)
	case info.Mode().Perm()&0o002 == 0 || runtime.GOOS == "windows":
		return nil
	case info.Mode()&fs.ModeSticky != 0 && ownedByUs(program):
		// As in /tmp: only the owner can replace the file.
		return nil
	}
	return fmt.Errorf("its directory %s is writable by everybody (mode %s); chmod o-w closes it", dir, info.Mode().Perm())
}

// openSelf opens the image of this process.
func openSelf(path string) (*os.File, error) {
	if runtime.GOOS == "linux" {
		return os.Open("/proc/self/exe")
	}
	return os.Open(path)
}

// reason leaves out the path that an fs error repeats.
func reason(err error) error {
	var pe *fs.PathError
	if !errors.As(err, &pe) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; build the plugin or correct its path", pe.Err)
	}
	return fmt.Errorf("%s: %w", pe.Op, pe.Err)
}

// notRunnable says why the system refused to execute the copy of a program.
func notRunnable(err error, copied string) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("not a program that this machine can run: %s (%w)", kind(copied), syscall.ENOEXEC)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("its interpreter or loader is missing on this machine: %s (%w)", kind(copied), syscall.ENOENT)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("its copy %s may not be executed: is the run directory mounted noexec? (%w)", copied, err)
	}
	return fmt.Errorf("cannot be started: %w", err)
}

// kind describes the content of a file that is expected to be a program.
func kind(path string) string {
	if f, err := elf.Open(path); err == nil {
		defer f.Close()
		return fmt.Sprintf("it is built for %s, this is %s/%s", f.Machine, runtime.GOOS, runtime.GOARCH)
	}
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	head := make([]byte, 128)
	n, _ := io.ReadFull(f, head)
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	switch {
	case n == 0:
		return "it is empty"
	case strings.HasPrefix(line, "#!"):
		return fmt.Sprintf("it is a script that begins with %q", line)
	case !strings.ContainsRune(line, 0):
		return "it is a text file without a #! line"
	}
	return "its format is unknown here"
}
