package kv

import (
	"strconv"
	"strings"
	"time"
)

// CommandUsage lists what ParseCommand takes. A word is written as it is or, to
// hold spaces, semicolons or bytes that do not print, as a Go string in "".
const CommandUsage = `put KEY VALUE [ttl=30s]
delete KEY [rev=N]
cas KEY REVISION VALUE [ttl=30s]      revision 0: KEY must not exist
append KEY VALUE
add KEY NUMBER
get KEY
txn [if GUARD; …] then COMMAND; … [else COMMAND; …]
    guards: exists KEY, absent KEY, rev KEY N, value KEY VALUE
    commands: put, delete KEY, append, add, get`

// QueryUsage lists what ParseQuery takes.
const QueryUsage = `get KEY
list [PREFIX] [after=KEY] [limit=N] [keys]`

// ParseCommand makes a command of its text form (CommandUsage). Its errors wrap
// ErrInvalid and say what was expected.
func ParseCommand(text string) ([]byte, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	var b []byte
	if p.peek() == "txn" {
		b = p.transaction()
	} else {
		b = p.command(true)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return b, CheckCommand(b)
}

// ParseQuery makes a query of its text form (QueryUsage). Its errors wrap
// ErrInvalid and say what was expected.
func ParseQuery(text string) ([]byte, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	var b []byte
	switch verb := p.word("get or list"); verb {
	case "get":
		b = GetQuery(p.word("a key"))
	case "list":
		b = p.list()
	default:
		p.fail("unknown query %q: expected get or list", verb)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return b, CheckQuery(b)
}

// A token is one word; a quoted one is never a keyword, an option or ";".
type token struct {
	text   string
	quoted bool
}

// A parser reads tokens off the front. The first error sticks.
type parser struct {
	tokens []token
	err    error
}

func newParser(text string) (*parser, error) {
	p := new(parser)
	for {
		text = strings.TrimLeft(text, " \t\r\n")
		switch {
		case text == "":
			return p, nil
		case text[0] == ';':
			p.tokens = append(p.tokens, token{text: ";"})
			text = text[1:]
		case text[0] == '"':
			quoted, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil, invalid("a string that begins with \" does not end as one: %.40s", text)
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, invalid("%s is not a string: %v", quoted, err)
			}
			p.tokens = append(p.tokens, token{text: word, quoted: true})
			text = text[len(quoted):]
		default:
			n := strings.IndexAny(text, " \t\r\n;")
			if n < 0 {
				n = len(text)
			}
			p.tokens = append(p.tokens, token{text: text[:n]})
			text = text[n:]
		}
	}
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = invalid(format, args...)
	}
	p.tokens = nil
}

// peek is the next word when it is not quoted, "" otherwise.
func (p *parser) peek() string {
	if len(p.tokens) == 0 || p.tokens[0].quoted {
		return ""
	}
	return p.tokens[0].text
}

// skip takes the next word if it is the one given, unquoted.
func (p *parser) skip(word string) bool {
	if p.peek() != word {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

// word takes the next one, whatever it is but an unquoted ";".
func (p *parser) word(what string) string {
	if len(p.tokens) == 0 || p.peek() == ";" {
		p.fail("expected %s", what)
		return ""
	}
	w := p.tokens[0].text
	p.tokens = p.tokens[1:]
	return w
}

// option takes name=VALUE, "" when the next word is something else.
func (p *parser) option(name string) (string, bool) {
	v, ok := strings.CutPrefix(p.peek(), name+"=")
	if ok {
		p.tokens = p.tokens[1:]
	}
	return v, ok
}

func (p *parser) end() error {
	if p.err == nil && len(p.tokens) > 0 {
		p.fail("did not expect %q", p.tokens[0].text)
	}
	return p.err
}

// command reads one; conditional says whether cas and rev= may be used.
func (p *parser) command(conditional bool) []byte {
	switch verb := p.word("a command"); verb {
	case "put":
		return Put(p.word("a key"), []byte(p.word("a value")), p.ttl())
	case "delete":
		key := p.word("a key")
		if rev, ok := p.option("rev"); ok && conditional {
			return DeleteIf(key, p.revision(rev))
		} else if ok {
			p.fail("rev= cannot stand in a transaction: use a guard")
		}
		return Delete(key)
	case "cas":
		if !conditional {
			p.fail("cas cannot stand in a transaction: use a guard")
		}
		key, rev := p.word("a key"), p.revision(p.word("a revision"))
		return CAS(key, rev, []byte(p.word("a value")), p.ttl())
	case "append":
		return Append(p.word("a key"), []byte(p.word("a value")))
	case "add":
		return Add(p.word("a key"), p.integer(p.word("a number")))
	case "get":
		return GetQuery(p.word("a key"))
	default:
		p.fail("unknown command %q; expected one of:\n%s", verb, CommandUsage)
		return nil
	}
}

func (p *parser) transaction() []byte {
	p.skip("txn")
	var t Txn
	if p.skip("if") {
		p.each(func() { t.If = append(t.If, p.guard()) })
	}
	if p.skip("then") {
		p.each(func() { t.Then = append(t.Then, p.command(false)) })
	}
	if p.skip("else") {
		p.each(func() { t.Else = append(t.Else, p.command(false)) })
	}
	if len(t.Then)+len(t.Else) == 0 {
		p.fail("a transaction needs then, else or both, each with a command: txn [if GUARD; …] then COMMAND; … [else COMMAND; …]")
	}
	return t.Command()
}

// each reads things with ";" between them, at least one.
func (p *parser) each(read func()) {
	read()
	for p.err == nil && p.skip(";") {
		read()
	}
}

func (p *parser) guard() Guard {
	switch verb := p.word("a guard"); verb {
	case "exists":
		return Exists(p.word("a key"))
	case "absent":
		return Absent(p.word("a key"))
	case "rev":
		return RevisionIs(p.word("a key"), p.revision(p.word("a revision")))
	case "value":
		return ValueIs(p.word("a key"), []byte(p.word("a value")))
	default:
		p.fail("unknown guard %q: expected exists, absent, rev or value", verb)
		return Guard{}
	}
}

func (p *parser) list() []byte {
	var l List
	if len(p.tokens) > 0 && !p.isListOption() {
		l.Prefix = p.word("a prefix")
	}
	for p.err == nil && p.isListOption() {
		if v, ok := p.option("after"); ok {
			l.After = v
		} else if v, ok := p.option("limit"); ok {
			l.Limit = p.limit(v)
		} else {
			l.KeysOnly = p.skip("keys")
		}
	}
	return ListQuery(l)
}

func (p *parser) isListOption() bool {
	w := p.peek()
	return w == "keys" || strings.HasPrefix(w, "after=") || strings.HasPrefix(w, "limit=")
}

func (p *parser) limit(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxListItems {
		p.fail("limit=%s: expected a number from 1 to %d", text, MaxListItems)
	}
	return n
}

func (p *parser) ttl() time.Duration {
	text, ok := p.option("ttl")
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > MaxTTL {
		p.fail("ttl=%s: expected a duration like 30s or 2h, above 0 and up to 100 years", text)
	}
	return d
}

func (p *parser) revision(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		p.fail("%q: expected a revision, a whole number", text)
	}
	return n
}

func (p *parser) integer(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		p.fail("%q: expected a whole number within 64 bits", text)
	}
	return n
}
