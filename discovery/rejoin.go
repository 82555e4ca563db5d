package discovery

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// rejoinFile keeps the gossip addresses of known members, so that a node finds
// the others at its next start even when its join addresses are gone. It is
// only ever a hint: damaged or absent it is ignored.
type rejoinFile struct {
	path  string
	saved string
}

const (
	rejoinName = "gossip-peers"
	rejoinMax  = 64
	rejoinHead = "# Gossip addresses of the members that this node knew last. Written by diarchy.\n"
)

func rejoinIn(dir string) rejoinFile {
	if dir == "" {
		return rejoinFile{}
	}
	return rejoinFile{path: filepath.Join(dir, rejoinName)}
}

// load gives what was saved by this process or an earlier one.
func (f *rejoinFile) load() ([]string, error) {
	if f.path == "" {
		return nil, nil
	}
	text, err := readSmallFile(f.path, sourceBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseAddrLines(text)
}

// save writes addrs when they differ from what was saved last. No addresses
// leave the file as it is: a node that sees nobody still wants to find them.
func (f *rejoinFile) save(addrs []string) error {
	if f.path == "" || len(addrs) == 0 {
		return nil
	}
	text := rejoinHead + strings.Join(addrs, "\n") + "\n"
	if text == f.saved {
		return nil
	}
	if err := writeAtomically(f.path, []byte(text)); err != nil {
		return err
	}
	f.saved = text
	return nil
}

// saveRejoin writes who is alive, then who has failed.
func (p *Pool) saveRejoin(records []record) {
	var addrs []string
	for _, status := range []Status{Alive, Failed} {
		for i := range records {
			if r := &records[i]; r.status == status && r.name != p.cfg.Name && !slices.Contains(addrs, r.addr.String()) {
				addrs = append(addrs, r.addr.String())
			}
		}
	}
	if err := p.rejoin.save(addrs[:min(len(addrs), rejoinMax)]); err != nil {
		p.log.Warn("the file of known gossip addresses could not be written; the next start has the join addresses alone", "error", err)
	}
}
