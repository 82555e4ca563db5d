package plugins

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A Spec says how one plugin is run.
type Spec struct {
	// Name is what groups call it; Version, which may be empty, tells several
	// plugins of one name apart. Both: letters, digits, '.', '_', '-'.
	Name, Version string

	// Path is the program. Neither it nor its directory may be a symbolic link
	// or writable by everybody.
	Path string
	// SHA256 is the hash, in hex, that the program must have.
	SHA256 string
	// AllowUnpinned lets SHA256 (and those of Files) be empty: whatever lies at
	// Path is run.
	AllowUnpinned bool
	// Files are what an interpreted plugin reads beside the program: paths
	// relative to its directory, with the hash of each. They are copied along.
	Files map[string]string

	// Args follow the program's name. Env ("KEY=value") is all of the
	// environment but for what the protocol needs.
	Args, Env []string

	// self is set by Self: the program is the one that runs now.
	self bool
}

// Self is the running program, started again with args as a plugin: it must
// call sdk.Serve when it sees them. What runs is the image of this process,
// also when the file that it came from has been replaced.
func Self(name string, args ...string) (Spec, error) {
	path, err := os.Executable()
	if err != nil {
		return Spec{}, fmt.Errorf("plugin %s: the path of the running program: %w", name, err)
	}
	return Spec{Name: name, Path: path, Args: args, AllowUnpinned: true, self: true}, nil
}

// ID is "NAME" or "NAME@VERSION".
func (s Spec) ID() string {
	if s.Version == "" {
		return s.Name
	}
	return s.Name + "@" + s.Version
}

// An Error is why a plugin cannot be run, in one line. No command was given to
// it.
type Error struct {
	// Plugin is the Spec's ID.
	Plugin string
	// Path is the program, when the trouble is with a file.
	Path string
	Err  error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("plugin %s: %v", e.Plugin, e.Err)
	}
	return fmt.Sprintf("plugin %s: %s: %v", e.Plugin, e.Path, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

var label = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// check finds what is wrong with a Spec by itself.
func (s Spec) check() error {
	fail := func(format string, args ...any) error {
		return &Error{Plugin: s.ID(), Err: fmt.Errorf(format, args...)}
	}
	switch {
	case !label.MatchString(s.Name):
		return fail("name %q: expected 1 to 64 letters, digits, '.', '_' or '-'", s.Name)
	case s.Version != "" && !label.MatchString(s.Version):
		return fail("version %q: expected at most 64 letters, digits, '.', '_' or '-'", s.Version)
	case s.Path == "":
		return fail("no path is given")
	}
	if err := s.checkPin("sha256", s.SHA256); err != nil {
		return err
	}
	for name, sum := range s.Files {
		if !filepath.IsLocal(name) || strings.ContainsAny(name, "\n\x00") {
			return fail("file %q: expected a path below the program's directory", name)
		}
		if err := s.checkPin("file "+name, sum); err != nil {
			return err
		}
	}
	for _, v := range s.Env {
		if k, _, ok := strings.Cut(v, "="); !ok || k == "" {
			return fail("environment %q: expected KEY=value", v)
		}
	}
	return nil
}

func (s Spec) checkPin(what, sum string) error {
	if sum == "" {
		if s.AllowUnpinned {
			return nil
		}
		return &Error{Plugin: s.ID(), Err: fmt.Errorf("%s: no SHA-256 is given; pin the program with the output of sha256sum", what)}
	}
	if b, err := hex.DecodeString(sum); err != nil || len(b) != 32 {
		return &Error{Plugin: s.ID(), Err: fmt.Errorf("%s: %q is not a SHA-256: expected 64 hexadecimal digits", what, sum)}
	}
	return nil
}

// Verify checks a plugin's files as a start would, runs nothing, and returns
// the program's SHA-256 in hex.
func Verify(s Spec) (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	sum, err := copyProgram(s, "")
	return sum, err
}

// index finds specs by ID, and by name where that is enough.
type index struct {
	specs []Spec
	byID  map[string]*Spec
}

func newIndex(specs []Spec) (index, error) {
	x := index{specs: specs, byID: map[string]*Spec{}}
	var errs []error
	for i := range specs {
		s := &specs[i]
		errs = append(errs, s.check())
		if x.byID[s.ID()] != nil {
			errs = append(errs, &Error{Plugin: s.ID(), Err: errors.New("configured twice")})
		}
		x.byID[s.ID()] = s
	}
	return x, errors.Join(errs...)
}

func (x index) find(name string) (Spec, error) {
	if s := x.byID[name]; s != nil {
		return *s, nil
	}
	var ids, all []string
	for _, s := range x.specs {
		if s.Name == name {
			ids = append(ids, s.ID())
		}
		all = append(all, s.ID())
	}
	switch {
	case len(ids) == 1:
		return *x.byID[ids[0]], nil
	case len(ids) > 1:
		return Spec{}, &Error{Plugin: name, Err: fmt.Errorf("several versions are configured, name one of: %s", strings.Join(ids, ", "))}
	case len(all) == 0:
		return Spec{}, &Error{Plugin: name, Err: errors.New("not configured on this node, and no other plugin is")}
	}
	return Spec{}, &Error{Plugin: name, Err: fmt.Errorf("not configured on this node; configured are: %s", strings.Join(all, ", "))}
}
