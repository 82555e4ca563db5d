package vsr

import "fmt"

// ID names a replica for ever: a replica that has lost its disk comes back under
// another (D15). Zero is nobody.
type ID uint64

// View is a view number: the epoch in the top 24 bits, a counter below, so that
// "a higher view" covers epochs too (D10).
type View uint64

// Op numbers batches from 1 without gaps. Zero is before the first.
type Op uint64

// Position counts commands: an op's first position is the number of commands
// in all ops before it, plus one.
type Position uint64

// Ticket numbers writes in the order in which they must become durable.
type Ticket uint64

// Checksum identifies content. Zero means none.
type Checksum uint64

// Nonce ties an answer to the question of one incarnation.
type Nonce struct{ Hi, Lo uint64 }

const counterBits = 40

// MakeView is the view with this counter in this epoch.
func MakeView(epoch uint64, counter uint64) View { return View(epoch<<counterBits | counter) }

// Epoch is the number of the configuration that the view belongs to.
func (v View) Epoch() uint64 { return uint64(v) >> counterBits }

// Counter is the view's number within its epoch.
func (v View) Counter() uint64 { return uint64(v) & (1<<counterBits - 1) }

// String is the counter alone in epoch 0, "epoch/counter" after.
func (v View) String() string {
	if v.Epoch() == 0 {
		return fmt.Sprintf("%d", v.Counter())
	}
	return fmt.Sprintf("%d/%d", v.Epoch(), v.Counter())
}
