package kv

import (
	"bytes"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
	"github.com/google/btree"
)

// An item is one key's state. It never changes once it is in a store: snapshots
// and queries share it with whatever comes later. The one thing written beside
// it is the room behind value's end, by the append that makes its successor.
type item struct {
	key      []byte
	value    []byte
	revision uint64
	expires  int64 // Unix nanoseconds, 0 for never
	sum      uint64
}

// newItem copies key and value, into one allocation.
func newItem(key, value []byte, revision uint64, expires int64) *item {
	buf := make([]byte, len(key)+len(value))
	copy(buf, key)
	copy(buf[len(key):], value)
	it := &item{key: buf[:len(key):len(key)], value: buf[len(key):], revision: revision, expires: expires}
	it.sum = it.hash()
	return it
}

// hash covers all fields. The length of the key keeps (ab, c) from (a, bc).
func (it *item) hash() uint64 {
	var head [24]byte
	binary.LittleEndian.PutUint64(head[0:], uint64(len(it.key)))
	binary.LittleEndian.PutUint64(head[8:], it.revision)
	binary.LittleEndian.PutUint64(head[16:], uint64(it.expires))
	var d xxhash.Digest
	d.Reset()
	// A Digest's Write never fails.
	_, _ = d.Write(head[:])
	_, _ = d.Write(it.key)
	_, _ = d.Write(it.value)
	return d.Sum64()
}

func (it *item) expired(now int64) bool { return it.expires != 0 && it.expires <= now }

// A store is the machine's whole state. Invariants: expiring holds exactly the
// items of byKey with an expiry; sum is the sum of their hashes, so it depends
// on what is there and not on the way there.
type store struct {
	byKey    *btree.BTreeG[*item]
	expiring *btree.BTreeG[*item]
	sum      uint64
}

// The degree is a compromise: a larger one copies more for the first write to a
// node after a snapshot, a smaller one chases more pointers.
const treeDegree = 32

func newStore() store {
	return store{
		byKey: btree.NewG(treeDegree, func(a, b *item) bool { return bytes.Compare(a.key, b.key) < 0 }),
		expiring: btree.NewG(treeDegree, func(a, b *item) bool {
			if a.expires != b.expires {
				return a.expires < b.expires
			}
			return bytes.Compare(a.key, b.key) < 0
		}),
	}
}

// live returns the item with probe's key, nil when there is none or it has
// expired at now.
func (s *store) live(probe *item, now int64) *item {
	if it, ok := s.byKey.Get(probe); ok && !it.expired(now) {
		return it
	}
	return nil
}

// set puts it in, and returns what it replaces.
func (s *store) set(it *item) *item {
	old, _ := s.byKey.ReplaceOrInsert(it)
	s.forget(old)
	s.sum += it.sum
	if it.expires != 0 {
		s.expiring.ReplaceOrInsert(it)
	}
	return old
}

// remove takes out the item with probe's key, and returns it.
func (s *store) remove(probe *item) *item {
	old, _ := s.byKey.Delete(probe)
	s.forget(old)
	return old
}

// forget undoes what set did beside byKey.
func (s *store) forget(old *item) {
	if old == nil {
		return
	}
	s.sum -= old.sum
	if old.expires != 0 {
		s.expiring.Delete(old)
	}
}

// sweep removes up to sweepMax items that have expired at now.
func (s *store) sweep(now int64) {
	for range sweepMax {
		it, ok := s.expiring.Min()
		if !ok || !it.expired(now) {
			return
		}
		s.remove(it)
	}
}

// due is when the next item expires, 0 for never.
func (s *store) due() int64 {
	if it, ok := s.expiring.Min(); ok {
		return it.expires
	}
	return 0
}

func (s *store) digest() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(s.byKey.Len()))
	return binary.BigEndian.AppendUint64(b, s.sum)
}
