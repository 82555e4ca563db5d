package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
)

// Sources are where a configuration comes from, each overriding the one before.
type Sources struct {
	// Paths are files, or directories whose *.hcl and *.json files are read in
	// lexical order.
	Paths []string
	// Environ holds NAME=value pairs; Known are names beginning with DIARCHY_
	// that mean something else.
	Environ, Known []string
	// Flags are by name, without dashes.
	Flags map[string]string
}

// fileBytesMax bounds one configuration file, and nestingMax its brackets: the
// parsers recurse, at several kilobytes of stack for each.
const (
	fileBytesMax = 128 << 10
	nestingMax   = 100
)

// Load reads and merges all sources. The problems are those of reading alone;
// Check finds the rest. The configuration is usable only without errors.
func Load(src Sources) (*Config, Problems) {
	c := New()
	var ps Problems
	for _, path := range expand(src.Paths, &ps) {
		text, err := readFile(path)
		if err != nil {
			ps.add(Place{File: path}, "cannot be read: %s", reason(err))
			continue
		}
		c.merge(path, text, &ps)
	}
	c.environment(src, &ps)
	c.flags(src.Flags, &ps)
	return c, ps.sorted()
}

// Parse reads one file's text, as Load does.
func Parse(name string, text []byte) (*Config, Problems) {
	c := New()
	var ps Problems
	c.merge(name, text, &ps)
	return c, ps.sorted()
}

// expand lists the files that paths stand for.
func expand(paths []string, ps *Problems) []string {
	var out []string
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			ps.add(Place{File: path}, "cannot be read: %s; expected an HCL or JSON file, or a directory of them", reason(err))
		case info.IsDir():
			out = append(out, directory(path, ps)...)
		default:
			out = append(out, path)
		}
	}
	return out
}

func directory(path string, ps *Problems) []string {
	entries, err := os.ReadDir(path)
	if err != nil {
		ps.add(Place{File: path}, "cannot be read: %s", reason(err))
		return nil
	}
	var out []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".hcl" || ext == ".json") {
			out = append(out, filepath.Join(path, e.Name()))
		}
	}
	if len(out) == 0 {
		ps.add(Place{File: path}, "holds no *.hcl or *.json file")
	}
	slices.Sort(out)
	return out
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > fileBytesMax {
		return nil, fmt.Errorf("%d bytes is over the limit of %d", info.Size(), fileBytesMax)
	}
	return os.ReadFile(path)
}

// reason is an error without the path that the message names anyway.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// merge lays one file over what is there.
func (c *Config) merge(name string, text []byte, ps *Problems) {
	if line, deep := tooDeep(text); deep {
		ps.add(Place{File: name, Line: line}, "brackets are nested more than %d deep", nestingMax)
		return
	}
	var file *hcl.File
	var diags hcl.Diagnostics
	if filepath.Ext(name) == ".json" {
		file, diags = json.Parse(text, name)
	} else {
		file, diags = hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	}
	ps.addDiags(diags, "")
	if diags.HasErrors() {
		return
	}
	blocks := decode(file.Body, "", nodeSettings, c, c.where, ps, "plugin", "group")
	for _, b := range blocks {
		switch b.Type {
		case "plugin":
			c.addPlugin(b, ps)
		case "group":
			c.addGroup(b, ps)
		}
	}
}

// tooDeep finds where more than nestingMax brackets are open. It counts those in
// texts and comments too, where nobody leaves that many open.
func tooDeep(text []byte) (line int, deep bool) {
	line = 1
	open := 0
	for _, b := range text {
		switch b {
		case '\n':
			line++
		case '[', '{', '(':
			if open++; open > nestingMax {
				return line, true
			}
		case ']', '}', ')':
			open = max(0, open-1)
		}
	}
	return 0, false
}

func (c *Config) addPlugin(b *hcl.Block, ps *Problems) {
	p := Plugin{Name: b.Labels[0], at: placeOf(b.DefRange), where: map[string]Place{}}
	decode(b.Body, "", pluginSettings, &p, p.where, ps)
	if old, ok := c.Plugin(p.Name); ok {
		ps.add(p.at, "plugin %q is there already, at %s: give each a name of its own", p.Name, old.at)
		return
	}
	c.Plugins = append(c.Plugins, p)
}

func (c *Config) addGroup(b *hcl.Block, ps *Problems) {
	g := Group{Name: b.Labels[0], Replicas: 3, Durability: "disk", at: placeOf(b.DefRange), where: map[string]Place{}}
	decode(b.Body, "", groupSettings, &g, g.where, ps)
	if old, ok := c.Group(g.Name); ok {
		ps.add(g.at, "group %q is there already, at %s: give each a name of its own", g.Name, old.at)
		return
	}
	c.Groups = append(c.Groups, g)
}

// decode sets what the body holds of the settings under prefix, and of the
// unlabelled blocks that their paths name. It returns the labelled blocks.
func decode[T any](body hcl.Body, prefix string, all []setting[T], to *T, where map[string]Place, ps *Problems, labelled ...string) hcl.Blocks {
	schema, expected := schemaOf(prefix, all, labelled)
	content, diags := body.Content(schema)
	ps.addDiags(diags, expected)
	for _, s := range all {
		attr, ok := content.Attributes[strings.TrimPrefix(s.path, prefix)]
		if !ok || !strings.HasPrefix(s.path, prefix) {
			continue
		}
		where[s.path] = placeOf(attr.Expr.Range())
		v, diags := attr.Expr.Value(nil)
		ps.addDiags(diags, "")
		if diags.HasErrors() {
			continue
		}
		if err := setValue(s.into(to), v); err != nil {
			ps.add(where[s.path], "%s %s", s.path, err)
		}
	}
	var out hcl.Blocks
	seen := map[string]hcl.Range{}
	for _, b := range content.Blocks {
		if slices.Contains(labelled, b.Type) {
			out = append(out, b)
			continue
		}
		if first, twice := seen[b.Type]; twice {
			ps.add(placeOf(b.DefRange), "block %s is there already, at %s: merge the two", b.Type, placeOf(first))
			continue
		}
		seen[b.Type] = b.DefRange
		decode(b.Body, prefix+b.Type+".", all, to, where, ps)
	}
	return out
}

// schemaOf lists what may stand directly under prefix, also in words.
func schemaOf[T any](prefix string, all []setting[T], labelled []string) (*hcl.BodySchema, string) {
	schema := &hcl.BodySchema{}
	var words []string
	for _, s := range all {
		rest, ok := strings.CutPrefix(s.path, prefix)
		if !ok {
			continue
		}
		block, _, inBlock := strings.Cut(rest, ".")
		switch word := block + " {…}"; {
		case !inBlock:
			schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: rest})
			words = append(words, rest)
		case !slices.Contains(words, word):
			schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: block})
			words = append(words, word)
		}
	}
	for _, l := range labelled {
		schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: l, LabelNames: []string{"name"}})
		words = append(words, l+` "NAME" {…}`)
	}
	return schema, strings.Join(words, ", ")
}

// environment lays DIARCHY_ variables over what is there.
func (c *Config) environment(src Sources, ps *Problems) {
	values := map[string]string{}
	for _, pair := range src.Environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "DIARCHY_") && !slices.Contains(src.Known, name) {
			values[name] = value
		}
	}
	for _, s := range nodeSettings {
		name := variableName(s.path)
		if value, ok := values[name]; ok {
			c.override(s, value, Place{File: "environment", Name: name}, ps)
			delete(values, name)
		}
	}
	for name := range values {
		ps.warn(Place{File: "environment", Name: name}, "no setting has this name; it is ignored")
	}
}

func (c *Config) flags(flags map[string]string, ps *Problems) {
	for _, s := range nodeSettings {
		if value, ok := flags[flagName(s.path)]; ok {
			c.override(s, value, Place{File: "flag", Name: "--" + flagName(s.path)}, ps)
		}
	}
}

func (c *Config) override(s setting[Config], value string, at Place, ps *Problems) {
	c.where[s.path] = at
	if err := setText(s.into(c), value); err != nil {
		ps.add(at, "%s", err)
	}
}
