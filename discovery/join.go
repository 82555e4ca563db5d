package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// Bounds of one round of the search.
const (
	roundAddrsMax = 256
	roundParallel = 8
)

// JoinStatus tells how the search for other nodes goes.
type JoinStatus struct {
	// Joined: another node is alive in the pool.
	Joined bool
	// Rounds counts the rounds that are over. Next is when the next begins.
	Rounds int
	Next   time.Time
	// Tries are those of the last round.
	Tries []JoinTry
	// Clash, when not empty, says why others may refuse this node.
	Clash string
}

// JoinTry is what became of one address, or of a source that gave none.
type JoinTry struct {
	Source string
	Addr   string
	At     time.Time
	OK     bool
	// Self: the address is this node's own, so it counts for nothing.
	Self bool
	// Err is why it failed.
	Err string
}

// search is the state of the endless join.
type search struct {
	mu       sync.Mutex
	rounds   int
	next     time.Time
	tries    []JoinTry
	searched bool
}

// target is one address to try.
type target struct {
	source string
	addr   netip.AddrPort
}

// searchLoop looks for others as long as the node is in the pool: alone, with
// growing pauses; in company, steadily for addresses that no member has, which
// heals pools that came about apart and finds failed members again.
func (p *Pool) searchLoop(ctx context.Context) {
	alone := 0 // rounds without company
	greeted := false
	for {
		greet := !greeted && p.company() > 0
		p.round(ctx, greet)
		if p.company() == 0 {
			alone, greeted = alone+1, false
		} else {
			alone, greeted = 0, greet || greeted
		}
		pause := p.pause(alone, greeted)
		p.search.mu.Lock()
		p.search.next = time.Now().Add(pause)
		p.search.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// company counts the other members that are alive.
func (p *Pool) company() int {
	n := 0
	for _, r := range p.hints.snapshot() {
		if r.status == Alive && r.name != p.cfg.Name {
			n++
		}
	}
	return n
}

// pause is how long to wait for the next round, a fifth more or less.
func (p *Pool) pause(alone int, greeted bool) time.Duration {
	t := p.cfg.Timing
	d := t.JoinSteady
	switch {
	case alone > 0:
		d = t.JoinMin << min(alone-1, 20)
		if d <= 0 || d > t.JoinMax {
			d = t.JoinMax
		}
		// Refused because of an earlier run of this node, most likely, which
		// soon fails.
		if _, clash := p.hints.selfClash(); clash {
			d = min(d, 2*t.JoinMin)
		}
	case !greeted:
		d = t.JoinMin
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// round tries every address once. greet: members too, so that all of them, not
// only the first one found, have this node's word from itself.
func (p *Pool) round(ctx context.Context, greet bool) {
	targets, tries := p.targets(ctx, greet)
	tries = append(tries, p.attempt(ctx, targets)...)
	if ctx.Err() != nil {
		return
	}
	s := &p.search
	s.mu.Lock()
	s.rounds++
	s.tries = tries
	first := !s.searched
	s.searched = true
	s.mu.Unlock()
	if first {
		p.hints.mu.Lock()
		p.hints.touch()
		p.hints.mu.Unlock()
	}
	p.report(tries)
}

// report logs what failed, loudly while nobody is found.
func (p *Pool) report(tries []JoinTry) {
	var why []string
	for _, t := range tries {
		if t.Err != "" {
			why = append(why, strings.TrimSpace(t.Source+" "+t.Addr)+": "+t.Err)
		}
	}
	if len(why) == 0 {
		return
	}
	level := slog.LevelDebug
	if p.company() == 0 {
		level = slog.LevelWarn
	}
	p.log.Log(context.Background(), level, "no way to join through some addresses; they are tried again",
		"failed", len(why), "tried", len(tries), "errors", strings.Join(why[:min(len(why), 3)], "; "))
}

// The sources that are not configured.
const (
	sourceRejoin  = "rejoin file"
	sourceFailed  = "failed member"
	sourceMembers = "member"
)

// targets asks all sources. tries has what needs no attempt: sources that
// failed, addresses that are this node's own.
func (p *Pool) targets(ctx context.Context, greet bool) (targets []target, tries []JoinTry) {
	c := &collector{p: p, ctx: ctx, seen: map[netip.AddrPort]bool{}}
	records := p.hints.snapshot()
	for i := range records {
		r := &records[i]
		switch {
		case r.name == p.cfg.Name || r.status == Left:
		case r.status == Failed:
			c.take(sourceFailed, r.addr)
		case greet:
			c.take(sourceMembers, r.addr)
		default:
			c.seen[r.addr] = true // a member: nothing to look for there
		}
	}
	for _, s := range p.sources {
		addrs, err := s.Addrs(ctx)
		c.failed(s.String(), "", err)
		c.names(s.String(), addrs)
	}
	addrs, err := p.rejoin.load()
	c.failed(sourceRejoin, "", err)
	c.names(sourceRejoin, addrs)
	return c.targets, c.tries
}

// collector turns what sources say into distinct addresses.
type collector struct {
	p       *Pool
	ctx     context.Context
	seen    map[netip.AddrPort]bool
	targets []target
	tries   []JoinTry
}

func (c *collector) failed(source, addr string, err error) {
	if err == nil || c.ctx.Err() != nil {
		return
	}
	c.p.met.failures.Inc()
	c.tries = append(c.tries, JoinTry{Source: source, Addr: addr, At: time.Now(), Err: strings.ReplaceAll(err.Error(), "\n", "; ")})
}

// names resolves addresses, each with all that its host has.
func (c *collector) names(source string, addrs []string) {
	for _, a := range addrs {
		host, port, err := splitAddr(a, DefaultPort)
		if err == nil && port == 0 {
			err = invalid("join address %q: port 0 cannot be joined", a)
		}
		if err != nil {
			c.failed(source, a, err)
			continue
		}
		if host == "" {
			host = "localhost"
		}
		ctx, cancel := context.WithTimeout(c.ctx, dnsTimeout)
		ips, err := lookup(ctx, c.p.cfg.Resolver, host)
		cancel()
		c.failed(source, a, err)
		for _, ip := range ips {
			c.take(source, netip.AddrPortFrom(ip, port))
		}
	}
}

func (c *collector) take(source string, addr netip.AddrPort) {
	if c.seen[addr] || len(c.targets) >= roundAddrsMax {
		return
	}
	c.seen[addr] = true
	if c.p.own[addr] {
		c.tries = append(c.tries, JoinTry{Source: source, Addr: addr.String(), At: time.Now(), Self: true})
		return
	}
	c.targets = append(c.targets, target{source, addr})
}

// attempt tries addresses, a few at a time, and tells what became of each. An
// address that led back to this node, by a way that its configuration does not
// show, is found by the echo.
func (p *Pool) attempt(ctx context.Context, targets []target) []JoinTry {
	tries := make([]JoinTry, len(targets))
	slots := make(chan struct{}, roundParallel)
	echoes := p.hints.echoes.Load()
	var wg sync.WaitGroup
	for i, t := range targets {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := p.list.Join([]string{t.addr.String()})
			tries[i] = JoinTry{Source: t.source, Addr: t.addr.String(), At: time.Now(), OK: err == nil, Err: joinError(err)}
		})
	}
	wg.Wait()
	onlySelf := p.hints.echoes.Load() != echoes && p.company() == 0
	for i := range tries {
		t := &tries[i]
		switch {
		case !t.OK:
			p.met.failures.Inc()
		case onlySelf:
			t.OK, t.Self = false, true
		default:
			p.met.joins.Inc()
		}
	}
	return tries
}

// joinError puts memberlist's list of errors on one line.
func joinError(err error) string {
	if err == nil {
		return ""
	}
	var several interface{ WrappedErrors() []error }
	if errors.As(err, &several) {
		var parts []string
		for _, e := range several.WrappedErrors() {
			parts = append(parts, strings.TrimSpace(e.Error()))
		}
		return strings.Join(parts, "; ")
	}
	return err.Error()
}

// Join tries addresses now, in any form that ParseSource takes, and returns how
// many answered; an error when none did.
func (p *Pool) Join(ctx context.Context, addrs []string) (int, error) {
	if len(addrs) == 0 {
		return 0, invalid("no address to join was given")
	}
	p.leave.Lock()
	left := p.left
	p.leave.Unlock()
	if left {
		return 0, framework.ErrStopped.Because("this node has left the gossip pool")
	}
	c := &collector{p: p, ctx: ctx, seen: map[netip.AddrPort]bool{}}
	for _, a := range addrs {
		s, err := parseSource(a, p.cfg.Resolver)
		if err != nil {
			return 0, err
		}
		found, err := s.Addrs(ctx)
		c.failed(a, "", err)
		c.names(a, found)
	}
	done := make(chan []JoinTry, 1)
	if !p.tasks.run(func() { done <- p.attempt(ctx, c.targets) }) {
		return 0, errClosed
	}
	select {
	case tries := <-done:
		return countJoined(append(c.tries, tries...))
	case <-ctx.Done():
		return 0, framework.ErrDeadline.Because("join: %v; what was begun goes on", ctx.Err())
	}
}

func countJoined(tries []JoinTry) (int, error) {
	n := 0
	var why []string
	for _, t := range tries {
		switch {
		case t.OK:
			n++
		case t.Self:
			why = append(why, t.Addr+" is this node itself")
		case t.Addr == "":
			why = append(why, t.Source+": "+t.Err)
		default:
			why = append(why, t.Addr+": "+t.Err)
		}
	}
	if n > 0 {
		return n, nil
	}
	if len(why) == 0 {
		why = append(why, "the sources gave no address")
	}
	return 0, fmt.Errorf("join: no other node was reached: %s", strings.Join(why, "; "))
}

// JoinStatus tells how the search goes.
func (p *Pool) JoinStatus() JoinStatus {
	joined := p.company() > 0
	clash, _ := p.hints.selfClash()
	s := &p.search
	s.mu.Lock()
	defer s.mu.Unlock()
	return JoinStatus{Joined: joined, Rounds: s.rounds, Next: s.next, Tries: slices.Clone(s.tries), Clash: clash.Text}
}

// Searched reports whether all sources have been asked and tried once.
func (p *Pool) Searched() bool {
	p.search.mu.Lock()
	defer p.search.mu.Unlock()
	return p.search.searched
}
