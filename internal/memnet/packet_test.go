package memnet_test

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/internal/memnet"
)

func mustPacket(t *testing.T, n *memnet.Network, addr string) net.PacketConn {
	t.Helper()
	c, err := n.Packet(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends count numbered packets from a to b and returns what arrives.
func exchange(t *testing.T, q memnet.Quality, count int) (got []string) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(3)
		a, b := mustPacket(t, n, "a:1"), mustPacket(t, n, "b:1")
		n.SetQuality("a", "b", q)
		for i := range count {
			if _, err := a.WriteTo(fmt.Appendf(nil, "%04d", i), b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 64)
		for {
			k, from, err := b.ReadFrom(buf)
			if err != nil {
				wantTimeout(t, err)
				return
			}
			if from.String() != "a:1" {
				t.Fatalf("from %v", from)
			}
			got = append(got, string(buf[:k]))
		}
	})
	return got
}

func TestPacketsAreLostDoubledAndReorderedForReal(t *testing.T) {
	const count = 1000
	inOrder := func(got []string) bool {
		for i := 1; i < len(got); i++ {
			if got[i] < got[i-1] {
				return false
			}
		}
		return true
	}
	clean := exchange(t, memnet.Quality{Delay: time.Millisecond}, count)
	if len(clean) != count || !inOrder(clean) {
		t.Errorf("a clean link: %d packets, in order %v", len(clean), inOrder(clean))
	}
	lossy := exchange(t, memnet.Quality{Loss: 0.3}, count)
	if len(lossy) < 600 || len(lossy) > 800 || !inOrder(lossy) {
		t.Errorf("loss 0.3: %d packets, in order %v", len(lossy), inOrder(lossy))
	}
	doubled := exchange(t, memnet.Quality{Duplicate: 0.5}, count)
	if len(doubled) < 1400 || len(doubled) > 1600 {
		t.Errorf("duplicate 0.5: %d packets", len(doubled))
	}
	for name, q := range map[string]memnet.Quality{"reorder": {Reorder: 0.1}, "jitter": {Jitter: time.Second}} {
		if got := exchange(t, q, count); len(got) != count || inOrder(got) {
			t.Errorf("%s: %d packets, in order %v", name, len(got), inOrder(got))
		}
	}
	if none := exchange(t, memnet.Quality{Loss: 1}, count); len(none) != 0 {
		t.Errorf("loss 1: %d packets", len(none))
	}
}

func TestPacketSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustPacket(t, n, "a"), mustPacket(t, n, "b:1")
		if _, err := n.Packet("b:1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("address taken: %v", err)
		}
		if _, err := a.WriteTo(make([]byte, 70_000), b.LocalAddr()); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("a packet too long: %v", err)
		}
		if _, err := a.WriteTo([]byte("x"), memnet.Addr("nobody:1")); err != nil {
			t.Errorf("a packet to nobody is lost without a word; got %v", err)
		}
		n.CutOneWay("a", "b")
		if _, err := a.WriteTo([]byte("lost"), b.LocalAddr()); err != nil {
			t.Error(err)
		}
		n.Heal()
		if _, err := a.WriteTo([]byte("arrives"), b.LocalAddr()); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 64)
		if k, _, err := b.ReadFrom(buf); err != nil || string(buf[:k]) != "arrives" {
			t.Errorf("got %q, %v", buf[:k], err)
		}
		read := make(chan error)
		go func() { _, _, err := b.ReadFrom(buf); read <- err }()
		synctest.Wait()
		n.Crash("b")
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read on a crashed host: %v", err)
		}
		mustPacket(t, n, "b:1")
	})
}

func TestAFullInboxDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustPacket(t, n, "a:1"), mustPacket(t, n, "b:1")
		const sent = 20_000
		for range sent {
			_, _ = a.WriteTo([]byte("flood"), b.LocalAddr())
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		got := 0
		for ; ; got++ {
			if _, _, err := b.ReadFrom(make([]byte, 9)); err != nil {
				break
			}
		}
		if got == 0 || got >= sent {
			t.Errorf("%d of %d packets were kept for a reader that did not read", got, sent)
		}
	})
}
