package config

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Known is what the program around the configuration offers.
type Known struct {
	// Engines are the drivers' own checks, by name.
	Engines map[string]func(durability string, options map[string]string) error
	// DefaultEngine is taken where a group names none; "" makes that an error.
	DefaultEngine string
	// Builtins are the machines of this program, ReservedGroups the names that
	// it keeps for itself.
	Builtins, ReservedGroups []string
	// CheckPlugin finds what the checks here do not; nil finds nothing.
	CheckPlugin func(Plugin) error
	// CheckJoin checks one entry of gossip.join; nil takes all.
	CheckJoin func(string) error
	// Addrs lists this machine's addresses and Resolve looks up a host name;
	// nil asks the system.
	Addrs   func() ([]net.IP, error)
	Resolve func(host string) error
}

// checker gathers what is wrong with one configuration.
type checker struct {
	c     *Config
	known Known
	ps    Problems
}

// Check finds everything in the configuration that would keep the node from
// doing what it says, and fills the advertised addresses that are left out.
func (c *Config) Check(known Known) Problems {
	k := &checker{c: c, known: known}
	k.node()
	k.addresses()
	k.security()
	k.words()
	for i := range c.Plugins {
		k.plugin(&c.Plugins[i])
	}
	for i := range c.Groups {
		k.group(&c.Groups[i])
	}
	return k.ps.sorted()
}

// at is where a node setting was set; the zero Place when it was not.
func (k *checker) at(path string) Place { return k.c.where[path] }

func (k *checker) refuse(path, format string, args ...any) {
	k.ps.add(k.at(path), "%s", path+" "+fmt.Sprintf(format, args...))
}

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

const nameFormWords = "1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit"

func (k *checker) node() {
	c := k.c
	switch {
	case c.Name == "":
		k.refuse("name", "is not set: expected this node's name, unique in the pool (%s)", nameFormWords)
	case !nameForm.MatchString(c.Name):
		k.refuse("name", "= %q: expected %s", c.Name, nameFormWords)
	}
	if c.DataDir == "" {
		k.refuse("data_dir", "is not set: expected a directory for all that lasts (it is made if absent)")
	} else if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		k.refuse("data_dir", "= %q is not a directory", c.DataDir)
	}
	if t := c.Timing; t.Heartbeat > 0 && t.Election > 0 && t.Election < t.Heartbeat {
		k.refuse("timing.election", "= %s is less than timing.heartbeat = %s: expected at least as much", t.Election, t.Heartbeat)
	}
	expect := c.Gossip.BootstrapExpect
	if expect > 0 && expect%2 == 0 {
		k.ps.warn(k.at("gossip.bootstrap_expect"), "gossip.bootstrap_expect = %d: an even number of nodes survives no more failures than %d", expect, expect-1)
	}
	if expect == 0 && len(c.Gossip.Join) == 0 {
		k.ps.warn(k.at("gossip.bootstrap_expect"), "neither gossip.join nor gossip.bootstrap_expect is set: the node waits until another one joins it; bootstrap_expect = 1 forms a cluster of one")
	}
	for _, j := range c.Gossip.Join {
		if k.known.CheckJoin == nil {
			continue
		}
		if err := k.known.CheckJoin(j); err != nil {
			k.refuse("gossip.join", "%q: %s", j, err)
		}
	}
}

func (k *checker) security() {
	c := k.c
	for _, f := range []struct{ path, file, what string }{
		{"tls.ca_file", c.TLS.CAFile, "a certificate authority ('diarchy tls ca create' makes one)"},
		{"tls.cert_file", c.TLS.CertFile, "this node's certificate ('diarchy tls cert create' makes one)"},
		{"tls.key_file", c.TLS.KeyFile, "the key of this node's certificate"},
	} {
		switch {
		case f.file != "":
			k.readable(f.path, f.file, f.what)
		case c.TLS.Enabled():
			k.ps.add(k.tlsPlace(), "%s is not set: TLS needs ca_file, cert_file and key_file", f.path)
		}
	}
	k.secret("gossip.encrypt_file", c.Gossip.EncryptFile, "the pool's key ('diarchy keygen' makes one)")
	k.secret("client.token_file", c.Client.TokenFile, "the administrator's token ('diarchy keygen' makes one)")
	k.secret("client.readonly_token_file", c.Client.ReadonlyTokenFile, "the read-only token ('diarchy keygen' makes one)")
	if c.Client.ReadonlyTokenFile != "" && c.Client.TokenFile == "" {
		k.refuse("client.readonly_token_file", "is set but client.token_file is not: without it everyone is an administrator")
	}
	k.exposed()
}

// exposed refuses ports that anyone on the network could use.
func (k *checker) exposed() {
	c := k.c
	if c.Insecure {
		return
	}
	if !loopback(c.Peer.Bind) && !c.TLS.Enabled() {
		k.refuse("peer.bind", "= %q is beyond loopback without TLS: set tls { ca_file, cert_file, key_file }, or insecure = true on a network where everyone may write", c.Peer.Bind)
	}
	if loopback(c.Client.Bind) {
		return
	}
	if !c.TLS.Enabled() || c.Client.TokenFile == "" {
		k.refuse("client.bind", "= %q is beyond loopback without TLS and a token: set tls { … } and client.token_file, or insecure = true on a network where everyone may write", c.Client.Bind)
	}
}

// tlsPlace is where any part of the tls block was set.
func (k *checker) tlsPlace() Place {
	for _, p := range []string{"tls.ca_file", "tls.cert_file", "tls.key_file"} {
		if at, ok := k.c.where[p]; ok {
			return at
		}
	}
	return Place{}
}

func (k *checker) readable(path, file, what string) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		k.refuse(path, "= %q: %s; expected %s", file, reason(err), what)
	case info.IsDir():
		k.refuse(path, "= %q is a directory; expected %s", file, what)
	}
}

// secret is a file whose text, without space around it, must not be empty.
func (k *checker) secret(path, file, what string) {
	if file == "" {
		return
	}
	text, err := readFile(file)
	switch {
	case err != nil:
		k.refuse(path, "= %q: %s; expected %s", file, reason(err), what)
	case strings.TrimSpace(string(text)) == "":
		k.refuse(path, "= %q is empty; expected %s", file, what)
	}
}

// words checks the settings that take one of a few.
func (k *checker) words() {
	for _, s := range []struct {
		path, value string
		of          []string
	}{
		{"gossip.timing", k.c.Gossip.Timing, []string{"lan", "wan", "local"}},
		{"log.level", k.c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log.format", k.c.Log.Format, []string{"text", "json"}},
	} {
		if !slices.Contains(s.of, s.value) {
			k.refuse(s.path, "= %q: expected %s", s.value, strings.Join(s.of, ", "))
		}
	}
}
