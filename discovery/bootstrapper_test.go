package discovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// acted is what one node has done, as cmd's callbacks would.
type acted struct {
	mu     sync.Mutex
	formed [][]framework.NodeID
	joined []framework.UUID
	fail   error
}

func (a *acted) form(_ context.Context, c framework.UUID, ids []framework.NodeID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return a.fail
	}
	a.formed = append(a.formed, ids)
	return nil
}

func (a *acted) join(_ context.Context, c framework.UUID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return a.fail
	}
	a.joined = append(a.joined, c)
	return nil
}

func bootstrap(t *testing.T, p *Pool, dir string, expect int) (*Bootstrapper, *acted) {
	t.Helper()
	a := &acted{}
	b, err := StartBootstrap(BootstrapConfig{
		Pool: p, ID: p.cfg.ID, Dir: dir, Expect: expect, Settle: 200 * time.Millisecond, Form: a.form, Join: a.join,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b, a
}

func done(t *testing.T, b *Bootstrapper) BootstrapStatus {
	t.Helper()
	select {
	case <-b.Done():
	case <-time.After(45 * time.Second):
		t.Fatalf("not in a cluster: %+v", b.Status())
	}
	return b.Status()
}

func says(t *testing.T, b *Bootstrapper, text string) {
	t.Helper()
	eventually(t, "it says "+text, func() (bool, string) {
		s := b.Status()
		return strings.Contains(s.Complaint+s.Waiting, text), fmt.Sprintf("%+v", s)
	})
}

func sortedIDs(pools ...*Pool) []framework.NodeID {
	var out []framework.NodeID
	for _, p := range pools {
		out = append(out, p.cfg.ID)
	}
	slices.Sort(out)
	return out
}

// Four nodes, three expected, in two islands of two that know nothing of each
// other: nobody acts. When they meet, one cluster forms, of the same three on
// all of them, and the fourth joins it; so does one that comes later.
func TestBootstrapOfNodesThatSeeDifferentSubsets(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	writeFile(t, link, "")
	n1 := start(t, config("n1"))
	n2 := start(t, config("n2", n1))
	n3 := start(t, config("n3"))
	c4 := config("n4", n3)
	c4.Join = append(c4.Join, "file://"+link)
	n4 := start(t, c4)
	pools := []*Pool{n1, n2, n3, n4}
	var bs []*Bootstrapper
	var as []*acted
	for _, p := range pools {
		b, a := bootstrap(t, p, t.TempDir(), 3)
		bs, as = append(bs, b), append(as, a)
	}
	for _, b := range bs {
		says(t, b, "2 of 3")
	}
	writeFile(t, link, n1.gossipAddr()+"\n")

	ids := sortedIDs(pools...)
	var cluster framework.UUID
	for i, b := range bs {
		s := done(t, b)
		if i == 0 {
			cluster = s.Cluster
		}
		if s.Cluster != cluster || s.Phase != PhaseFormed {
			t.Errorf("%s is in %+v, n1 in %s", pools[i].cfg.Name, s, cluster)
		}
	}
	forms := 0
	for i, a := range as {
		for _, set := range a.formed {
			forms++
			if len(set) != 3 || !slices.IsSorted(set) || !slices.Contains(set, pools[i].cfg.ID) || ClusterOf(uuids(t, set)) != cluster {
				t.Errorf("%s formed %v", pools[i].cfg.Name, set)
			}
			for _, id := range set {
				if !slices.Contains(ids, id) {
					t.Errorf("a stranger in %v", set)
				}
			}
		}
		if len(a.formed) == 0 && (len(a.joined) != 1 || a.joined[0] != cluster) {
			t.Errorf("%s neither formed nor joined: %+v", pools[i].cfg.Name, a.joined)
		}
	}
	if forms != 3 {
		t.Errorf("%d nodes formed, expected 3", forms)
	}

	late := start(t, config("n5", n1))
	b, a := bootstrap(t, late, t.TempDir(), 3)
	if s := done(t, b); s.Cluster != cluster || len(a.joined) != 1 || len(a.formed) != 0 {
		t.Errorf("the late one: %+v, formed %v", s, a.formed)
	}
	eventually(t, "n1 sees n2 in the cluster", func() (bool, string) {
		m := member(t, n1, "n2")
		return m.Cluster == cluster, m.Cluster.String()
	})
}

func uuids(t *testing.T, ids []framework.NodeID) (out []framework.UUID) {
	t.Helper()
	for _, id := range ids {
		u, err := framework.ParseUUID(string(id))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func TestBootstrapExpectDiffers(t *testing.T) {
	n1 := start(t, config("n1"))
	n2 := start(t, config("n2", n1))
	b1, a1 := bootstrap(t, n1, t.TempDir(), 2)
	b2, a2 := bootstrap(t, n2, t.TempDir(), 3)
	for i, b := range []*Bootstrapper{b1, b2} {
		says(t, b, "bootstrap_expect differs")
		if c := b.Status().Complaint; !strings.Contains(c, "is 2") && !strings.Contains(c, "2 on n1") || !strings.Contains(c, "3") || !strings.Contains(c, n1.gossipAddr()) || !strings.Contains(c, n2.gossipAddr()) {
			t.Errorf("node %d does not name both: %s", i+1, c)
		}
	}
	if len(a1.formed)+len(a2.formed) != 0 {
		t.Error("formed all the same")
	}
}

// A node that has promised and was stopped forms with the others once it is
// back, at another address; and they with it.
func TestBootstrapGoesOnAfterARestart(t *testing.T) {
	n1 := start(t, config("n1"))
	conf := config("n2", n1)
	n2 := start(t, conf)
	d1, d2 := t.TempDir(), t.TempDir()
	set := uuids(t, sortedIDs(n1, n2))
	promised := Agreement{Phase: PhaseReady, Set: set}
	if err := promiseIn(d2).save(uuids(t, []framework.NodeID{n2.cfg.ID})[0], promised); err != nil {
		t.Fatal(err)
	}
	n2.Close()
	b1, a1 := bootstrap(t, n1, d1, 2)
	says(t, b1, "1 of 2")
	n2 = start(t, conf)
	b2, a2 := bootstrap(t, n2, d2, 2)
	if s1, s2 := done(t, b1), done(t, b2); s1.Cluster != ClusterOf(set) || s2.Cluster != ClusterOf(set) {
		t.Errorf("%+v, %+v", s1, s2)
	}
	if len(a1.formed) != 1 || len(a2.formed) != 1 {
		t.Errorf("formed %v and %v", a1.formed, a2.formed)
	}
	b2.Close()
	again, err := StartBootstrap(BootstrapConfig{Pool: n2, ID: n2.cfg.ID, Dir: d2, Expect: 2, Form: a2.form, Join: a2.join})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if s := done(t, again); s.Cluster != ClusterOf(set) || len(a2.formed) != 1 {
		t.Errorf("after another start: %+v, formed %v", s, a2.formed)
	}
}

// fakePool shows what a Bootstrapper publishes, and when.
type fakePool struct {
	mu       sync.Mutex
	meta     Meta
	others   []Member
	searched bool
	changed  chan struct{}
	onSet    func(Meta)
}

func newFakePool(self int) *fakePool {
	return &fakePool{meta: Meta{ID: testID(self)}, searched: true, changed: make(chan struct{})}
}

func (f *fakePool) Members() []Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Member{{Name: "self", Self: true, Meta: f.meta}}, f.others...)
}

func (f *fakePool) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakePool) Searched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.searched
}

func (f *fakePool) SetMeta(change func(*Meta)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.meta)
	if _, err := f.meta.encode(); err != nil {
		return err
	}
	if f.onSet != nil {
		f.onSet(f.meta)
	}
	return nil
}

func (f *fakePool) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func other(n, expect int, a Agreement) Member {
	return Member{Name: fmt.Sprintf("n%d", n), Meta: Meta{ID: testID(n), Expect: expect, Agreement: a, Cluster: a.Cluster}}
}

// Law 1: what is published is on disk before.
func TestBootstrapPromisesAreDurableBeforeTheyArePublished(t *testing.T) {
	dir := t.TempDir()
	f := newFakePool(1)
	var published []Phase
	f.onSet = func(m Meta) {
		kept, err := promiseIn(dir).load(testID(1))
		if err != nil || !kept.equal(m.Agreement) {
			t.Errorf("published %+v while %+v, %v is on disk", m.Agreement, kept, err)
		}
		if n := len(published); n == 0 || published[n-1] != m.Agreement.Phase {
			published = append(published, m.Agreement.Phase)
		}
	}
	a := &acted{}
	b, err := StartBootstrap(BootstrapConfig{Pool: f, ID: framework.NodeID(testID(1).String()), Dir: dir, Expect: 2, Settle: -1, Form: a.form, Join: a.join})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	set := testIDs(1, 2)
	f.update(func() { f.others = []Member{other(2, 2, Agreement{})} })
	eventually(t, "prepared", func() (bool, string) { s := b.Status(); return s.Phase == PhasePrepared, fmt.Sprint(s) })
	f.update(func() { f.others = []Member{other(2, 2, Agreement{Phase: PhasePrepared, Set: set})} })
	eventually(t, "ready", func() (bool, string) { s := b.Status(); return s.Phase == PhaseReady, fmt.Sprint(s) })
	f.update(func() { f.others = []Member{other(2, 2, Agreement{Phase: PhaseReady, Set: set})} })
	done(t, b)
	b.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if want := []Phase{PhaseNone, PhasePrepared, PhaseReady, PhaseFormed}; !slices.Equal(published, want) {
		t.Errorf("published %v, expected %v", published, want)
	}
}

// While the promise cannot be kept nothing is published and nobody acts.
func TestBootstrapWithABrokenDisk(t *testing.T) {
	dir := t.TempDir()
	f := newFakePool(1)
	f.others = []Member{other(2, 2, Agreement{Phase: PhasePrepared, Set: testIDs(1, 2)})}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	a := &acted{}
	b, err := StartBootstrap(BootstrapConfig{Pool: f, ID: framework.NodeID(testID(1).String()), Dir: dir, Expect: 2, Settle: -1, Form: a.form, Join: a.join})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	says(t, b, "it is tried again")
	f.mu.Lock()
	if f.meta.Agreement.Phase != PhaseNone {
		t.Errorf("published %+v", f.meta.Agreement)
	}
	f.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the promise is kept once the disk is back", func() (bool, string) { s := b.Status(); return s.Phase == PhaseReady, fmt.Sprint(s) })
}

// A failed act is tried again and leaves the promise where it was.
func TestBootstrapRetriesTheAct(t *testing.T) {
	f := newFakePool(1)
	f.others = []Member{other(2, 1, Agreement{Phase: PhaseFormed, Cluster: testID(9)})}
	a := &acted{fail: errors.New("not today")}
	b, err := StartBootstrap(BootstrapConfig{Pool: f, ID: framework.NodeID(testID(1).String()), Dir: t.TempDir(), Expect: 1, Form: a.form, Join: a.join})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	says(t, b, "not today")
	if s := b.Status(); s.Phase != PhaseNone {
		t.Errorf("%+v", s)
	}
	a.mu.Lock()
	a.fail = nil
	a.mu.Unlock()
	if s := done(t, b); s.Cluster != testID(9) || s.Complaint != "" {
		t.Errorf("%+v", s)
	}
}

// Nothing is done before all join addresses were tried once: a cluster may be
// there.
func TestBootstrapWaitsForTheSearch(t *testing.T) {
	f := newFakePool(1)
	f.searched = false
	a := &acted{}
	b, err := StartBootstrap(BootstrapConfig{Pool: f, ID: framework.NodeID(testID(1).String()), Dir: t.TempDir(), Expect: 1, Settle: -1, Form: a.form, Join: a.join})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	says(t, b, "first round of the search")
	f.update(func() {
		f.searched = true
		f.others = []Member{other(2, 1, Agreement{Phase: PhaseFormed, Cluster: testID(9)})}
	})
	if s := done(t, b); s.Cluster != testID(9) || len(a.formed) != 0 {
		t.Errorf("%+v, formed %v", s, a.formed)
	}
}

func TestBootstrapOfANodeThatHasACluster(t *testing.T) {
	f := newFakePool(1)
	a := &acted{}
	b, err := StartBootstrap(BootstrapConfig{Pool: f, ID: framework.NodeID(testID(1).String()), Dir: t.TempDir(), Expect: 3, Cluster: testID(9), Form: a.form, Join: a.join})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	done(t, b)
	if f.meta.Cluster != testID(9) || len(a.formed)+len(a.joined) != 0 {
		t.Errorf("published %+v, acted %+v", f.meta, a)
	}
}

func TestPromiseFile(t *testing.T) {
	dir := t.TempDir()
	f := promiseIn(dir)
	if a, err := f.load(testID(1)); err != nil || a.Phase != PhaseNone {
		t.Fatalf("no file: %+v, %v", a, err)
	}
	for _, a := range []Agreement{
		{}, {Phase: PhasePrepared, Set: testIDs(1, 2)}, {Phase: PhaseReady, Set: testIDs(1, 2)}, {Phase: PhaseFormed, Cluster: testID(9)},
	} {
		if err := f.save(testID(1), a); err != nil {
			t.Fatal(err)
		}
		if got, err := f.load(testID(1)); err != nil || !got.equal(a) {
			t.Errorf("%+v became %+v, %v", a, got, err)
		}
	}
	if err := f.save(testID(1), Agreement{Phase: PhaseReady, Set: testIDs(1, 2)}); err != nil {
		t.Fatal(err)
	}
	good, _ := os.ReadFile(f.path)
	flipped := slices.Clone(good)
	flipped[strings.Index(string(good), "02000000")+1] = '3'
	for name, c := range map[string]struct {
		content []byte
		node    framework.UUID
		says    string
	}{
		"empty":         {nil, testID(1), "damaged"},
		"cut":           {good[:len(good)/2], testID(1), "damaged"},
		"flipped":       {flipped, testID(1), "check value"},
		"other format":  {[]byte(strings.Replace(string(good), `"format": 1`, `"format": 2`, 1)), testID(1), "format 2: this version reads format 1"},
		"unknown field": {[]byte(strings.Replace(string(good), `"format"`, `"x": 1, "format"`, 1)), testID(1), "unknown field"},
		"other node":    {good, testID(7), "made by node"},
	} {
		writeFile(t, f.path, string(c.content))
		if _, err := f.load(c.node); !errors.Is(err, framework.ErrConflict) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--force-new") {
			t.Errorf("%s: %v; expected %q", name, err, c.says)
		}
	}
	writeFile(t, f.path, string(flipped))
	pool := newFakePool(1)
	conf := BootstrapConfig{Pool: pool, ID: framework.NodeID(testID(1).String()), Dir: dir, Expect: 3}
	if _, err := StartBootstrap(conf); err == nil {
		t.Error("a damaged promise is taken for none")
	}
	conf.ForceNew = true
	b, err := StartBootstrap(conf)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if a, err := f.load(testID(1)); err != nil || a.Phase != PhaseNone {
		t.Errorf("after --force-new: %+v, %v", a, err)
	}
	if _, err := StartBootstrap(BootstrapConfig{Pool: pool, ID: conf.ID, Dir: dir, Expect: 10}); !errors.Is(err, framework.ErrInvalid) {
		t.Errorf("bootstrap_expect 10: %v", err)
	}
}

func FuzzPromise(f *testing.F) {
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parsePromise(b, testID(1))
		if err == nil && a.Phase > PhaseFormed {
			t.Fatalf("%q gave %+v", b, a)
		}
	})
}
