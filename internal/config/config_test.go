package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// known is a program with one engine that has no memory mode and one option.
func known() Known {
	return Known{
		Engines: map[string]func(string, map[string]string) error{
			"raft": func(durability string, options map[string]string) error {
				if durability == "memory" {
					return errors.New("raft always writes to disk; expected \"disk\"")
				}
				for o := range options {
					if o != "log_store" {
						return errors.New("unknown option " + o + "; expected log_store")
					}
				}
				return nil
			},
		},
		Builtins: []string{"kv"}, ReservedGroups: []string{"system"},
		Addrs:   func() ([]net.IP, error) { return []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 1, 2, 3)}, nil },
		Resolve: func(host string) error { return errors.New("no such host") },
		CheckPlugin: func(p Plugin) error {
			if p.Name == "bad" {
				return errors.New("plugin bad: its directory may be written by everyone")
			}
			return nil
		},
		CheckJoin: func(s string) error {
			_, err := CheckAddress(s)
			return err
		},
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// all joins what Load and Check say of one file.
func all(t *testing.T, dir, name, text string) (*Config, string) {
	t.Helper()
	t.Chdir(dir)
	write(t, name, text, 0o600)
	c, ps := Load(Sources{Paths: []string{name}})
	if ps.Err() == nil {
		ps = append(ps, c.Check(known())...)
	}
	var b strings.Builder
	for _, p := range ps {
		b.WriteString(p.String() + "\n")
	}
	return c, b.String()
}

const good = `name     = "n1"
data_dir = "data/n1"
gossip {
  bind             = "127.0.0.1:7946"
  join             = ["10.0.0.2:7946"]
  bootstrap_expect = 3
  encrypt_file     = "gossip.key"
  label            = "blue"
  timing           = "wan"
}
peer   { bind = "127.0.0.1:7950" }
client {
  bind                = "127.0.0.1:7960"
  token_file          = "token"
  readonly_token_file = "rtoken"
  pprof               = true
}
tls {
  ca_file   = "ca.pem"
  cert_file = "n1.pem"
  key_file  = "n1-key.pem"
}
log {
  level  = "warn"
  format = "json"
}
plugin "orders" {
  path    = "orders"
  sha256  = "SUM"
  version = "1.0"
  args    = ["-x", "y"]
  env     = { TZ = "UTC" }
}
group "orders" {
  engine     = "raft"
  machine    = "plugin:orders"
  replicas   = 3
  durability = "disk"
  options    = { log_store = "wal" }
  limits {
    command_bytes        = "2MiB"
    result_bytes         = 4096
    sessions             = 100
    session_window       = 16
    session_result_bytes = "1KiB"
  }
}
timing {
  heartbeat           = "200ms"
  election            = "1s"
  stall_after         = "3s"
  machine_stall_after = "4s"
}
snapshot {
  entries       = 1000
  bytes         = "1GiB"
  bytes_per_sec = "10MB"
}
`

// files puts beside a configuration what it names.
func files(t *testing.T) string {
	dir := t.TempDir()
	for _, f := range []string{"gossip.key", "token", "rtoken", "ca.pem", "n1.pem", "n1-key.pem"} {
		write(t, filepath.Join(dir, f), "x", 0o600)
	}
	write(t, filepath.Join(dir, "empty"), "\n", 0o600)
	write(t, filepath.Join(dir, "orders"), "#!machine", 0o700)
	write(t, filepath.Join(dir, "plain"), "#!machine", 0o600)
	return dir
}

func TestEveryKeyIsRead(t *testing.T) {
	c, said := all(t, files(t), "node.hcl", strings.Replace(good, "SUM", sum("#!machine"), 1))
	if said != "" {
		t.Fatalf("a good configuration is refused:\n%s", said)
	}
	c.where = nil
	c.Plugins[0].where, c.Plugins[0].at = nil, Place{}
	c.Groups[0].where, c.Groups[0].at = nil, Place{}
	want := &Config{
		Name: "n1", DataDir: "data/n1",
		Gossip: Gossip{
			Listener: Listener{Bind: "127.0.0.1:7946", Advertise: "127.0.0.1:7946"},
			Join:     []string{"10.0.0.2:7946"}, BootstrapExpect: 3, EncryptFile: "gossip.key", Label: "blue", Timing: "wan",
		},
		Peer: Listener{Bind: "127.0.0.1:7950", Advertise: "127.0.0.1:7950"},
		Client: Client{
			Listener:  Listener{Bind: "127.0.0.1:7960", Advertise: "127.0.0.1:7960"},
			TokenFile: "token", ReadonlyTokenFile: "rtoken", Pprof: true,
		},
		TLS: TLS{CAFile: "ca.pem", CertFile: "n1.pem", KeyFile: "n1-key.pem"},
		Log: Log{Level: "warn", Format: "json"},
		Plugins: []Plugin{{
			Name: "orders", Path: "orders", SHA256: sum("#!machine"), Version: "1.0",
			Args: []string{"-x", "y"}, Env: map[string]string{"TZ": "UTC"},
		}},
		Groups: []Group{{
			Name: "orders", Engine: "raft", Machine: "plugin:orders", Replicas: 3, Durability: "disk",
			Options: map[string]string{"log_store": "wal"},
			Limits:  Limits{CommandBytes: 2 << 20, ResultBytes: 4096, Sessions: 100, SessionWindow: 16, SessionResultBytes: 1024},
		}},
		Timing: Timing{
			Heartbeat: 200 * time.Millisecond, Election: time.Second,
			StallAfter: 3 * time.Second, MachineStallAfter: 4 * time.Second,
		},
		Snapshots: Snapshots{Entries: 1000, Bytes: 1 << 30, BytesPerSec: 10_000_000},
	}
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("read\n%+v\nexpected\n%+v", c, want)
	}
}

// TestEverySettingIsInTheExample keeps the test above whole: a key added to the
// tables must be added to it.
func TestEverySettingIsInTheExample(t *testing.T) {
	c, ps := Parse("node.hcl", []byte(strings.Replace(good, "SUM", sum("x"), 1)))
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	elsewhere := map[string]bool{"insecure": true, "gossip.advertise": true, "peer.advertise": true, "client.advertise": true}
	for _, s := range nodeSettings {
		if _, ok := c.where[s.path]; !ok && !elsewhere[s.path] {
			t.Errorf("%s is not in the example", s.path)
		}
	}
	for _, s := range pluginSettings {
		if _, ok := c.Plugins[0].where[s.path]; !ok {
			t.Errorf("plugin key %s is not in the example", s.path)
		}
	}
	for _, s := range groupSettings {
		if _, ok := c.Groups[0].where[s.path]; !ok {
			t.Errorf("group key %s is not in the example", s.path)
		}
	}
}

func TestJSONHasTheSameShape(t *testing.T) {
	c, said := all(t, files(t), "node.json", `{
  "name": "n1", "data_dir": "d",
  "gossip": {"bind": "127.0.0.1:1", "bootstrap_expect": 3},
  "plugin": {"orders": {"path": "orders", "sha256": "`+sum("#!machine")+`", "env": {"A": "b"}}},
  "group": {"g": {"engine": "raft", "machine": "plugin:orders", "limits": {"command_bytes": "1KiB"}}}
}`)
	if said != "" {
		t.Fatal(said)
	}
	if c.Gossip.BootstrapExpect != 3 || c.Groups[0].Limits.CommandBytes != 1024 || c.Plugins[0].Env["A"] != "b" || c.Groups[0].Replicas != 3 {
		t.Fatalf("read %+v", c)
	}
	_, said = all(t, files(t), "node.json", "{\n  \"name\": \"n1\",\n  \"data_dri\": \"d\"\n}")
	if !strings.HasPrefix(said, "node.json:3: ") || !strings.Contains(said, "data_dir") {
		t.Fatalf("an unknown JSON key: %s", said)
	}
}

func TestWhatIsRefusedAndWhere(t *testing.T) {
	const head = "name = \"n1\"\ndata_dir = \"d\"\ngossip { bootstrap_expect = 3 }\n" // the row begins on line 4
	group := func(more string) string {
		return head + "group \"g\" {\n  engine = \"raft\"\n  machine = \"builtin:kv\"\n" + more + "\n}\n" // more is on line 7
	}
	for _, row := range []struct{ name, text, want string }{
		{"unknown key", head + `nmae = "x"`, `node.hcl:4: Unsupported argument`},
		{"unknown key names what is expected", head + `nmae = "x"`, `Expected here: name, data_dir, insecure, gossip {…}`},
		{"unknown key in a block", head + "peer {\n bund = \"x\"\n}", `node.hcl:5: Unsupported argument`},
		{"unknown block", head + `gorup "x" {}`, `node.hcl:4: Unsupported block type`},
		{"block without a label", head + `group {}`, `node.hcl:4: Missing name for group`},
		{"key twice", head + "name = \"x\"", `node.hcl:4: Attribute redefined`},
		{"block twice", head + "peer {}\npeer {}", `node.hcl:5: block peer is there already, at node.hcl:4`},
		{"plugin twice", head + "plugin \"p\" {}\nplugin \"p\" {}", `node.hcl:5: plugin "p" is there already, at node.hcl:4`},
		{"group twice", head + "group \"p\" {}\ngroup \"p\" {}", `node.hcl:5: group "p" is there already, at node.hcl:4`},
		{"broken syntax", head + `peer {`, `node.hcl:4: Unclosed configuration block`},
		{"a function or variable", head + "peer {\n  bind = env.X\n}", `node.hcl:5: Variables not allowed`},
		{"text where a number goes", head + "log {\n level = 3\n}", `node.hcl:5: log.level is number: expected text in quotes`},
		{"number where text goes", "name = 5", `node.hcl:1: name is number: expected text in quotes`},
		{"text where a truth goes", head + `insecure = "yes"`, `node.hcl:4: insecure is string: expected true or false`},
		{"null", head + `insecure = null`, `node.hcl:4: insecure is null: expected true or false`},
		{"a number with a fraction", group("  replicas = 1.5"), `node.hcl:7: replicas 1.5: expected a whole number`},
		{"a number below zero", group("  replicas = -1"), `node.hcl:7: replicas -1: expected a whole number`},
		{"a number out of all bounds", group("  replicas = 1e99999999"), `node.hcl:7: replicas +Inf: expected a whole number`},
		{"a list of numbers", "gossip {\n join = [1]\n}", `element 1 is number: expected a list of texts`},
		{"text for a list", "gossip {\n join = \"a:1\"\n}", `node.hcl:2: gossip.join is string: expected a list of texts`},
		{"a map with a number", group("  options = { a = 1 }"), `node.hcl:7: options "a" is number: expected a map of texts`},
		{"a size that is none", group("  limits { command_bytes = \"2 potatoes\" }"), `node.hcl:7: limits.command_bytes 2 potatoes: expected a number of bytes`},
		{"a size out of bounds", group("  limits { command_bytes = \"999999999GiB\" }"), `at most 1 TiB`},
		{"a duration that is none", head + "timing { heartbeat = \"soon\" }", `node.hcl:4: timing.heartbeat "soon": expected a duration`},
		{"a duration without unit", head + "timing { heartbeat = 5 }", `node.hcl:4: timing.heartbeat is number: expected a duration such as "500ms" or "2s"`},
		{"a duration below zero", head + "timing { heartbeat = \"-1s\" }", `node.hcl:4: timing.heartbeat "-1s": expected a duration`},

		{"no name", `data_dir = "d"`, `name is not set: expected this node's name`},
		{"a name that is no name", "name = \"a b\"\ndata_dir = \"d\"", `node.hcl:1: name = "a b": expected 1 to 63 letters`},
		{"no data_dir", `name = "n"`, `data_dir is not set: expected a directory`},
		{"data_dir is a file", "name = \"n\"\ndata_dir = \"token\"", `node.hcl:2: data_dir = "token" is not a directory`},
		{"even expect", "name = \"n\"\ndata_dir = \"d\"\ngossip { bootstrap_expect = 4 }", `node.hcl:3: warning: gossip.bootstrap_expect = 4: an even number`},
		{"nothing to join or expect", "name = \"n\"\ndata_dir = \"d\"", `warning: neither gossip.join nor gossip.bootstrap_expect is set`},
		{"a join entry that is no address", "name = \"n\"\ndata_dir = \"d\"\ngossip { join = [\"10.0.0.1\"] }", `node.hcl:3: gossip.join "10.0.0.1": the port is missing`},

		{"no port", head + `peer { bind = "127.0.0.1" }`, `node.hcl:4: peer.bind = "127.0.0.1": the port is missing: expected "HOST:PORT"`},
		{"port zero", head + `peer { bind = "127.0.0.1:0" }`, `port "0": expected a number from 1 to 65535`},
		{"port too high", head + `peer { bind = "127.0.0.1:65536" }`, `port "65536": expected a number from 1 to 65535`},
		{"port by name", head + `peer { bind = "127.0.0.1:http" }`, `port "http": expected a number`},
		{"IPv6 without brackets", head + `peer { bind = "::1:7950" }`, `in brackets`},
		{"IPv6 without port", head + `peer { bind = "[::1]" }`, `in brackets, with a port: expected "[::1]:PORT"`},
		{"a broken IPv4 address", head + `peer { bind = "127.0.0.256:7950" }`, `host "127.0.0.256": expected an address or a host name`},
		{"a host with a space", head + `peer { bind = "a b:7950" }`, `host "a b": expected an address or a host name`},
		{"empty", head + `peer { bind = "" }`, `node.hcl:4: peer.bind = "": the port is missing`},
		{"a name that does not resolve", head + `peer { bind = "nowhere.invalid:7950" }`, `the name does not resolve (no such host)`},
		{"advertise everything", head + `peer { advertise = "0.0.0.0:7950" }`, `node.hcl:4: peer.advertise = "0.0.0.0:7950": expected the address that other nodes reach`},
		{"advertise without port", head + `peer { advertise = "10.0.0.1" }`, `node.hcl:4: peer.advertise = "10.0.0.1": the port is missing`},
		{"two ports the same", head + `peer { bind = "127.0.0.1:7946" }`, `peer.bind = "127.0.0.1:7946" is also gossip.bind`},
		{"two ports the same by wildcard", head + "insecure = true\npeer { bind = \"0.0.0.0:7946\" }", `is also gossip.bind`},
		{"[::] and no IPv6 address", head + "insecure = true\npeer { bind = \"[::]:7950\" }", `peer.advertise is not set: this machine has no address beyond loopback`},

		{"peer beyond loopback", head + `peer { bind = "10.0.0.1:7950" }`, `node.hcl:4: peer.bind = "10.0.0.1:7950" is beyond loopback without TLS`},
		{"client beyond loopback", head + `client { bind = "10.0.0.1:7960" }`, `node.hcl:4: client.bind = "10.0.0.1:7960" is beyond loopback without TLS and a token`},
		{"client beyond loopback with TLS but no token", head + "client { bind = \"10.0.0.1:7960\" }\ntls {\n ca_file = \"ca.pem\"\n cert_file = \"n1.pem\"\n key_file = \"n1-key.pem\"\n}", `without TLS and a token`},
		{"half of TLS", head + `tls { ca_file = "ca.pem" }`, `node.hcl:4: tls.cert_file is not set: TLS needs`},
		{"a certificate that is not there", head + "tls {\n ca_file = \"none.pem\"\n cert_file = \"n1.pem\"\n key_file = \"n1-key.pem\"\n}", `node.hcl:5: tls.ca_file = "none.pem": no such file or directory; expected a certificate authority`},
		{"a certificate that is a directory", head + "tls {\n ca_file = \".\"\n cert_file = \"n1.pem\"\n key_file = \"n1-key.pem\"\n}", `tls.ca_file = "." is a directory`},
		{"a key that is not there", "name = \"n\"\ndata_dir = \"d\"\ngossip {\n bootstrap_expect = 1\n encrypt_file = \"none\"\n}", `node.hcl:5: gossip.encrypt_file = "none": no such file`},
		{"an empty token", head + `client { token_file = "empty" }`, `node.hcl:4: client.token_file = "empty" is empty; expected the administrator's token`},
		{"a read-only token alone", head + `client { readonly_token_file = "rtoken" }`, `client.token_file is not: without it everyone is an administrator`},
		{"an unknown timing", "name = \"n\"\ndata_dir = \"d\"\ngossip {\n bootstrap_expect = 1\n timing = \"slow\"\n}", `node.hcl:5: gossip.timing = "slow": expected lan, wan, local`},
		{"an unknown level", head + `log { level = "loud" }`, `node.hcl:4: log.level = "loud": expected debug, info, warn, error`},
		{"an unknown format", head + `log { format = "xml" }`, `node.hcl:4: log.format = "xml": expected text, json`},

		{"plugin without path", head + `plugin "p" {}`, `node.hcl:4: plugin "p": path is not set`},
		{"plugin with a bad name", head + `plugin "p/q" {}`, `node.hcl:4: plugin "p/q": the name: expected`},
		{"plugin missing", head + "plugin \"p\" {\n path = \"none\"\n}", `node.hcl:5: plugin "p": path = "none": no such file or directory`},
		{"plugin is a directory", head + "plugin \"p\" {\n path = \".\"\n}", `node.hcl:5: plugin "p": path = "." is not a file`},
		{"plugin not executable", head + "plugin \"p\" {\n path = \"plain\"\n}", `node.hcl:5: plugin "p": path = "plain" is not executable: chmod +x`},
		{"plugin without sum", head + "plugin \"p\" {\n path = \"orders\"\n}", `node.hcl:4: plugin "p": sha256 is not set: the file has now`},
		{"plugin with half a sum", head + "plugin \"p\" {\n path = \"orders\"\n sha256 = \"abcd\"\n}", `node.hcl:6: plugin "p": sha256 = "abcd": expected 64 hexadecimal digits`},
		{"plugin with another sum", head + "plugin \"p\" {\n path = \"orders\"\n sha256 = \"" + sum("other") + "\"\n}", `node.hcl:6: plugin "p": the checksum differs: expected ` + sum("other") + `, the file orders has ` + sum("#!machine")},
		{"plugin that the host refuses", head + "plugin \"bad\" {\n path = \"orders\"\n sha256 = \"" + sum("#!machine") + "\"\n}", `node.hcl:4: plugin bad: its directory may be written by everyone`},

		{"group with a bad name", head + "group \"a b\" {\n engine = \"raft\"\n machine = \"builtin:kv\"\n}", `node.hcl:4: group "a b": the name: expected`},
		{"group with a reserved name", head + "group \"system\" {\n engine = \"raft\"\n machine = \"builtin:kv\"\n}", `node.hcl:4: group "system": the name is the program's own`},
		{"no engine", head + "group \"g\" {\n machine = \"builtin:kv\"\n}", `node.hcl:4: group "g": engine is not set: expected one of raft`},
		{"unknown engine", head + "group \"g\" {\n engine = \"paxos\"\n machine = \"builtin:kv\"\n}", `node.hcl:5: group "g": engine = "paxos": expected one of raft`},
		{"no machine", head + "group \"g\" {\n engine = \"raft\"\n}", `node.hcl:4: group "g": machine is not set: expected "builtin:NAME" (kv)`},
		{"unknown machine", head + "group \"g\" {\n engine = \"raft\"\n machine = \"builtin:sql\"\n}", `node.hcl:6: group "g": machine = "builtin:sql": expected one of builtin:kv`},
		{"unknown plugin", head + "group \"g\" {\n engine = \"raft\"\n machine = \"plugin:sql\"\n}", `node.hcl:6: group "g": machine = "plugin:sql": there is no block plugin "sql"`},
		{"machine of no kind", head + "group \"g\" {\n engine = \"raft\"\n machine = \"kv\"\n}", `node.hcl:6: group "g": machine = "kv": expected "builtin:NAME" or "plugin:NAME"`},
		{"plugin of another version", head + "plugin \"p\" {\n path = \"orders\"\n sha256 = \"" + sum("#!machine") + "\"\n version = \"1\"\n}\ngroup \"g\" {\n engine = \"raft\"\n machine = \"plugin:p@2\"\n}", `node.hcl:11: group "g": machine = "plugin:p@2": block plugin "p" has version "1"`},
		{"no replicas", group("  replicas = 0"), `node.hcl:7: group "g": replicas = 0: expected 1 or more`},
		{"even replicas", group("  replicas = 2"), `node.hcl:7: warning: group "g": replicas = 2: an even number survives no more failures than 1`},
		{"expect below replicas", group("  replicas = 5"), `node.hcl:7: group "g": replicas = 5 is more than gossip.bootstrap_expect = 3`},
		{"unknown durability", group("  durability = \"tape\""), `node.hcl:7: group "g": durability = "tape": expected "disk" or "memory"`},
		{"memory on raft", group("  durability = \"memory\""), `node.hcl:7: group "g": durability = "memory": raft always writes to disk`},
		{"unknown option", group("  options = { fast = \"yes\" }"), `node.hcl:7: group "g": options: unknown option fast`},
		{"election before heartbeat", head + "timing {\n heartbeat = \"2s\"\n election = \"1s\"\n}", `node.hcl:6: timing.election = 1s is less than timing.heartbeat = 2s`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, said := all(t, files(t), "node.hcl", row.text); !strings.Contains(said, row.want) {
				t.Errorf("said:\n%sexpected:\n%s", said, row.want)
			}
		})
	}
}

func TestWildcardNeedsAnAdvertiseAddress(t *testing.T) {
	text := "name = \"n\"\ndata_dir = \"d\"\ninsecure = true\ngossip { bootstrap_expect = 1 }\npeer {\n  bind = \"0.0.0.0:7950\"\n}\n"
	one := []net.IP{net.IPv6loopback, net.IPv4(127, 0, 0, 1), net.IPv4(10, 1, 2, 3), net.ParseIP("fe80::1")}
	for _, row := range []struct {
		name, want, said string
		addrs            []net.IP
		err              error
	}{
		{"the only address is taken", "10.1.2.3:7950", "", one, nil},
		{"several are named", "", "node.hcl:6: peer.bind = \"0.0.0.0:7950\" is every address and peer.advertise is not set: this machine has several (10.1.2.3, 192.168.0.1)", append([]net.IP{net.IPv4(192, 168, 0, 1)}[:0:0], net.IPv4(10, 1, 2, 3), net.IPv4(192, 168, 0, 1)), nil},
		{"none", "", "has no address beyond loopback", one[:2], nil},
		{"unknown", "", "cannot be listed (no interfaces)", nil, errors.New("no interfaces")},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, ps := Parse("node.hcl", []byte(text))
			if err := ps.Err(); err != nil {
				t.Fatal(err)
			}
			k := known()
			k.Addrs = func() ([]net.IP, error) { return row.addrs, row.err }
			err := c.Check(k).Err()
			if row.said == "" && (err != nil || c.Peer.Advertise != row.want) {
				t.Fatalf("advertise %q, %v", c.Peer.Advertise, err)
			}
			if row.said != "" && (err == nil || !strings.Contains(err.Error(), row.said)) {
				t.Fatalf("said %v, expected %s", err, row.said)
			}
		})
	}
}

func TestExposedPortsWithLeave(t *testing.T) {
	for _, text := range []string{
		`insecure = true`,
		"tls {\n ca_file = \"ca.pem\"\n cert_file = \"n1.pem\"\n key_file = \"n1-key.pem\"\n}",
	} {
		_, said := all(t, files(t), "node.hcl", "name = \"n\"\ndata_dir = \"d\"\ngossip { bootstrap_expect = 1 }\npeer { bind = \"10.0.0.1:7950\" }\nclient {\n bind = \"[fd00::1]:7960\"\n token_file = \"token\"\n}\n"+text)
		if said != "" {
			t.Errorf("%s: %s", text, said)
		}
	}
}

func TestDefaultEngine(t *testing.T) {
	c, ps := Parse("node.hcl", []byte("name = \"n\"\ndata_dir = \"d\"\ngossip { bootstrap_expect = 3 }\ngroup \"g\" { machine = \"builtin:kv\" }\n"))
	k := known()
	k.DefaultEngine = "raft"
	if err := append(ps, c.Check(k)...).Err(); err != nil || c.Groups[0].Engine != "raft" {
		t.Fatalf("engine %q, %v", c.Groups[0].Engine, err)
	}
}

func TestFilesMergeInLexicalOrder(t *testing.T) {
	dir := files(t)
	conf := filepath.Join(dir, "conf")
	if err := os.Mkdir(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(conf, "b.hcl"), "name = \"second\"\ngossip { join = [\"10.0.0.2:1\"] }\n", 0o600)
	write(t, filepath.Join(conf, "a.hcl"), "name = \"first\"\ndata_dir = \"d\"\ngossip { bootstrap_expect = 3 }\n", 0o600)
	write(t, filepath.Join(conf, "c.json"), `{"group": {"g": {"engine": "raft", "machine": "builtin:kv"}}}`, 0o600)
	write(t, filepath.Join(conf, "notes.txt"), "not configuration", 0o600)
	c, ps := Load(Sources{Paths: []string{conf}})
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	if c.Name != "second" || c.DataDir != "d" || c.Gossip.BootstrapExpect != 3 || len(c.Gossip.Join) != 1 || len(c.Groups) != 1 {
		t.Fatalf("merged %+v", c)
	}
	write(t, filepath.Join(conf, "d.hcl"), "\ngroup \"g\" {}\n", 0o600)
	_, ps = Load(Sources{Paths: []string{conf}})
	if err := ps.Err(); err == nil || !strings.Contains(err.Error(), "d.hcl:2: group \"g\" is there already, at "+filepath.Join(conf, "c.json")+":1") {
		t.Fatalf("a group in two files: %v", err)
	}
}

func TestEnvironmentAndFlagsOverride(t *testing.T) {
	dir := files(t)
	file := write(t, filepath.Join(dir, "node.hcl"), "name = \"file\"\ndata_dir = \"file\"\nlog { level = \"info\" }\n", 0o600)
	src := Sources{
		Paths:   []string{file},
		Environ: []string{"DIARCHY_NAME=env", "DIARCHY_DATA_DIR=env", "DIARCHY_GOSSIP_JOIN=a:1,b:2", "DIARCHY_ADDR=x", "DIARCHY_GOSIP_BIND=x", "OTHER=1"},
		Known:   []string{"DIARCHY_ADDR"},
		Flags:   map[string]string{"name": "flag", "gossip-bootstrap-expect": "5", "insecure": "true"},
	}
	c, ps := Load(src)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	if c.Name != "flag" || c.DataDir != "env" || len(c.Gossip.Join) != 2 || c.Gossip.BootstrapExpect != 5 || !c.Insecure || c.Log.Level != "info" {
		t.Fatalf("overridden to %+v", c)
	}
	if len(ps) != 1 || !strings.Contains(ps[0].String(), "environment DIARCHY_GOSIP_BIND: warning: no setting has this name") {
		t.Fatalf("a variable that nothing reads: %v", ps)
	}
	src.Environ, src.Flags = []string{"DIARCHY_GOSSIP_BOOTSTRAP_EXPECT=many"}, map[string]string{"insecure": "perhaps", "peer-bind": "nowhere"}
	c, ps = Load(src)
	ps = append(ps, c.Check(known())...)
	for _, want := range []string{
		"environment DIARCHY_GOSSIP_BOOTSTRAP_EXPECT: many: expected a whole number",
		`flag --insecure: "perhaps": expected true or false`,
		`flag --peer-bind: peer.bind = "nowhere": the port is missing`,
	} {
		if err := ps.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("said:\n%v\nexpected:\n%s", err, want)
		}
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := files(t)
	empty := filepath.Join(dir, "conf")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	big := write(t, filepath.Join(dir, "big.hcl"), strings.Repeat("#", fileBytesMax+1), 0o600)
	for path, want := range map[string]string{
		filepath.Join(dir, "none.hcl"): "no such file or directory; expected an HCL or JSON file",
		empty:                          "holds no *.hcl or *.json file",
		big:                            "is over the limit",
	} {
		if _, ps := Load(Sources{Paths: []string{path}}); ps.Err() == nil || !strings.Contains(ps.Err().Error(), want) {
			t.Errorf("%s: %v, expected %s", path, ps.Err(), want)
		}
	}
}

// TestDeepNesting: the parser recurses, so what it is given must be bounded, or
// the process runs out of stack. The last rows hide their brackets from the
// count of open ones, so that the size limit has to hold.
func TestDeepNesting(t *testing.T) {
	for _, opening := range []string{"[", "{", "(", "${", "\"${", "a{\n", "!", "-", "a?", "[\"]\",", "{a=\"}\",b="} {
		text := "name = " + strings.Repeat(opening, (fileBytesMax-16)/len(opening))
		if _, ps := Parse("node.hcl", []byte(text)); ps.Err() == nil {
			t.Errorf("%q nested without end is taken", opening)
		}
		if _, ps := Parse("node.json", []byte(text[7:])); ps.Err() == nil {
			t.Errorf("%q nested without end is taken as JSON", opening)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("node.hcl", []byte(good))
	f.Add("node.json", []byte(`{"name": "n1", "group": {"g": {"engine": "raft"}}, "plugin": [{"p": {}}]}`))
	f.Add("node.hcl", []byte("name = \"${1}\"\ngroup \"g\" {\n limits { command_bytes = 1e999 }\n}"))
	f.Add("node.json", []byte(`{"gossip": [{"join": [null, 1, "a"]}], "insecure": "${true}"}`))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		if !strings.HasSuffix(name, ".json") {
			name = "node.hcl"
		}
		c, ps := Parse(name, text)
		if ps.Err() != nil {
			return
		}
		k := known()
		k.Addrs = func() ([]net.IP, error) { return nil, nil }
		for _, p := range c.Plugins {
			if p.Path != "" {
				return // would read whatever file the fuzzer names
			}
		}
		if s := c.Client.TokenFile + c.Client.ReadonlyTokenFile + c.Gossip.EncryptFile + c.TLS.CAFile + c.TLS.CertFile + c.TLS.KeyFile; s != "" {
			return
		}
		if err := c.Check(k).Err(); err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Fatal("refused without a word")
		}
	})
}
